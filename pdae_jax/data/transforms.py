"""From pictures of any size and channels to `[H, W, C]` of a network's size, in 8 bits or float.

Resizing is Pillow's bilinear filter, which averages over the source area when it shrinks
(antialias): the resize of the paper's data sets.
"""

import numpy as np
from PIL import Image

from pdae_jax.formats.errors import DataError
from pdae_jax.formats.stack import Picture
from pdae_jax.value_range import EIGHT_BIT, ValueRange

Size = int | tuple[int, int]  # height and width
Crop = tuple[int, int, int, int]  # top, bottom, left, right in pixels

# Rows 57..185 and columns 25..153 of CelebA's aligned 218x178 pictures.
CELEBA_CROP: Crop = (57, 185, 25, 153)
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601


def prepare(
    picture: Picture,
    size: Size,
    channels: int,
    crop: Crop | None = None,
    value_range: ValueRange = EIGHT_BIT,
) -> tuple[np.ndarray, bool]:
    """Brings one picture to the network's size, channels and range of values.

    picture: of values [h, w, c]. size: an integer or `(H, W)`. channels: C. crop: cut out first.
    The picture is scaled until it just covers `(H, W)` and its centre is cut out; one that has the
    size already is not touched. Grey is repeated to RGB, RGB becomes luminance.

    Returns [H, W, C], uint8 where the range is 8-bit and else float32 in [-1, 1], and whether it
    has values out of the range. Raises DataError where c cannot become C, where the crop does not
    lie inside the picture, or where the range does not fit the values.
    """
    height, width = (size, size) if isinstance(size, int) else size
    values = to_channels(cut(picture.values, crop), channels)
    scaled, outside = value_range.scale(picture._replace(values=values))
    return np.ascontiguousarray(resize(scaled, height, width)), outside


def cut(image: np.ndarray, crop: Crop | None) -> np.ndarray:
    """The crop of a picture; DataError where it does not lie inside."""
    if crop is None:
        return image
    top, bottom, left, right = crop
    if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
        raise DataError(
            f"crop rows {top}..{bottom}, columns {left}..{right} does not lie inside "
            f"a picture of {image.shape[0]}x{image.shape[1]} pixels"
        )
    return image[top:bottom, left:right]


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey as RGB or RGB as grey where that is asked for; DataError for other numbers."""
    found = image.shape[-1]
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (found, channels) == (3, 1):
        if image.dtype == np.uint8:
            return np.asarray(Image.fromarray(image).convert("L"))[..., None]
        return image.astype(np.float32) @ LUMINANCE[:, None]
    raise DataError(
        f"the picture has {found} channel(s) and {channels} are asked for: set the "
        f"number of channels to {found} (the last of --config.model.image_shape), choose some with "
        f"--config.data.channels, or convert the pictures (only grey and RGB are converted for you)"
    )


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales a picture, uint8 or float32, to cover (height, width), and cuts out its centre."""
    h, w, channels = image.shape
    if (h, w) == (height, width):
        return image
    scale = max(height / h, width / w)
    shape = max(width, int(w * scale)), max(height, int(h * scale))  # Pillow's order

    def resized(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR))

    if channels == 3 and image.dtype == np.uint8:
        image = resized(image)
    else:  # Pillow knows one channel or three of 8 bits: all others go channel by channel
        planes = [resized(np.ascontiguousarray(image[..., c])) for c in range(channels)]
        image = np.stack(planes, axis=-1)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
