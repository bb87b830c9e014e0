"""NIfTI, by nibabel: slices of volumes, along the last axis where nothing else is asked for.

A slice's rows and columns are the array's other axes in their order, as nibabel has them: of an
array [i, j, k], slice k is the picture [i, j], rows i and columns j. Nothing is turned or mirrored
to a radiologist's view; slices of files of one orientation match each other. A fourth axis counts
volumes, of which each one's slices follow each other. Values are the file's, through its slope and
intercept (floats then).
"""

import functools
import gzip
from typing import Any

import numpy as np

from pdae_jax.formats.errors import DataError, first_line, require
from pdae_jax.formats.stack import ArrayStack, File, Kept, Layout, Stack, check_axes, slices_of

SUFFIXES = (".nii", ".nii.gz")
_KEPT = Kept(2**30, lambda data: memoryview(data).nbytes)  # unpacked volumes, those read last
_HEADERS = Kept(64)


def open_stack(file: File, layout: Layout) -> Stack:
    """The slices of a file."""
    name, image = file.name, _image(file)
    shape, dtype = tuple(image.shape), image.get_data_dtype()
    colours = dtype.names == ("R", "G", "B")
    if not colours and dtype.kind not in "biuf":
        raise DataError(f"{name} holds {dtype}, which are no values of pixels: save real numbers")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    axes = layout.axes.upper() or _axes(name, shape, layout)
    check_axes(name, shape, axes)
    # Volumes outermost, and slices within: the array's axes in reverse, which is Fortran's order.
    if layout.slices:
        axis, first, last = slices_of(name, layout.slices, shape)
        layout = Layout(channels=layout.channels, slices=f"{len(shape) - 1 - axis}:{first}:{last}")
    read = functools.partial(_Volume, file, len(image.shape) - len(shape))
    if colours:
        return ArrayStack(name, (*shape[::-1], 3), axes[::-1] + "C", read, layout)
    return ArrayStack(name, shape[::-1], axes[::-1], read, layout)


def _axes(name: str, shape: tuple[int, ...], layout: Layout) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) not in (3, 4):
        raise DataError(
            f"{name}: an array of shape {list(shape)} does not tell which axis is which: set "
            f"--config.data.axes, such as {'YXZTC'[: len(shape)]}"
        )
    axis = slices_of(name, layout.slices, shape)[0] if layout.slices else 2
    if axis > 2:
        raise DataError(
            f"{name}: slices = {layout.slices!r} are along axis {axis}, which counts volumes: set "
            f"--config.data.slices along axis 0, 1 or 2"
        )
    return "YX"[:axis] + "Z" + "YX"[axis:] + "T" * (len(shape) == 4)


def _image(file: File) -> Any:
    """What nibabel makes of a file's header."""
    nibabel = require("nibabel", "nifti")
    try:
        if not file.member:
            return _HEADERS.get(file, lambda: nibabel.load(file.path))
        data = _KEPT.get(file, lambda: _unpacked(file))
        second = int.from_bytes(data[:4], "little") == 540 or int.from_bytes(data[:4], "big") == 540
        return (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(data)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise DataError(
            f"{file.name} is no NIfTI file, or is cut off ({first_line(error)})"
        ) from error


def _unpacked(file: File) -> bytes:
    with file.open() as opened:
        data = opened.read()
    return gzip.decompress(data) if file.name.lower().endswith(".gz") else data


class _Volume:
    """The array of a file with its axes reversed, indexed by integers and slices."""

    def __init__(self, file: File, single: int):
        self._file, self._single = file, single

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        image = _image(self._file)
        proxy = image.dataobj
        colours = proxy.dtype.names is not None
        channel = index[-1] if colours else slice(None)
        at = index[:-1] if colours else index
        at = (*at[::-1], *(0 for _ in range(self._single)))
        if self._file.name.lower().endswith(".gz") and not self._file.member:
            stored = _KEPT.get(self._file, lambda: np.asanyarray(proxy.get_unscaled()))[at]
        else:
            stored = proxy._get_unscaled(at)
        stored = np.asarray(stored)
        if colours:
            stored = np.stack([stored[one] for one in proxy.dtype.names], axis=-1)
            return np.moveaxis(stored.T, 0, -1)[..., channel]
        slope, inter = proxy.slope, proxy.inter
        if (slope, inter) != (1, 0):
            wide = np.result_type(stored.dtype, np.float32)  # int16: float32; int32: float64
            stored = (stored.astype(np.float64) * slope + inter).astype(wide)
        return stored.T
