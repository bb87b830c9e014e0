"""HDF5, by h5py: one array of a file, named `file.h5:group/array`, read plane by plane."""

import functools
from typing import Any

from pdae_jax.formats.errors import DataError, first_line, require
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

SUFFIXES = (".h5", ".hdf5")
INSIDE = SUFFIXES
_OPEN = Kept(16, threads=True)


def open_stack(file: File, layout: Layout, inside: str = "") -> Stack:
    """The pictures of an array, whose axes are asked for or as in `stack.axes_of`.

    inside: the name of the array; "" is the only one that can be pictures.
    """
    h5py = require("h5py", "hdf5")
    try:
        with h5py.File(file.source(), "r") as opened:
            arrays = {}

            def add(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset) and item.shape is not None:
                    arrays[name] = item.shape, item.dtype

            if inside and isinstance(opened.get(inside), h5py.Dataset):
                add(inside, opened[inside])
            else:
                opened.visititems(add)
    except OSError as error:
        raise DataError(f"{file.name} cannot be read as HDF5 ({first_line(error)})") from error
    inside = chosen(file.name, inside, arrays)
    name, (shape, dtype) = f"{file.name}:{inside}", arrays[inside]
    check_type(name, dtype)
    read = functools.partial(_array, file, inside)
    return ArrayStack(name, shape, axes_in(name, shape, layout), read, layout)


def _array(file: File, inside: str) -> Any:
    h5py = require("h5py", "hdf5")
    return _OPEN.get(file, lambda: h5py.File(file.source(), "r"))[inside]
