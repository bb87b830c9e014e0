"""The curve of quality and time: PDAE by its two ways up, by the distilled one, and in few steps.

    python -m benchmarks.distill --workdir=runs/digits

Held-out pictures decoded from z alone by DDIM, from x_T = 0 and from x_T that is drawn: MSE and
SSIM, in [0, 1], against the pictures; MSE against PDAE's own 100 steps from the same x_T. Beside
that the time of one step, of the model's networks and of celeba64's at random weights. Needs what
pdae_jax needs.
"""

import argparse
import datetime
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.worker import command
from pdae_jax import distillation, pdae, samplers
from pdae_jax.arrays import Codes, Images, Params
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.metrics.image import ssim
from pdae_jax.model import Model, load
from pdae_jax.networks.architecture import ADM_64, Architecture
from pdae_jax.networks.groups import STUDENTS, Networks
from pdae_jax.protocol import FEW, Sampling
from pdae_jax.schedule import SCHEDULES
from pdae_jax.workdir.workdir import Workdir

NAMES = {"pdae": "PDAE", "shifted": "distilled", "fewstep": "few steps"}
TIMED_STEPS, TIMED_LARGE = 10, 3  # of a loop that is timed


def step_seconds(
    net: Networks, params: Params, batch: int, rounds: int, steps: int = TIMED_STEPS
) -> dict[str, list[float]]:
    """Seconds of a step of decoding, by two ways up and by one, in every round: {network: [..]}.

    The networks take turns, so that what else the machine does meets both.
    """
    schedule = SCHEDULES[net.arch.schedule](net.arch.T)
    times = samplers.ddim_times(net.arch.T, steps)[::-1]
    ways = {"pdae": pdae.noise_fn, "shifted": distillation.noise_fn}

    def decode(way: Callable[..., samplers.NoiseFn], params: Params, x: Images, z: Codes) -> Images:
        return samplers.ddim(way(net, params, schedule, z, times), x, times, schedule)

    x = jax.random.normal(jax.random.key(0), (batch, *net.arch.image_shape))
    z = jax.random.normal(jax.random.key(1), (batch, net.arch.z_size))
    programs = {name: jax.jit(functools.partial(decode, way)) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for k in range(rounds + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(params, x, z))
            if k:  # the first compiles
                seconds[name].append((time.perf_counter() - began) / (len(times) - 1))
    return seconds


def of_steps(title: str, seconds: dict[str, list[float]]) -> str:
    """A line on the time of a step."""
    two, one = (1000 * statistics.median(seconds[name]) for name in ("pdae", "shifted"))
    ratio = statistics.median(a / b for a, b in zip(seconds["pdae"], seconds["shifted"]))
    return f"{title}: {two:.2f} ms a step by two ways up, {one:.2f} by one, {ratio:.2f} times less"


def decoded(
    model: Model, z: np.ndarray, network: str, steps: int, temperature: float
) -> np.ndarray:
    """Pictures in [0, 1] of codes, by DDIM."""
    how = Sampling("ddim", "uniform", steps, "static", network)
    x = model.sampling_by(draw=how).decode(z, temperature=temperature)
    return (x + 1) / 2


def mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a - b) ** 2))


def curve(model: Model, images: np.ndarray, steps: Sequence[int]) -> Iterator[str]:
    """Rows of the table: for each network and x_T the numbers over steps."""
    z, wanted = model.encode(images), images.astype(np.float32) / 255
    for temperature, start in ((0.0, "0"), (1.0, "drawn")):
        full = decoded(model, z, "pdae", min(100, model.arch.T), temperature)
        for network in NAMES:
            if network != "pdae" and network not in model.params:
                continue
            for n in FEW if network == "fewstep" else steps:
                x = decoded(model, z, network, n, temperature)
                similar = float(np.mean(ssim(x, wanted)))
                yield (
                    f"| {start} | {NAMES[network]} | {n} | {mse(x, wanted):.5f} | {similar:.4f} | "
                    f"{mse(x, full):.5f} |"
                )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="a run's, with :distill done")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 10, 20, 100])
    parser.add_argument("--n", type=int, default=256, help="pictures at most (default 256)")
    parser.add_argument("--batch", type=int, default=64, help="pictures at a time (default 64)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--large-batch", type=int, default=2, help="of celeba64's networks; 0 leaves them out"
    )
    given = parser.parse_args(argv)
    workdir = Workdir(given.workdir)
    model = load(workdir, batch_size=given.batch)
    for group in ("gradient", "shifted"):
        model.need(group)
    data = workdir.trained_on[-1]
    images = first_pictures(
        data.open("test", model.value_range), model.arch.image_shape, given.n, data.max_broken
    )
    print(
        f"{datetime.date.today()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax "
        f"{jax.__version__}; {len(images)} held-out pictures of {data.name}\n"
    )
    seconds = step_seconds(model.net, model.params, given.batch, given.rounds)
    print(of_steps(f"{workdir.name}, batch {given.batch}", seconds), flush=True)
    if given.large_batch:
        net = Networks(Architecture(**ADM_64))
        params = jax.jit(lambda: net.init(jax.random.key(0), ("dpm", "gradient", *STUDENTS)))()
        seconds = step_seconds(
            net, net.frozen(params), given.large_batch, given.rounds, TIMED_LARGE
        )
        print(of_steps(f"celeba64's networks, batch {given.large_batch}", seconds), flush=True)
    print("\n| x_T | network | steps | MSE | SSIM | MSE to PDAE's 100 steps |")
    print("|---|---|---:|---:|---:|---:|")
    for row in curve(model, images, given.steps):
        print(row, flush=True)


if __name__ == "__main__":
    command(main)
