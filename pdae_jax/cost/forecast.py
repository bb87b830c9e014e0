"""Forecasts of what the train step and the decoding loop cost on devices that need not be here.

XLA compiles for a TPU on any machine that has libtpu, and for an NVIDIA GPU on any that has JAX's
plugin for CUDA: the compiled programs tell floating-point operations, bytes moved, memory and
collectives, and from the chip's published peaks follows the fastest step that it allows (the
roofline). Nothing is run.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax import pdae, samplers
from pdae_jax.arrays import Codes, Images
from pdae_jax.cost import hlo
from pdae_jax.cost.chips import CHIPS, CUDNN, Chip, chip_of, devices_of
from pdae_jax.networks import flash_attention
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import DTYPES, Networks, Params
from pdae_jax.runtime import programs, sharding
from pdae_jax.runtime.choices import nearest
from pdae_jax.training import memory
from pdae_jax.training.losses import Given
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import compiled_step

UNTOLD = "this backend of JAX does not tell what a compiled program costs"
DECODING_STEPS = 100  # of DDIM, in a forecast


class Cost(NamedTuple):
    """The cost of one compiled program, on each device.

    moved: bytes to and from main memory; accessed: XLA's count, which takes what stays in the chip
    for moved too. outputs: without those that lie where arguments lay. collectives: kind -> (how
    many, bytes of results). cycles: of the clock, by the compiler's own model; None where it tells
    none. kernels, rooflines: of a GPU how many run one after another, and the seconds of their
    rooflines summed, which is what is left of the one above for small kernels; None elsewhere.
    """

    flops: float
    moved: float
    accessed: float
    cycles: int | None
    arguments: int
    temporary: int
    outputs: int
    collectives: dict[str, tuple[int, int]]
    compile_seconds: float
    kernels: int | None = None
    rooflines: float | None = None

    @property
    def memory(self) -> int:
        return self.arguments + self.temporary + self.outputs

    def fastest(self, chip: Chip) -> float:
        """Seconds that the chip's peaks allow: the longer of computing and moving."""
        return max(self.flops / chip.flops, self.moved / chip.bandwidth)


def train_step(
    objective: str,
    arch: Architecture,
    settings: Settings,
    devices: Sequence[Any],
    *,
    precision: str = "float32",
    fsdp: int = 1,
    say: Callable[[str], object] = lambda line: None,
) -> Cost:
    """The cost of one step of an objective on pictures, of the whole batch over all devices."""
    row = OBJECTIVES[nearest(objective, OBJECTIVES, "objective")]
    if "image" not in row.reads:
        raise ValueError(
            f"{objective} is trained on codes and costs next to nothing; forecast dpm or pdae"
        )
    mesh = sharding.make_mesh(fsdp, devices)
    net = Networks(arch, DTYPES[precision], settings.remat)
    if settings.batch_size % (settings.accumulate * mesh.size):
        raise ValueError(
            f"batch_size = {settings.batch_size} must be a multiple of the {mesh.size} "
            f"devices times accumulate = {settings.accumulate}"
        )
    state = jax.eval_shape(
        lambda params: TrainState.create(params, settings.optimizer()), net.shapes(row.trains)
    )
    frozen = jax.eval_shape(net.frozen, net.shapes(row.needs))
    say(memory.table(sharding.shapes(mesh, state), sharding.shapes(mesh, frozen)))
    batch = {"image": jax.ShapeDtypeStruct((settings.batch_size, *arch.image_shape), jnp.uint8)}
    step = compiled_step(
        row,
        net,
        net.schedule,
        settings,
        mesh,
        state,
        frozen,
        dropout=arch.dropout > 0,
    )
    return compiled(
        devices[0], step, state, frozen, batch, jax.eval_shape(lambda: jax.random.key(0))
    )


