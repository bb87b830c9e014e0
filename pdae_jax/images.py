"""Pictures and arrays: from files and to them, to float and back, several in one grid.

Knows no JAX.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.formats.stack import Layout, Picture
from pdae_jax.value_range import ValueRange

with epy.lazy_imports():  # conversion to float, all that training needs, takes NumPy alone
    import einops
    from PIL import Image

    from pdae_jax.data import picture_files, range_search, transforms
    from pdae_jax.formats import pillow_file

Limits = tuple[float | int, float | int]  # of black and white
SHAPE_REMEDY = "pdae_jax.images.load(images, model) makes them so"

# Names and colours of channels where they are neither grey nor RGB: additive, red, green, blue.
COLOURS = {
    "blue": (0.0, 0.4, 1.0),
    "green": (0.0, 1.0, 0.2),
    "red": (1.0, 0.1, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "yellow": (1.0, 0.9, 0.0),
    "cyan": (0.0, 1.0, 1.0),
    "orange": (1.0, 0.5, 0.0),
    "violet": (0.5, 0.0, 1.0),
}


def load(
    images: Any,
    model: Any,
    value_range: ValueRange | Limits | None = None,
    layout: Layout | None = None,
) -> np.ndarray:
    """Pictures of any size and kind as a model takes them, [B, H, W, C].

    uint8, or float32 in [-1, 1] of pictures that are not 8-bit. images: a path, a folder, a glob or
    an array in a file; a PIL image; an array [h, w] or [h, w, c]; or a sequence of any of these.
    model: a `Model`. value_range: the values that stand for black and white; None for the model's
    own, and where it is 8-bit or has none, arrays are uint8 or floats from 0 to 1. layout: how the
    arrays of files are meant; None: as in training. Each is cut and resized as in training; grey
    and RGB become each other. Warns of values out of the model's
    range, which are clipped. Raises ValueError, with its name or number, for one that cannot be
    read or has other channels.
    """
    height, width, channels = model.arch.image_shape
    given = model.value_range if value_range is None else of_limits(value_range)
    prepared, clipped = [], []
    how = model.layout if layout is None else layout
    for name, read, told in _each(images, channels, given, how):
        try:
            picture = read()
            chosen = told or _range_of_array(picture.values)
            image, outside = transforms.prepare(picture, (height, width), channels, None, chosen)
        except (ValueError, OSError) as error:
            where = "" if str(error).startswith(name) else f"{name}: "
            raise ValueError(f"{where}{error}") from error
        if outside and value_range is not None and not isinstance(value_range, ValueRange):
            raise ValueError(f"{name}: it has values out of value_range = {value_range}")
        clipped += [name] * outside
        prepared.append(image)
    if clipped:
        warnings.warn(
            f"{len(clipped)} picture(s) have values out of the range {given}, clipped to it: "
            f"{', '.join(clipped[:3])}",
            stacklevel=2,
        )
    if not prepared:
        return np.zeros((0, height, width, channels), np.uint8)
    if len({image.dtype for image in prepared}) > 1:
        prepared = [to_float(image) for image in prepared]
    return np.stack(prepared)


Each = tuple[str, Callable[[], Picture], ValueRange | None]


def _each(images: Any, channels: int, given: ValueRange | None, layout: Layout) -> Iterable[Each]:
    """Of each picture a name, the function that reads it, and its range, None to be found."""
    if isinstance(images, str | os.PathLike):
        source = picture_files.Folder(images, "all", test_fraction=0, layout=layout)
        told = given or range_search.find(source, "", channels)[0]
        source.check_channel_names(told)

        def read(i: int) -> Picture:
            picture = source.read(i)
            told.check_file(picture)
            return picture

        return [(source.where(i), functools.partial(read, i), told) for i in range(len(source))]
    if isinstance(images, Image.Image):
        return [("the picture", lambda: Picture(pillow_file.of_pil(images)), given)]
    if hasattr(images, "shape") and hasattr(images, "dtype") and np.ndim(images) <= 3:
        own = None if given is None or given.eight_bit else given
        return [("the array", lambda: Picture(_with_channels(np.asarray(images))), own)]
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise ValueError(
            f"pictures are given as paths, PIL images or arrays, got {type(images).__name__}"
        )
    found: list[Each] = []
    for k, one in enumerate(images):
        named = isinstance(one, str | os.PathLike)
        each = _each(one, channels, given, layout)
        found += [(name if named else f"picture {k}", read, told) for name, read, told in each]
    return found


def _with_channels(image: np.ndarray) -> np.ndarray:
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(
            f"an array of shape {image.shape} is not a picture: need [H, W] or [H, W, C]"
        )
    return image


def _range_of_array(image: np.ndarray) -> ValueRange:
    """Of an array whose type tells it; ValueError where nothing says what is black and white."""
    if image.dtype in (np.uint8, bool):
        return ValueRange(eight_bit=True)
    if image.dtype.kind in "iu":
        raise ValueError(
            f"values of {image.dtype} do not tell which are black and white: pass value_range, "
            f"such as (0, 255) or (0, {np.iinfo(image.dtype).max})"
        )
    if image.dtype.kind == "f" and image.size and not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"floats from {image.min():.4g} to {image.max():.4g} do not tell which are black and "
            f"white: pass value_range, such as (-1, 1)"
        )
    return ValueRange((0.0,), (1.0,))


def of_limits(value_range: ValueRange | Limits) -> ValueRange:
    """A range; ValueError where it is neither one nor two numbers that differ."""
    if isinstance(value_range, ValueRange):
        return value_range
    try:
        low, high = (float(one) for one in value_range)
        good = np.isfinite([low, high]).all() and low < high and not isinstance(value_range, str)
    except (TypeError, ValueError):
        low = high = 0.0
        good = False
    if not good:
        raise ValueError(f"value_range must be (black, white), such as (0, 1), got {value_range!r}")
    return ValueRange((low,), (high,))


class Scaled:
    """Pictures of another range of values, which become [-1, 1] slice by slice."""

    dtype = np.dtype(np.float32)

    def __init__(self, images: Any, value_range: ValueRange):
        self._images, self._range = images, value_range
        self.shape = images.shape

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, some: slice) -> np.ndarray:
        low, high = (np.asarray(one, np.float64) for one in (self._range.low, self._range.high))
        x = np.clip(np.asarray(self._images[some], np.float64), low, high)
        return ((x - low) / (high - low) * 2 - 1).astype(np.float32)


def checked(
    images: Any,
    value_range: ValueRange | Limits | None = None,
    own: ValueRange | None = None,
) -> Any:
    """Pictures [B, H, W, C] as slices that a model takes: uint8, or float32 in [-1, 1].

    value_range: the values that stand for black and white; None: 0 and 255 of uint8, -1 and 1 of
    floats, and the model's own range, `own`, of other integers. Raises ValueError, with the remedy,
    for NaN and values out of the range or of another type; warns of values out of a model's range,
    which are clipped, and of floats that are never negative, which are rarely meant for [-1, 1].
    """
    kind = np.dtype(images.dtype).kind
    known = own if own is not None and not own.eight_bit and not own.own else None
    if value_range is None and kind in "iu" and images.dtype != np.uint8 and known is not None:
        value_range = known
    if isinstance(value_range, ValueRange):
        if value_range.own:
            raise ValueError(
                f"each picture is scaled by its own {value_range.own}, of its file: "
                f"pdae_jax.images.load reads files"
            )
        return _in_range(images, value_range)
    given = None if value_range is None else of_limits(value_range)
    if given is None and images.dtype == np.uint8:
        if known is not None:
            raise ValueError(
                f"8-bit pictures, where values from {known} are expected: pass value_range=(0, 255)"
            )
        return images
    if kind not in "fiub" and images.dtype.name != "bfloat16":
        raise ValueError(
            f"images must be numbers, got {images.dtype}: pdae_jax.images.load reads files"
        )
    if given is None and kind in "iub":
        white = 1 if kind == "b" else np.iinfo(images.dtype).max
        raise ValueError(
            f"images of {images.dtype} do not tell which values are black and white: pass "
            f"value_range, such as (0, {white}) or the range of your instrument"
        )
    lowest, highest = _range(images)
    low, high = (-1.0, 1.0) if given is None else (given.low[0], given.high[0])
    room = 0.005 * (high - low)  # what resizing and rounding go beyond
    if lowest < low - room or highest > high + room:
        remedy = "pass value_range=(black, white)" + (
            ": (0, 255) for such values" if lowest >= 0 and high < 2 and highest <= 255 else ""
        )
        remedy += ", or model.value_range for the units of its files" if known is not None else ""
        raise ValueError(
            f"images must be uint8 or float in [{low:g}, {high:g}], got {lowest:.3g} to "
            f"{highest:.3g}; {remedy}"
        )
    if given is None and 0 <= lowest < highest:
        warnings.warn(
            f"images are floats from {lowest:.3g} to {highest:.3g} and taken for [-1, 1]: where "
            f"black is 0, pass value_range=(0, 1); where it is -1, value_range=(-1, 1) says so",
            stacklevel=4,
        )
    return Scaled(images, ValueRange((low,), (high,)))


def _in_range(images: Any, value_range: ValueRange) -> Any:
    """Pictures in a model's own units; warns of those with values outside."""
    if value_range.eight_bit and images.dtype == np.uint8:
        return images
    value_range.check_channels(images.shape[-1])
    _range(images)  # refuses what is not finite
    low, high = np.asarray(value_range.low), np.asarray(value_range.high)
    outside = 0
    for start in range(0, len(images), 256):
        some = np.asarray(images[start : start + 256], np.float64)
        share = ((some < low) | (some > high)).mean((1, 2, 3))
        outside += int((share > value_range.beyond).sum())
    if outside:
        warnings.warn(
            f"{outside} of {len(images)} images have values out of the range {value_range}, "
            f"clipped to it",
            stacklevel=5,
        )
    return Scaled(images, value_range)


