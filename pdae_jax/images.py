"""Pictures and arrays: to float and back, several in one grid, as PIL images. Knows no JAX."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epy

with epy.lazy_imports():  # conversion to float, all that training needs, takes NumPy alone
    import einops
    from PIL import Image


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
