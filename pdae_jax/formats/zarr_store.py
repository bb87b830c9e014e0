"""Zarr, by zarr: folders `.zarr` and archives `.zarr.zip`, of versions 2 and 3; OME-Zarr too.

One array is read, named `store.zarr:group/array`. Of an OME-Zarr image it is the finest level, with
the axes and the names of channels that its metadata have.
"""

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

SUFFIXES = (".zarr", ".zarr.zip")
INSIDE = SUFFIXES
_OPEN = Kept(16, threads=True)


def open_stack(file: File, layout: Layout, inside: str = "") -> Stack:
    """The pictures of an array: axes as asked for, as OME's metadata say, or as its shape tells.

    inside: the name of an array, or of a group that is an OME-Zarr image; "" is the store's image,
    or its only array that can be pictures.
    """
    if file.member:
        raise DataError(f"{file.name} is a Zarr in a ZIP archive, which is not read: unpack it")
    zarr = require("zarr", "zarr")
    root, axes, names = _store(file), "", ()
    if isinstance(root, zarr.Group):
        if inside and inside not in root:
            chosen(file.name, inside, _arrays(root))  # which says what there is
        found: Any = root[inside] if inside else root
        if isinstance(found, zarr.Group):
            image = found.attrs.get("ome", found.attrs.asdict())
            if "multiscales" in image:
                level, axes, names = _image(file.name, image)
                inside = f"{inside}/{level}" if inside else level
            elif inside:
                arrays = {f"{inside}/{name}": value for name, value in _arrays(found).items()}
                inside = chosen(file.name, "", arrays)
            else:
                inside = chosen(file.name, "", _arrays(root))
    elif inside:
        raise DataError(
            f"{file.name} is one array, and {inside!r} in it is asked for: give the file"
        )
    array = _array(file, inside)
    if isinstance(array, zarr.Group):
        raise DataError(f"{file.name}:{inside} is a group, and no array: give an array in it")
    name = f"{file.name}:{inside}" if inside else file.name
    check_type(name, array.dtype)
    axes = layout.axes or axes or axes_in(name, array.shape, layout)
    read = functools.partial(_array, file, inside)
    return ArrayStack(name, array.shape, axes, read, layout, names)


def _store(file: File) -> Any:
    zarr = require("zarr", "zarr")

    def open_() -> Any:
        store = file.path
        if file.path.lower().endswith(".zip"):
            store = zarr.storage.ZipStore(file.path, mode="r")
        return zarr.open(store, mode="r")

    try:
        return _OPEN.get(file, open_)
    except Exception as error:  # zarr has many
        raise DataError(
            f"{file.path} cannot be read as a Zarr ({type(error).__name__}: {first_line(error)})"
        ) from error


def _array(file: File, inside: str) -> Any:
    root = _store(file)
    return root[inside] if inside else root


def _arrays(group: Any) -> dict[str, Any]:
    zarr = require("zarr", "zarr")
    members = group.members(max_depth=None)
    return {
        name: (item.shape, item.dtype) for name, item in members if isinstance(item, zarr.Array)
    }


def _image(name: str, image: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The finest array of an OME-Zarr image, its axes, and the names of its channels."""
    if len(image["multiscales"]) > 1:
        raise DataError(
            f"{name} has {len(image['multiscales'])} images in one group: give an array, such as "
            f"{name}:{image['multiscales'][1]['datasets'][0]['path']}"
        )
    scales = image["multiscales"][0]
    axes = [one if isinstance(one, str) else one["name"] for one in scales.get("axes", "tczyx")]
    short = [axis for axis in axes if len(axis) == 1]
    labels = [one.get("label") for one in image.get("omero", {}).get("channels", [])]
    names = tuple(label or f"channel {k}" for k, label in enumerate(labels)) if any(labels) else ()
    path = scales["datasets"][0]["path"]
    return path, "".join(axes).upper() if len(short) == len(axes) else "", names