def decode_loop(
    arch: Architecture,
    batch_size: int,
    devices: Sequence[Any],
    *,
    steps: int = DECODING_STEPS,
    precision: str = "float32",
) -> Cost:
    """The cost of decoding from z by DDIM in `steps` steps, parameters on every device.

    FLOPs and bytes are those of one step: XLA counts a loop's body once.
    """
    mesh, net = sharding.make_mesh(1, devices), Networks(arch, DTYPES[precision])
    path = samplers.ddim_times(arch.T, min(steps, arch.T))[::-1]

    def decode(params: Params, x: Images, z: Codes) -> Images:
        return pdae.decode(net, params, net.schedule, x, z, path)

    over_batch, everywhere = sharding.over_batch(mesh), sharding.replicated(mesh)
    params = jax.eval_shape(net.frozen, net.shapes(("dpm", "gradient")))
    x = jax.ShapeDtypeStruct((batch_size, *arch.image_shape), jnp.float32)
    z = jax.ShapeDtypeStruct((batch_size, arch.z_size), jnp.float32)
    return compiled(
        devices[0],
        jax.jit(
            decode,
            in_shardings=(everywhere, over_batch, over_batch),
            out_shardings=over_batch,
            compiler_options=programs.options(devices[0]),
        ),
        params,
        x,
        z,
    )


def training_flops(arch: Architecture, objective: str, batch: int = 8) -> float:
    """FLOP of one image's loss and gradients (multiply-adds x 2), before any compiler sees them."""
    net, row = Networks(arch), OBJECTIVES[objective]

    def gradients(trained: Params, frozen: Params, images: jax.Array, rng: jax.Array) -> Params:
        drawn = row.draw(rng, {"image": images}, arch.T)

        def loss(trained: Params) -> jax.Array:
            return row.loss(Given(net, net.schedule, {**frozen, **trained}), drawn).sum()

        return jax.grad(loss)(trained)

    params = net.shapes((*row.trains, *row.needs))
    trained, frozen = (
        {group: params[group] for group in groups} for groups in (row.trains, row.needs)
    )
    images = jax.ShapeDtypeStruct((batch, *arch.image_shape), jnp.uint8)
    return _flops(gradients, trained, frozen, images, jax.random.key(0)) / batch


