"""Reads the text of a compiled program: its kernels, their traffic, collectives, cycles.

XLA's own "bytes accessed" counts every operand, wherever it lies. A TPU keeps much in its on-chip
memory (VMEM, marked `S(1)` in a layout), whose traffic costs the chip's main memory (HBM) nothing;
so it is counted here anew. A loop's body counts once.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BYTES = {
    "f64": 8,
    "f32": 4,
    "bf16": 2,
    "f16": 2,
    "s64": 8,
    "u64": 8,
    "c64": 8,
    "s32": 4,
    "u32": 4,
    "s16": 2,
    "u16": 2,
    "u8": 1,
    "s8": 1,
    "pred": 1,
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# Operations that move nothing by themselves; of asynchronous ones the start counts.
STILL = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "optimization-barrier",
}

_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)((?::[^}]*)?)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+).*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CONTRACTED = re.compile(r'lhs_contracting_(?:dims|dimensions)"?[=:][{\[]([\d,"]*)[}\]]')
# Of cuDNN's attention: whether on the way back, and its logits' sizes.
_ATTENTION = re.compile(r'"__cudnn\$fmha\w*?(Backward)?".*?"dimensions": ?\[([\d," ]+)\]')
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


class Array(NamedTuple):
    """One array: its bytes with the padding of its tiles, and whether it is not in main memory."""

    bytes: int
    on_chip: bool


class Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    rest: str  # operands and attributes


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape as XLA writes it: (bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, u32[])."""
    found = []
    for dtype, dims, order, layout in _ARRAY.findall(shape):
        if dtype not in BYTES:
            continue
        dims = [int(n) for n in dims.split(",") if n]
        tile = _TILE.search(layout)
        if tile and order:  # a tile covers the most minor dimensions
            minor_first = [int(n) for n in order.split(",")]
            sizes = [int(n) for n in tile[1].split(",")]
            for d, size in zip(minor_first, reversed(sizes)):
                dims[d] = -(-dims[d] // size) * size
        found.append(Array(int(np.prod(dims, dtype=np.int64)) * BYTES[dtype], "S(" in layout))
    return found


def computations(
    text: str,
) -> tuple[dict[str, list[Instruction]], dict[str, list[Instruction]]]:
    """The computations that run by themselves, and those within fusions and reductions."""
    found: dict[str, list[Instruction]] = {}
    inner: set[str] = set()
    name = ""
    for line in text.splitlines():
        if not line.startswith(" ") and (match := _COMPUTATION.match(line)):
            name = match[1]
            found[name] = []
        elif name and (match := _INSTRUCTION.match(line)):
            found[name].append(Instruction(*match.groups()))
            if match[3] == "fusion" or ("to_apply=" in match[4] and match[3] != "call"):
                inner |= set(_CALLED.findall(match[4]))
    return (
        {name: body for name, body in found.items() if name not in inner},
        {name: body for name, body in found.items() if name in inner},
    )


def with_operands(body: list[Instruction]) -> Iterator[tuple[Instruction, dict[str, str]]]:
    """Each instruction of a computation, with its operands' shapes by their names."""
    shapes = {instruction.name: instruction.shape for instruction in body}
    for instruction in body:
        names = names_of_operands(instruction)
        yield instruction, {name: shapes[name] for name in names if name in shapes}


def names_of_operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", operands_of(instruction))


def operands_of(instruction: Instruction) -> str:
    """An instruction's operands as the text has them, without their layouts."""
    return re.sub(r"\{[^{}]*\}", "", instruction.rest).partition(")")[0]


def results(instruction: Instruction) -> list[Array]:
    """The arrays that an instruction writes.

    The shape of what runs asynchronously has its operands too, and a context.
    """
    found = arrays(instruction.shape)
    if instruction.op == "copy-start":  # the only one with the result before the operand
        return found[:1]
    if not instruction.op.endswith("-start") or instruction.op == "all-reduce-start":
        return found
    n = operands_of(instruction).count("%")
    return found[n : n + (n if instruction.op.startswith(COLLECTIVES) else 1)]


class Kernel(NamedTuple):
    """What runs at once, on one device.

    flops: of products, multiply-adds x 2: convolutions, matrix products, attention. moved: bytes
    read from and written to main memory.
    """

    op: str
    flops: int
    moved: int


def kernels(text: str) -> list[Kernel]:
    """All that a program runs, in its order; a loop's body once."""
    running, inner = computations(text)
    found = []
    for instruction, operands in itertools.chain(*map(with_operands, running.values())):
        op, result = instruction.op, results(instruction)
        if op in STILL or op.endswith(("-done", "-update")):
            continue
        if op in ("slice-start", "dynamic-slice-start", "slice", "dynamic-slice", "gather"):
            # As much is read as comes out, not the whole operand.
            moved = result[0].bytes * (1 if result[0].on_chip else 2)
        else:
            both = result + [a for shape in operands.values() for a in arrays(shape)]
            moved = sum(a.bytes for a in both if not a.on_chip)
        found.append(Kernel(op, flops(instruction, operands, inner), moved))
    return found


def flops(
    instruction: Instruction, operands: dict[str, str], inner: dict[str, list[Instruction]]
) -> int:
    """FLOP of an instruction's convolution or matrix product, and of those that it is fused of."""
    if instruction.op == "fusion":
        body = [one for name in _CALLED.findall(instruction.rest) for one in inner.get(name, ())]
        return sum(flops(one, shapes, inner) for one, shapes in with_operands(body))
    given = [operands.get(name, "") for name in names_of_operands(instruction)]
    if labels := _LABELS.search(instruction.rest):
        maps = [sizes(shape) for shape in (*given[:2], instruction.shape)]
        # Of a gradient cuDNN is told the labels of the convolution itself.
        where = {"convBackwardInput": (2, 1, 0), "convBackwardFilter": (0, 2, 1)}
        target = re.search(r'custom_call_target="__cudnn\$(\w+)"', instruction.rest)
        _, kernel, out = (maps[k] for k in where.get(target[1] if target else "", (0, 1, 2)))
        return 2 * math.prod(out) * math.prod(kernel) // kernel[labels[2].index("o")]
    if attention := _ATTENTION.search(instruction.rest):
        # Logits and their means of v; on the way back the logits anew, and two gradients of each.
        logits = math.prod(int(n) for n in re.findall(r"\d+", attention[2]))
        return 2 * logits * sizes(given[0])[-1] * (5 if attention[1] else 2)
    if contracted := _CONTRACTED.search(instruction.rest):
        over = [int(k) for k in re.findall(r"\d+", contracted[1])]
        first = sizes(given[0])
        return 2 * math.prod(sizes(instruction.shape)) * math.prod(first[k] for k in over)
    return 0


def sizes(shape: str) -> list[int]:
    """The dimensions of the first array of a shape."""
    match = _ARRAY.search(shape)
    return [int(n) for n in match[2].split(",") if n] if match else []


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Counts a program's collectives by kind: their number, and the bytes of their results.

    A TPU's compiler also puts them into fusions: one that overlaps with computing is there at its
    start, on the way and at its end, on one channel; and an all-reduce of which a slice is kept is
    a reduce-scatter.
    """
    found: dict[str, tuple[int, int]] = {}

    def add(kind: str, result: list[Array]) -> None:
        count, size = found.get(kind, (0, 0))
        found[kind] = count + 1, size + sum(array.bytes for array in result)

    running, inner = computations(text)
    for instruction in itertools.chain(*running.values()):
        kind = instruction.op.removesuffix("-start")
        if kind in COLLECTIVES:
            add(kind, results(instruction))
    fused: dict[tuple[str, str], tuple[Instruction, Instruction]] = {}  # each channel once
    for body in inner.values():
        for instruction in body:
            if instruction.op in COLLECTIVES:
                channel = re.search(r"channel_id=\d+", instruction.rest)
                key = instruction.op, channel[0] if channel else instruction.name
                fused.setdefault(key, (instruction, body[-1]))
    for instruction, last in fused.values():
        if instruction.op == "all-reduce" and last.op == "dynamic-slice":
            add("reduce-scatter", results(last))
        else:
            add(instruction.op, results(instruction))
    return found


def cycles(text: str) -> int | None:
    """Clock cycles by the TPU compiler's own model, instructions in sequence; None elsewhere."""
    found = [
        int(match[1])
        for instruction in itertools.chain(*computations(text)[0].values())
        if (match := _CYCLES.search(instruction.rest)) and int(match[1]) < 2**40
    ]
    return sum(found) or None
