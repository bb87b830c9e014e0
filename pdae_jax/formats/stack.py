"""`Stack`, the pictures of one file, and how arrays of any axes become pictures."""

import collections
import dataclasses
import os
import re
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from pdae_jax.formats import zip_archive
from pdae_jax.formats.errors import DataError

# Of one picture; more is taken for a damaged header, or a bomb.
MOST_PIXELS = 2**29
MOST_VALUES = 2**30  # pixels times channels


class Picture(NamedTuple):
    """One picture in its file's own numbers.

    values: [h, w, c], of any number type, or bool. limits: the least and the largest value that its
    bits can hold, where the file says so and they are other than the number type's. window: the
    values that the file says to show as black and white.
    """

    values: np.ndarray
    limits: tuple[float, float] | None = None
    window: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the arrays of a file are meant, where the file does not say.

    axes: a letter for each, Y and X of the picture, C of its channels (S is the same), any other
    letter of an axis along which there are several pictures; "" as the file says. channels: those
    taken, in this order; () all. slices: of a volume, "AXIS:FROM:TO", pictures FROM to TO - 1 along
    one axis, such as "2:40:120"; either end may be empty; "" all along the last.
    """

    axes: str = ""
    channels: tuple[int, ...] = ()
    slices: str = ""


@dataclasses.dataclass(frozen=True)
class File:
    """A file that is opened as often as it is needed, on disk or in a ZIP archive.

    path: on disk, of the file or of the archive. member: its name in the archive.
    """

    path: str
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path

    def open(self) -> IO[bytes]:
        return (
            zip_archive.open_inside(self.path, self.member)
            if self.member
            else open(self.path, "rb")
        )

    def source(self) -> str | IO[bytes]:
        """What libraries open themselves: a path where there is one, since that reads least."""
        return self.open() if self.member else self.path


class Stack:
    """The pictures of one file, in order, read one at a time.

    It holds what the file's header says and no open file, so that it is small and picklable.
    channel_names: as the file names the channels taken; () where it does not.
    """

    channel_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 1

    def picture(self, k: int) -> Picture:
        """Picture `k`. Raises any exception where it cannot be read."""
        raise NotImplementedError


class ArrayStack(Stack):
    """The pictures of an array with named axes, read one plane at a time.

    name: of the file, in messages. shape: of the array. axes: a letter for each. read: a picklable
    function that returns an object to be indexed by integers and slices, such as a memory map;
    called for each picture. channel_names: of all channels, or (). limits: as in `Picture`.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        axes: str,
        read: Callable[[], Any],
        layout: Layout = Layout(),
        channel_names: Sequence[str] = (),
        limits: tuple[float, float] | None = None,
    ):
        self.name, self._read, self._limits = name, read, limits
        self._axes = axes.upper().replace("S", "C")
        check_axes(name, shape, self._axes)
        if 0 in shape:
            raise DataError(f"{name}: an array of shape {list(shape)} holds no picture: remove it")
        sizes = dict(zip(self._axes, shape, strict=True))
        check_pixels(name, sizes["Y"], sizes["X"])
        self._several = [axis for axis in self._axes if axis not in "YXC"]
        self._counts = [sizes[axis] for axis in self._several]
        self._first = [0] * len(self._counts)
        if layout.slices:
            axis, first, last = slices_of(name, layout.slices, shape)
            if self._axes[axis] not in self._several:
                raise DataError(
                    f"{name}: slices = {layout.slices!r} are along axis {axis}, which is "
                    f"{self._axes[axis]} of axes = {self._axes}, and no axis of several pictures: "
                    f"set --config.data.slices, or --config.data.axes"
                )
            k = self._several.index(self._axes[axis])
            self._first[k], self._counts[k] = first, last - first
        there = sizes.get("C", 1)
        check_values(name, sizes["Y"], sizes["X"], len(layout.channels) or there)
        check_channels(name, layout.channels, there)
        self._channels = layout.channels
        if len(channel_names) == there:
            self.channel_names = tuple(channel_names[c] for c in self._channels or range(there))

    def __len__(self) -> int:
        return int(np.prod(self._counts, dtype=np.int64))

    def picture(self, k: int) -> Picture:
        places = np.unravel_index(k, self._counts) if self._counts else ()
        place = {
            axis: int(i) + first
            for axis, i, first in zip(self._several, places, self._first, strict=True)
        }
        array = self._read()
        left = [axis for axis in self._axes if axis not in place]

        def plane(**chosen: int) -> np.ndarray:
            at = place | chosen
            values = np.asarray(array[tuple(at.get(axis, slice(None)) for axis in self._axes)])
            kept = [axis for axis in left if axis not in chosen]
            values = np.moveaxis(values, [kept.index(axis) for axis in "YX"], [0, 1])
            return values if "C" in kept else values[..., None]

        if self._channels and "C" in left and left[-1] != "C":  # a channel is a plane: few are read
            values = np.concatenate([plane(C=c) for c in self._channels], axis=-1)
        else:
            values = plane()
            values = values[..., list(self._channels)] if self._channels else values
        return Picture(native(values), self._limits)


