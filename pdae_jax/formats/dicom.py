"""DICOM, by pydicom: values through slope and intercept, larger is brighter, frames one by one.

Values are the modality's (Hounsfield units of a CT): integers where slope and intercept are, else
floats; windows are said beside, and not applied. MONOCHROME1 is mirrored within its limits: stored
numbers become largest + smallest - stored. Colour is RGB, also of YBR and of palettes.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdae_jax.formats import pillow_file
from pdae_jax.formats.errors import DataError, first_line, require
from pdae_jax.formats.stack import (
    File,
    Layout,
    Picture,
    Stack,
    check_channels,
    check_pixels,
    native,
    slices_of,
)

SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC = b"DICM"  # after 128 bytes of anything
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
_TAGS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "Modality", "ModalityLUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "SOPClassUID"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


def has_magic(file: File) -> bool:
    """Whether a file is a DICOM by its content."""
    if not os.path.isfile(file.path):
        return False
    try:
        with file.open() as opened:
            return opened.read(132)[128:] == MAGIC
    except (OSError, DataError):
        return False


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Slope and intercept of a frame, and its window, before any mirroring."""

    slope: float
    intercept: float
    window: tuple[float, float] | None


class DicomStack(Stack):
    """The frames of a DICOM file."""

    def __init__(self, file: File, header: Any, layout: Layout):
        self._file, name = file, file.name
        self._photometric = str(header.PhotometricInterpretation)
        samples = int(header.get("SamplesPerPixel", 1))
        count = int(header.get("NumberOfFrames") or 1)
        if (self._photometric, samples) not in (
            *((kind, 1) for kind in (*GREY, PALETTE)),
            *((kind, 3) for kind in COLOURS),
        ):
            raise DataError(
                f"{name} has {samples} channel(s) of {self._photometric}, which are not read: save "
                f"it as MONOCHROME2 or RGB"
            )
        check_pixels(name, int(header.Rows), int(header.Columns))
        self._first, self._count = _chosen(name, header, layout, count)
        self._channels = layout.channels
        check_channels(name, layout.channels, 1 if self._photometric in GREY else 3)
        self._table = "ModalityLUTSequence" in header and self._photometric in GREY
        self._bits = int(header.get("BitsStored") or 0)  # 0: floats
        self._signed = bool(header.get("PixelRepresentation", 0))
        frames = [_frame(name, header, k) for k in range(count)]
        self._frames = frames[:1] if len(set(frames)) == 1 else frames
        if self._photometric == "MONOCHROME1" and not self._bits:
            raise DataError(f"{name} is MONOCHROME1 of floats: save it as MONOCHROME2")

    def __len__(self) -> int:
        return self._count

    def picture(self, k: int) -> Picture:
        if not 0 <= k < self._count:
            raise IndexError(f"{self._file.name} has {self._count} picture(s), and not picture {k}")
        require("pydicom", "dicom")
        from pydicom.pixels.utils import pixel_array

        k += self._first
        frame = self._frames[k if len(self._frames) > 1 else 0]
        source = self._file.source()
        values = np.asarray(pixel_array(source, index=k))  # type: ignore[arg-type]
        if self._photometric == PALETTE:
            picture = Picture(self._coloured(values))
        elif self._photometric in GREY:
            picture = self._grey(_masked(values, self._bits, self._signed)[..., None], frame)
        else:
            picture = Picture(values, _other(_stored(self._bits, self._signed), values.dtype))
        values = picture.values
        return picture._replace(
            values=native(values[..., list(self._channels)] if self._channels else values)
        )

    def _grey(self, values: np.ndarray, frame: _Frame) -> Picture:
        stored = _stored(self._bits, self._signed)
        window = frame.window
        if self._table:
            from pydicom.pixels.processing import apply_modality_lut

            header = _header(self._file)
            values = apply_modality_lut(values, header)
            ends = apply_modality_lut(np.array(stored), header)
            table = apply_modality_lut(np.arange(stored[0], stored[1] + 1), header)
            limits = float(min(table.min(), *ends)), float(table.max())
        elif not self._bits:
            return Picture(_scaled(values, frame, self._bits), None, window)
        else:
            values = _scaled(values, frame, self._bits)
            low, high = (one * frame.slope + frame.intercept for one in stored)
            limits = min(low, high), max(low, high)
        if self._photometric == "MONOCHROME1":
            total = limits[0] + limits[1]
            whole = values.dtype.kind in "iu"
            values = (int(total) - values.astype(np.int64) if whole else total - values).astype(
                values.dtype
            )
            window = window and (total - window[1], total - window[0])
        return Picture(values, _other(limits, values.dtype), window)

    def _coloured(self, values: np.ndarray) -> np.ndarray:
        from pydicom.pixels.processing import apply_color_lut

        values = np.asarray(apply_color_lut(values, _header(self._file, everything=True)))
        if values.shape[-1] == 4:
            values = pillow_file.flatten(values, int(np.iinfo(values.dtype).max))
        return values


