"""HDF5, by h5py: one array of a file, named `file.h5:group/array`, read plane by plane."""

import functools
from typing import Any

from pdae_jax.formats.errors import DataError, first_line, require
from pdae_jax.formats.stack import (
    ArrayStack,
    File,
    Layout,
    Stack,
    axes_in,
    check_type,
    chosen,
)

SUFFIXES = (".h5", ".hdf5")
INSIDE = SUFFIXES


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
    read = functools.partial(_Array, file, inside)
    return ArrayStack(name, shape, axes_in(name, shape, layout), read, layout)


class _Array:
    """An array of a file, which is opened for each picture: open, nobody else could write it."""

    def __init__(self, file: File, inside: str):
        self._file, self._inside = file, inside

    def __getitem__(self, index: tuple[int | slice, ...]) -> Any:
        h5py = require("h5py", "hdf5")
        with h5py.File(self._file.source(), "r") as opened:
            return opened[self._inside][index]
