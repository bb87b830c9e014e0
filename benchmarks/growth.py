"""How cost grows with batch, resolution and steps: a page of curves, and the numbers as JSON.

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
from pathlib import Path

import numpy as np

from benchmarks.speed import MODELS
from benchmarks.worker import Worker, command
from pdae_jax.pages.page import Curves, Section, Table, write

TASKS = {"train": "training", "encode": "encoding", "decode": "decoding"}


def images_per_second(
    task: str, arch: dict, batch: int, steps: int, precision: str, rounds: int, seconds: float
) -> float:
    """The median of rounds of about `seconds` each."""
    with Worker(
        "ours", task=task, arch=arch, batch=batch, precision=precision, steps=steps
    ) as worker:
        worker.seconds(1)
        n = max(1, round(seconds / worker.seconds(1)))
        return n * batch / statistics.median(worker.seconds(n) for _ in range(rounds))


def over(title: str, x_label: str, points: list[tuple[float, dict]], tasks, measure) -> tuple:
    """A curve a task over x, as (Section, numbers): points are (x, what `measure` is given)."""
    numbers = {task: [[x, measure(task, **given)] for x, given in points] for task in tasks}
    series = {
        TASKS[task]: tuple(np.array(column) for column in zip(*pairs))
        for task, pairs in numbers.items()
    }
    table = [
        [f"{x:g}", *(numbers[task][i][1] for task in tasks)] for i, (x, _) in enumerate(points)
    ]
    parts = [
        Curves({name: curve}, x_label=x_label, y_label=f"images/s, {name}")
        for name, curve in series.items()
    ]
    return Section(
        title, [*parts, Table([x_label, *(f"images/s, {TASKS[t]}" for t in tasks)], table)]
    ), numbers


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument(
        "--size",
        type=int,
        choices=MODELS,
        default=64,
        help="px of the model measured over batch and steps (64)",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 96, 128])
    parser.add_argument("--steps", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="about, of each round (3)")
    given = parser.parse_args(argv)
    model, first, steps = MODELS[given.size], min(given.batches), min(given.steps)

    measured = {}

    def measure(task, arch=model, batch=first, steps=steps):
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

    sections, numbers = [], {}
    for name, *what in (
        (
            "batch",
            "Over the batch",
            "images at a time",
            [(b, {"batch": b}) for b in given.batches],
            TASKS,
        ),
        (
            "size",
            "Over the picture's size",
            "pixels high and wide",
            [(s, {"arch": model | {"image_shape": (s, s, 3)}}) for s in given.sizes],
            ("train", "decode"),
        ),
        (
            "steps",
            "Over DDIM steps",
            "steps",
            [(s, {"steps": s}) for s in given.steps],
            ("decode",),
        ),
    ):
        section, numbers[name] = over(*what, measure)
        sections.append(section)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    write(
        given.out / "index.html",
        f"How cost grows, {given.size} px",
        {"date": str(datetime.date.today()), "cores": os.cpu_count(), "precision": given.precision},
        sections,
        lead=f"Images a second of the {given.size} px model; decoding in {steps} DDIM steps where "
        f"steps are not what varies, {first} images at a time where the batch is not.",
    )


if __name__ == "__main__":
    command(main)
