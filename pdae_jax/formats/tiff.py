"""TIFF, OME-TIFF and ImageJ's TIFF, by tifffile: all pages and channels, read page by page.

The first series of a file is taken, with the axes that it names: Y, X, and C or S are the picture,
the others count pictures. Transparency is flattened on white, palettes become RGB, white-is-zero is
turned to black-is-zero, and the orientation is applied; all else are the file's numbers.
"""

import contextlib
import dataclasses
import functools
import math
import re
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pdae_jax.formats import pillow_file
from pdae_jax.formats.errors import DataError, first_line, require
from pdae_jax.formats.stack import ArrayStack, File, Kept, Layout, Stack, axes_in, check_type

SUFFIXES = (".tif", ".tiff")
_OPEN = Kept(16, threads=True)  # of several pages, since their places in the file take time to find

# As tifffile and the standard call them.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
JPEGS = (6, 7, 33003)  # compressions of which tifffile returns RGB where YCbCr is stored
ASSOCIATED, UNASSOCIATED = 1, 2
THUMBNAIL, MASK = 1, 4
PLAIN = ("ome", "shaped", "uniform", "generic")  # kinds of series that follow the pages


@dataclasses.dataclass(frozen=True)
class _Form:
    """What pages are, and how their numbers become a picture's.

    pages: the shape in which they count. axes: of one page, of Y, X, Z and S, without axes of
    length 1. alpha: ASSOCIATED, UNASSOCIATED, or 0 without transparency.
    """

    several: bool
    pages: tuple[int, ...]
    axes: str
    photometric: int
    alpha: int
    orientation: int
    bits: int

    @property
    def colours(self) -> bool:
        """Whether the page's numbers become others: then its channels are last."""
        return bool(self.alpha) or self.photometric in (PALETTE, CMYK) or self.orientation != 1


def open_stack(file: File, layout: Layout) -> Stack:
    """The pictures of the first series of a file."""
    name = file.name
    with _tiff(file) as tif:
        if tif.is_ome:
            _check_whole(name, tif.ome_metadata)
        series = list(tif.series)
        if not series or (series[0].kind in PLAIN and _is_cut(tif)):
            raise DataError(f"{name} is cut off, pages are missing: copy it again")
        first, page = series[0], series[0].keyframe
        others = [one for one in series[1:] if not _subfile(one.keyframe) & (THUMBNAIL | MASK)]
        if others and first.kind in (*PLAIN, "imagej"):  # a scanner's file has labels besides
            raise DataError(
                f"{name} has {1 + len(others)} images of different shapes, {list(first.shape)} and "
                f"{list(others[0].shape)}: save each in a file of its own"
            )
        if int(page.photometric) in (YCBCR, CIELAB) and int(page.compression) not in JPEGS:
            if len(tif.pages) == 1 and page.dtype == np.uint8:
                return pillow_file.open_stack(file, layout)  # which converts such colours
        if page.compression != 1:
            require("imagecodecs", "tiff")
        check_type(name, page.dtype)
        shape, axes, form = _form(name, first, layout)
        names = _channel_names(tif, shape[axes.index("C")] if "C" in axes else 1)
    axes = _axes(name, shape, axes, layout)
    limits = (0, 2**form.bits - 1) if form.bits else None
    return ArrayStack(
        name, shape, axes, functools.partial(_Pages, file, form), layout, names, limits
    )


@contextlib.contextmanager
def _tiff(file: File) -> Iterator[Any]:
    tifffile = require("tifffile", "tiff")
    try:
        tif = tifffile.TiffFile(file.source())
    except tifffile.TiffFileError as error:
        raise DataError(f"{file.name} is no TIFF file ({first_line(error)})") from error
    with tif:
        yield tif


def _check_whole(name: str, metadata: str) -> None:
    """Raises DataError for an OME-TIFF whose planes are spread over several files."""
    files = set(re.findall(r'FileName="([^"]*)"', metadata))
    if len(files) > 1:
        raise DataError(
            f"{name} is one of {len(files)} files of one OME-TIFF: write them into one file, such "
            f"as by bfconvert"
        )


def _is_cut(tif: Any) -> bool:
    """Whether the last page found says that another follows, or is not whole."""
    fh, size = tif.filehandle, tif.tiff.offsetsize
    fh.seek(tif.pages.next_page_offset)
    following = fh.read(size)
    return len(following) < size or any(following)


def _subfile(page: Any) -> int:
    return int(getattr(page, "subfiletype", 0) or 0)


