"""ZIP archives as folders, read in place: `cases.zip/inner/name.png` is a member of `cases.zip`."""

import collections
import functools
import io
import os
import re
import threading
import zipfile
from typing import IO

from pdae_jax.formats.errors import DataError, first_line

SUFFIXES = (".zip",)
MOST_BYTES = 2**32  # of one member, which is read as a whole
_KEPT_BYTES = 2**28  # of the members read last
_kept: collections.OrderedDict[tuple, bytes] = collections.OrderedDict()
_lock = threading.Lock()


def is_archive(path: str) -> bool:
    """Whether a path is a ZIP archive by its name; `.zarr.zip` is an array, not an archive."""
    return path.lower().endswith(".zip") and not path.lower().endswith(".zarr.zip")


def split(path: str) -> tuple[str, str] | None:
    """The archive and the member that a path means; None where there is no archive in it."""
    for end in re.finditer(r"\.zip[/\\]", path, re.IGNORECASE):
        archive = path[: end.start() + 4]
        if is_archive(archive) and os.path.isfile(archive):
            return archive, path[end.end() :]
    return None


def members(path: str) -> list[str]:
    """The files in an archive, as paths `cases.zip/inner/name.png`, in the archive's order.

    Without folders, names that begin with a dot, and what macOS adds (`__MACOSX`). Raises DataError
    for an archive that cannot be read, is encrypted, or holds another.
    """
    found = []
    for info in _archive(path).infolist():
        parts = info.filename.split("/")
        if info.is_dir() or any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        _check(path, info)
        if is_archive(info.filename):
            raise DataError(f"{path} holds another ZIP archive, {info.filename}: unpack that one")
        found.append(f"{path}/{info.filename}")
    return list(dict.fromkeys(found))


def open_member(path: str) -> IO[bytes]:
    """Opens a member, such as `cases.zip/inner/name.png`, in memory."""
    parts = split(path)
    if parts is None:
        raise DataError(
            f"no ZIP archive in {path}: give ARCHIVE.zip/NAME of an archive that exists"
        )
    return open_inside(*parts)


def open_inside(path: str, member: str) -> IO[bytes]:
    """The same by the path of the archive and the member's name in it."""
    known = os.stat(path)
    key = (path, member, known.st_mtime_ns, known.st_size)
    with _lock:
        data = _kept.get(key)
    if data is None:
        data = _read(path, member)
        with _lock:
            _kept[key] = data
            while len(_kept) > 1 and sum(map(len, _kept.values())) > _KEPT_BYTES:
                _kept.popitem(last=False)
    return io.BytesIO(data)


def _read(path: str, member: str) -> bytes:
    archive = _archive(path)
    try:
        info = archive.getinfo(member)
    except KeyError:
        if re.search(r"\.zip/", member, re.IGNORECASE):
            raise DataError(f"{path}/{member} is in an archive in an archive: unpack one") from None
        raise DataError(f"{path} has no member {member!r}: see unzip -l {path}") from None
    _check(path, info)
    try:
        return archive.read(info)
    except Exception as error:  # zipfile, zlib, lzma and bz2 have each their own
        raise DataError(
            f"{path}/{member} is damaged in its archive ({first_line(error)}): pack it again"
        ) from error


def _check(path: str, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 1:
        raise DataError(f"{path}/{info.filename} is encrypted: unpack the archive")
    if info.file_size > MOST_BYTES:
        raise DataError(
            f"{path}/{info.filename} has {info.file_size:,} bytes, more than the {MOST_BYTES:,} "
            f"that are read from an archive: unpack it"
        )


def _archive(path: str) -> zipfile.ZipFile:
    known = os.stat(path) if os.path.exists(path) else None
    if known is None:
        raise DataError(f"no such ZIP archive: {path}")
    return _open(path, os.getpid(), known.st_mtime_ns, known.st_size)


@functools.lru_cache(maxsize=16)
def _open(path: str, process: int, changed: int, size: int) -> zipfile.ZipFile:
    """An open archive; a process that was forked opens its own, since it would share positions."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a ZIP archive ({first_line(error)}): copy it again"
        ) from error
