"""The ablation of the loss's weight over t: what PDAE becomes under each, on handwritten digits.

    python -m benchmarks.weighting --workdir runs/weighting

One diffusion model, or --dpm's, then PDAE under each weighting and seed, and on held-out digits:
reconstruction from z alone and with inferred x_T, a linear probe of z, the unweighted loss by t.
Every result is a line of results.jsonl, and is not measured twice; the tables are Markdown, and
index.html has the curves.
"""

import argparse
import dataclasses
import datetime
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.worker import command
from pdae_jax import pdae, samplers
from pdae_jax.arrays import Images
from pdae_jax.config import load_config
from pdae_jax.data.dataset import Data
from pdae_jax.images import to_float
from pdae_jax.loss_weight import PAPER
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks, Params
from pdae_jax.pages.page import Curves, Section, Table, write
from pdae_jax.runtime import cpu, programs
from pdae_jax.schedule import SCHEDULES, Schedule
from pdae_jax.tasks.linear_probe import mean_scores, probe
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.workdir import Workdir

CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

# P2 at gamma = 1, its authors' first choice, is "gamma" at 0.
CHOICES = {
    "gamma = 0.1 (paper)": ("gamma", 0.1),
    "gamma = 0": ("gamma", 0.0),
    "gamma = 0.5": ("gamma", 0.5),
    "gamma = 1": ("gamma", 1.0),
    "constant": ("constant", PAPER),
    "min-snr": ("min-snr", PAPER),
    "p2 (gamma = 0.5)": ("p2", 0.5),
    "log-snr": ("log-snr", PAPER),
}
SCORES = {
    "drawn": "MSE, z alone, x_T drawn",
    "zero": "MSE, z alone, x_T = 0",
    "inferred": "MSE, inferred x_T",
    "ap": "probe AP",
    "loss": "loss, mean over t",
}
RANGES = 10  # of t

Row = dict[str, Any]


def ranges(schedule: Schedule) -> list[range]:
    """Equal ranges of t."""
    edges = np.linspace(0, schedule.T, RANGES + 1).astype(int)
    return [range(a, b) for a, b in zip(edges[:-1], edges[1:])]


def shares(schedule: Schedule, name: str) -> list[float]:
    """The share of a weighting's sum over t that each range gets."""
    weighting, gamma = CHOICES[name]
    weight = schedule.loss_weight(gamma, weighting)
    return [float(weight[list(some)].sum() / weight.sum()) for some in ranges(schedule)]


class Measure:
    """Measures models of one architecture on held-out digits, all under the same draws."""

    def __init__(self, arch: Architecture, data: Data, n: int, steps: int, repeats: int):
        """n: held-out digits; steps: of DDIM; repeats: noised copies of each in a range of t."""
        self.net = net = Networks(arch)
        self.schedule = schedule = SCHEDULES[arch.schedule](arch.T)
        self.train, self.test = (self.pictures(data, split) for split in ("train", "test"))
        self.test = {key: rows[:n] for key, rows in self.test.items()}
        self.repeats = repeats
        up = samplers.ddim_times(arch.T, steps)
        ones = np.ones(arch.T)

        def decode(params: Params, x_T: Images, z: jax.Array) -> Images:
            return pdae.decode(net, params, schedule, x_T, z, up[::-1])

        def invert(params: Params, x_0: Images, z: jax.Array) -> Images:
            return pdae.decode(net, params, schedule, x_0, z, up)

        def loss(params: Params, x_0: jax.Array, z: jax.Array, t: Any, eps: Any) -> jax.Array:
            return pdae.code_loss(net, params, schedule, x_0, t, eps, z, weight=ones)

        def bare(params: Params, x_0: jax.Array, t: Any, eps: Any) -> jax.Array:
            return pdae.dpm_loss(net, params, schedule, x_0, t, eps)

        self.encode, self.decode, self.invert = map(jax.jit, (net.encode, decode, invert))
        self.loss, self.bare = jax.jit(loss), jax.jit(bare)

    @staticmethod
    def pictures(data: Data, split: str) -> dict[str, np.ndarray]:
        source = data.open(split)
        images = np.stack([source.image(i) for i in range(len(source))])
        return {"x_0": to_float(images), "labels": np.asarray(source.labels, np.float32)}

    def by_time(self, loss: Callable[..., jax.Array]) -> list[float]:
        """The mean of loss(t, eps) over each range of t."""
        n, shape = len(self.test["x_0"]), self.test["x_0"].shape
        found = []
        for i, some in enumerate(ranges(self.schedule)):
            rng = np.random.default_rng(i)
            found.append(
                float(
                    np.mean(
                        [
                            loss(
                                rng.integers(some.start, some.stop, n, np.int32),
                                rng.standard_normal(shape, np.float32),
                            )
                            for _ in range(self.repeats)
                        ]
                    )
                )
            )
        return found

    def bare_losses(self, params: Params) -> list[float]:
        """The diffusion model's own loss in each range of t: z is of no help to it."""
        x_0 = jnp.asarray(self.test["x_0"])
        return self.by_time(lambda t, eps: self.bare(params, x_0, t, eps))

    def __call__(self, params: Params) -> Row:
        x_0 = jnp.asarray(self.test["x_0"])
        z, z_train = (self.encode(params, side["x_0"]) for side in (self.test, self.train))

        def mse(x_T: jax.Array) -> float:
            """Of pictures in [0, 1]."""
            return float(jnp.mean(((self.decode(params, x_T, z) - x_0) / 2) ** 2))

        drawn = jax.random.normal(jax.random.key(0), x_0.shape)
        found = probe(
            np.asarray(z_train),
            self.train["labels"],
            np.asarray(z),
            self.test["labels"],
            Data("digits").open("test").attributes,
            bootstrap=0,
        )
        losses = self.by_time(lambda t, eps: self.loss(params, x_0, z, t, eps))
        return {
            "drawn": mse(drawn),
            "zero": mse(jnp.zeros_like(x_0)),
            "inferred": mse(self.invert(params, x_0, z)),
            "ap": mean_scores(found)["ap"],
            "loss": float(np.mean(losses)),
            "losses": losses,
        }


