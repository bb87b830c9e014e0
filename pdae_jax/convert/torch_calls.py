"""What a pickle may call: the functions that make tensors, NumPy's arrays and plain containers.

`CALLS` has them by the names that PyTorch, NumPy, Python and NVIDIA write. Each takes the machine
that interprets the pickle, and the pickle's arguments, which may be anything.
"""

import math
import sys
from collections.abc import Callable
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from pdae_jax.convert.placeholder import (
    NAME,
    Placeholder,
    TorchFileError,
    described,
    entries_of,
)

DTYPES: dict[str, np.dtype] = {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}
STORAGES: dict[str, np.dtype] = {
    f"{module}.{kind}Storage": DTYPES[f"torch.{dtype}"]
    for module in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
        "Untyped": "uint8",
    }.items()
}
NUMPY = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
# Names of other versions of Python and NumPy, as they are called today.
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# Limits that no checkpoint comes near; most hold back what would take more than linear time.
INSTRUCTIONS = 5_000_000
NAMES = 10_000
KEY = 4096  # characters
AXES = 32
# A tensor that was expand()ed has more numbers than its storage: so many times, and so many at all.
EXPANDED, LARGEST = 4096, 2**31


class Budget:
    """What the reading of a file of n bytes may take, and the names that it met.

    It is one for the file and the files inside it.
    """

    def __init__(self, n: int):
        self.work = 16 * n + 2**20
        self.instructions = INSTRUCTIONS
        self.names: dict[str, Placeholder] = {}

    def spend(self, work: int) -> None:
        """Counts what grows with its argument, which a pickle may name any number of times."""
        self.work -= work
        if self.work < 0:
            raise TorchFileError("its pickle reads the same bytes over and over; refused")

    def name(self, module: str, name: str) -> Placeholder:
        """The placeholder of a class or function, the same one each time."""
        module = RENAMED.get(module, module).replace("numpy._core", "numpy.core")
        full = f"{module}.{name}" if module else name
        if len(full) > NAME or len(self.names) > NAMES:
            raise TorchFileError("its pickle has too many, or too long, names of classes; refused")
        return self.names.setdefault(full, Placeholder(full))

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names that were met and mean nothing here; those of Python's own library first.

        Few checkpoints need these, and an attack on who opens the file with PyTorch does.
        """
        library = sys.stdlib_module_names
        unknown = (name for name in self.names if name not in KNOWN)
        return tuple(sorted(unknown, key=lambda name: (name.split(".")[0] not in library, name)))


class Machine(Protocol):
    """What calls need of the machine: load reads the storage in a file inside the pickle."""

    budget: Budget
    load: Callable[[memoryview], Any] | None

    def call(self, function: Any, args: Any) -> Any: ...


# A storage whose numbers are not reached yet, and any tensor in it.
LATER: Any = object()
NO_NUMBERS = np.empty(0, np.float32)


class Unfinished(Placeholder):
    """A NumPy array or dtype, which a pickle makes first and fills later.

    places: in the memo, where the finished one takes its place.
    """

    __slots__ = ("places",)

    def __init__(self, name: str, args: tuple[Any, ...]):
        super().__init__(name, args)
        self.places: list[int] = []


def key_of(value: Any) -> Any:
    """What may be a dict's key or a set's member: all that is hashed and compared in no time.

    A tuple that holds itself twice, sixty times over, would never be.
    """
    kind = type(value)
    if kind is str and len(value) <= KEY or kind is int and -(2**63) <= value < 2**63:
        return value
    if value is None or isinstance(value, bool | float | Placeholder):
        return value
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value
    raise TorchFileError(
        f"a dict's key, or a set's member, is {described(value)}; only strings, numbers and "
        f"classes are read: save the state dict alone"
    )


def _tensor(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any = None,
    hooks: Any = None,
    lazy: Any = None,
) -> np.ndarray:
    """A view of a storage; one that would leave it is refused."""
    if lazy:
        raise TorchFileError("a tensor is conjugated or negated lazily; save its clone()")
    axes = size if isinstance(size, tuple) and isinstance(stride, tuple) else None
    if axes is None or len(axes) > AXES or len(size) != len(stride):
        raise TorchFileError("a tensor's size or stride makes no sense; refused")
    if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise TorchFileError("a tensor's size, stride or offset makes no sense; refused")
    if storage is LATER:
        return NO_NUMBERS
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise TorchFileError(f"a tensor's storage is {described(storage)}; refused")
    count, held = math.prod(size), len(storage)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if count and last >= held or not count and math.prod(n or 1 for n in size) > LARGEST:
        raise TorchFileError(f"a tensor is larger than its {held:,} stored numbers; refused")
    if count > held and count > min(EXPANDED * held, LARGEST):
        raise TorchFileError(
            f"a tensor of {count:,} numbers stands for {held:,} stored ones; refused: more than "
            f"{EXPANDED:,} times as many, or than {LARGEST:,}"
        )
    itemsize = storage.itemsize
    return np.ndarray(
        size,
        storage.dtype,
        storage.view(np.uint8),
        offset * itemsize if count else 0,
        [step * itemsize if n > 1 and count else 0 for n, step in zip(size, stride)],
    )


def _tensor_v3(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    kind: Any,
    lazy: Any = None,
) -> np.ndarray:
    """A view of a storage of bytes, of which `kind` is the dtype."""
    dtype = DTYPES.get(kind.name) if isinstance(kind, Placeholder) else None
    if dtype is None:
        raise TorchFileError(f"a tensor of {described(kind)}, which is not read; save it as floats")
    if isinstance(storage, np.ndarray) and storage.ndim == 1:
        size_in_bytes = storage.nbytes - storage.nbytes % dtype.itemsize
        storage = storage.view(np.uint8)[:size_in_bytes].view(dtype)
    return _tensor(machine, storage, offset, size, stride, grad, hooks, lazy)


def _of_subclass(machine: Machine, function: Any, kind: Any, args: Any, *state: Any) -> Any:
    """A tensor of a subclass of torch.Tensor: its numbers."""
    if not isinstance(function, Placeholder) or CALLS.get(function.name) not in (
        _tensor,
        _tensor_v3,
        _same,
    ):
        raise TorchFileError(f"a tensor is made by {described(function)}; refused")
    return machine.call(function, args)


def _same(machine: Machine, value: Any, *more: Any) -> np.ndarray:
    """A parameter, or a tensor that came from another device: its numbers."""
    if not isinstance(value, np.ndarray):
        raise TorchFileError(f"a parameter is {described(value)}; refused")
    return value


def _from_bytes(machine: Machine, data: Any) -> Any:
    """The storage that a pickle holds as a whole file of torch.save's."""
    if machine.load is None or not isinstance(data, memoryview | bytes):
        raise TorchFileError("a storage is in a file within a file within a file; refused")
    machine.budget.spend(len(data))
    return machine.load(memoryview(data))


