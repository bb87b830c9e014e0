"""What Pillow reads: PNG, JPEG, BMP, WebP and others; those deeper than 8 bits keep their numbers.

Of an animation the first frame is the picture.
"""

import functools
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pdae_jax.formats.errors import DataError, require
from pdae_jax.formats.stack import (
    MOST_PIXELS,
    File,
    Layout,
    Picture,
    Stack,
    check_channels,
    check_pixels,
    native,
)

# Pillow knows these by name, and reads none of them as a picture without more software.
NO_PICTURES = {"MPEG", "HDF5", "GRIB", "BUFR", "EPS", "WMF"}

# Pillow's own limit is a sixth of this, above which it warns; above twice this it refuses.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of Pillow's pictures, lower case; without TIFF, which `tiff` reads."""
    known = Image.registered_extensions()
    kinds = set(Image.OPEN) - NO_PICTURES - {"TIFF"}
    return frozenset(suffix for suffix, kind in known.items() if kind in kinds)


def __getattr__(name: str) -> frozenset[str]:
    if name == "SUFFIXES":  # when asked for, since Pillow imports all that it knows
        return suffixes()
    raise AttributeError(name)


class PillowStack(Stack):
    """The one picture of a file, which is opened when the picture is read."""

    def __init__(self, file: File, channels: tuple[int, ...]):
        self._file, self._channels = file, channels

    def picture(self, k: int) -> Picture:
        if k != 0:
            raise IndexError(f"{self._file.name} has one picture, and picture {k} is asked for")
        picture = _read(self._file.source(), self._file.name)
        if self._channels:
            check_channels(self._file.name, self._channels, picture.values.shape[-1])
            picture = picture._replace(values=picture.values[..., list(self._channels)])
        return picture


def open_stack(file: File, layout: Layout) -> Stack:
    """The one picture of a file, which is not opened yet."""
    if layout.axes.upper().replace("S", "C") not in ("", "YX", "YXC"):
        raise DataError(
            f"{file.name}: axes = {layout.axes!r} are asked for, and such a file is one picture, "
            f"of axes YXC: set --config.data.axes= (empty)"
        )
    if layout.slices:
        raise DataError(
            f"{file.name} is no volume, and slices = {layout.slices!r} are asked for: set "
            f"--config.data.slices= (empty)"
        )
    return PillowStack(file, layout.channels)


def decode(file: str | IO[bytes]) -> np.ndarray:
    """The picture of a file, [h, w, c], in the file's own numbers.

    8 bits a channel as `of_pil`. PNG, JPEG 2000, AVIF and PPM of more bits stay as they are, with
    transparency flattened on white; unless grey, PNG then needs the extra `png16`, and so do all
    of JPEG 2000 and AVIF. Raises whatever Pillow raises on a broken file.
    """
    return _read(file, file if isinstance(file, str) else "the picture").values


def of_pil(image: Image.Image) -> np.ndarray:
    """A picture that Pillow has opened, [h, w, c], c = 1 for grey and 3 for colour.

    EXIF orientation is applied, transparency is flattened on white, palettes and CMYK become RGB,
    black and white 0 and 255: uint8. Greys of more bits are uint16, int32 or float32.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16-bit, 32-bit and floating-point greys
        return native(np.asarray(image))[..., None]
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA", "La", "1")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def flatten(values: np.ndarray, largest: int) -> np.ndarray:
    """Unsigned values [..., c + 1], alpha last, on white: [..., c] of the same type, rounded."""
    alpha = values[..., -1:].astype(np.uint64)
    mixed = values[..., :-1] * alpha + largest * (largest - alpha)
    return ((mixed + largest // 2) // largest).astype(values.dtype)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values [h, w, ...] as EXIF's orientation, 1 to 8, asks; any other number is taken as 1."""
    orientation = orientation if 1 <= orientation <= 8 else 1
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    values = values[:, ::-1] if orientation in (2, 3, 7, 6) else values
    return np.ascontiguousarray(values[::-1] if orientation in (3, 4, 7, 8) else values)


def _read(file: str | IO[bytes], name: str) -> Picture:
    try:
        with Image.open(file) as image:
            check_pixels(name, image.height, image.width)
            deep = _DEEP.get(image.format or "")
            return (deep and deep(image, name)) or Picture(of_pil(image))
    except UnidentifiedImageError as error:
        raise DataError(
            f"cannot identify image file {name!r}: it is damaged, or no picture"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: a picture of more than {MOST_PIXELS:,} pixels: cut it into tiles ({error})"
        ) from error


