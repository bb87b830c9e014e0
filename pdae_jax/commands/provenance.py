"""A report's frame: the model and its data, how it was trained, and what made the page."""

import os
import platform
import shlex
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context
from pdae_jax.pages.chart import FEW
from pdae_jax.pages.page import Curves, Part, Section, Table, Text
from pdae_jax.training.objectives import OBJECTIVES

with epy.lazy_imports():  # --help needs no JAX
    import jax

    from pdae_jax.workdir import records as records_lib
    from pdae_jax.workdir import shipped

FEWEST = 4  # points of a curve; fewer are a table
VERSIONS = ("pdae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def model_and_data(context: Context[Any]) -> Section:
    """What the networks are, what each was trained on, how long, and in what way."""
    arch, workdir = context.model.arch, context.workdir
    height, width, channels = arch.image_shape
    rows = [
        ["pictures", f"{width} x {height} px, {_counted(channels, 'channel')}{_range(context)}"],
        ["code z", f"{arch.z_size} numbers a picture"],
        ["diffusion model", f"T = {arch.T}, it predicts {arch.predicts}"],
    ]
    rows[:1] += [["data", words] for words in _data(context)]
    trained = []
    for objective in OBJECTIVES.values():
        groups = [name for name in objective.trains if name in context.model.params]
        if not groups:
            continue
        n = context.model.net.size({name: context.model.params[name] for name in groups})
        trained.append([objective.title, f"{n:,}", *_training(workdir.records(objective.name))])
    header = ["", "parameters", "steps", "pictures a step", "learning rate", "loss", "minutes"]
    caption = (
        "Pictures seen are steps times pictures a step. A network without steps was imported, and "
        "how it was trained is not known here."
    )
    return Section("Model and data", [Table(["", ""], rows), Table(header, trained, caption)])


def _data(context: Context[Any]) -> list[str]:
    """The data sets that it was trained on, and those of this page."""
    words = []
    for data in dict.fromkeys(context.workdir.trained_on):
        try:
            train, held_out = (len(data.open(split)) for split in ("train", "test"))
            words.append(f"{data.name}: trained on {train:,} pictures, {held_out:,} held out")
        except (ValueError, OSError):
            words.append(f"{data.name}: trained on its pictures, which are not here any more")
    if context.given:
        given = context.given
        words.append(f"{given.name}: the {len(given.open('all')):,} pictures of this page")
    return words or ["not known: the model was imported"]


def _range(context: Context[Any]) -> str:
    known = context.model.value_range
    return f", values {known} are black to white" if known and not known.eight_bit else ""


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _training(records: "records_lib.Records") -> list[str | None]:
    """Steps done of those planned, pictures a step, learning rate, the last loss, minutes."""
    settings, lines, seconds = records.settings(), records.scalars(), records.seconds()
    losses = [line["loss"] for line in lines if "loss" in line]
    if not settings:
        return [None] * 5
    done = lines[-1]["step"] if lines else 0
    planned = settings["steps"]
    steps = f"{done:,}" + (f" of {planned:,}" if done < planned else "")
    return [
        steps,
        f"{settings['batch_size']:,}",
        f"{settings['learning_rate']:g}, {settings['decay']}",
        f"{losses[-1]:.4g}" if losses else None,
        f"{seconds / 60:.1f}" if seconds is not None else None,
    ]


def training_curves(records: "records_lib.Records") -> list[Part]:
    """Loss, loss by time range and health lines over the steps; a table where they are few."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in records.scalars():
        for name, value in line.items():
            if name != "step":
                x, y = series.setdefault(name, ([], []))
                x.append(line["step"])
                y.append(value)
    arrays = {name: (np.array(x), np.array(y)) for name, (x, y) in series.items()}
    ranges = {
        name.removeprefix("loss_"): xy for name, xy in arrays.items() if name.startswith("loss_t")
    }
    parts: list[Part] = []
    # A few points are shown as they were measured.
    smooth = 5 if any(len(x) > FEW for x, _ in arrays.values()) else 1

    def add(curves: dict[str, Any], caption: str, y_label: str = "loss", **how: Any) -> None:
        steps = sorted({step for x, _ in curves.values() for step in x.tolist()})
        if len(steps) >= FEWEST:
            parts.append(
                Curves(curves, x_label="step", y_label=y_label, log_y=True, caption=caption, **how)
            )
            return
        at = {name: dict(zip(x.tolist(), y.tolist())) for name, (x, y) in curves.items()}
        rows = [[int(step), *(values.get(step) for values in at.values())] for step in steps]
        parts.append(Table(["step", *(f"{name}" for name in at)], rows, caption=caption))

    if "loss" in arrays:
        add({"loss": arrays["loss"]}, "Training loss.", smooth=smooth)
    if ranges:
        add(
            ranges,
            "Training loss by range of t: at small t a picture is hardly noisy, at large t it is "
            "nearly all noise.",
            ordered=True,
            smooth=smooth,
        )
    if "loss_own_z" in arrays:
        both = {"its own z": arrays["loss_own_z"], "another picture's z": arrays["loss_shuffled_z"]}
        add(
            both,
            "Is z used? The loss with each picture's own z, and with its neighbour's in the batch: "
            "the further apart the two, the more z says.",
        )
        pull = {"|dL/dz|": arrays["dloss_dz_norm"]}
        add(
            pull,
            "How strongly the loss of a picture pulls at its z; near 0, z is not learned from.",
            y_label="norm",
        )
    return parts


def how_made(context: Context[Any], seconds: float) -> Section:
    """The command, the checkpoints, the machine and the versions behind the page."""
    workdir = context.workdir
    steps = workdir.latest_steps.items()
    rows = [
        ["checkpoints", ", ".join(f"{name} at step {step:,}" for name, step in steps)],
        ["time of this page", f"{seconds:.0f} s"],
        ["devices", f"{jax.device_count()} x {jax.devices()[0].device_kind}"],
        ["machine", f"{platform.system()} {platform.machine()}, {_counted(_cores(), 'core')}"],
        ["date", time.strftime("%Y-%m-%d")],
        ["versions", ", ".join([f"Python {platform.python_version()}", *_versions()])],
    ]
    words = (
        "The line that made this page; parts that did not change are kept when it runs again. "
        "Under each part above stands the line that makes it alone."
    )
    every = f"pdae_jax encode {shlex.quote(shipped.name_of(workdir.path))}"
    return Section(
        "How this was made",
        [
            Text(words, context.line),
            Table(["", ""], rows),
            Text("The codes of all pictures as a table:", every),
        ],
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _versions() -> list[str]:
    return [f"{package} {version(package)}" for package in VERSIONS]
