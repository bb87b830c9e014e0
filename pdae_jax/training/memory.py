"""The memory of a run on each device before it is allocated, and advice where it is short."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax.networks import flash_attention
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import DTYPES, Networks, Params
from pdae_jax.training.losses import Given
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
                f"{Networks.size({name: tree}):,}",
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


class Need(NamedTuple):
    """Bytes that training on pictures takes on each device.

    fixed: parameters, averages, moments, gradients and what is frozen. image: what the forward
    pass keeps of one picture for the backward one, which is nearly all that a step takes besides.
    """

    fixed: int
    image: int

    def of(self, settings: Settings, devices: int) -> int:
        """Those of a step: of one of its micro-batches."""
        return self.fixed + self.image * -(-settings.batch_size // (settings.accumulate * devices))


def need(
    objective: str, arch: Architecture, precision: str = "float32", remat: bool = False
) -> Need:
    """What an objective on pictures takes, read off its functions: nothing is compiled or run."""
    row, net = OBJECTIVES[objective], Networks(arch, DTYPES[precision], remat)
    rng = jax.eval_shape(lambda: jax.random.key(0))

    trained = net.shapes(row.trains)
    frozen = jax.eval_shape(net.frozen, net.shapes(row.needs))
    state = jax.eval_shape(
        lambda params: TrainState.create(params, Settings().optimizer()), trained
    )

    def backward(trained: Params, frozen: Params, drawn: Any, rng: jax.Array) -> Any:
        def loss(trained: Params) -> jax.Array:
            given = Given(net, net.schedule, {**frozen, **trained}, dropout=rng)
            return row.loss(given, drawn).mean()

        return jax.vjp(loss, trained)[1]

    def kept(batch: int) -> int:
        images = {"image": jax.ShapeDtypeStruct((batch, *arch.image_shape), jnp.uint8)}
        drawn = jax.eval_shape(lambda rng, images: row.draw(rng, images, arch.T), rng, images)
        return size(jax.eval_shape(backward, trained, frozen, drawn, rng))

    with flash_attention.untried(by_cudnns=False):  # of several processes one may ask alone
        return Need(size((state, trained, frozen)), (kept(4) - kept(2)) // 2)


def size(tree: Any) -> int:
    """Bytes of all arrays, or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


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