def _range(images: Any, at_a_time: int = 256) -> tuple[float, float]:
    """The smallest and the largest value; ValueError names the pictures that are not finite."""
    lowest, highest = np.inf, -np.inf
    for start in range(0, len(images), at_a_time):
        some = np.asarray(images[start : start + at_a_time], np.float32)
        finite = np.isfinite(some).all(tuple(range(1, some.ndim)))
        if not finite.all():
            bad = start + int(np.argmin(finite))
            raise ValueError(f"images[{bad}] has values that are NaN or infinite")
        lowest, highest = min(lowest, float(some.min())), max(highest, float(some.max()))
    return lowest, highest


def to_float(images: Any) -> Any:
    """uint8 [0, 255] -> float32 [-1, 1]; floats, taken to be in [-1, 1], keep their values.

    images: an array of any shape, of NumPy or JAX; the result is of the same library.
    """
    x = images.astype(np.float32)
    return x / 127.5 - 1 if images.dtype == np.uint8 else x


def to_uint8(x: Any) -> np.ndarray:
    """[-1, 1] -> uint8 by floor(clip(127.5 x + 127.5 + 0.5, 0, 255)), the rounding of PNGs.

    For showing: uint8 stays.
    """
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return x
    return np.floor(np.clip(x.astype(np.float32) * 127.5 + 128.0, 0, 255)).astype(np.uint8)