class Kept:
    """What was made of files, for as long as it is among what was used last, in each process.

    most: the sum of `size` over what is kept; the last value is kept whatever its size.
    threads: whether values are for one thread alone, such as open files.
    """

    def __init__(self, most: int, size: Callable[[Any], int] = lambda _: 1, threads: bool = False):
        self._most, self._size, self._threads = most, size, threads
        self._values: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, file: File, make: Callable[[], Any], *key: Any) -> Any:
        """The value of a file and a key, made if it is not kept, or if the file has changed."""
        known = os.stat(file.path)
        thread = threading.get_ident() if self._threads else 0
        key = (os.getpid(), thread, file, known.st_mtime_ns, known.st_size, *key)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key in self._values:  # another thread has made it meanwhile
                return self._values[key]
            self._values[key] = value
            self._total += self._size(value)
            while len(self._values) > 1 and self._total > self._most:
                self._total -= self._size(self._values.popitem(last=False)[1])
        return value


def native(values: np.ndarray) -> np.ndarray:
    """A copy in this machine's byte order, which no file or memory map stands behind."""
    return np.array(values, values.dtype.newbyteorder("="), order="C")


def check_axes(name: str, shape: Sequence[int], axes: str) -> None:
    """Raises DataError unless there is a letter for each axis, once, Y and X among them."""
    good = len(axes) == len(shape) and len(set(axes)) == len(axes) and {"Y", "X"} <= set(axes)
    if not good or not axes.isalpha():
        example = "ZTCYX"[-max(len(shape), 2) :]
        raise DataError(
            f"{name}: axes = {axes!r} do not fit an array of shape {list(shape)}: give a letter to "
            f"each axis, Y and X of the picture, C of channels, others of several pictures, such "
            f"as --config.data.axes={example}"
        )


def check_channels(name: str, channels: Sequence[int], there: int) -> None:
    """Raises DataError where one of the channels asked for is not there."""
    absent = [k for k in channels if not 0 <= k < there]
    if absent:
        raise DataError(
            f"{name} has {there} channel(s), 0 to {there - 1}, and channel {absent[0]} is asked "
            f"for: set --config.data.channels"
        )


def check_pixels(name: str, height: int, width: int) -> None:
    """Raises DataError where a picture is too large to be one."""
    if height * width > MOST_PIXELS:
        raise DataError(
            f"{name}: a picture of {height:,} x {width:,} pixels is more than "
            f"{MOST_PIXELS:,}: cut it into tiles"
        )


