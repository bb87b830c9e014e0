"""Reads PyTorch's files without PyTorch, and without running anything in them.

There are three kinds: the zip of today, a pickle and one raw file a storage; the format of before
PyTorch 1.6, a few pickles with the storages behind them; and plain pickles that hold arrays or
tensors, such as those of NVIDIA's EDM. Reading imports nothing that a file names and executes
nothing of it: see `torch_pickle`. That protects this reader alone. Whoever opens the same file by
`torch.load(..., weights_only=False)`, or by `pickle`, runs what is in it.
"""

import io
import mmap
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pdae_jax.convert.placeholder import Placeholder, TorchFileError, described, state_dict_of
from pdae_jax.convert.torch_calls import LATER, Budget
from pdae_jax.convert.torch_pickle import Interpreter
from pdae_jax.runtime.choices import listed

__all__ = ["Contents", "Placeholder", "TorchFileError", "read", "state_dict_of"]


class Contents(NamedTuple):
    """The contents of a file: its object, with tensors as arrays, and the names left inert."""

    value: Any
    placeholders: tuple[str, ...]


def read(path: str | os.PathLike) -> Contents:
    """Reads the object that `torch.save` or `pickle.dump` wrote to `path`.

    Each tensor is a read-only NumPy array, a view of the memory-mapped file; bytes are memoryviews.
    Of a zip, each storage's checksum is verified as the pickle names it, and its memory given back:
    a storage that is not used afterwards takes none. Raises TorchFileError for all else that a file
    may hold, and no other exception but OSError where it cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        raise TorchFileError(f"{path}: a folder; give the file in it")
    if not path.is_file():
        raise TorchFileError(f"{path}: no such file")
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise TorchFileError(f"{path}: empty; fetch it again")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        budget = Budget(len(mapped))
        try:
            value = _value(memoryview(mapped), file, budget, mapped)
        except TorchFileError as error:
            raise TorchFileError(f"{path}: {error}") from error
        except Exception as error:  # its bytes can be wrong in any way
            reason = listed([f"{type(error).__name__}: {error}"])
            raise TorchFileError(
                f"{path}: cannot be read ({reason}); the file is damaged or not PyTorch's"
            ) from error
    return Contents(value, budget.placeholders)


def _value(data: memoryview, file: BinaryIO, budget: Budget, mapped: mmap.mmap | None) -> Any:
    """The object of a file of any kind. mapped: None for a file inside a pickle."""

    def load(inner: memoryview) -> Any:
        return _value(inner, io.BytesIO(inner), budget, None)

    inside = load if mapped is not None else None  # so files are nested once
    start = bytes(data[:512])
    if start.startswith(b"PK"):
        archive = _Zip(data, file, mapped)
        return Interpreter(archive.bytes("data.pkl"), budget, archive.storage, inside).run()
    foreign = _foreign(start, bytes(data[-8:]))
    if foreign:
        raise TorchFileError(foreign)
    machine = Interpreter(data, budget, load=inside)
    value = machine.run()
    is_magic = isinstance(value, int) and value == MAGIC
    return _legacy(data, machine.at, budget) if is_magic else value


# The format of before 1.6: magic number, version, facts of the machine, the object, keys, storages.
MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


def _legacy(data: memoryview, at: int, budget: Budget) -> Any:
    """The object whose magic number ends at byte `at`.

    Its pickle tells the dtypes of the storages that lie behind it: so it is interpreted twice.
    """
    machine = Interpreter(data, budget)
    version = machine.run(at)
    if not isinstance(version, int) or version != VERSION:
        raise TorchFileError(
            f"PyTorch's format of before 1.6 in version {described(version)}, not {VERSION}"
        )
    machine.run(machine.at)
    start = machine.at
    kinds: dict[str, tuple[np.dtype, int]] = {}

    def note(key: str, dtype: np.dtype, numel: int) -> Any:
        if kinds.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise TorchFileError(f"storage {listed([key])} is named as two different ones; refused")
        return LATER

    machine = Interpreter(data, budget, note)
    machine.run(start)
    keys = machine.run(machine.at)
    if not isinstance(keys, list) or len(keys) != len(kinds):
        raise TorchFileError(f"its list of {len(kinds):,} storages is wrong; fetch the file again")
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        if not isinstance(key, str) or key not in kinds or key in storages:
            raise TorchFileError(f"its list of storages names {listed([key])}; fetch it again")
        dtype, numel = kinds[key]
        if machine.number(8) != numel:
            raise TorchFileError(f"storage {listed([key])} should have {numel:,} numbers; refused")
        storages[key] = np.frombuffer(machine.take(numel * dtype.itemsize), np.uint8).view(dtype)
    return Interpreter(data, budget, lambda key, dtype, numel: storages[key]).run(start)


CHUNK = 1 << 24


class _Zip:
    """The zip: its entries as slices of `data`, each verified before it is used."""

    def __init__(self, data: memoryview, file: BinaryIO, mapped: mmap.mmap | None):
        self.data, self.mapped = data, mapped
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except Exception as error:  # zipfile has one for each kind of damage
            raise TorchFileError(
                f"a zip that is damaged or cut short ({listed([error])}); fetch it again"
            ) from error
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.filename
            if ".." in name.split("/") or name.startswith("/") or ":" in name.split("/")[0]:
                raise TorchFileError(
                    f"an entry is named {listed([name])}, outside the archive; refused, no "
                    f"checkpoint needs that"
                )
            if name in self.entries:
                raise TorchFileError(f"two entries are named {listed([name])}; refused")
            self.entries[name] = entry
        pickles = [
            name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise TorchFileError(_another_zip(list(self.entries)))
        self.root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{self.root}code/") for name in self.entries):
            raise TorchFileError(
                'a TorchScript program; save its weights: python -c "import sys, torch; '
                "torch.save(torch.jit.load(sys.argv[1], 'cpu').state_dict(), sys.argv[2])\" "
                "script.pt weights.pt"
            )
        # Entries that shared their bytes could be many times as large as the file.
        ordered = sorted(entries, key=lambda entry: entry.header_offset)
        for entry, after in zip(ordered, ordered[1:]):
            if entry.header_offset + 30 + entry.compress_size > after.header_offset:
                raise TorchFileError(f"its entry {listed([entry.filename])} overlaps; refused")
        self.verified: dict[str, memoryview] = {}
        told = f"{self.root}byteorder" in self.entries
        order = bytes(self.bytes("byteorder")).decode() if told else "little"
        self.swapped = order != sys.byteorder

    def storage(self, key: str, dtype: np.dtype, numel: int) -> np.ndarray:
        data = self.bytes(f"data/{key}")
        if numel * dtype.itemsize != len(data):
            raise TorchFileError(
                f"data/{listed([key])} should hold {numel:,} numbers of {dtype.itemsize} bytes and "
                f"has {len(data):,} bytes; refused"
            )
        array = np.frombuffer(data, np.uint8).view(dtype)
        if self.swapped:
            array = array.byteswap()
            array.flags.writeable = False
        return array

    def bytes(self, name: str) -> memoryview:
        """An entry's bytes, once its place and its checksum are verified."""
        if name in self.verified:
            return self.verified[name]
        entry = self.entries.get(self.root + name)
        shown = listed([name])
        if entry is None:
            raise TorchFileError(f"it names {shown}, which it does not hold; fetch it again")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise TorchFileError(
                f"{shown} is compressed, which torch.save never does; unpack and save it again "
                f"with torch.save"
            )
        header = bytes(self.data[entry.header_offset : entry.header_offset + 30])
        start = entry.header_offset + 30
        start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if header[:4] != b"PK\x03\x04" or start + entry.file_size > len(self.data):
            raise TorchFileError(
                f"{shown} is said to take {entry.file_size:,} bytes, more than the file has there; "
                f"damaged or cut short"
            )
        if self._crc32(start, start + entry.file_size) != entry.CRC:
            raise TorchFileError(
                f"the checksum of {shown} is wrong: the file is damaged; fetch it again"
            )
        self.verified[name] = self.data[start : start + entry.file_size]
        return self.verified[name]

    def _crc32(self, start: int, stop: int) -> int:
        crc = 0
        for at in range(start, stop, CHUNK):
            crc = zlib.crc32(self.data[at : min(at + CHUNK, stop)], crc)
            if self.mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                page = at - at % mmap.PAGESIZE
                self.mapped.madvise(mmap.MADV_DONTNEED, page, min(at + CHUNK, stop) - page)
        return crc


