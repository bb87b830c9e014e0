"""Reads PyTorch's files without PyTorch, and without obeying them.

A `.pt` or `.ckpt` is a zip: a pickle, `data.pkl`, and one raw file a storage. The pickle may come
from a stranger, so nothing that it names is ever imported. Tensors and plain containers become
themselves, every other class an inert `Placeholder`; a name that no checkpoint needs, such as
os.system, refuses the file. Tensors are read-only views of the memory-mapped file.
"""

import collections
import io
import math
import mmap
import os
import pickle
import pickletools
import shlex
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np

from pdae_jax.runtime.choices import listed


class TorchFileError(ValueError):
    """A file that is refused: one line that says why, and the remedy."""


STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# Names that only an attack uses: none of them would be obeyed, but the file should not be trusted.
HOSTILE_MODULES = {
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "runpy",
    "pty",
    "importlib",
    "ctypes",
    "marshal",
    "code",
    "webbrowser",
    "commands",
    "urllib",
    "asyncio",
    "multiprocessing",
    "threading",
    "signal",
    "platform",
    "pip",
    "timeit",
}
HOSTILE_BUILTINS = {
    "eval",
    "exec",
    "execfile",
    "compile",
    "open",
    "__import__",
    "input",
    "breakpoint",
    "globals",
    "vars",
    "setattr",
    "delattr",
}


class Contents(NamedTuple):
    """The contents of a file: its object, with tensors as arrays, and the classes left inert."""

    value: Any
    placeholders: tuple[str, ...]