def to_pil(image: np.ndarray, zoom: int = 1) -> "Image.Image":
    """uint8 [H, W, 1 or 3] -> a PIL image, each pixel `zoom` wide and high."""
    image = image.repeat(zoom, 0).repeat(zoom, 1)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def channel_colours(channels: int) -> dict[str, tuple[float, float, float]]:
    """A name and a colour for each of `channels` channels; of three as screens have them."""
    if channels == 3:
        return {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
    names = ["green", "magenta"] if channels == 2 else list(COLOURS)
    found = {}
    for k in range(channels):
        name = names[k % len(names)]
        found[name if k < len(names) else f"{name} again ({k})"] = COLOURS[name]
    return found


def visible(images: np.ndarray) -> np.ndarray:
    """[..., C] in [-1, 1], or uint8 -> uint8 [..., 1 or 3]: as a screen can show them.

    Grey and RGB as they are; other channels as the sum of their `channel_colours` (a composite).
    """
    channels = images.shape[-1]
    if channels in (1, 3):
        return to_uint8(images)
    colours = np.array(list(channel_colours(channels).values()))
    colours /= np.maximum(1, colours.sum(0) / 2)  # many channels at once would all be white
    shown = (to_float(images) + 1) / 2 @ colours.astype(np.float32)
    return to_uint8(np.clip(shown, 0, 1) * 2 - 1)


def grid(rows: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Rows of pictures as one: each row [n, H, W, C], on white -> uint8 [H', W', 1 or 3].

    As of `visible`.
    """
    columns = max(len(row) for row in rows)
    rows = [visible(row) for row in rows]
    padding = ((0, gap), (0, gap), (0, 0))
    rows = [np.pad(row, ((0, columns - len(row)), *padding), constant_values=255) for row in rows]
    sheet = einops.rearrange(rows, "rows columns H W C -> (rows H) (columns W) C")
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap]