def open_stack(file: File, layout: Layout) -> Stack:
    """The frames of a file."""
    header = _header(file)
    if "Rows" not in header or "PhotometricInterpretation" not in header:
        kind = header.get("Modality") or getattr(header.get("SOPClassUID"), "name", "unknown")
        raise DataError(f"{file.name} is a DICOM of {kind} without a picture: remove it")
    syntax = header.file_meta.TransferSyntaxUID
    from pydicom.pixels.decoders.base import get_decoder

    if syntax.is_deflated:
        raise DataError(f"{file.name} is deflated as a whole: decompress it by gdcmconv --raw")
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise DataError(
            f"{file.name} is compressed by {syntax.name}, which is not read: decompress it, such "
            f"as by gdcmconv --raw"
        ) from error
    if not readable:
        for module in ("pylibjpeg", "libjpeg", "openjpeg"):
            require(module, "dicom")
    return DicomStack(file, header, layout)


def _header(file: File, everything: bool = False) -> Any:
    pydicom = require("pydicom", "dicom")
    tags = None if everything else _TAGS
    try:
        return pydicom.dcmread(file.source(), stop_before_pixels=True, specific_tags=tags)
    except pydicom.errors.InvalidDicomError as error:
        raise DataError(f"{file.name} is no DICOM file ({first_line(error)})") from error


def _chosen(name: str, header: Any, layout: Layout, count: int) -> tuple[int, int]:
    """The first frame that is asked for, and how many."""
    axes = layout.axes.upper().replace("S", "C")
    if count > 1 and axes[:1] != "C" and axes[1:] in ("YX", "YXC"):
        axes = axes[1:]
    if axes not in ("", "YX", "YXC"):
        raise DataError(
            f"{name}: axes = {layout.axes!r} are asked for, and a DICOM is pictures of axes YXC: "
            f"set --config.data.axes= (empty)"
        )
    if not layout.slices:
        return 0, count
    axis, first, last = slices_of(name, layout.slices, (count, header.Rows, header.Columns))
    if axis != 0 or count == 1:
        raise DataError(
            f"{name} has {count} frame(s), axis 0, and slices = {layout.slices!r} are asked for: "
            f"set --config.data.slices"
        )
    return first, last - first


def _frame(name: str, header: Any, k: int) -> _Frame:
    """Of frame `k`: its own, else what frames share, else the file's."""
    groups: list[Any] = []
    each = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    groups = [*each[k : k + 1], *shared[:1]]

    def found(sequence: str, keyword: str) -> float | None:
        places = [group[sequence].value for group in groups if sequence in group]
        for place in [*(items[0] for items in places if items), header]:
            value = place.get(keyword)
            value = (
                value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
            )
            if value is not None and value != "":
                return float(value)
        return None

    slope = found("PixelValueTransformationSequence", "RescaleSlope")
    intercept = found("PixelValueTransformationSequence", "RescaleIntercept")
    if slope == 0:
        raise DataError(f"{name} has slope 0, which makes all values equal: mend its RescaleSlope")
    centre = found("FrameVOILUTSequence", "WindowCenter")
    width = found("FrameVOILUTSequence", "WindowWidth")
    window = None
    if centre is not None and width is not None and width > 0:
        window = centre - width / 2, centre + width / 2
    return _Frame(1.0 if slope is None else slope, intercept or 0.0, window)


def _stored(bits: int, signed: bool) -> tuple[int, int]:
    """The least and the largest number of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _masked(values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Stored numbers without what stands in the bits that are not stored, such as overlays."""
    if values.dtype.kind not in "iu":
        return values
    least, largest = _stored(bits, signed)
    if values.min() >= least and values.max() <= largest:
        return values
    masked = values.astype(np.int64) & (2**bits - 1)
    return np.where(masked > largest, masked - 2**bits, masked).astype(values.dtype)


def _scaled(values: np.ndarray, frame: _Frame, bits: int) -> np.ndarray:
    slope, intercept = frame.slope, frame.intercept
    if (slope, intercept) == (1, 0):
        return values
    if bits and bits <= 16 and slope.is_integer() and intercept.is_integer():
        scaled = values.astype(np.int64) * int(slope) + int(intercept)
        if abs(scaled).max() < 2**31:
            return scaled.astype(np.int32)
    scaled = values.astype(np.float64) * slope + intercept
    return scaled.astype(np.float32) if bits and bits <= 16 else scaled


def _other(limits: tuple[float, float], dtype: np.dtype) -> tuple[float, float] | None:
    """Limits, unless they are those of the number type."""
    if dtype.kind in "iu" and limits == (np.iinfo(dtype).min, np.iinfo(dtype).max):
        return None
    return float(limits[0]), float(limits[1])
