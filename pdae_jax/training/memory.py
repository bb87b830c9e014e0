"""The memory of a run on each device before it is allocated, and advice where it is short."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax

from pdae_jax.networks.groups import Params
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState


def per_device(tree: Any) -> int:
    """Bytes on each device of arrays, or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def table(state: TrainState, frozen: Params) -> str:
    """Each group's arrays and parameters, and the MB that it takes on each device.

    state, frozen: arrays, or `sharding.shapes`. Gradients live within a step, all else between
    steps too.
    """
    rows: list[tuple[str, ...]] = [
        ("group", "arrays", "parameters", "weights", "average", "moments", "gradients", "MB", "")
    ]

    def add(name: str, tree: Any, fate: str, *sizes: int) -> int:
        leaves = jax.tree.leaves(tree)
        rows.append(
            (
                name,
                str(len(leaves)),
                f"{sum(leaf.size for leaf in leaves):,}",
                *(f"{size / 1e6:.1f}" if size else "" for size in (*sizes, sum(sizes))),
                fate,
            )
        )
        return sum(sizes)

    total = 0
    for name, tree in state.params.items():
        weights = per_device(tree)
        total += add(
            name,
            tree,
            "trained",
            weights,
            per_device(state.ema[name]),
            per_device(of_group(state.opt_state, name)),
            weights,
        )
    for name, tree in frozen.items():
        total += add(name, tree, "frozen", per_device(tree), 0, 0, 0)
    rows.append(("on each device", *[""] * 6, f"{total / 1e6:.1f}", ""))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < i < 8 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def of_group(opt_state: Any, group: str) -> list[Any]:
    """The arrays that an optimiser keeps for a group."""
    return [
        leaf
        for path, leaf in jax.tree.leaves_with_path(opt_state)
        if jax.tree_util.DictKey(group) in path
    ]


def advice(objective: str, settings: Settings, mesh: jax.sharding.Mesh, precision: str) -> str:
    """Settings to change where memory is short: those that cost nothing first, none twice."""
    ways, more = [], 2 * settings.accumulate
    if precision == "float32":
        ways.append("--config.precision=bfloat16")
    if settings.batch_size % (more * mesh.size) == 0:
        ways.append(f"--config.{objective}.accumulate={more} (the batch as {more} micro-batches)")
    if not settings.remat and OBJECTIVES[objective].sees_pictures:  # others keep next to nothing
        ways.append(f"--config.{objective}.remat=True (less is kept for the backward pass)")
    if mesh.size > mesh.shape["fsdp"]:
        ways.append(f"--config.mesh.fsdp={mesh.size} (parameters over all devices)")
    return "set " + ", ".join([*ways, f"a smaller --config.{objective}.batch_size"])


@contextlib.contextmanager
def shortage(advice: str) -> Iterator[None]:
    """Turns a device's running out of memory within into one line, a ValueError with advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"out of memory ({str(error).splitlines()[0][:150]}); {advice}") from error
