"""Training step and decoding loop beside a strong PyTorch peer, in one run on one machine.

    python -m benchmarks.speed                     # 64 px, float32 and bfloat16, what is here
    python -m benchmarks.speed --sizes 64 128 --batch 32 --json speed.json

Each contender is a process of its own that has compiled and warmed up before the clock starts;
then all take turns, round after round, and a ratio is the median of the rounds' ratios, so that a
machine whose speed drifts does not favour anybody. Needs jax, flax and optax, and torch for the
peer (--contenders jax leaves it out); runs from a bare checkout on a CPU or a GPU.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.worker import Worker, command
from pdae_jax.networks.architecture import ADM_64, ADM_128

# The smallest of everything, to see that it runs.
TINY = dict(
    image_shape=(16, 16, 3), base=32, mult=(1, 2), blocks=1, attention=(8,), heads=2, z_size=16
)
MODELS = {16: TINY, 64: ADM_64, 128: ADM_128}
CONTENDERS = {"jax": ("float32", "bfloat16"), "torch": ("float32", "bfloat16", "plain")}
NAMES = {"jax": "pdae_jax", "torch": "PyTorch"}


def measure(
    task: str,
    size: int,
    batch: int,
    steps: int,
    chosen: list[tuple[str, str]],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row a contender: images/s of every round, compile seconds, peak memory, versions.

    chosen: (contender, precision). A round runs each for about `seconds`. ValueError where they are
    not on the same device.
    """
    with contextlib.ExitStack() as stack:
        workers = []
        for contender, precision in chosen:
            worker = stack.enter_context(
                Worker(
                    contender,
                    task=task,
                    arch=MODELS[size],
                    batch=batch,
                    precision=precision,
                    steps=steps,
                )
            )
            worker.seconds(1)
            n = max(1, math.ceil(seconds / worker.seconds(1)))
            print(
                f"{task} {size} px: {NAMES[contender]} {precision} ({worker.settings}) is ready "
                f"after {worker.compile_seconds:.0f} s, {n} steps a round",
                flush=True,
            )
            workers.append((worker, n))
        devices = {worker.facts()["device"] for worker, _ in workers}
        if len(devices) > 1:
            raise ValueError(
                f"not on the same device ({' and '.join(sorted(devices))}): install jax "
                f"and torch both for it, or hide it from both"
            )
        rates = [[n * batch / turn(worker, n) for worker, n in workers] for _ in range(rounds)]
        return [
            dict(
                task=task,
                size=size,
                batch=batch,
                steps=steps,
                contender=contender,
                precision=precision,
                settings=worker.settings,
                images_per_second=list(rate),
                compile_seconds=worker.compile_seconds,
                **worker.facts(),
            )
            for (contender, precision), (worker, _), rate in zip(chosen, workers, zip(*rates))
        ]


def turn(worker: Worker, n: int) -> float:
    """Seconds of n steps, after an untimed one: idle processes lose memory pages and caches."""
    worker.seconds(1)
    return worker.seconds(n)


def work_of(task: str, size: int, steps: int) -> float:
    """FLOP that one image takes, before any compiler sees the program."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # this process must not take the GPU's memory
    from pdae_jax.cost import forecast
    from pdae_jax.networks.architecture import Architecture

    arch = Architecture(**MODELS[size])
    if task == "train":
        return forecast.training_flops(arch, "pdae")
    return forecast.decoding_flops(arch) * steps


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s of a device: by the data sheet, or of a CPU what one float32 matmul reaches here.

    The same for all rows. None of a device that `chips.CHIPS` does not list.
    """
    from pdae_jax.cost import chips

    chip = chips.chip_of(device)
    return chip and chip.flops / (1 if device == "cpu" or precision == "bfloat16" else 2)


def summarise(rows: list[dict[str, Any]], flop: float) -> None:
    """Adds to each row its median, its use of the device's peak, and ratios to the peer's rows.

    ratio: to the peer of the same precision; to_plain: to the peer as the authors released it.
    """
    peers = {
        row["precision"]: row["images_per_second"] for row in rows if row["contender"] == "torch"
    }
    for row in rows:
        rates = row["images_per_second"]
        row["median"] = statistics.median(rates)
        row["utilisation"] = row["peak_flops"] and row["median"] * flop / row["peak_flops"]
        for name, precision in (("ratio", row["precision"]), ("to_plain", "plain")):
            row[name] = precision in peers and statistics.median(
                a / b for a, b in zip(rates, peers[precision])
            )


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| task | px | batch | | images/s (of rounds) | to PyTorch of this precision | to plain "
        "PyTorch | of peak FLOP/s | memory | ready in |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        rates, what = row["images_per_second"], row["task"]
        what += f", {row['steps']} steps" if what == "decode" else ""
        lines.append(
            f"| {what} | {row['size']} | {row['batch']} | {NAMES[row['contender']]} "
            f"{row['precision']} ({row['settings']}) | "
            f"{row['median']:.4g} ({min(rates):.4g} to {max(rates):.4g}) | "
            + " | ".join(f"{row[name]:.2f}" if row[name] else "" for name in ("ratio", "to_plain"))
            + (f" | {row['utilisation']:.0%}" if row["utilisation"] else " | ")
            + f" | {row['peak_bytes'] / 1e9:.2f} GB | "
            f"{row['compile_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=("train", "decode"), default=["train", "decode"]
    )
    parser.add_argument("--sizes", nargs="+", type=int, choices=MODELS, default=[64])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=("float32", "bfloat16", "plain"),
        default=["float32", "bfloat16", "plain"],
    )
    parser.add_argument("--batch", type=int, default=4, help="images at a time (default 4)")
    parser.add_argument("--steps", type=int, default=4, help="DDIM steps in decoding (default 4)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default 7)")
    parser.add_argument(
        "--seconds", type=float, default=5, help="approximate length of a turn (default 5)"
    )
    parser.add_argument("--json", type=Path, help="file for every number")
    given = parser.parse_args(argv)
    chosen = [
        (contender, precision)
        for precision in given.precisions
        for contender in given.contenders
        if precision in CONTENDERS[contender]
    ]
    if not chosen:
        parser.error("no contender has such a precision")
    if "torch" in given.contenders and importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed; leave it out with --contenders jax")
    rows = []
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    for size in given.sizes:
        for task in given.tasks:
            some = measure(
                task, size, given.batch, given.steps, chosen, given.rounds, given.seconds
            )
            for row in some:
                row["peak_flops"] = peak_flops(row["device"], row["precision"])
            summarise(some, work_of(task, size, given.steps))
            rows += some
            if given.json:  # after each, lest a later one runs out of memory
                given.json.write_text(
                    json.dumps(
                        {"date": str(datetime.date.today()), "machine": machine, "rows": rows},
                        indent=1,
                    )
                    + "\n"
                )
    print(
        f"\n{datetime.date.today()}, {machine}; "
        + "; ".join(sorted({f"{row['versions']} on {row['device']}" for row in rows}))
        + "; "
        + ", ".join(
            f"{precision} peak {peak / 1e9:,.0f} GFLOP/s"
            for precision, peak in sorted(
                {(row["precision"], row["peak_flops"]) for row in rows if row["peak_flops"]}
            )
        )
        + "\n"
    )
    print(table(rows))


if __name__ == "__main__":
    command(main)
