"""How long the stages of a run take on a machine: arithmetic, checked against runs.

Seconds are FLOP, counted before any compiler sees a program, over the FLOP/s of a matmul that the
machine was measured to reach, times the share of it that a training step reaches.
"""

import functools
from collections.abc import Mapping

import jax

from pdae_jax.cost import forecast
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime.machine import Machine
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

# The share of a matmul's FLOP/s. Of a CPU measured on two cores of an AMD EPYC: 0.8 to 1.1 while
# nothing else ran, 0.4 beside four times as many busy threads as cores. Of an accelerator not
# measured here: the paper's A100 does 39 TFLOP/s, a quarter of its peak in that precision.
CPU_EFFICIENCY, EFFICIENCY = 0.6, 0.25
COMPILING = 40  # seconds a stage
STEP = 0.002  # seconds that a step takes of the host, however small it is
# Pictures times steps in a report of 8 pictures, all commands but `evaluate` together, of which the
# paper's inversion is two fifths; and of one picture that `evaluate` scores: decoded twice, its x_T
# inferred once.
REPORT, SCORED = 24_000, 50


@functools.cache
def picture_flops(objective: str, arch: Architecture) -> float:
    """FLOP of one picture's training, of an objective on pictures."""
    return forecast.training_flops(arch, objective)


@functools.cache
def code_flops(objective: str, arch: Architecture) -> float:
    """FLOP of one code's training: 6 for each parameter."""
    params = Networks(arch).shapes(OBJECTIVES[objective].trains, labels=1)
    return 6.0 * sum(leaf.size for leaf in jax.tree.leaves(params))


def speed(machine: Machine) -> float:
    """FLOP/s of training, of all devices together."""
    return (CPU_EFFICIENCY if machine.is_cpu else EFFICIENCY) * machine.flops * machine.devices


def example_seconds(objective: str, arch: Architecture, machine: Machine) -> float:
    """Seconds of one example's training in a large batch."""
    flops = picture_flops if OBJECTIVES[objective].sees_pictures else code_flops
    return flops(objective, arch) / speed(machine)


def training_seconds(
    objective: str, arch: Architecture, settings: Settings, machine: Machine, done: int = 0
) -> float:
    """Seconds of the steps that are left after `done`, with compiling; 0 where none is."""
    left = settings.steps - done
    if left <= 0:
        return 0.0
    step = settings.batch_size * example_seconds(objective, arch, machine)
    return COMPILING + left * max(step, STEP)


def report_seconds(arch: Architecture, machine: Machine, scored: int) -> float:
    """Seconds of a report that scores so many pictures."""
    flops = forecast.decoding_flops(arch) * (REPORT + SCORED * scored)
    return COMPILING * 6 + flops / speed(machine)


def in_words(seconds: float) -> str:
    """About so long: "40 s", "12 min", "3.4 h", "2.5 days"."""
    for size, unit in ((86400, "days"), (3600, "h")):
        if seconds >= 2 * size or unit == "h" and seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def line(seconds: Mapping[str, float]) -> str:
    """A line of what each stage and all together are expected to take."""
    each = ", ".join(f"{stage} {in_words(taken)}" for stage, taken in seconds.items() if taken)
    return f"expected: {each}; about {in_words(sum(seconds.values()))} in all"
