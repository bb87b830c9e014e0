"""Costs of configs on chips that need not be here, and from them the speed of runs of any size.

    python tools/scale_table.py compile configs/bedroom128.py v5e:2x2 --json=costs.json
    python tools/scale_table.py compile configs/bedroom128.py h100 --local=32 --json=costs.json
    python tools/scale_table.py table costs.json

`compile` (of TPUs needs libtpu, of GPUs JAX's plugin for CUDA) compiles PDAE's training step and
decoding loop in bfloat16 for a topology, 16 images a device or --local, and adds what they cost on
each device to a JSON file. `table` prints those costs, and from those of TPUs images/s for global
batches and numbers of v5e, v5p and v6e chips, by the program of the chip whose images a device come
nearest:

    seconds = max(FLOP / peak, bytes / bandwidth) + all-reduce
    FLOP = those an image x images a chip
    bytes = 2 x arguments (parameters, average and moments are read and written once a step)
            + the rest an image x images a chip
    all-reduce = 2 (n - 1) / n x bytes of gradients / bandwidth of a chip's links

the fastest that the published peaks allow; nothing is run on a TPU. A star marks batches that a
chip's memory does not hold at once (temporaries grow with the images): they need `accumulate`.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pdae_jax.config import load_config
from pdae_jax.cost import chips, forecast
from pdae_jax.networks.architecture import Architecture
from pdae_jax.training.settings import Settings

BATCHES = (128, 256, 512, 1024, 2048, 4096)
SIZES = (8, 16, 32, 64, 128, 256)


def compile_costs(config: str, topology: str, local: int) -> dict[str, Any]:
    """The costs of training and decoding on each device with `local` images."""
    values: Any = load_config(config)
    arch = Architecture(**values.model)
    devices = chips.devices_of(topology)
    settings = Settings(batch_size=local * len(devices))
    train = forecast.train_step("pdae", arch, settings, devices, precision="bfloat16")
    decode = forecast.decode_loop(arch, settings.batch_size, devices, precision="bfloat16")
    return {
        "config": Path(config).stem,
        "topology": topology,
        "kind": devices[0].device_kind,
        "local": local,
        "train": train._asdict(),
        "decode": decode._asdict(),
    }


def seconds(row: dict[str, Any], chip: chips.Chip, local: float, n: int) -> float:
    """Seconds of one training step at best on n chips; see this file's head."""
    cost = row["train"]
    assert chip.links is not None  # all of chips.TPUS have links
    still = 2 * cost["arguments"]
    moved = still + (cost["moved"] - still) * local / row["local"]
    computing = cost["flops"] * local / row["local"] / chip.flops
    gradients = sum(size for _, size in cost["collectives"].values())
    return max(computing, moved / chip.bandwidth) + 2 * (n - 1) / n * gradients / chip.links


def fits(row: dict[str, Any], chip: chips.Chip, local: float) -> bool:
    """Whether a chip's memory holds `local` images at once."""
    cost = row["train"]
    return cost["arguments"] + cost["temporary"] * local / row["local"] < chip.memory


def programs(
    rows: list[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], chips.Chip, str, forecast.Cost, int, float]]:
    """Each program that was compiled: its row, chip, name, cost, images at a time and in a run."""
    for row in rows:
        chip, local = chips.CHIPS[row["kind"]], row["local"]
        yield row, chip, "training step", forecast.Cost(**row["train"]), local, local
        decode, images = forecast.Cost(**row["decode"]), local / forecast.DECODING_STEPS
        yield row, chip, "decoding, a step", decode, local, images


