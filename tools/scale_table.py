"""Costs of configs on TPUs that are not here, and from them what every size of a run would do.

    python tools/scale_table.py compile configs/bedroom128.py v5e:2x2 --json=costs.json
    python tools/scale_table.py table costs.json

`compile` (needs libtpu) compiles PDAE's training step and decoding loop in bfloat16 for a topology,
16 images a device, and adds what they cost on each device to a JSON file. `table` prints those
costs, and from them images/s for global batches and numbers of v5e, v5p and v6e chips, by the
program of the chip whose images a device come nearest:

    seconds = max(FLOP / peak, bytes / bandwidth) + all-reduce
    FLOP = those an image x images a chip
    bytes = 2 x arguments (parameters, average and moments are read and written once a step)
            + the rest an image x images a chip
    all-reduce = 2 (n - 1) / n x bytes of gradients / bandwidth of a chip's links

the fastest that the published peaks allow; nothing here has been run on a TPU. A star marks what a
chip's memory does not hold at once (temporaries grow with the images): it needs `accumulate`.
"""

import argparse
import json
import math
from pathlib import Path

from pdae_jax.config import load_config
from pdae_jax.cost import forecast
from pdae_jax.networks.architecture import Architecture
from pdae_jax.training.settings import Settings

KINDS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
BATCHES = (128, 256, 512, 1024, 2048, 4096)
CHIPS = (8, 16, 32, 64, 128, 256)


def compile_costs(config: str, topology: str, local: int) -> dict:
    """What training and decoding cost on each device with `local` images."""
    arch = Architecture(**load_config(config).model)
    devices = forecast.devices_of(topology)
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


def seconds(row: dict, chip: forecast.Chip, local: float, chips: int) -> float:
    """Of one training step at best; see this file's head."""
    cost = row["train"]
    still = 2 * cost["arguments"]
    moved = still + (cost["moved"] - still) * local / row["local"]
    computing = cost["flops"] * local / row["local"] / chip.flops
    gradients = sum(size for _, size in cost["collectives"].values())
    return max(computing, moved / chip.bandwidth) + 2 * (chips - 1) / chips * gradients / chip.links


def fits(row: dict, chip: forecast.Chip, local: float) -> bool:
    cost = row["train"]
    return cost["arguments"] + cost["temporary"] * local / row["local"] < chip.memory


def costs_table(rows: list[dict]) -> str:
    lines = [
        "| config | chip | images a chip | | GFLOP an image | GB moved an image (with what stays "
        "on the chip) | memory | computing | moving | at best, images/s a chip (decoding: in "
        "100 steps) | by the compiler's model | compiled in |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        chip, local = forecast.CHIPS[row["kind"]], row["local"]
        for name in ("train", "decode"):
            cost = forecast.Cost(**row[name])
            images = local if name == "train" else local / forecast.DECODING_STEPS
            lines.append(
                f"| {row['config']} | {row['topology'].partition(':')[0]} | {local} | "
                f"{'training step' if name == 'train' else 'decoding, a step'} | "
                f"{cost.flops / local / 1e9:.1f} | {cost.moved / local / 1e9:.3f} "
                f"({cost.accessed / local / 1e9:.2f}) | {cost.memory / 1e9:.2f} GB | "
                f"{cost.flops / chip.flops * 1e3:.1f} ms | {cost.moved / chip.bandwidth * 1e3:.1f} ms | "
                f"{images / cost.fastest(chip):,.4g} | {images / (cost.cycles / chip.clock):,.4g} | "
                f"{cost.compile_seconds:.0f} s |"
            )
    return "\n".join(lines)


def size_table(rows: list[dict], name: str) -> str:
    """images/s at best of every global batch on every number of chips, and what 70M images cost."""
    chip = forecast.CHIPS[KINDS[name]]
    lines = [
        f"{rows[0]['config']} on {name}: images/s at best (chip-hours of 70M images)",
        "",
        "| chips | " + " | ".join(f"batch {batch:,}" for batch in BATCHES) + " |",
        "|" + "---|" * (len(BATCHES) + 1),
    ]
    for chips in CHIPS:
        cells = []
        for batch in BATCHES:
            local = batch / chips
            row = min(rows, key=lambda row: abs(math.log(row["local"] / local)))
            rate = batch / seconds(row, chip, local, chips)
            star = "" if fits(row, chip, local) else " *"
            cells.append(
                f"{rate:,.0f} ({chips * 70e6 / rate / 3600:,.0f}){star}" if batch >= chips else ""
            )
        lines.append(f"| {chips} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    compiling = commands.add_parser("compile")
    compiling.add_argument("config")
    compiling.add_argument("topology")
    compiling.add_argument("--local", type=int, default=16, help="images a device (16)")
    compiling.add_argument("--json", type=Path, required=True)
    commands.add_parser("table").add_argument("json", type=Path)
    given = parser.parse_args()
    rows = json.loads(given.json.read_text()) if given.json.exists() else []
    if given.command == "compile":
        row = compile_costs(given.config, given.topology, given.local)
        given.json.write_text(json.dumps([*rows, row], indent=1) + "\n")
        print(json.dumps(row, indent=1))
        return
    tables = [costs_table(rows)]
    for config in dict.fromkeys(row["config"] for row in rows):
        for name, kind in KINDS.items():
            of = [row for row in rows if (row["config"], row["kind"]) == (config, kind)]
            tables += [size_table(of, name)] if of else []
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
