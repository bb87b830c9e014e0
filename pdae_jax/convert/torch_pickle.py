"""Interprets pickles without obeying them: tensors and plain containers, everything else inert.

A pickle is a program for a machine with a stack. `Interpreter` is that machine, of its own: it
imports nothing, and calls nothing but the functions of `CALLS`, which make arrays and containers.
Every other name, of a class or of a function, is a `Placeholder`, and so is all that comes of it.
A pickle of n bytes takes time and memory in proportion to n, or is refused.
"""

import codecs
import math
import pickle
import pickletools
import re
import struct
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from pdae_jax.runtime.choices import listed


class TorchFileError(ValueError):
    """A file that is refused: one line that says why, and the remedy."""


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
NAME = 1000  # characters
KEY = 4096  # characters
INTEGER = 256  # bytes
ARGUMENTS = 16
AXES = 32
NESTING = 100
EXTENT = 10_000_000
MODULES = 100_000
# A tensor that was expand()ed has more numbers than its storage: so many times, and so many at all.
EXPANDED, LARGEST = 4096, 2**31


class Placeholder:
    """A class or function that was not imported, or what its call would have returned: inert.

    name: of the class or function, with its module. args, kwargs: of the call; args is None for the
    class or function itself. state: what its attributes were to be set from. entries: set in it, if
    it is a kind of dict.
    """

    __slots__ = ("name", "args", "kwargs", "state", "entries")

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[Any, Any] | None = None,
        state: Any = None,
    ):
        self.name, self.args, self.kwargs, self.state = name, args, kwargs or {}, state
        self.entries: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{listed([self.name])}, not loaded>"

    @property
    def class_name(self) -> str:
        """The name without its module."""
        return self.name.rpartition(".")[2]

    @property
    def attributes(self) -> dict[Any, Any]:
        """The attributes that the object had, by name."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        found: dict[Any, Any] = {}
        for state in states[:2]:  # of __dict__, and of __slots__
            found |= _entries(state) or {}
        return found

    @property
    def init_kwargs(self) -> dict[Any, Any]:
        """The keyword arguments that it was made with, where its class recorded them."""
        return dict(_entries(self.attributes.get("_init_kwargs")) or {})


def state_dict_of(module: Any) -> dict[str, np.ndarray]:
    """The state dict of a pickled torch.nn.Module: "encoder.0.weight" -> array, in its order.

    Raises TorchFileError where it is none, or holds itself.
    """
    state: dict[str, np.ndarray] = {}
    stack: list[tuple[str, int, Any]] = [("", 0, module)]
    visited = 0
    while stack:
        prefix, depth, module = stack.pop()
        attributes = module.attributes if isinstance(module, Placeholder) else {}
        parameters, buffers, modules = (
            _entries(attributes.get(f"_{kind}")) for kind in ("parameters", "buffers", "modules")
        )
        where = listed([prefix.removesuffix(".") or "the object"])
        if parameters is None or buffers is None or modules is None:
            raise TorchFileError(f"{where} is no torch.nn.Module but {described(module)}")
        # A module may stand at several places, but not at 2^60 of them, nor in itself.
        visited += 1 + len(parameters) + len(buffers) + len(modules)
        if depth > NESTING or visited > MODULES or len(prefix) > NAME:
            raise TorchFileError(f"its modules are nested without end, as in {where}")
        passing = attributes.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set | frozenset) else ()
        kept = {name: tensor for name, tensor in buffers.items() if name not in passing}
        for name, tensor in (parameters | kept).items():
            if tensor is None:
                continue
            if not isinstance(tensor, np.ndarray):
                where = listed([f"{prefix}{name}"])
                raise TorchFileError(
                    f"{where} is no tensor that can be read, but {described(tensor)}"
                )
            state[f"{prefix}{name}"] = tensor
        stack += reversed(
            [(f"{prefix}{name}.", depth + 1, m) for name, m in modules.items() if m is not None]
        )
    return state


def _entries(value: Any) -> dict[Any, Any] | None:
    """A dict, or what was set in an object of a class of dicts; None for all else."""
    if isinstance(value, Placeholder):
        return value.entries if value.args is not None else None
    return value if isinstance(value, dict) else None


def described(value: Any) -> str:
    """A value of a pickle for a message: never the whole of it, which may have no end."""
    if isinstance(value, Placeholder):
        return (
            listed([value.name]) if value.args is None else f"an object of {listed([value.name])}"
        )
    if isinstance(value, int) and value.bit_length() < 100:
        return str(value)
    return f"a {type(value).__name__}"


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


# A storage whose numbers are not reached yet, and any tensor in it.
LATER: Any = object()
NO_NUMBERS = np.empty(0, np.float32)


class _Unfinished(Placeholder):
    """A NumPy array or dtype, which a pickle makes first and fills later.

    places: in the memo, where the finished one takes its place.
    """

    __slots__ = ("places",)

    def __init__(self, name: str, args: tuple[Any, ...]):
        super().__init__(name, args)
        self.places: list[int] = []


class Interpreter:
    """Interprets pickles in `data`.

    storage(key, dtype, numel): the numbers of a storage, which a pickle names by its key.
    load(bytes): the storage in a file inside the pickle.
    """

    def __init__(
        self,
        data: memoryview,
        budget: Budget,
        storage: Callable[[str, np.dtype, int], Any] | None = None,
        load: Callable[[memoryview], Any] | None = None,
    ):
        self.data, self.budget, self.storage, self.load = data, budget, storage, load
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, at: int = 0) -> Any:
        """The object of the pickle that begins at byte `at`; `self.at` is then where it ends."""
        self.at, self.stack, self.marks, self.memo = at, [], [], {}
        while True:
            if self.at >= len(self.data):
                raise TorchFileError("its pickle is cut short; fetch the file again")
            self.budget.instructions -= 1
            if self.budget.instructions < 0:
                raise TorchFileError(
                    f"its pickle has more than {INSTRUCTIONS:,} instructions, no checkpoint's; "
                    f"save the state dict alone"
                )
            code = self.data[self.at]
            self.at += 1
            if code == STOP:
                value = self.stack.pop()
                _check_extent(value)
                return value
            instruction = INSTRUCTION.get(code)
            if instruction is None:
                raise TorchFileError(f"its pickle has an instruction {code:#x} that none needs")
            instruction(self)

    # What instructions are made of.

    def take(self, n: int) -> memoryview:
        """The next n bytes."""
        start, self.at = self.at, self.at + n
        if n < 0 or self.at > len(self.data):
            raise TorchFileError("its pickle is cut short; fetch the file again")
        return self.data[start : self.at]

    def number(self, n: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(n), "little", signed=signed)

    def line(self) -> bytes:
        """The text until the next line feed."""
        size = 256
        while True:
            text = bytes(self.data[self.at : self.at + size])
            end = text.find(b"\n")
            if end >= 0:
                self.at += end + 1
                return text[:end]
            if len(text) < size:
                raise TorchFileError("its pickle is cut short; fetch the file again")
            size *= 4

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Takes all above the last mark off the stack."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def put(self, place: int) -> None:
        value = self.stack[-1]
        self.memo[place] = value
        if isinstance(value, _Unfinished):
            value.places.append(place)

    def set_items(self, values: list[Any]) -> None:
        """Sets keys and values, one after the other, in the dict on top of the stack."""
        entries = _entries(self.stack[-1])
        if entries is None or len(values) % 2:
            raise TorchFileError("its pickle sets the entries of what is no dict; refused")
        entries.update((_key(key), value) for key, value in zip(values[::2], values[1::2]))

    def extend(self, values: list[Any]) -> None:
        """Appends to the list on top of the stack; what a placeholder would hold is not kept."""
        target = self.stack[-1]
        if isinstance(target, list):
            target += values
        elif not isinstance(target, Placeholder) or target.args is None:
            raise TorchFileError("its pickle appends to what is no list; refused")

    def call(self, function: Any, args: Any, kwargs: Any = None) -> Any:
        """What a call returns: of `CALLS`, an array or a container; of all else, a placeholder."""
        if not isinstance(function, Placeholder) or not isinstance(args, tuple):
            raise TorchFileError(f"its pickle calls {described(function)}; refused")
        known = CALLS.get(function.name) if function.args is None else None
        if known is None:
            return Placeholder(function.name, args, _entries(kwargs))
        if len(args) > ARGUMENTS or kwargs:
            raise TorchFileError(f"its pickle calls {function.name} with other arguments; refused")
        return known(self, *args)

    def build(self) -> None:
        """Sets the state of the object on top of the stack, or finishes it."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Unfinished):
            finished = FINISH[target.name](self, target, state)
            self.stack[-1] = finished
            for place in target.places:
                self.memo[place] = finished
            target.places = []
        elif isinstance(target, Placeholder) and target.args is not None:
            target.state = state
        elif not isinstance(target, dict | np.ndarray):  # their own attributes are not kept
            raise TorchFileError(
                f"its pickle tries to change {described(target)}, which has no state; refused"
            )

    def persistent(self) -> None:
        """Finds the storage (or, in old files, the class of modules) that the pickle names."""
        match self.stack.pop():
            case ("storage", Placeholder() as kind, str() as key, _, int() as numel, *view):
                pass
            case ("module", Placeholder() as kind, *_):  # and its source, which is not kept
                return self.push(kind)
            case found:
                raise TorchFileError(f"a storage of an unknown kind: {described(found)}; refused")
        dtype = STORAGES.get(kind.name)
        if dtype is None:
            raise TorchFileError(
                f"a storage of {listed([kind.name])}, which is not read; save its numbers as floats"
            )
        if self.storage is None or numel < 0 or len(key) > KEY or len(view) > 1:
            raise TorchFileError(f"a storage {listed([key])} that makes no sense; refused")
        found = self.storage(key, dtype, numel)
        match view[0] if view else None:
            case (_, int() as offset, int() as size) if 0 <= offset <= offset + size <= numel:
                found = found if found is LATER else found[offset : offset + size]
            case None:
                pass
            case _:
                raise TorchFileError(f"a view of storage {listed([key])} that leaves it; refused")
        self.push(found)


