"""NumPy's files: `.npy`, memory-mapped, and arrays of `.npz`, named `pictures.npz:array`."""

import functools
import os
import struct
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from pdae_jax.formats.errors import DataError, first_line
from pdae_jax.formats.stack import (
    ArrayStack,
    File,
    Kept,
    Layout,
    Stack,
    axes_in,
    check_type,
    chosen,
)

SUFFIXES = (".npy", ".npz")
INSIDE = (".npz",)
_maps = Kept(64)
_arrays = Kept(2**30, lambda array: array.nbytes)  # of compressed members, read as a whole


def open_stack(file: File, layout: Layout, inside: str = "") -> Stack:
    """The pictures of an array, whose axes are asked for or as in `stack.axes_of`.

    inside: the name of an array of an `.npz`; "" is its only one.
    """
    if file.name.lower().endswith(".npz"):
        name, shape, dtype, read = _of_npz(file, inside)
    else:
        name, read = file.name, functools.partial(_mapped, file)
        with file.open() as opened:
            shape, dtype, _ = _header(opened, name)
    check_type(name, dtype)
    return ArrayStack(name, shape, axes_in(name, shape, layout), read, layout)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and order (True: Fortran's) of the array that a file begins with."""
    try:
        version = np.lib.format.read_magic(file)
        reads = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = reads[min(version[0], 2)](file)
    except (ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{name} holds no array of NumPy's ({first_line(error)}): save it by numpy.save"
        ) from error
    if dtype.hasobject:
        raise DataError(
            f"{name} holds Python objects, which are not read: save an array of numbers"
        )
    return shape, dtype, fortran


def _mapped(file: File) -> np.ndarray:
    if file.member:
        return _arrays.get(file, lambda: np.load(file.open(), allow_pickle=False))
    return _maps.get(file, lambda: np.load(file.path, mmap_mode="r", allow_pickle=False))


def _of_npz(file: File, inside: str) -> tuple[str, tuple[int, ...], np.dtype, Any]:
    try:
        with zipfile.ZipFile(file.source()) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
            arrays = {}
            for member in [inside] if inside in names else names:
                with archive.open(member + ".npy") as opened:
                    try:
                        arrays[member] = _header(opened, f"{file.name}:{member}")[:2]
                    except DataError:
                        if member == inside or len(names) == 1:
                            raise
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataError(
            f"{file.name} is no archive of NumPy's ({first_line(error)}): save it by numpy.savez"
        ) from error
    name = chosen(file.name, inside, arrays)
    return f"{file.name}:{name}", *arrays[name], functools.partial(_member, file, name)


def _member(file: File, name: str) -> np.ndarray:
    """An array of an archive: mapped where it stands in it as it is, else read as a whole."""
    with zipfile.ZipFile(file.source()) as archive:
        info = archive.getinfo(name + ".npy")
    if info.compress_type == zipfile.ZIP_STORED and not file.member:
        return _maps.get(file, lambda: _stored(file, info, name), name)
    return _arrays.get(file, lambda: _unpacked(file, name), name)


def _stored(file: File, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    with file.open() as opened:
        opened.seek(info.header_offset)
        local = opened.read(30)  # its last numbers: the lengths of a name and of an extra field
        opened.seek(sum(struct.unpack("<HH", local[26:30])), os.SEEK_CUR)
        shape, dtype, fortran = _header(opened, f"{file.name}:{name}")
        order = "F" if fortran else "C"
        return np.memmap(file.path, dtype, "r", opened.tell(), shape, order)


def _unpacked(file: File, name: str) -> np.ndarray:
    with np.load(file.source(), allow_pickle=False) as arrays:
        return arrays[name]
