"""pdae_jax as `speed` and `growth` measure it: the real training step and the real decoding loop.

Needs jax, flax and optax alone.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax import pdae, samplers
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import DTYPES, Networks, Params
from pdae_jax.runtime import programs, sharding
from pdae_jax.schedule import SCHEDULES, Schedule
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import compiled_step

Run = Callable[[int], None]


def versions() -> str:
    return f"jax {jax.__version__}"


def device() -> str:
    return jax.devices()[0].device_kind


def peak_bytes() -> int | None:
    """Most bytes of the device's memory in use so far; None where the device does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def prepare(
    task: str, arch: Architecture, batch: int, precision: str, steps: int
) -> tuple[Run, float, str]:
    """Returns (run, compile seconds, settings).

    run(n) trains n steps, or encodes n batches, or decodes n batches in `steps` steps each.
    """
    net, schedule = Networks(arch, DTYPES[precision]), SCHEDULES[arch.schedule](arch.T)
    make = {"train": train, "encode": encode, "decode": decode}[task]
    return *make(net, arch, schedule, batch, steps), "jax.jit"


def one_device() -> jax.sharding.Mesh:
    """A mesh of one device, as the peer uses one."""
    return sharding.make_mesh(devices=jax.devices()[:1])


def parameters(net: Networks, groups: tuple[str, ...]) -> Params:
    """Fresh ones with nothing at zero, as training leaves it: zeros may be faster than numbers."""
    leaves, treedef = jax.tree.flatten(jax.jit(lambda: net.init(jax.random.key(0), groups))())
    rng = np.random.default_rng(0)
    return treedef.unflatten(
        [leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    )


def train(
    net: Networks, arch: Architecture, schedule: Schedule, batch: int, steps: int
) -> tuple[Run, float]:
    row, settings, mesh = OBJECTIVES["pdae"], Settings(batch_size=batch), one_device()
    params = parameters(net, (*row.trains, *row.needs))
    frozen = net.frozen({name: params[name] for name in row.needs})
    frozen = jax.device_put(frozen, sharding.placed(mesh, frozen, net.dtype))
    state = TrainState.create({name: params[name] for name in row.trains}, settings.optimizer())
    state = jax.device_put(state, sharding.placed(mesh, state, net.dtype))
    images = np.random.default_rng(1).integers(0, 256, (batch, *arch.image_shape), np.uint8)
    images = sharding.to_mesh(mesh, {"image": images})
    rng = jax.random.key(0)
    jitted: Any = compiled_step(
        row, net, schedule, settings, mesh, state, frozen, dropout=arch.dropout > 0
    )
    began = time.perf_counter()
    step = jitted.lower(state, frozen, images, rng).compile()
    seconds = time.perf_counter() - began

    def run(n: int) -> None:
        nonlocal state
        metrics: dict[str, jax.Array] = {}
        for _ in range(n):
            state, metrics = step(state, frozen, images, rng)
        loss = float(metrics["loss"])
        if not np.isfinite(loss) or int(metrics["skipped"]):
            raise ValueError(f"the measured steps do not train: loss {loss}")

    return run, seconds


def encode(
    net: Networks, arch: Architecture, schedule: Schedule, batch: int, steps: int
) -> tuple[Run, float]:
    return repeated(net, ("encoder",), net.encode, (batch, *arch.image_shape))


def decode(
    net: Networks, arch: Architecture, schedule: Schedule, batch: int, steps: int
) -> tuple[Run, float]:
    path = tuple(samplers.ddim_times(arch.T, steps)[::-1].tolist())
    return repeated(
        net,
        ("dpm", "gradient"),
        lambda params, x_T, z: pdae.decode(net, params, schedule, x_T, z, path),
        (batch, *arch.image_shape),
        (batch, arch.z_size),
    )


def repeated(
    net: Networks,
    groups: tuple[str, ...],
    function: Callable[..., Any],
    *shapes: tuple[int, ...],
) -> tuple[Run, float]:
    """(run, compile seconds) of a function of frozen parameters and normal arrays."""
    mesh, rng = one_device(), np.random.default_rng(1)
    params = jax.device_put(net.frozen(parameters(net, groups)), sharding.replicated(mesh))
    arrays = [
        jax.device_put(rng.standard_normal(shape, np.float32), sharding.over_batch(mesh))
        for shape in shapes
    ]
    began = time.perf_counter()
    options = programs.options(mesh.devices.flat[0])
    compiled = jax.jit(function, compiler_options=options).lower(params, *arrays).compile()
    seconds = time.perf_counter() - began

    def run(n: int) -> None:
        out = jnp.nan
        for _ in range(n):
            out = compiled(params, *arrays)
        if not bool(jnp.isfinite(out).all()):
            raise ValueError("the measured function gives no finite numbers")

    return run, seconds