# What is given instead of a file of PyTorch's, and what to do then.


def _another_zip(names: list[str]) -> str:
    """What a zip is that torch.save did not write."""
    if any(name.endswith(".npy") for name in names):
        return "a NumPy .npz, not a PyTorch file; save its arrays with torch.save"
    if "model.weights.h5" in names:
        return "a Keras model, not a PyTorch file"
    inside = [name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin", ".pkl"))]
    if inside:
        return f"a zip, but not one that torch.save wrote; unpack it and give {listed(inside)}"
    return (
        f"a zip, but not one that torch.save wrote: it holds {listed(names) or 'nothing'}, and no "
        f"NAME/data.pkl"
    )


Kind = tuple[str, Callable[[bytes, bytes], bool]]  # what it is, and whether its ends show it
FETCHED: list[Kind] = [  # what is downloaded in place of a file
    (
        "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull, or from the page",
        lambda start, end: start.startswith(b"version https://git-lfs"),
    ),
    (
        "an HTML page, not the file; fetch it again, by the link of the file itself",
        lambda start, end: (
            start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml"))
        ),
    ),
]
KINDS: list[Kind] = [
    *FETCHED,
    (
        "a NumPy array, not a PyTorch file; save it with torch.save",
        lambda start, end: start.startswith(b"\x93NUMPY"),
    ),
    (
        "a safetensors file, not a PyTorch file; its name should end with .safetensors",
        lambda start, end: start[8:9] == b"{" and start[5:8] == bytes(3),
    ),
    ("a GGUF file, not a PyTorch file", lambda start, end: start.startswith(b"GGUF")),
    (
        "an HDF5 file (perhaps Keras's weights), not a PyTorch file",
        lambda start, end: start.startswith(b"\x89HDF\r\n\x1a\n"),
    ),
    (
        "an ONNX file, not a PyTorch file; give the checkpoint that it was exported from",
        lambda start, end: start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x3a"),
    ),
    (
        "a TensorFlow checkpoint, not a PyTorch file",
        lambda start, end: end == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
    ),
    ("a TensorFlow Lite file, not a PyTorch file", lambda start, end: start[4:8] == b"TFL3"),
    (
        "compressed; unpack it and give the file in it",
        lambda start, end: start.startswith(
            (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
        ),
    ),
    (
        "of PyTorch's first versions, 0.1 (a tar), which is not read; if you trust it, for this "
        'runs what is in it, save it anew with PyTorch: python -c "import sys, torch; torch.save('
        "torch.load(sys.argv[1], 'cpu', weights_only=False), sys.argv[2])\" old.pt new.pt",
        lambda start, end: (
            start[257:262] == b"ustar"
            and start[:100].rstrip(b"\0") in (b"sys_info", b"pickle", b"tensors", b"storages")
        ),
    ),
    (
        "a tar archive; unpack it and give the file in it",
        lambda start, end: start[257:262] == b"ustar",
    ),
]


def check_fetched(path: Path) -> None:
    """Raises ValueError for what was downloaded in place of a file: Git LFS's pointer, a page."""
    with path.open("rb") as file:
        start = file.read(64)
    for kind, recognises in FETCHED:
        if recognises(start, b""):
            raise ValueError(f"{path}: {kind}")


def _foreign(start: bytes, end: bytes) -> str | None:
    """What a file is that holds no pickle; None for one that may."""
    for kind, recognises in KINDS:
        if recognises(start, end):
            return kind
    # Pickles of Python 3 and 2.3 say so; those of protocol 0 and 1 begin with any container.
    if start[:1] == b"\x80" or start[:1] in b"(]})c" and end.rstrip().endswith(b"."):
        return None
    return (
        f"not a PyTorch file (it begins with {start[:8]!r}); give a .pt, .pth or .ckpt that "
        f"torch.save wrote"
    )
