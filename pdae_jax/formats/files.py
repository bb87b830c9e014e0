"""Files of any format: which can be opened, and their pictures."""

import functools
import os
import re
from types import ModuleType

from pdae_jax.formats import (
    dicom,
    hdf5,
    nifti,
    numpy_file,
    pillow_file,
    tiff,
    zarr_store,
    zip_archive,
)
from pdae_jax.formats.errors import DataError, first_line
from pdae_jax.formats.stack import File, Kept, Layout, Stack

_MODULES = (tiff, dicom, nifti, hdf5, zarr_store, numpy_file)
_FORMATS: dict[str, ModuleType] = {
    suffix: module for module in _MODULES for suffix in module.SUFFIXES
}
_DOUBLE = tuple(suffix for suffix in _FORMATS if suffix.count(".") == 2)  # such as .nii.gz
# Formats of several arrays, of which one is named after a colon.
_INSIDE = tuple(suffix for module in (hdf5, zarr_store, numpy_file) for suffix in module.INSIDE)
# A file of arrays, and the colon before the name of one.
INSIDE = re.compile("(?:" + "|".join(map(re.escape, _INSIDE)) + "):", re.IGNORECASE)


_HEADERS = Kept(200_000)  # a data set is opened several times: train, test, all


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of all formats, lower case, with their dots."""
    return pillow_file.suffixes() | frozenset(_FORMATS)


def __getattr__(name: str) -> frozenset[str]:
    if name == "SUFFIXES":  # when asked for, since Pillow imports all that it knows
        return suffixes()
    raise AttributeError(name)


def suffix_of(path: str) -> str:
    """The suffix that tells a file's format, lower case: ".png", ".nii.gz"; or what there is."""
    name = path.lower()
    for double in _DOUBLE:
        if name.endswith(double):
            return double
    return os.path.splitext(name)[1]


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of a format that is read, by its name.

    A name without a suffix, or with one that has no letter, is opened: hospitals' DICOM files have
    none. A `.zarr` is a folder.
    """
    return _format(_parts(os.fspath(path))[0]) is not None


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an archive whose members are pictures, by its name."""
    return zip_archive.is_archive(os.fspath(path))


def pictures_in(path: str | os.PathLike[str]) -> list[str]:
    """The files of an archive that can be opened, as `open_stack` takes them."""
    return [name for name in zip_archive.members(os.fspath(path)) if is_picture(name)]


def open_stack(path: str, layout: Layout = Layout()) -> Stack:
    """The pictures of a file: a path, a member `cases.zip/name.png`, or `file.h5:dataset`.

    A header is read once in a process, for as long as its file stays as it is. Pillow's formats
    hold one picture, and are opened when it is read. Raises DataError for a file that cannot be
    used, or of which the layout cannot be.
    """
    place, inside = _parts(path)
    file = _file(place)
    module = _format(place)
    if is_archive(place):
        raise DataError(f"{path} is an archive: give it where a folder is expected, or a member")
    if module is None:
        raise DataError(f"{path} is of no format that is read: its suffix is {suffix_of(place)!r}")
    if module is pillow_file:
        return pillow_file.open_stack(file, layout)
    if not os.path.exists(file.path):
        raise DataError(f"no such file: {place}")
    try:
        more = (inside,) if inside else ()
        if os.path.isdir(file.path):  # whose time is not that of the files in it
            return module.open_stack(file, layout, *more)
        return _HEADERS.get(file, lambda: module.open_stack(file, layout, *more), layout, inside)
    except DataError:
        raise
    except Exception as error:  # each library has its own
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {first_line(error)}): copy it again"
        ) from error


def _format(path: str) -> ModuleType | None:
    suffix = suffix_of(path)
    if module := _FORMATS.get(suffix) or (pillow_file if suffix in suffixes() else None):
        return module
    if re.search("[a-z]", suffix) or os.path.basename(path).upper() == "DICOMDIR":
        return None
    return dicom if dicom.has_magic(_file(path)) else None


def _file(path: str) -> File:
    archived = zip_archive.split(path)
    return File(*archived) if archived else File(path)


def _parts(path: str) -> tuple[str, str]:
    """A path as a file and the array in it that is named after a colon, "" where none is."""
    colons = [(path[: end.end() - 1], path[end.end() :]) for end in INSIDE.finditer(path)]
    if not colons or os.path.exists(path):  # a name may have a colon of its own
        return path, ""
    there = [one for one in colons if os.path.exists(one[0]) or zip_archive.split(one[0])]
    place, inside = (there or colons)[0]
    return place, inside.strip("/")