def read(file: Path, how: Row) -> list[Row]:
    """The results so far; ValueError where they are of a run with other settings."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for row in rows:
        if row["how"] != how:
            differs = [f"{k} = {how[k]} (there {row['how'].get(k)})" for k in how]
            raise ValueError(
                f"{file} has results of other settings: "
                f"{', '.join(d for d, k in zip(differs, how) if row['how'].get(k) != how[k])}; "
                f"choose another --workdir"
            )
    return rows


def by_name(rows: list[Row]) -> dict[str, np.ndarray]:
    """The losses over t of each weighting, the mean over its seeds."""
    found = {n: [row["losses"] for row in rows if row["name"] == n] for n in CHOICES}
    return {n: np.mean(losses, axis=0) for n, losses in found.items() if losses}


def summarise(rows: list[Row], schedule: Schedule, bare: np.ndarray) -> list[Table]:
    """Scores, and by t: the loss, the weight's share, and what of the weighted loss z takes away.

    A line a weighting, over its seeds.
    """

    def over(name: str, value: Callable[[Row], float], spread: bool = True) -> str:
        found = [value(row) for row in rows if row["name"] == name]
        if not found:
            return "-"
        std = f" ± {np.std(found, ddof=1):.2g}" if spread and len(found) > 1 else ""
        return f"{np.mean(found):.3g}{std}"

    names = list(by_name(rows))
    times = [f"t {some.start}-{some.stop - 1}" for some in ranges(schedule)]
    numbers = range(RANGES)
    means = by_name(rows)
    least = np.min(list(means.values()), axis=0)
    taken = {}
    for n in names:
        share = np.array(shares(schedule, n))
        taken[n] = share * (bare - least) / (share @ bare)
    return [
        Table(
            ["weighting", *SCORES.values()],
            [[n, *(over(n, lambda row: row[key]) for key in SCORES)] for n in names],
            "Mean and standard deviation over seeds.",
        ),
        Table(
            ["loss", *times],
            [
                ["without z", *(f"{x:.3g}" for x in bare)],
                *([n, *(over(n, lambda r: r["losses"][i], False) for i in numbers)] for n in names),
            ],
            "Loss on held-out digits, each t weighted alike.",
        ),
        Table(
            ["share of the weight", *times],
            [[n, *(f"{x:.2g}" for x in shares(schedule, n))] for n in names],
            "Share of the weight's sum.",
        ),
        Table(
            ["what z can take", *times, "in all"],
            [[n, *(f"{x:.2g}" for x in taken[n]), f"{taken[n].sum():.2g}"] for n in names],
            "Share of the weighted loss that z takes away under the best weighting of each range.",
        ),
    ]


def markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def curves(rows: list[Row], schedule: Schedule, bare: np.ndarray) -> list[Curves]:
    """The share of the weight, and the share of the bare model's loss that is left, over t."""
    middle = np.array([(some.start + some.stop - 1) / 2 for some in ranges(schedule)])
    means = by_name(rows)
    left = {n: losses / bare for n, losses in means.items()}
    return [
        Curves(
            {n: (middle, np.array(shares(schedule, n))) for n in means},
            x_label="t",
            y_label="share of the weight",
        ),
        Curves(
            {n: (middle, y) for n, y in left.items()},
            x_label="t",
            y_label="loss / loss without z",
            log_y=True,
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="folder of models and results")
    add("--dpm", help="model directory of a diffusion model of digits (default: one is trained)")
    add("--weightings", nargs="+", choices=CHOICES, default=list(CHOICES))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--dpm_steps", type=int, default=800, help="training steps of the diffusion model")
    add("--steps", type=int, default=400, help="training steps of each PDAE")
    add("--batch", type=int, default=128, help="digits a training step")
    add("--n", type=int, default=180, help="held-out digits")
    add("--ddim_steps", type=int, default=100)
    add("--repeats", type=int, default=4, help="noised copies of a digit in each range of t")
    given = parser.parse_args(argv)
    programs.keep_on_disk()

    config: Any = load_config(str(CONFIG))
    arch, data = Architecture(**config.model), Data(**config.data)

    def settings(section: Any, steps: int, **chosen: Any) -> Settings:
        """The config's for other steps, with an average that forgets the untrained weights."""
        return dataclasses.replace(
            Settings(**section),
            steps=steps,
            warmup=min(100, steps // 4),
            ema=min(section.ema, 0.02 ** (1 / steps)),
            pictures_every=0,
            health_every=0,
            save_every=steps,
            **chosen,
        )

    dpm = given.dpm or given.workdir / "diffusion"
    how = {
        "dpm": str(given.dpm or f"{given.dpm_steps} steps"),
        "steps": given.steps,
        "batch": given.batch,
        "n": given.n,
        "ddim_steps": given.ddim_steps,
        "repeats": given.repeats,
    }
    given.workdir.mkdir(parents=True, exist_ok=True)
    file = given.workdir / "results.jsonl"
    rows = read(file, how)
    done = {(row["name"], row["seed"]) for row in rows}
    if not given.dpm and not train(
        dpm,
        "dpm",
        arch=arch,
        data=data,
        settings=settings(config.dpm, given.dpm_steps),
    ):
        return
    measure = Measure(arch, data, given.n, given.ddim_steps, given.repeats)
    for seed in given.seeds:
        for name in given.weightings:
            if (name, seed) in done:
                continue
            weighting, gamma = CHOICES[name]
            began, workdir = time.perf_counter(), given.workdir / f"{name} seed {seed}"
            if not train(
                workdir,
                "pdae",
                arch=arch,
                data=data,
                settings=settings(
                    config.pdae,
                    given.steps,
                    batch_size=given.batch,
                    weighting=weighting,
                    gamma=gamma,
                ),
                pretrained=dpm,
                seed=seed,
            ):
                return
            trained = time.perf_counter() - began
            weights = measure.net.frozen(Workdir(workdir).weights())
            row = {"name": name, "seed": seed, **measure(weights), "how": how}
            row["seconds"] = [round(trained), round(time.perf_counter() - began - trained)]
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            rows.append(row)
            print(f"{name}, seed {seed}: {json.dumps(row)}", flush=True)

    weights = measure.net.frozen(Workdir(dpm).weights(["dpm"]))
    bare = np.array(measure.bare_losses(weights))
    tables = summarise(rows, measure.schedule, bare)
    for table in tables:
        print(f"\n{markdown(table)}")
    facts = {
        "seeds": len({row["seed"] for row in rows}),
        "steps": given.steps,
        "digits a step": given.batch,
        "digits held out": len(measure.test["x_0"]),
        "DDIM steps": given.ddim_steps,
        "cores": os.cpu_count() or 1,
        "jax": jax.__version__,
        "date": str(datetime.date.today()),
    }
    write(
        given.workdir / "index.html",
        "The weight of the loss over t, on digits",
        facts,
        [Section("Over t", curves(rows, measure.schedule, bare)), Section("Numbers", tables)],
    )


if __name__ == "__main__":
    cpu.restart_tuned()
    command(main)
