"""From encoded pictures and arrays of any kind to uint8 `[H, W, C]` of a network's size.

Resizing is Pillow's bilinear filter, which averages over the source area when it shrinks
(antialias): the resize of the paper's data sets.
"""

import os
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pdae_jax.formats.errors import DataError

Size = int | tuple[int, int]  # height and width
Crop = tuple[int, int, int, int]  # top, bottom, left, right in pixels

# Rows 57..185 and columns 25..153 of CelebA's aligned 218x178 pictures.
CELEBA_CROP: Crop = (57, 185, 25, 153)


def to_uint8(array: npt.ArrayLike) -> np.ndarray:
    """Scales a picture of any common number type to uint8 `[h, w, c]`.

    array: `[h, w]` or `[h, w, c]`. uint8 stays; bool becomes 0 or 255; uint16 (and wider integers
    that hold 0..65535) is divided by 257; floats are taken as 0..1 and multiplied by 255. Nothing
    is stretched to its own minimum and maximum: equal values in two files stay equal.

    Raises DataError for other shapes and for values outside those ranges.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(
            f"an array of shape {array.shape} is not a picture: need [H, W] or [H, W, C]"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(array * 255.0).astype(np.uint8)
    raise DataError(
        f"{array.dtype} values {low}..{high} cannot be shown as a picture: "
        "save uint8, uint16, or floats in 0..1"
    )


def decode(file: str | os.PathLike[str] | IO[bytes]) -> np.ndarray:
    """Decodes any format Pillow reads to uint8 `[h, w, c]`, c = 1 for grey and 3 for colour.

    file: a path or an open binary file. Of an animation the first frame is taken. EXIF orientation
    is applied, transparency is flattened on white, palettes and CMYK become RGB, and 16-bit and
    floating-point greys are scaled as in `to_uint8`. Raises whatever Pillow raises on a broken
    file.
    """
    with Image.open(file) as opened:
        return of_pil(opened)


def of_pil(image: Image.Image) -> np.ndarray:
    """The same of a picture that Pillow has opened."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16-bit, 32-bit and floating-point greys
        return to_uint8(np.asarray(image))
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA", "La", "1")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return to_uint8(np.asarray(image))


def prepare(image: np.ndarray, size: Size, channels: int, crop: Crop | None = None) -> np.ndarray:
    """Brings one picture to the network's size and channels.

    image: uint8 `[h, w, c]`. size: an integer or `(H, W)`. channels: C. crop: cut out first.
    The picture is scaled until it just covers `(H, W)` and its centre is cut out; one that has the
    size already is not touched. Grey is repeated to RGB, RGB becomes luminance (ITU-R 601).

    Returns uint8 `[H, W, C]`. Raises DataError where c cannot become C, or where the crop does not
    lie inside the picture.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if crop is not None:
        top, bottom, left, right = crop
        if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
            raise DataError(
                f"crop rows {top}..{bottom}, columns {left}..{right} does not lie inside "
                f"a picture of {image.shape[0]}x{image.shape[1]} pixels"
            )
        image = image[top:bottom, left:right]
    image = _resize(_to_channels(image, channels), height, width)
    return np.ascontiguousarray(image)


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    found = image.shape[-1]
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (found, channels) == (3, 1):
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    raise DataError(
        f"the picture has {found} channel(s) and {channels} are asked for: set the "
        f"number of channels to {found}, or convert the pictures (only grey and RGB "
        "are converted for you)"
    )


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    h, w, channels = image.shape
    if (h, w) == (height, width):
        return image
    scale = max(height / h, width / w)
    shape = max(width, int(w * scale)), max(height, int(h * scale))  # Pillow's order

    def resize(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR))

    if channels == 3:
        image = resize(image)
    else:  # Pillow knows one channel or three: any other number goes channel by channel
        image = np.stack([resize(image[..., c]) for c in range(channels)], axis=-1)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