def _persistent_object(machine: Machine, meta: Any) -> Placeholder:
    """An object of NVIDIA's torch_utils.persistence: its state, never the source code beside it."""
    meta = entries_of(meta) or {}
    name = meta.get("class_name")
    if not isinstance(name, str):
        raise TorchFileError("an object of torch_utils.persistence has no class_name; refused")
    return Placeholder(machine.budget.name("", name).name, (), None, meta.get("state"))


def _reconstructed(machine: Machine, kind: Any, *args: Any) -> Placeholder:
    """An object as Python 2 pickles it."""
    if not isinstance(kind, Placeholder):
        raise TorchFileError(f"its pickle calls {described(kind)}; refused")
    return Placeholder(kind.name, args)


def _dict(machine: Machine, items: Any = ()) -> dict[Any, Any]:
    """An OrderedDict, of pairs where Python 2 pickled it."""
    if isinstance(items, dict):
        items = list(items.items())
    machine.budget.spend(len(items))
    pairs = [(key_of(key), value) for key, value in items]
    return dict(pairs)


def _set(machine: Machine, items: Any = ()) -> set[Any]:
    machine.budget.spend(len(items))
    return {key_of(item) for item in items}


def _tuple(machine: Machine, items: Any = ()) -> tuple[Any, ...]:
    machine.budget.spend(len(items))
    return tuple(items)