class Placeholder:
    """An object of a class that was not imported: it keeps what it was given, and does nothing.

    args: of the call that made it. entries: set in it, if it was a kind of dict.
    """

    args: tuple[Any, ...]
    entries: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.args, self.entries, self.state = args, {}, None
        return self

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Lists' and sets' contents are not needed; pickle insists on being able to add them."""

    extend = add = append


def read(path: str | os.PathLike) -> Contents:
    """Reads the object that `torch.save` wrote to `path`; each tensor a read-only NumPy array.

    Each storage's checksum is verified as the pickle names it, and its memory given back: a storage
    that is not used afterwards takes none. Raises TorchFileError for a file that is none of
    PyTorch's, is damaged, or tries to run code.
    """
    archive = _Archive(Path(path))
    unpickler = _Unpickler(archive)
    try:
        value = unpickler.load()
    except TorchFileError:
        raise
    except Exception as error:  # a pickle can be wrong in any way
        raise TorchFileError(
            f"{path}: its pickle cannot be read ({type(error).__name__}: {error});"
            f" the file is damaged or not PyTorch's"
        ) from error
    return Contents(value, tuple(sorted(unpickler.placeholders)))


CHUNK = 1 << 24


class _Archive:
    """The zip: its entries as slices of one memory map, each verified before it is used."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise TorchFileError(f"{path}: no such file")
        if not zipfile.is_zipfile(path):
            raise TorchFileError(_not_a_zip(path))
        try:
            with zipfile.ZipFile(path) as file:
                entries = file.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise TorchFileError(
                f"{path}: damaged or cut short ({error}); fetch it again"
            ) from error
        with path.open("rb") as file:
            self._mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.map = np.frombuffer(self._mmap, np.uint8)
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            parts = entry.filename.replace("\\", "/").split("/")
            if ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in parts[0]:
                raise TorchFileError(
                    f"{path}: an entry is named {entry.filename!r}, outside the "
                    f"archive; refused, no checkpoint needs that"
                )
            if entry.filename in self.entries:
                raise TorchFileError(f"{path}: two entries are named {entry.filename!r}; refused")
            self.entries[entry.filename] = entry
        pickles = [
            name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise TorchFileError(
                f"{path}: a zip, but not one that torch.save wrote: it has "
                f"{len(pickles)} NAME/data.pkl, not one"
            )
        self.root = pickles[0].removesuffix("data.pkl")
        order = self.entries.get(f"{self.root}byteorder")
        self.big_endian = order is not None and self.bytes("byteorder").tobytes() == b"big"

    def bytes(self, name: str) -> np.ndarray:
        """An entry's bytes, uint8, once its place and its checksum are verified."""
        entry = self.entries.get(self.root + name)
        if entry is None:
            raise TorchFileError(
                f"{self.path}: it names {name}, which it does not hold; fetch it again"
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise TorchFileError(
                f"{self.path}: {name} is compressed, which torch.save never does; "
                f"unpack and save it again with torch.save"
            )
        header = self.map[entry.header_offset : entry.header_offset + 30].tobytes()
        start = (
            entry.header_offset
            + 30
            + int.from_bytes(header[26:28], "little")
            + int.from_bytes(header[28:30], "little")
        )
        if header[:4] != b"PK\x03\x04" or start + entry.file_size > len(self.map):
            raise TorchFileError(
                f"{self.path}: {name} is said to take {entry.file_size:,} bytes, "
                f"more than the file has there; damaged or cut short"
            )
        data = self.map[start : start + entry.file_size]
        if self._crc32(data) != entry.CRC:
            raise TorchFileError(
                f"{self.path}: the checksum of {name} is wrong: the file is damaged; fetch it again"
            )
        return data

    def _crc32(self, data: np.ndarray) -> int:
        crc = 0
        for at in range(0, len(data), CHUNK):
            crc = zlib.crc32(data[at : at + CHUNK].data, crc)
            if hasattr(mmap, "MADV_DONTNEED"):
                self._mmap.madvise(mmap.MADV_DONTNEED)
        return crc

    def storage(self, key: str, dtype: Any, numel: int) -> np.ndarray:
        data = self.bytes(f"data/{key}")
        itemsize = np.dtype(dtype).itemsize
        if numel * itemsize != len(data):
            raise TorchFileError(
                f"{self.path}: data/{key} should hold {numel:,} numbers of "
                f"{itemsize} bytes and has {len(data):,} bytes; refused"
            )
        array = data.view(np.dtype(dtype))
        return array.byteswap() if self.big_endian else array


def _not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK"):
        return f"{path}: a zip that is damaged or cut short; fetch it again"
    # A pickle, or the tar of the very first versions: the formats of torch.save before 1.6.
    if start[:1] == b"\x80" or b"\0" * 8 in start and start[:1].isalnum():
        return (
            f"{path}: in PyTorch's format of before 1.6; save it anew with: python -c \"import "
            f"sys, torch; torch.save(torch.load(sys.argv[1], 'cpu', weights_only=True), "
            f'sys.argv[2])" {shlex.quote(str(path))} '
            f"{shlex.quote(str(path.with_name(f'new-{path.name}')))}"
        )
    return (
        f"{path}: not a PyTorch file (it begins with {start[:8]!r}); give a .pt or .ckpt that "
        f"torch.save wrote"
    )


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: _Archive):
        data = archive.bytes("data.pkl").tobytes()
        _check_memo(archive.path, data)
        super().__init__(io.BytesIO(data))
        self.archive = archive
        self.storages: dict[tuple[str, str], np.ndarray] = {}
        self.placeholders: dict[str, type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return {"set": set, "frozenset": frozenset}[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Function(self._tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Function(lambda data, *more: data)
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Storage(name)
        full = f"{module}.{name}"
        hostile = module.split(".")[0] in HOSTILE_MODULES or (
            module in ("builtins", "__builtin__") and name in HOSTILE_BUILTINS
        )
        if hostile:
            raise TorchFileError(
                f"{self.archive.path}: it asks for {listed([full])}, which no "
                f"checkpoint needs and which could run code; refused, and nothing "
                f"of it was run"
            )
        return self.placeholders.setdefault(
            full, type(name, (Placeholder,), {"__module__": module})
        )

    def persistent_load(self, key: Any) -> np.ndarray:
        match key:
            case ("storage", _Storage(name=name), str(file), _, int(numel)) if numel >= 0:
                pass
            case _:
                raise TorchFileError(
                    f"{self.archive.path}: a storage of an unknown kind: {_short(key)}"
                )
        if (name, file) not in self.storages:
            self.storages[name, file] = self.archive.storage(file, STORAGES[name], numel)
        return self.storages[name, file]

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> np.ndarray:
        """A view of a storage; one that would leave it, or be larger than it, is refused."""
        numbers = (offset, *size, *stride)
        if (
            not isinstance(storage, np.ndarray)
            or len(size) != len(stride)
            or any(type(n) is not int or n < 0 for n in numbers)
        ):
            raise TorchFileError(
                f"{self.archive.path}: a tensor of size {_short(size)}, stride "
                f"{_short(stride)} and offset {_short(offset)} makes no sense; "
                f"refused"
            )
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if count > len(storage) or count and last >= len(storage):
            raise TorchFileError(
                f"{self.archive.path}: a tensor of size {tuple(size)} is larger "
                f"than its {len(storage):,} stored numbers; refused"
            )
        itemsize = storage.itemsize
        return np.lib.stride_tricks.as_strided(
            storage[offset:], tuple(size), tuple(n * itemsize for n in stride), writeable=False
        )


def _check_memo(path: Path, data: bytes) -> None:
    """Refuses a pickle that stores at a place that no pickle of its length has.

    Unpickling allocates memory for all places below.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            put = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
            if put and isinstance(argument, int) and argument > len(data):
                raise TorchFileError(
                    f"{path}: its pickle asks for memory for {argument:,} objects, "
                    f"more than it can hold; refused"
                )
    except TorchFileError:
        raise
    except Exception as error:
        raise TorchFileError(
            f"{path}: its pickle cannot be read ({type(error).__name__}: {error}); "
            f"the file is damaged or not PyTorch's"
        ) from error


def _short(value: Any) -> str:
    """A pickle's value for a message: never the whole of it, which could be without end."""
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return (
            "("
            + ", ".join(
                repr(v)[:40] if isinstance(v, (int, str)) else type(v).__name__ for v in value
            )
            + ")"
        )
    return repr(value)[:80] if isinstance(value, (int, str)) else type(value).__name__


class _Function:
    """A function that the pickle may call; unlike a plain one, the pickle cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise TorchFileError("the pickle tries to change how tensors are read; refused")


class _Storage(NamedTuple):
    """The name of a storage's type."""

    name: str
