"""`Stack`, the pictures of one file, and how arrays of any axes become pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from pdae_jax.formats.errors import DataError

File = str | IO[bytes]  # a path, or an open binary file, such as of an archive's member
MOST_PIXELS = 2**29  # of one picture; more is taken for a damaged header, or a bomb


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
    one axis, such as "2:40:120"; "" all along the last.
    """

    axes: str = ""
    channels: tuple[int, ...] = ()
    slices: str = ""


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
    function that returns an object to be indexed, such as a memory map; called for each picture.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        axes: str,
        read: Callable[[], Any],
        layout: Layout = Layout(),  # noqa: B008 - frozen
    ):
        self.name, self._read = name, read
        self._axes = axes.upper().replace("S", "C")
        check_axes(name, shape, self._axes)
        sizes = dict(zip(self._axes, shape, strict=True))
        check_pixels(name, sizes["Y"], sizes["X"])
        self._several = [axis for axis in self._axes if axis not in "YXC"]
        self._counts = [sizes[axis] for axis in self._several]
        self._channels = layout.channels
        if layout.channels:
            check_channels(name, layout.channels, sizes.get("C", 1))

    def __len__(self) -> int:
        return int(np.prod(self._counts, dtype=np.int64))

    def picture(self, k: int) -> Picture:
        place = dict(zip(self._several, np.unravel_index(k, self._counts or (1,)), strict=False))
        index = tuple(int(place[axis]) if axis in place else slice(None) for axis in self._axes)
        plane = np.asarray(self._read()[index])
        left = [axis for axis in self._axes if axis not in place]
        plane = np.moveaxis(plane, [left.index(axis) for axis in "YX"], [0, 1])
        plane = plane if "C" in left else plane[..., None]
        return Picture(plane[..., list(self._channels)] if self._channels else plane)


def check_axes(name: str, shape: Sequence[int], axes: str) -> None:
    """Raises DataError unless there is a letter for each axis, once, Y and X among them."""
    good = len(axes) == len(shape) and len(set(axes)) == len(axes) and {"Y", "X"} <= set(axes)
    if not good or not axes.isalpha():
        raise DataError(
            f"{name}: axes = {axes!r} do not fit an array of shape {list(shape)}: give a letter to "
            f"each axis, Y and X of the picture, C of channels, others of several pictures, such "
            f"as --config.data.axes={'ZTCYX'[-max(len(shape), 2) :]}"
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