@functools.cache  # a choice of sizes asks for the same networks again
def decoding_flops(arch: Architecture, batch: int = 8) -> float:
    """FLOP of one step of decoding one image: a pass down and two up, t and z projected before."""
    net = Networks(arch)
    params = net.shapes(("dpm", "gradient"))
    x = jax.ShapeDtypeStruct((batch, *arch.image_shape), jnp.float32)
    z = jax.ShapeDtypeStruct((batch, arch.z_size), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    shares = jax.eval_shape(net.time, params, t), jax.eval_shape(net.code, params, z)
    return _flops(net.predict, params, x, *shares) / batch


def _flops(function: Callable[..., Any], *shapes: Any) -> float:
    cost = jax.jit(function).lower(*shapes).cost_analysis()
    assert cost is not None  # None is for backends that cannot count; counting is XLA's own here
    return cost["flops"]


def compiled(device: Any, function: Any, *shapes: Any) -> Cost:
    """Lowers and compiles a jitted function for shapes, and reads its cost off the program.

    device: one of those that it is compiled for.
    """
    gpu = device.platform == "gpu"
    began = time.perf_counter()
    with flash_attention.for_a_gpu_elsewhere(CUDNN) if gpu else contextlib.nullcontext():
        lowered = function.lower(*shapes)
    program = compile_for(device, lowered)
    seconds = time.perf_counter() - began
    sizes, text = program.memory_analysis(), program.as_text()
    if sizes is None or text is None:
        raise ValueError(UNTOLD)
    kernels = hlo.kernels(text)
    moved, products = sum(one.moved for one in kernels), sum(one.flops for one in kernels)
    # Of a GPU XLA tells none; all that moves is read and written there.
    own = {"flops": products, "bytes accessed": moved} if gpu else program.cost_analysis()
    if own is None:
        raise ValueError(UNTOLD)
    chip = CHIPS.get(device.device_kind)
    return Cost(
        flops=own.get("flops", math.nan),
        moved=moved,
        accessed=own.get("bytes accessed", math.nan),
        cycles=hlo.cycles(text),
        arguments=sizes.argument_size_in_bytes,
        temporary=sizes.temp_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        collectives=hlo.collectives(text),
        compile_seconds=seconds,
        kernels=len(kernels) if gpu else None,
        rooflines=(
            sum(max(one.flops / chip.flops, one.moved / chip.bandwidth) for one in kernels)
            if gpu and chip
            else None
        ),
    )


def compile_for(device: Any, lowered: Any) -> Any:
    """A program of one that was lowered for devices of this kind.

    Where nothing is tuned, XLA's own matrix products for GPUs (Triton) have no tiles for some small
    ones; then all are cuBLAS's.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if device.platform != "gpu" or "tile sizes" not in str(error):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


def forecast(
    objective: str,
    arch: Architecture,
    settings: Settings,
    topology: str,
    *,
    precision: str = "float32",
    fsdp: int = 1,
    say: Callable[[str], object] = print,
) -> tuple[Cost, Cost | None]:
    """Compiles one objective's programs for a topology, and says what they cost.

    Returns the costs of the train step and, of PDAE, of a step of decoding.
    """
    devices = devices_of(topology)
    kind, local = devices[0].device_kind, settings.batch_size // len(devices)
    chip = chip_of(kind)
    say(
        f"{objective} on {topology}: {len(devices)} x {kind}, batch {settings.batch_size} "
        f"({local} a device), {precision}, fsdp {fsdp}"
        + ("" if chip else f"; no roofline, as no peaks of a {kind} are listed")
    )
    train = train_step(objective, arch, settings, devices, precision=precision, fsdp=fsdp, say=say)
    parts = settings.accumulate
    name = "train step"
    if parts > 1:
        name += f", one of its {parts} micro-batches and all of the optimiser"
    costs = {name: train}
    decode = None
    if objective == "pdae":
        decode = decode_loop(arch, settings.batch_size, devices, precision=precision)
        costs[f"decoding, a step of {DECODING_STEPS}"] = decode
    for name, cost in costs.items():
        say(f"\n{name}, on each device:")
        # A loop's body counts once: of a step in micro-batches, these are the costs of one.
        images, steps = (local // parts, 1) if cost is train else (local, DECODING_STEPS)
        for line in lines(cost, chip, images, steps):
            say(f"  {line}")
        if chip and cost.memory > chip.memory:
            say(
                f"  DOES NOT FIT into {chip.memory / 1e9:.0f} GB: "
                + (
                    memory.advice(objective, settings, sharding.make_mesh(fsdp, devices), precision)
                    if cost is train
                    else "decode fewer images at a time"
                )
            )
    return train, decode


def lines(cost: Cost, chip: Chip | None, local: int, steps: int = 1) -> list[str]:
    """Describes a cost, one line a fact.

    local: images a device. steps: how often they go through the program.
    """
    times = "" if steps == 1 else f" in {steps} steps"
    on_chip = cost.kernels is None  # a GPU keeps nothing there from one kernel to the next
    found = [
        f"{digits(cost.flops / 1e9)} GFLOP, {digits(cost.flops / local / 1e9)} an image",
        f"{digits(cost.moved / 1e9)} GB moved, {digits(cost.moved / local / 1e9)} an image"
        + (f" ({digits(cost.accessed / local / 1e9)} with what stays on the chip)" * on_chip),
        f"{digits(cost.memory / 1e9)} GB of memory: {digits(cost.arguments / 1e9)} of arguments, "
        f"{digits(cost.temporary / 1e9)} of temporaries, {digits(cost.outputs / 1e9)} of outputs",
    ]
    for kind, (count, size) in sorted(cost.collectives.items()):
        found.append(f"{count} {kind}, {digits(size / 1e6)} MB of results")
    found.append(f"compiled in {cost.compile_seconds:.0f} s")
    if chip:
        seconds = cost.fastest(chip)
        found.append(
            f"at best {digits(seconds * 1e3)} ms, {digits(local / seconds / steps)} images/s a "
            f"device{times} (computing {digits(cost.flops / chip.flops * 1e3)} ms, moving "
            f"{digits(cost.moved / chip.bandwidth * 1e3)} ms)"
        )
    if cost.kernels and cost.rooflines:
        seconds = cost.rooflines
        found.append(
            f"{cost.kernels:,} kernels, each at its roofline (bfloat16's) {digits(seconds * 1e3)} "
            f"ms, {digits(local / seconds / steps)} images/s a device{times}; not tuned: which "
            f"algorithms cuDNN picks, and their workspaces, only the card tells"
        )
    if chip and chip.clock and cost.cycles:
        seconds = cost.cycles / chip.clock
        found.append(
            f"by the compiler's model {digits(cost.cycles / 1e6)} M cycles, "
            f"{digits(seconds * 1e3)} ms, {digits(local / seconds / steps)} images/s a "
            f"device{times}"
        )
    return found


def digits(number: float) -> str:
    """Formats a number to three digits, or as the whole number where it is larger."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