def _deep_png(image: Any, name: str) -> Picture | None:
    """A 16-bit PNG: Pillow leaves 8 bits of colour, and all of grey."""
    raw = image.tile[0].args if image.tile else ""
    if image.mode == "I;16" and "transparency" in image.info:  # one grey that is transparent
        values = np.asarray(image)
        values = np.where(values == image.info["transparency"], 65535, values)
        return Picture(_turned(native(values.astype(np.uint16))[..., None], image))
    if raw not in ("RGB;16B", "LA;16B", "RGBA;16B"):
        return None
    values = _codec(name, "a 16-bit PNG in colour or with transparency").png_decode(_bytes(image))
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and values.shape[-1] == 3:  # one colour that is transparent
        values = np.where(np.all(values == clear, axis=-1, keepdims=True), 65535, values)
    values = values.astype(np.uint16)
    return Picture(_turned(flatten(values, 65535) if values.shape[-1] in (2, 4) else values, image))


def _deep_jpeg2000(image: Any, name: str) -> Picture | None:
    """A JPEG 2000 of more than 8 bits, which Pillow shifts to 16 or cuts to 8."""
    data = _bytes(image)
    start = data.find(b"\xff\x4f\xff\x51")  # the codestream: SOC and SIZ
    depth, channels = data[start + 42], data[start + 41]
    bits, signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    if bits <= 8:
        return None
    values = _codec(name, f"a JPEG 2000 of {bits} bits").jpeg2k_decode(data)
    values = values if values.ndim == 3 else values[..., None]
    if channels in (2, 4):
        values = flatten(values, 2**bits - 1)
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Picture(_turned(values, image), None if bits in (16, 32) else limits)


def _deep_avif(image: Any, name: str) -> Picture | None:
    """An AVIF of 10 or 12 bits, of which Pillow leaves 8."""
    data = _bytes(image)
    start = data.find(b"av1C")
    flags = data[start + 6] if 0 <= start < len(data) - 6 else 0
    if not flags & 0x40:
        return None
    bits = 12 if flags & 0x20 else 10
    values = _codec(name, f"an AVIF of {bits} bits").avif_decode(data)
    values = values if values.ndim == 3 else values[..., None]
    if values.shape[-1] in (2, 4):
        values = flatten(values, 2**bits - 1)
    return Picture(_turned(values, image), (0, 2**bits - 1))


def _deep_ppm(image: Any, name: str) -> Picture | None:
    """A PGM or PPM of more than 8 bits, which Pillow scales to 16 or to 8."""
    codec, _, offset, args = image.tile[0]
    largest = 65535 if args[0] == "I;16B" else args[1] if codec.startswith("ppm") else 255
    if not isinstance(largest, int) or largest <= 255:
        return None
    body = _bytes(image)[offset:]
    shape = (image.height, image.width, 3 if image.mode == "RGB" else 1)
    count = int(np.prod(shape))
    if codec == "ppm_plain":
        lines = (line.partition(b"#")[0] for line in body.splitlines())
        values = np.array(b" ".join(lines).split()[:count], np.int64)
    else:
        values = np.frombuffer(body[: 2 * count], ">u2")
    if values.size < count or values.max() > largest:
        raise DataError(f"{name} is damaged: {values.size} of {count} values, up to {largest}")
    limits = (0, largest) if largest != 65535 else None
    return Picture(native(values.astype(np.uint16)).reshape(shape), limits)


def _deep_sgi(image: Any, name: str) -> Picture | None:
    """A 16-bit SGI, of which Pillow leaves 8."""
    if image.tile and (image.tile[0][0] == "SGI16" or image.tile[0].args[-1] == 2):
        raise DataError(f"{name} is a 16-bit SGI, which is not read: save it as TIFF or PNG")
    return None


def _deep_fits(image: Any, name: str) -> Picture | None:
    """A FITS of more than 8 bits, of which Pillow ignores sign, zero and scale."""
    if image.mode != "L":
        raise DataError(f"{name} is a FITS of numbers, which is not read: save it as .npy or TIFF")
    return None


_DEEP = {
    "PNG": _deep_png,
    "JPEG2000": _deep_jpeg2000,
    "AVIF": _deep_avif,
    "PPM": _deep_ppm,
    "SGI": _deep_sgi,
    "FITS": _deep_fits,
}


def _bytes(image: Any) -> bytes:
    """The file of a picture that Pillow has opened, as a whole."""
    at = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(at)
    return data


def _codec(name: str, what: str) -> Any:
    try:
        return require("imagecodecs", "png16")
    except DataError as error:
        raise DataError(f"{name} is {what}: {error}") from error


def _turned(values: np.ndarray, image: Image.Image) -> np.ndarray:
    return turned(values, image.getexif().get(0x0112, 1))
