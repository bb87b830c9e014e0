"""What sampling costs and gives on a trained model's held-out pictures, as Markdown.

    python -m benchmarks.solvers --workdir runs/digits

Prints the two protocols beside each other (error and time), every inversion by its error over
evaluations, z alone over the temperature of x_T, and what a linear estimate of x_T from z adds.
With --out DIR also a page with the curve of error over evaluations.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV

from benchmarks.worker import command
from pdae_jax.commands.sampling import pareto, table_of, warmth
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.model import Model, load
from pdae_jax.pages.page import Section, Table, write
from pdae_jax.protocol import INVERSIONS, PROTOCOLS, Sampling
from pdae_jax.tasks import round_trip
from pdae_jax.workdir.workdir import Workdir

STEPS = (5, 10, 20, 40, 100)
ALONE = (
    ("ddim", "uniform", 100),
    *(("dpm++2m", "log-snr", n) for n in (4, 6, 10, 20)),
    ("dpm++2m", "uniform", 10),
    ("dpm++2m", "karras", 10),
    ("dpm++2m", "quadratic", 10),
    ("unipc2", "log-snr", 10),
    ("deis2", "log-snr", 10),
)
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0)


def mse(images: np.ndarray, out: np.ndarray) -> float:
    """Mean squared difference of uint8 pictures and pictures in [-1, 1], pixels in [0, 1]."""
    return float(((images / 127.5 - 1 - out) ** 2).mean() / 4)


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """The median of several runs, after one that compiles."""
    work()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def protocols(model: Model, images: np.ndarray, rounds: int) -> Table:
    """Both protocols: the pictures through z and x_T and back, and from z alone."""
    z, rows = model.encode(images), []
    for name in ("fast", "paper"):
        protocol = PROTOCOLS[name]
        by = model.sampling_by(protocol.at_most(model.arch.T))
        x_T = by.invert(images, z)
        trip = by.decode(z, x_T)
        took = seconds(lambda by=by: by.decode(z, by.invert(images, z)), rounds)
        alone = by.decode(z)
        took_alone = seconds(lambda by=by: by.decode(z), rounds)
        n = round_trip.evaluations(by, by.protocol.invert, up=True)
        n += round_trip.evaluations(by, by.protocol.decode, up=False)
        few = round_trip.evaluations(by, by.protocol.draw, up=False)
        rows.append([name, n, mse(images, trip), took, few, mse(images, alone), took_alone])
    first, last = rows
    times = [a / b if isinstance(a, int | float) and b else None for a, b in zip(last, first)]
    rows.append(["paper / fast", *times[1:]])
    header = ["protocol", "evaluations", "MSE", "s", "z alone: evaluations", "MSE", "s"]
    return Table(header, rows, caption=f"{len(images)} held-out pictures, pixels in [0, 1].")


def alone(model: Model, images: np.ndarray) -> Table:
    """From z alone at temperature 0, by solver and number of evaluations."""
    z, rows = model.encode(images), []
    for solver, spacing, steps in ALONE:
        errors = []
        for threshold in ("none", "static", "dynamic"):
            how = Sampling(solver, spacing, steps, threshold)
            by = model.sampling_by(draw=how)
            errors += [mse(images, by.decode(z, temperature=t, rng=0)) for t in (0.0, 1.0)]
        rows.append([f"{solver}, {spacing}, {steps}", *errors])
    header = ["z alone: solver, spacing, steps"]
    header += [f"{name}, x_T {t}" for name in ("none", "static", "dynamic") for t in ("0", "drawn")]
    return Table(header, rows, caption="MSE by threshold and by x_T.")


def expected_x_T(model: Model, images: np.ndarray, train: np.ndarray) -> Table:
    """x_T as a linear function of z, fitted on the training pictures, against x_T = 0."""
    z_train, z = model.encode(train), model.encode(images)
    x_train = np.asarray(model.invert(train, z_train))
    x_T = np.asarray(model.invert(images, z))
    began = time.perf_counter()
    fitted = RidgeCV(np.logspace(-2, 4, 13)).fit(z_train, x_train.reshape(len(train), -1))
    took = time.perf_counter() - began
    guess = fitted.predict(z).reshape(x_T.shape).astype(np.float32)
    explained = 1 - ((x_T - guess) ** 2).mean() / (x_T**2).mean()
    by = model.sampling_by(decode=model.protocol.draw)
    mean = np.broadcast_to(x_train.mean(0), x_T.shape)
    rows = [
        ["0", mse(images, by.decode(z, np.zeros_like(x_T))), None],
        ["its mean over training pictures", mse(images, by.decode(z, mean)), None],
        [f"linear in z, fitted in {took:.2g} s", mse(images, by.decode(z, guess)), explained],
        ["inferred", mse(images, by.decode(z, x_T)), None],
    ]
    caption = f"Fitted on {len(train)} training pictures, on held-out ones; {model.protocol.draw}."
    return Table(["x_T", "MSE from z and it", "share of x_T explained"], rows, caption=caption)


def markdown(table: Table) -> str:
    def cell(value: str | float | None) -> str:
        return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"

    rows = [list(table.header), ["---"] * len(table.header)]
    rows += [[cell(value) for value in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{table.caption}\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default="runs/digits", help="a run (default runs/digits)")
    parser.add_argument("--n", type=int, default=180, help="held-out pictures (default 180)")
    parser.add_argument("--train", type=int, default=1500, help="pictures that x_T is fitted on")
    parser.add_argument("--inversions", nargs="+", choices=INVERSIONS, default=INVERSIONS)
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS, help="of each inversion")
    parser.add_argument("--rounds", type=int, default=3, help="of each timing (default 3)")
    parser.add_argument("--out", type=Path, help="folder for a page")
    given = parser.parse_args(argv)

    workdir = Workdir(given.workdir)
    model = load(workdir, batch_size=64)
    data = workdir.trained_on[-1]
    images, train = (
        first_pictures(
            data.open(split, model.value_range), model.arch.image_shape, n, data.max_broken
        )
        for split, n in (("test", given.n), ("train", given.train))
    )

    def show(*tables: Table) -> None:
        for table in tables:
            print(markdown(table), flush=True)

    show(protocols(model, images, given.rounds))
    trips = [
        round_trip.round_trip(model, images, *way)
        for way in round_trip.inversions(model.arch.T, given.inversions, given.steps)
    ]
    show(table_of(trips))
    show(warmth([round_trip.at_temperature(model, images, t)[0] for t in TEMPERATURES]))
    show(alone(model, images), expected_x_T(model, images, train))
    if given.out:
        parts = [pareto(trips, images), table_of(trips)]
        lead = f"Held-out pictures of {data.name}, through z and their inferred x_T and back."
        write(given.out / "index.html", "Inversion", {}, [Section("Inversion", parts)], lead=lead)


if __name__ == "__main__":
    command(main)
