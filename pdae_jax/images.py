"""Pictures and arrays: from files and to them, to float and back, several in one grid.

Knows no JAX.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epy

with epy.lazy_imports():  # conversion to float, all that training needs, takes NumPy alone
    import einops
    from PIL import Image

    from pdae_jax.data import sources, transforms

ValueRange = tuple[float | int, float | int]  # of black and white
SHAPE_REMEDY = "pdae_jax.images.load(images, model) makes them so"


def load(images: Any, model: Any, value_range: ValueRange | None = None) -> np.ndarray:
    """Pictures of any size and kind as a model takes them: uint8 [B, H, W, C].

    images: a path, a folder or a glob; a PIL image; an array [h, w] or [h, w, c], uint8 or of
    floats from 0 to 1; or a sequence of any of these. model: a `Model`. value_range: the values of
    arrays that stand for black and white, where they are others. Each is cut and resized as in
    training; grey and RGB become each other. Raises ValueError, with its name or number, for one
    that cannot be read or has other channels.
    """
    height, width, channels = model.arch.image_shape
    prepared = []
    for name, read in _each(images, value_range):
        try:
            prepared.append(transforms.prepare(read(), (height, width), channels))
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: {error}") from error
    if not prepared:
        return np.zeros((0, height, width, channels), np.uint8)
    return np.stack(prepared)


def _each(images: Any, value_range: ValueRange | None) -> Iterable[tuple[str, Any]]:
    """A name for each picture, and the function that reads it."""
    if isinstance(images, str | os.PathLike):
        source = sources.Folder(images, "all")
        return [(source.where(i), lambda i=i: source.image(i)) for i in range(len(source))]
    if isinstance(images, Image.Image):
        return [("the picture", lambda: transforms.of_pil(images))]
    if hasattr(images, "shape") and hasattr(images, "dtype") and np.ndim(images) <= 3:
        return [("the array", lambda: _of_array(np.asarray(images), value_range))]
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise ValueError(
            f"pictures are given as paths, PIL images or arrays, got {type(images).__name__}"
        )
    found: list[tuple[str, Any]] = []
    for k, one in enumerate(images):
        named = isinstance(one, str | os.PathLike)
        each = _each(one, value_range)
        found += [(name if named else f"picture {k}", read) for name, read in each]
    return found


def _of_array(image: np.ndarray, value_range: ValueRange | None) -> np.ndarray:
    """A picture as uint8; ValueError where nothing says which of its values are black and white."""
    if value_range is not None:
        low, high = _range_of(value_range)
        x = (image.astype(np.float32) - low) / (high - low)
        if not (np.isfinite(x).all() and -0.005 <= x.min() and x.max() <= 1.005):
            raise ValueError(f"it has values out of value_range = {value_range}")
        image = np.clip(x, 0, 1)
    elif image.dtype.kind in "iu" and image.dtype != np.uint8:
        raise ValueError(
            f"values of {image.dtype} do not tell which are black and white: pass value_range, "
            f"such as (0, 255) or (0, {np.iinfo(image.dtype).max})"
        )
    elif image.dtype.kind == "f" and image.size and image.min() < 0:
        raise ValueError("floats below 0: pass value_range, such as (-1, 1)")
    return transforms.to_uint8(image)


def _range_of(value_range: ValueRange) -> ValueRange:
    """Black and white; ValueError where they are not two numbers that differ."""
    try:
        low, high = (float(one) for one in value_range)
        good = np.isfinite([low, high]).all() and low < high and not isinstance(value_range, str)
    except (TypeError, ValueError):
        low = high = 0.0
        good = False
    if not good:
        raise ValueError(f"value_range must be (black, white), such as (0, 1), got {value_range!r}")
    return low, high


class Scaled:
    """Pictures of another range of values, which become [-1, 1] slice by slice."""

    dtype = np.dtype(np.float32)

    def __init__(self, images: np.ndarray, value_range: ValueRange):
        self._images, (self._low, self._high) = images, value_range
        self.shape = images.shape

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, some: slice) -> np.ndarray:
        x = np.asarray(self._images[some], np.float32)
        return (x - self._low) / (self._high - self._low) * 2 - 1


def checked(images: Any, value_range: ValueRange | None = None) -> Any:
    """Pictures [B, H, W, C] as slices that a model takes: uint8, or float32 in [-1, 1].

    value_range: the values that stand for black and white; None: 0 and 255 of uint8, -1 and 1 of
    floats. Raises ValueError, with the remedy, for NaN and values out of the range or of another
    type; warns of floats that are never negative, which are rarely meant for [-1, 1].
    """
    if value_range is not None:
        value_range = _range_of(value_range)
    elif images.dtype == np.uint8:
        return images
    kind = np.dtype(images.dtype).kind
    if kind not in "fiub" and images.dtype.name != "bfloat16":
        raise ValueError(
            f"images must be numbers, got {images.dtype}: pdae_jax.images.load reads files"
        )
    if value_range is None and kind in "iub":
        white = 1 if kind == "b" else np.iinfo(images.dtype).max
        raise ValueError(
            f"images of {images.dtype} do not tell which values are black and white: pass "
            f"value_range, such as (0, {white}) or the range of your instrument"
        )
    lowest, highest = _range(images)
    low, high = value_range or (-1.0, 1.0)
    room = 0.005 * (high - low)  # what resizing and rounding go beyond
    if lowest < low - room or highest > high + room:
        remedy = "pass value_range=(black, white)" + (
            ": (0, 255) for such values" if lowest >= 0 and high < 2 and highest <= 255 else ""
        )
        raise ValueError(
            f"images must be uint8 or float in [{low:g}, {high:g}], got {lowest:.3g} to "
            f"{highest:.3g}; {remedy}"
        )
    if value_range is None and 0 <= lowest < highest:
        warnings.warn(
            f"images are floats from {lowest:.3g} to {highest:.3g} and taken for [-1, 1]: where "
            f"black is 0, pass value_range=(0, 1); where it is -1, value_range=(-1, 1) says so",
            stacklevel=4,
        )
    return Scaled(images, (low, high))


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
    """[-1, 1] -> uint8 by floor(clip(127.5 x + 127.5 + 0.5, 0, 255)), the rounding of PNGs."""
    return np.floor(np.clip(np.asarray(x, np.float32) * 127.5 + 128.0, 0, 255)).astype(np.uint8)


def to_pil(image: np.ndarray, zoom: int = 1) -> "Image.Image":
    """uint8 [H, W, 1 or 3] -> a PIL image, each pixel `zoom` wide and high."""
    image = image.repeat(zoom, 0).repeat(zoom, 1)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def visible(images: np.ndarray) -> np.ndarray:
    """[..., C] -> [..., 1 or 3]: the first channels, as many as a screen can show."""
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def grid(rows: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Rows of pictures as one: each row uint8 [n, H, W, C], on white -> uint8 [H', W', 1 or 3].

    Channels beyond 3 are left out; 2 become the first alone.
    """
    columns = max(len(row) for row in rows)
    rows = [visible(row) for row in rows]
    padding = ((0, gap), (0, gap), (0, 0))
    rows = [np.pad(row, ((0, columns - len(row)), *padding), constant_values=255) for row in rows]
    sheet = einops.rearrange(rows, "rows columns H W C -> (rows H) (columns W) C")
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap]
