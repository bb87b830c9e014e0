"""Cost over batch, resolution and steps: a page of curves, and the numbers as JSON.

    python -m benchmarks.growth --out growth        # growth/index.html, growth/numbers.json

Of this package alone: the training step, encoding and decoding over the batch, training and
decoding over the picture's size (one architecture, celeba64's), decoding over DDIM steps.
Needs jax, flax and optax, NumPy and Pillow.
"""

import argparse
import datetime
import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import MODELS
from benchmarks.worker import Worker, command
from pdae_jax.pages.page import Curves, Part, Section, Table, write

Numbers = dict[str, list[list[float]]]  # task -> (x, images/s) pairs

TASKS = {"train": "training", "encode": "encoding", "decode": "decoding"}


def images_per_second(
    task: str,
    arch: dict[str, Any],
    batch: int,
    steps: int,
    precision: str,
    rounds: int,
    seconds: float,
) -> float:
    """The median over rounds of about `seconds` each."""
    with Worker(
        "jax", task=task, arch=arch, batch=batch, precision=precision, steps=steps
    ) as worker:
        worker.seconds(1)
        n = max(1, round(seconds / worker.seconds(1)))
        return n * batch / statistics.median(worker.seconds(n) for _ in range(rounds))


def over(
    title: str,
    x_label: str,
    points: list[tuple[float, dict[str, Any]]],
    tasks: Iterable[str],
    measure: Callable[..., float],
) -> tuple[Section, Numbers]:
    """Measures a curve for each task over x; points are (x, keyword arguments of `measure`)."""
    numbers = {task: [[x, measure(task, **given)] for x, given in points] for task in tasks}
    table = [
        [f"{x:g}", *(numbers[task][i][1] for task in tasks)] for i, (x, _) in enumerate(points)
    ]
    header = [x_label, *(f"images/s, {TASKS[task]}" for task in tasks)]
    parts: list[Part] = []
    for task, pairs in numbers.items():
        x, rate = np.array(pairs).T
        y_label = f"images/s, {TASKS[task]}"
        parts.append(Curves({TASKS[task]: (x, rate)}, x_label=x_label, y_label=y_label))
    return Section(title, [*parts, Table(header, table)]), numbers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the page")
    parser.add_argument(
        "--size",
        type=int,
        choices=MODELS,
        default=64,
        help="px of the model measured over batch and steps (default 64)",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 96, 128])
    parser.add_argument("--steps", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=3, help="approximate length of a round (default 3)"
    )
    given = parser.parse_args(argv)
    model, first, steps = MODELS[given.size], min(given.batches), min(given.steps)

    measured: dict[Any, float] = {}

    def measure(
        task: str, arch: dict[str, Any] = model, batch: int = first, steps: int = steps
    ) -> float:
        what = task, arch["image_shape"], batch, steps
        if what in measured:
            return measured[what]
        rate = images_per_second(
            task, arch, batch, steps, given.precision, given.rounds, given.seconds
        )
        print(
            f"{task}, {arch['image_shape'][0]} px, batch {batch}"
            + (f", {steps} steps" if task == "decode" else "")
            + f": {rate:.4g} images/s",
            flush=True,
        )
        measured[what] = rate
        return rate

    batches = [(batch, {"batch": batch}) for batch in given.batches]
    sizes = [(size, {"arch": model | {"image_shape": (size, size, 3)}}) for size in given.sizes]
    path_lengths = [(n, {"steps": n}) for n in given.steps]
    curves = {
        "batch": over("Over the batch", "images at a time", batches, TASKS, measure),
        "size": over(
            "Over the picture's size", "pixels high and wide", sizes, ("train", "decode"), measure
        ),
        "steps": over("Over DDIM steps", "steps", path_lengths, ("decode",), measure),
    }
    sections = [section for section, _ in curves.values()]
    numbers = {name: found for name, (_, found) in curves.items()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    write(
        given.out / "index.html",
        f"How cost grows, {given.size} px",
        {
            "date": str(datetime.date.today()),
            "cores": os.cpu_count() or 1,
            "precision": given.precision,
        },
        sections,
        lead=f"Images a second of the {given.size} px model; decoding in {steps} DDIM steps where "
        f"steps are not what varies, {first} images at a time where the batch is not.",
    )


if __name__ == "__main__":
    command(main)