def check_values(name: str, height: int, width: int, channels: int) -> None:
    """Raises DataError where a picture has too many channels of its size to be one."""
    if height * width * channels > MOST_VALUES:
        raise DataError(
            f"{name}: a picture of {height:,} x {width:,} pixels and {channels:,} channels is more "
            f"than {MOST_VALUES:,} values: choose some with --config.data.channels, or say with "
            f"--config.data.axes which axis counts pictures"
        )


def check_type(name: str, dtype: np.dtype) -> None:
    """Raises DataError for an array of anything but numbers and bools."""
    if dtype.kind not in "biuf":
        raise DataError(f"{name} holds {dtype}, which are no values of pixels: save real numbers")


def chosen(file: str, inside: str, arrays: dict[str, tuple[Sequence[int], np.dtype]]) -> str:
    """Which of a file's arrays, given by name as (shape, type), is meant.

    inside: the name asked for; "" is the only array that can be pictures: numbers of two or more
    axes. Raises DataError, which lists the arrays, where there is no such one.
    """
    able = [
        name for name, (shape, dtype) in arrays.items() if len(shape) >= 2 and dtype.kind in "biuf"
    ]
    if inside in arrays:
        return inside
    if not inside and len(able) == 1:
        return able[0]
    listed = ", ".join(f"{name} {list(arrays[name][0])}" for name in able[:10]) or "none"
    listed += f" and {len(able) - 10} more" if len(able) > 10 else ""
    if inside:
        raise DataError(f"{file} has no array {inside!r}; arrays that can be pictures: {listed}")
    if not able:
        raise DataError(f"{file} has no array that can be pictures: numbers of two or more axes")
    raise DataError(f"{file} has several arrays, {listed}: give one, such as {file}:{able[0]}")


def axes_in(name: str, shape: Sequence[int], layout: Layout) -> str:
    """The axes of an array that does not name them: as asked for, else as `axes_of` finds them.

    Slices of an array of three axes say what its axes are: pictures along that one.
    """
    if layout.axes:
        return layout.axes
    if layout.slices and len(shape) == 3:
        axis = slices_of(name, layout.slices, shape)[0]
        return "YX"[:axis] + "Z" + "YX"[axis:]
    return axes_of(name, shape)


def axes_of(name: str, shape: Sequence[int]) -> str:
    """The axes of an array that does not name them, where its shape leaves no doubt.

    [H, W]; [H, W, C] and [N, H, W, C], where the last axis is at most 4 and the others are more.
    Raises DataError, which names the option, for every other shape.
    """
    few = len(shape) >= 3 and shape[-1] <= 4 < min(shape[:-1][-2:])
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3 and few:
        return "YXC"
    if len(shape) == 4 and few:
        return "NYXC"
    likely = {3: ("NYX", "CYX", "YXC"), 4: ("NCYX", "NYXC", "TZYX")}.get(len(shape), ("TZCYX",))
    raise DataError(
        f"{name}: an array of shape {list(shape)} does not tell which axis is which: set "
        f"--config.data.axes, such as {', '.join(likely)} (Y, X, C for channels; others count "
        f"pictures)"
    )


def slices_of(name: str, slices: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Slices "AXIS:FROM:TO" as (AXIS, FROM, TO); DataError where there are none such."""
    parts = re.fullmatch(r"(\d):(\d*):(\d*)", slices)
    if not parts:
        raise DataError(
            f"slices = {slices!r} are not AXIS:FROM:TO: set --config.data.slices such as 2:40:120, "
            f"or 2:: for all along axis 2"
        )
    axis = int(parts[1])
    if axis >= len(shape):
        raise DataError(
            f"{name} has no axis {axis} that slices = {slices!r} could lie along: its shape is "
            f"{list(shape)}; set --config.data.slices"
        )
    first, last = int(parts[2] or 0), int(parts[3] or shape[axis])
    if not 0 <= first < last <= shape[axis]:
        raise DataError(
            f"{name} has slices 0 to {shape[axis] - 1} along axis {axis}, and slices = {slices!r} "
            f"are asked for: set --config.data.slices"
        )
    return axis, first, last