def _form(name: str, series: Any, layout: Layout) -> tuple[tuple[int, ...], str, _Form]:
    """The shape and axes of a series of pictures, and the form of its pages."""
    page = series.keyframe
    kept = _long(series.get_axes(False), series.get_shape(False))
    own = _long(page.axes, page.shape)
    inside = "".join(letter for letter, _ in own)
    count = len(kept) - len(own)
    if count < 0 or [n for _, n in kept[count:]] != [n for _, n in own]:
        raise DataError(
            f"{name}: pages of shape {list(page.shape)} do not make up the shape "
            f"{list(series.shape)} that its header says: save it again"
        )
    samples, orientation = int(page.samplesperpixel), int(page.tags.valueof(274, 1))
    form = _Form(
        several=len(series.pages) > 1,
        pages=tuple(n for _, n in kept[:count]),
        axes=inside,
        photometric=int(page.photometric),
        alpha=_alpha(name, page, layout),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        bits=_bits(page),
    )
    _check_form(name, page, form)
    letters = "".join(letter for letter, _ in kept)
    shape = [n for _, n in kept]
    if form.colours:
        height, width = (own[inside.index(letter)][1] for letter in "YX")
        if form.orientation >= 5:
            height, width = width, height
        channels = 3 if form.photometric in (PALETTE, CMYK) else samples - bool(form.alpha)
        last = [height, width] + [channels] * (channels > 1)
        letters, shape = letters[:count] + "YXS"[: len(last)], shape[:count] + last
    return tuple(shape), letters, form


def _long(axes: str, shape: Sequence[int]) -> list[tuple[str, int]]:
    """Axes with their lengths, without those of length 1 that are not the picture's."""
    return [(axis, n) for axis, n in zip(axes, shape, strict=True) if n != 1 or axis in "YX"]


def _alpha(name: str, page: Any, layout: Layout) -> int:
    """How a sample is transparency; 0 where none is, or where samples are asked for as channels.

    Writers tag a fourth stain so, without being asked: of more than 8 bits it is not believed.
    """
    if layout.channels or layout.axes:
        return 0
    extra = [int(one) for one in page.extrasamples]
    alpha = [one for one in extra if one in (ASSOCIATED, UNASSOCIATED)]
    if not alpha:
        return 0
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(int(page.photometric))
    if len(extra) > 1 or colours is None or page.dtype.kind != "u":
        raise DataError(
            f"{name} has transparency among {page.samplesperpixel} channels of {page.dtype}, which "
            f"is flattened for unsigned grey or RGB alone: save it without"
        )
    if page.dtype.itemsize > 1 and alpha[0] == UNASSOCIATED:
        n = page.samplesperpixel
        every = ",".join(map(str, range(n)))
        raise DataError(
            f"{name}: the last of {n} channels of {page.dtype} is tagged as transparency, which "
            f"writers do unasked: set --config.data.channels={every} to have it as a channel, or "
            f"leave out {n - 1}"
        )
    return alpha[0]


def _bits(page: Any) -> int:
    """The bits of a number, where they are fewer than its type's; else 0."""
    bits = page.bitspersample
    fewer = page.dtype.kind == "u" and isinstance(bits, int) and bits < 8 * page.dtype.itemsize
    return bits if fewer and int(page.photometric) != PALETTE else 0


def _check_form(name: str, page: Any, form: _Form) -> None:
    kind, dtype = form.photometric, page.dtype
    reason = ""
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR):
        reason = f"its colours are {page.photometric.name}"
    elif kind == YCBCR and int(page.compression) not in JPEGS:
        reason = f"its colours are YCBCR of {dtype}, without JPEG"
    elif kind == CMYK and (dtype != np.uint8 or page.samplesperpixel != 4):
        reason = f"it is CMYK of {page.samplesperpixel} channels of {dtype}"
    elif kind == WHITE_IS_ZERO and dtype.kind == "f":
        reason = "white is zero in it, and its numbers are floats"
    elif kind == PALETTE and (dtype.kind != "u" or "S" in form.axes):
        reason = f"it has a palette for {dtype}"
    elif form.colours and "Z" in form.axes:
        reason = "its pages are volumes in colour or turned"
    if reason:
        raise DataError(f"{name} is a TIFF that is not read: {reason}; save it as grey or RGB")


def _axes(name: str, shape: Sequence[int], axes: str, layout: Layout) -> str:
    """The axes as asked for, else as the file has them; DataError where that leaves a doubt."""
    if layout.axes:
        return layout.axes
    long = "".join(letter for letter, _ in _long(axes, shape))
    if "C" in long and "S" in long:
        channels, colours = shape[axes.index("C")], shape[axes.index("S")]
        counted = axes.replace("C", "N").replace("S", "C")
        raise DataError(
            f"{name} has {channels} channels (C) of {colours} colours (S) each, axes {axes}: set "
            f"--config.data.axes, such as {counted}, where N counts pictures"
        )
    several = [axis for axis in axes if axis not in "YXCS"]
    if len(set(several)) < len(several) or not {"Y", "X"} <= set(axes):
        return axes_in(name, shape, layout)
    if {"Q", "I"} & set(several) and not {"C", "S"} & set(axes):
        if layout.slices:
            return axes_in(name, shape, layout)
        if len(several) == 1:
            raise DataError(
                f"{name} has {shape[0]} pages and does not say what they are: set "
                f"--config.data.axes=CYX where they are the channels of one picture, or ZYX where "
                f"each is a picture"
            )
        raise DataError(
            f"{name}: an array of shape {list(shape)}, of axes {axes}, does not say what Q and I "
            f"are: set --config.data.axes, such as {'TZCYX'[-len(shape) :]}"
        )
    return axes