def _bytes(machine: Machine, text: Any = "", encoding: Any = "utf-8") -> bytes | memoryview:
    """Bytes, which Python 3 writes as text for Python 2."""
    if isinstance(text, bytes | memoryview):
        return text
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise TorchFileError("its pickle has bytes of what is no text; refused")
    machine.budget.spend(len(text))
    return text.encode(encoding)


def _new_dtype(machine: Machine, kind: Any, *more: Any) -> Placeholder:
    return Unfinished("numpy.dtype", (kind,))


def _finish_dtype(machine: Machine, new: Placeholder, state: Any) -> Any:
    """NumPy's dtype; one of texts, objects or records remains a placeholder."""
    (kind,) = new.args or (None,)
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if not isinstance(kind, str) or kind not in NUMPY or order not in ("<", ">", "=", "|"):
        return Placeholder(new.name, new.args, None, state)
    return np.dtype(kind).newbyteorder(order)


def _new_array(machine: Machine, *args: Any) -> Placeholder:
    return Unfinished("numpy.ndarray", args)


def _finish_array(machine: Machine, new: Placeholder, state: Any) -> Any:
    match state:
        case (_, tuple() as shape, np.dtype() as dtype, fortran, raw):
            return _array(machine, raw, dtype, shape, "F" if fortran else "C")
    return Placeholder(new.name, new.args, None, state)


def _array(machine: Machine, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    """NumPy's array, a view of its bytes; one of texts or objects is a placeholder."""
    if not isinstance(dtype, np.dtype):
        return Placeholder("numpy.ndarray", (raw, dtype, shape, order))
    if isinstance(raw, str):  # bytes of Python 2 that happened to be text
        raw = _bytes(machine, raw)
    if not isinstance(raw, bytes | memoryview) or not isinstance(shape, tuple):
        raise TorchFileError("a NumPy array makes no sense; refused")
    if len(shape) > AXES or any(type(n) is not int or not 0 <= n <= LARGEST for n in shape):
        raise TorchFileError("a NumPy array's shape makes no sense; refused")
    if math.prod(shape) * dtype.itemsize != len(raw) or math.prod(n or 1 for n in shape) > 2**48:
        raise TorchFileError(f"a NumPy array of {len(raw):,} bytes has another shape; refused")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")
    array.flags.writeable = False
    return array


def _scalar(machine: Machine, dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype):
        return Placeholder("numpy.core.multiarray.scalar", (dtype, raw))
    return _array(machine, raw, dtype, ())[()]


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(machine: Machine, *args: Any) -> Any:
        raise TorchFileError(what)

    return refuse


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch._tensor._rebuild_from_type": _of_subclass,
    "torch.tensor._rebuild_from_type": _of_subclass,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._utils._rebuild_device_tensor_from_numpy": _same,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _same,
    "torch._utils._rebuild_xla_tensor": _same,
    "torch.nn.parameter.Parameter": _same,
    "torch._utils._rebuild_qtensor": _refuse("holds quantized tensors; save their dequantize()"),
    "torch._utils._rebuild_sparse_tensor": _refuse("holds sparse tensors; save their to_dense()"),
    "torch._utils._rebuild_sparse_csr_tensor": _refuse("holds sparse tensors; save to_dense()"),
    "torch._utils._rebuild_nested_tensor": _refuse("holds nested tensors; save their unbind()"),
    "torch._utils._rebuild_meta_tensor_no_storage": _refuse(
        "holds tensors of the device meta, which have no numbers; save them from a real device"
    ),
    "torch._utils._rebuild_wrapper_subclass": _refuse(
        "holds tensors that wrap others (quantized or distributed); save their full_tensor() or "
        "dequantize()"
    ),
    "torch.storage._load_from_bytes": _from_bytes,
    "torch.Size": _tuple,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "collections.OrderedDict": _dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "copyreg._reconstructor": _reconstructed,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
    "numpy.dtype": _new_dtype,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy.core.numeric._frombuffer": _array,
    "numpy.core.multiarray.scalar": _scalar,
}
FINISH = {"numpy.dtype": _finish_dtype, "numpy.ndarray": _finish_array}
# Names that are no mystery: what can be called, and what those calls are given.
KNOWN = {*CALLS, *DTYPES, *STORAGES, "numpy.ndarray", "torch.Tensor", "builtins.object"}