def costs_table(rows: list[dict[str, Any]]) -> str:
    """The costs of every compiled program, as a Markdown table."""
    lines = [
        "| config | chip | images a chip | | GFLOP an image | GB moved an image (with what stays "
        "on the chip) | memory | computing | moving | at best, images/s a chip (decoding: in "
        "100 steps) | by the compiler's model | compiled in |",
        "|" + "---|" * 12,
    ]
    for row, chip, program, cost, local, images in programs(rows):
        assert cost.cycles is not None and chip.clock is not None  # known of chips.TPUS
        by_model = images / (cost.cycles / chip.clock)
        lines.append(
            f"| {row['config']} | {row['topology'].partition(':')[0]} | {local} | "
            f"{program} | "
            f"{cost.flops / local / 1e9:.1f} | {cost.moved / local / 1e9:.3f} "
            f"({cost.accessed / local / 1e9:.2f}) | {cost.memory / 1e9:.2f} GB | "
            f"{cost.flops / chip.flops * 1e3:.1f} ms | "
            f"{cost.moved / chip.bandwidth * 1e3:.1f} ms | "
            f"{images / cost.fastest(chip):,.4g} | {by_model:,.4g} | "
            f"{cost.compile_seconds:.0f} s |"
        )
    return "\n".join(lines)


def gpu_table(rows: list[dict[str, Any]]) -> str:
    """The costs of every program that was compiled for GPUs, as a Markdown table."""
    lines = [
        "| config | GPU | images a GPU | | kernels | GFLOP an image | GB moved | memory | "
        "computing | moving | at best | each kernel at its roofline | compiled in |",
        "|" + "---|" * 13,
    ]
    for row, chip, program, cost, local, images in programs(rows):
        assert cost.kernels is not None and cost.rooflines is not None  # known of chips.GPUS
        lines.append(
            f"| {row['config']} | {row['topology']} | {local} | "
            f"{program} | "
            f"{cost.kernels:,} | {cost.flops / local / 1e9:.1f} | {cost.moved / 1e9:.2f} | "
            f"{cost.memory / 1e9:.2f} GB | {cost.flops / chip.flops * 1e3:.2f} ms | "
            f"{cost.moved / chip.bandwidth * 1e3:.2f} ms | "
            f"{images / cost.fastest(chip):,.4g} images/s | "
            f"{cost.rooflines * 1e3:.2f} ms, {images / cost.rooflines:,.4g} images/s | "
            f"{cost.compile_seconds:.0f} s |"
        )
    return "\n".join(lines)


def size_table(rows: list[dict[str, Any]], name: str) -> str:
    """images/s at best of every global batch on every number of chips, and what 70M images cost."""
    chip = chips.CHIPS[chips.TPUS[name]]
    lines = [
        f"{rows[0]['config']} on {name}: images/s at best (chip-hours of 70M images)",
        "",
        "| chips | " + " | ".join(f"batch {batch:,}" for batch in BATCHES) + " |",
        "|" + "---|" * (len(BATCHES) + 1),
    ]
    for n in SIZES:
        cells = []
        for batch in BATCHES:
            local = batch / n
            row = min(rows, key=lambda row: abs(math.log(row["local"] / local)))
            rate = batch / seconds(row, chip, local, n)
            star = "" if fits(row, chip, local) else " *"
            cells.append(f"{rate:,.0f} ({n * 70e6 / rate / 3600:,.0f}){star}" if batch >= n else "")
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    compiling = commands.add_parser("compile")
    compiling.add_argument("config")
    compiling.add_argument("topology")
    compiling.add_argument("--local", type=int, default=16, help="images a device (default 16)")
    compiling.add_argument("--json", type=Path, required=True)
    commands.add_parser("table").add_argument("json", type=Path)
    given = parser.parse_args()
    rows = json.loads(given.json.read_text()) if given.json.exists() else []
    if given.command == "compile":
        row = compile_costs(given.config, given.topology, given.local)
        given.json.write_text(json.dumps([*rows, row], indent=1) + "\n")
        print(json.dumps(row, indent=1))
        return
    gpus = [row for row in rows if row["train"].get("kernels")]
    rows = [row for row in rows if row not in gpus]
    tables = [table(of) for table, of in ((costs_table, rows), (gpu_table, gpus)) if of]
    for config in dict.fromkeys(row["config"] for row in rows):
        for name, kind in chips.TPUS.items():
            of = [row for row in rows if (row["config"], row["kind"]) == (config, kind)]
            tables += [size_table(of, name)] if of else []
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