def _key(value: Any) -> Any:
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


def _check_extent(value: Any) -> None:
    """Refuses containers that nobody could print or walk: too deep, without end, in themselves.

    A placeholder is a new start, and may lead back to itself, as objects do.
    """
    extents: dict[int, tuple[int, int] | None] = {}  # depth and size; None while inside of it
    met: set[int] = set()
    later: list[Placeholder] = []
    stack = [(value, False)]
    while stack or later:
        if not stack:
            one = later.pop()
            stack = [(part, False) for part in (one.args, one.kwargs, one.state, one.entries)]
        value, seen_inside = stack.pop()
        if isinstance(value, Placeholder):
            if id(value) not in met:
                met.add(id(value))
                later.append(value)
            continue
        if not isinstance(value, list | tuple | dict):
            continue
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        inside = [part for part in parts if isinstance(part, list | tuple | dict | Placeholder)]
        if not seen_inside:
            if id(value) in extents:
                continue
            extents[id(value)] = None
            stack.append((value, True))
            stack += [(part, False) for part in inside if extents.get(id(part)) is None]
            if any(extents.get(id(part), ()) is None for part in inside):
                raise TorchFileError("its values hold themselves; refused")
            continue
        known = [extents.get(id(part)) or (0, 1) for part in inside]
        texts = sum(len(part) for part in parts if isinstance(part, str))
        depth = 1 + max((depth for depth, _ in known), default=0)
        size = len(parts) + texts + sum(size for _, size in known)
        if depth > NESTING or size > EXTENT:
            raise TorchFileError(
                f"its values are nested more than {NESTING} deep, or written out would be more "
                f"than {EXTENT:,} values and letters; refused"
            )
        extents[id(value)] = depth, size


