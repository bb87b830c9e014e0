"""Interprets pickles without obeying them: tensors and plain containers, everything else inert.

A pickle is a program for a machine with a stack. `Interpreter` is that machine, of its own: it
imports nothing, and calls nothing but the functions of `torch_calls`, which make arrays and plain
containers. Every other name, of a class or of a function, is a `Placeholder`, and so is all that
comes of it. A pickle of n bytes takes time and memory in proportion to n, or is refused.
"""

import codecs
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from pdae_jax.convert.placeholder import Placeholder, TorchFileError, described, entries_of
from pdae_jax.convert.torch_calls import (
    CALLS,
    FINISH,
    INSTRUCTIONS,
    KEY,
    LATER,
    STORAGES,
    Budget,
    Unfinished,
    key_of,
)
from pdae_jax.runtime.choices import listed

# Limits that no checkpoint comes near.
INTEGER = 256  # bytes
ARGUMENTS = 16
NESTING = 100
EXTENT = 10_000_000


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
        if isinstance(value, Unfinished):
            value.places.append(place)

    def set_items(self, values: list[Any]) -> None:
        """Sets keys and values, one after the other, in the dict on top of the stack."""
        entries = entries_of(self.stack[-1])
        if entries is None or len(values) % 2:
            raise TorchFileError("its pickle sets the entries of what is no dict; refused")
        entries.update((key_of(key), value) for key, value in zip(values[::2], values[1::2]))

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
            return Placeholder(function.name, args, entries_of(kwargs))
        if len(args) > ARGUMENTS or kwargs:
            raise TorchFileError(f"its pickle calls {function.name} with other arguments; refused")
        return known(self, *args)

    def build(self) -> None:
        """Sets the state of the object on top of the stack, or finishes it."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unfinished):
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
        target.update(key_of(item) for item in items)
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
    "FROZENSET": lambda m: m.push(frozenset(map(key_of, m.marked()))),
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