def _channel_names(tif: Any, count: int) -> tuple[str, ...]:
    """The names of a file's channels in OME's or ImageJ's words; () where there are none."""
    if tif.is_ome:
        try:
            root = ElementTree.fromstring(tif.ome_metadata)
        except ElementTree.ParseError:
            return ()
        pixels = root.find(".//{*}Image/{*}Pixels")
        found = [] if pixels is None else [one.get("Name") for one in pixels.findall("{*}Channel")]
        return tuple(name or f"channel {k}" for k, name in enumerate(found)) if any(found) else ()
    labels = (tif.imagej_metadata or {}).get("Labels") if tif.is_imagej else None
    return tuple(map(str, labels)) if labels and len(labels) == count else ()


class _Held:
    """A file that is closed when it is no longer kept."""

    def __init__(self, tif: Any):
        self.tif = tif
        weakref.finalize(self, tif.close)


def _held(file: File) -> _Held:
    return _Held(require("tifffile", "tiff").TiffFile(file.source()))


class _Pages:
    """The pages of a file as an array to be indexed, which reads those pages that it needs."""

    def __init__(self, file: File, form: _Form):
        self._file, self._form = file, form

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        count = len(self._form.pages)
        numbers = np.arange(math.prod(self._form.pages)).reshape(self._form.pages)[index[:count]]
        if self._form.several:
            held = _OPEN.get(self._file, lambda: _held(self._file))  # and so not closed meanwhile
            planes = [self._page(held.tif, int(n))[index[count:]] for n in np.ravel(numbers)]
        else:
            with _tiff(self._file) as tif:
                planes = [self._page(tif, int(n))[index[count:]] for n in np.ravel(numbers)]
        return np.stack(planes).reshape(*np.shape(numbers), *planes[0].shape)

    def _page(self, tif: Any, k: int) -> np.ndarray:
        series, name, form = tif.series[0], self._file.name, self._form
        first = series.keyframe
        if len(series.pages) < math.prod(form.pages):  # one page stands for all that follows it
            if series.dataoffset is None:
                raise DataError(f"{name}: page {k} is missing: copy the file again")
            dtype = first.dtype.newbyteorder(tif.byteorder)
            fh, size = tif.filehandle, first.size * dtype.itemsize
            fh.seek(series.dataoffset + k * size)
            data = fh.read(size)
            if len(data) < size:
                raise DataError(f"{name}: page {k} is cut off: copy the file again")
            values, page = np.frombuffer(data, dtype), first
        else:
            page = series.pages[k]
            if page is None:
                raise DataError(f"{name}: page {k} is missing: copy the file again")
            ends = [at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if 0 in page.databytecounts or max(ends) > tif.filehandle.size:
                raise DataError(f"{name}: page {k} is cut off: copy the file again")
            values = page.asarray()
        values = values.reshape([n for _, n in _long(first.axes, first.shape)])
        return self._shown(values, page)

    def _shown(self, values: np.ndarray, page: Any) -> np.ndarray:
        form = self._form
        if values.dtype == bool:
            values = values.astype(np.uint8) * np.uint8(255)
        if form.colours and "S" in form.axes:
            values = np.moveaxis(values, form.axes.index("S"), -1)
        if form.photometric == WHITE_IS_ZERO:
            colours = _inverted(values[..., :-1] if form.alpha else values, form.bits)
            values = np.concatenate([colours, values[..., -1:]], -1) if form.alpha else colours
        if not form.colours:
            return values
        if form.photometric == PALETTE:
            page = page if getattr(page, "is_virtual", False) else page.aspage()
            values = (page.colormap.T >> 8).astype(np.uint8)[values]
        elif form.photometric == CMYK:
            values = np.asarray(
                Image.fromarray(np.ascontiguousarray(values), "CMYK").convert("RGB")
            )
        elif form.alpha:
            values = _opaque(values, form)
            values = values if values.shape[-1] > 1 else values[..., 0]
        return pillow_file.turned(values, form.orientation)


def _inverted(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of which the smallest is shown as white."""
    known = np.iinfo(values.dtype)
    smallest, largest = (0, 2**bits - 1) if bits else (known.min, known.max)
    return (int(largest) + int(smallest) - values.astype(np.int64)).astype(values.dtype)


def _opaque(values: np.ndarray, form: _Form) -> np.ndarray:
    """Values [h, w, c + 1] on white."""
    largest = 2**form.bits - 1 if form.bits else int(np.iinfo(values.dtype).max)
    if values.dtype == np.uint8 and form.alpha == UNASSOCIATED and largest == 255:
        mode = "LA" if values.shape[-1] == 2 else "RGBA"
        return pillow_file.of_pil(Image.fromarray(np.ascontiguousarray(values), mode))
    if form.alpha == UNASSOCIATED:
        return pillow_file.flatten(values, largest)
    mixed = values[..., :-1].astype(np.int64) + largest - values[..., -1:].astype(np.int64)
    return np.clip(mixed, 0, largest).astype(values.dtype)