# What a pickle may call.


def _tensor(
    machine: Interpreter,
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
    machine: Interpreter,
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


def _of_subclass(machine: Interpreter, function: Any, kind: Any, args: Any, *state: Any) -> Any:
    """A tensor of a subclass of torch.Tensor: its numbers."""
    if not isinstance(function, Placeholder) or CALLS.get(function.name) not in (
        _tensor,
        _tensor_v3,
        _same,
    ):
        raise TorchFileError(f"a tensor is made by {described(function)}; refused")
    return machine.call(function, args)


def _same(machine: Interpreter, value: Any, *more: Any) -> np.ndarray:
    """A parameter, or a tensor that came from another device: its numbers."""
    if not isinstance(value, np.ndarray):
        raise TorchFileError(f"a parameter is {described(value)}; refused")
    return value


def _from_bytes(machine: Interpreter, data: Any) -> Any:
    """The storage that a pickle holds as a whole file of torch.save's."""
    if machine.load is None or not isinstance(data, memoryview | bytes):
        raise TorchFileError("a storage is in a file within a file within a file; refused")
    machine.budget.spend(len(data))
    return machine.load(memoryview(data))


def _persistent_object(machine: Interpreter, meta: Any) -> Placeholder:
    """An object of NVIDIA's torch_utils.persistence: its state, never the source code beside it."""
    meta = _entries(meta) or {}
    name = meta.get("class_name")
    if not isinstance(name, str):
        raise TorchFileError("an object of torch_utils.persistence has no class_name; refused")
    return Placeholder(machine.budget.name("", name).name, (), None, meta.get("state"))


def _reconstructed(machine: Interpreter, kind: Any, *args: Any) -> Placeholder:
    """An object as Python 2 pickles it."""
    if not isinstance(kind, Placeholder):
        raise TorchFileError(f"its pickle calls {described(kind)}; refused")
    return Placeholder(kind.name, args)


def _dict(machine: Interpreter, items: Any = ()) -> dict[Any, Any]:
    """An OrderedDict, of pairs where Python 2 pickled it."""
    if isinstance(items, dict):
        items = list(items.items())
    machine.budget.spend(len(items))
    pairs = [(_key(key), value) for key, value in items]
    return dict(pairs)


def _set(machine: Interpreter, items: Any = ()) -> set[Any]:
    machine.budget.spend(len(items))
    return {_key(item) for item in items}


def _tuple(machine: Interpreter, items: Any = ()) -> tuple[Any, ...]:
    machine.budget.spend(len(items))
    return tuple(items)


def _bytes(machine: Interpreter, text: Any = "", encoding: Any = "utf-8") -> bytes | memoryview:
    """Bytes, which Python 3 writes as text for Python 2."""
    if isinstance(text, bytes | memoryview):
        return text
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise TorchFileError("its pickle has bytes of what is no text; refused")
    machine.budget.spend(len(text))
    return text.encode(encoding)


def _new_dtype(machine: Interpreter, kind: Any, *more: Any) -> Placeholder:
    return _Unfinished("numpy.dtype", (kind,))


def _finish_dtype(machine: Interpreter, new: Placeholder, state: Any) -> Any:
    """NumPy's dtype; one of texts, objects or records remains a placeholder."""
    (kind,) = new.args or (None,)
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if not isinstance(kind, str) or kind not in NUMPY or order not in ("<", ">", "=", "|"):
        return Placeholder(new.name, new.args, None, state)
    return np.dtype(kind).newbyteorder(order)


def _new_array(machine: Interpreter, *args: Any) -> Placeholder:
    return _Unfinished("numpy.ndarray", args)


def _finish_array(machine: Interpreter, new: Placeholder, state: Any) -> Any:
    match state:
        case (_, tuple() as shape, np.dtype() as dtype, fortran, raw):
            return _array(machine, raw, dtype, shape, "F" if fortran else "C")
    return Placeholder(new.name, new.args, None, state)


def _array(machine: Interpreter, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
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


def _scalar(machine: Interpreter, dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype):
        return Placeholder("numpy.core.multiarray.scalar", (dtype, raw))
    return _array(machine, raw, dtype, ())[()]


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(machine: Interpreter, *args: Any) -> Any:
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


# The instructions, by their names in `pickletools`. Those of shared buffers, of registered
# extensions and of names other than storages' are no checkpoint's.


def _text(data: bytes | memoryview) -> Any:
    """Python 2's strings, which were text or numbers of an array."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return bytes(data)


def _integer(machine: Interpreter, size: int) -> None:
    if not 0 <= size <= INTEGER:
        raise TorchFileError(f"its pickle has an integer of {size:,} bytes; refused")
    machine.push(machine.number(size, signed=True))


def _decimal(machine: Interpreter) -> None:
    text = machine.line()
    if len(text) > 2 * INTEGER:
        raise TorchFileError(f"its pickle has an integer of {len(text):,} digits; refused")
    constants = {b"00": False, b"01": True}
    machine.push(constants[text] if text in constants else int(text.rstrip(b"L")))


def _quoted(machine: Interpreter) -> None:
    text = re.fullmatch(rb"(['\"])(.*)\1", machine.line().strip(), re.DOTALL)
    if text is None:
        raise TorchFileError("its pickle has a string without quotes; damaged")
    machine.push(_text(codecs.escape_decode(text[2])[0]))


def _named(machine: Interpreter, module: Any, name: Any) -> Placeholder:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TorchFileError("its pickle names a class by what is no text; refused")
    return machine.budget.name(module, name)


def _global(machine: Interpreter) -> Placeholder:
    return _named(machine, str(machine.line(), "utf-8"), str(machine.line(), "utf-8"))


def _reduce(machine: Interpreter) -> None:
    args, function = machine.stack.pop(), machine.stack.pop()
    machine.push(machine.call(function, args))


def _new(machine: Interpreter, kwargs: Any = None) -> None:
    args, kind = machine.stack.pop(), machine.stack.pop()
    machine.push(machine.call(kind, args, kwargs))


def _stack_global(machine: Interpreter) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push(_named(machine, module, name))


def _object(machine: Interpreter) -> None:
    kind, *args = machine.marked()
    machine.push(machine.call(kind, tuple(args)))


def _tuple_of(n: int) -> Callable[[Interpreter], None]:
    def instruction(machine: Interpreter) -> None:
        values = machine.stack[-n:]
        if len(values) < n:
            raise TorchFileError("its pickle is damaged; fetch the file again")
        machine.stack[-n:] = [tuple(values)]

    return instruction


def _protocol(machine: Interpreter) -> None:
    if machine.number(1) > pickle.HIGHEST_PROTOCOL:
        raise TorchFileError("its pickle is of a version that is not known; damaged")


def _dict_of(machine: Interpreter) -> None:
    values = machine.marked()
    machine.push({})
    machine.set_items(values)


def _set_items(machine: Interpreter) -> None:
    machine.set_items(machine.marked())


def _set_item(machine: Interpreter) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _append(machine: Interpreter) -> None:
    value = machine.stack.pop()
    machine.extend([value])


def _appends(machine: Interpreter) -> None:
    machine.extend(machine.marked())


def _add_items(machine: Interpreter) -> None:
    items, target = machine.marked(), machine.stack[-1]
    if isinstance(target, set):
        target.update(_key(item) for item in items)
    elif not isinstance(target, Placeholder) or target.args is None:
        raise TorchFileError("its pickle adds to what is no set; refused")


def _unicode(machine: Interpreter, size: int) -> None:
    machine.push(str(machine.take(size), "utf-8", "surrogatepass"))


BY_NAME: dict[str, Callable[[Interpreter], Any]] = {
    "PROTO": _protocol,
    "FRAME": lambda m: m.take(8),
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "INT": _decimal,
    "LONG": _decimal,
    "BININT": lambda m: m.push(m.number(4, signed=True)),
    "BININT1": lambda m: m.push(m.number(1)),
    "BININT2": lambda m: m.push(m.number(2)),
    "LONG1": lambda m: _integer(m, m.number(1)),
    "LONG4": lambda m: _integer(m, m.number(4, signed=True)),
    "FLOAT": lambda m: m.push(float(m.line())),
    "BINFLOAT": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    "STRING": _quoted,
    "BINSTRING": lambda m: m.push(_text(m.take(m.number(4, signed=True)))),
    "SHORT_BINSTRING": lambda m: m.push(_text(m.take(m.number(1)))),
    "UNICODE": lambda m: m.push(str(m.line(), "raw-unicode-escape")),
    "SHORT_BINUNICODE": lambda m: _unicode(m, m.number(1)),
    "BINUNICODE": lambda m: _unicode(m, m.number(4)),
    "BINUNICODE8": lambda m: _unicode(m, m.number(8)),
    # Bytes are views of the file.
    "SHORT_BINBYTES": lambda m: m.push(m.take(m.number(1))),
    "BINBYTES": lambda m: m.push(m.take(m.number(4))),
    "BINBYTES8": lambda m: m.push(m.take(m.number(8))),
    "BYTEARRAY8": lambda m: m.push(m.take(m.number(8))),
    "EMPTY_LIST": lambda m: m.push([]),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "EMPTY_DICT": lambda m: m.push({}),
    "EMPTY_SET": lambda m: m.push(set()),
    "LIST": lambda m: m.push(m.marked()),
    "TUPLE": lambda m: m.push(tuple(m.marked())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict_of,
    "FROZENSET": lambda m: m.push(frozenset(map(_key, m.marked()))),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "MARK": lambda m: m.marks.append(len(m.stack)),
    "POP": lambda m: m.stack.pop(),
    "POP_MARK": lambda m: m.marked(),
    "DUP": lambda m: m.push(m.stack[-1]),
    "PUT": lambda m: m.put(int(m.line()[:20])),
    "BINPUT": lambda m: m.put(m.number(1)),
    "LONG_BINPUT": lambda m: m.put(m.number(4)),
    "MEMOIZE": lambda m: m.put(len(m.memo)),
    "GET": lambda m: m.push(m.memo[int(m.line()[:20])]),
    "BINGET": lambda m: m.push(m.memo[m.number(1)]),
    "LONG_BINGET": lambda m: m.push(m.memo[m.number(4)]),
    "GLOBAL": lambda m: m.push(_global(m)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _new,
    "NEWOBJ_EX": lambda m: _new(m, m.stack.pop()),
    "INST": lambda m: m.push(m.call(_global(m), tuple(m.marked()))),
    "OBJ": _object,
    "BUILD": lambda m: m.build(),
    "BINPERSID": lambda m: m.persistent(),
}
INSTRUCTION = {ord(op.code): BY_NAME[op.name] for op in pickletools.opcodes if op.name in BY_NAME}
STOP = pickle.STOP[0]
