"""The report: every mode that a model's state allows in one page, and the records of its training."""

import json
import platform
import shlex
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from pdae_jax.commands.context import Context, Options, Result
from pdae_jax.pages.page import Curves, Section, Table, Text
from pdae_jax.runtime import processes
from pdae_jax.runtime.progress import bar
from pdae_jax.training.trainer import trained_data
from pdae_jax.workdir import checkpoints as checkpoint

TRAINED = {
    "dpm": "the diffusion model",
    "pdae": "PDAE",
    "latent": "the latent model",
    "classifier": "the classifier",
}


def compose(
    context: Context,
    work: dict[str, Callable[[Context], Result]],
    *,
    begin: Callable,
    end: Callable,
    command: str,
) -> Result:
    """Each mode's section in turn, its files in a folder of its own below; what cannot be, and why.

    begin(folder, mode) and end(folder, mode, result, record) make and fill such a folder. Raises
    ValueError where no mode can be done.
    """
    began = time.perf_counter()
    sections, headline, numbers, not_here = [], {}, {}, []
    for mode in bar("report", work):
        folder, was_there = context.out / mode, (context.out / mode).exists()
        with processes.fail_together():
            begin(folder, mode)
        try:
            part = part_of(context, mode)
            result = work[mode](part)
        except ValueError as error:
            not_here.append([mode, str(error)])
            if not was_there:
                shutil.rmtree(folder)
            continue
        line = command_of(part, mode)
        end(folder, mode, result, {"command": line})
        sections += result.sections[:-1]
        last = result.sections[-1]
        sections.append(Section(last.title, [*last.parts, Text(command=line)]))
        headline |= result.headline
        numbers[mode] = result.numbers
    if not sections:
        raise ValueError(
            f"{context.workdir} has nothing to report: {'; '.join(why for _, why in not_here)}"
        )
    sections += curve_sections(context.workdir)
    if not_here:
        sections.append(Section("Not here", [Table(["mode", "why"], not_here)]))
    encode = Text("All codes as a table (npz and parquet):", command_of(context, "encode"))
    made = made_section(context.workdir, command, time.perf_counter() - began)
    sections.append(Section(made.title, [*made.parts, encode]))
    return Result(sections, numbers, headline=headline)


def part_of(context: Context, mode: str) -> Context:
    """The report's options as they are for one of its modes."""
    options = context.options
    n = {"evaluate": options.scored, "gap": 0, "generate": 0, "fewshot": 0}.get(mode, options.n)
    attribute = options.attribute if mode in ("manipulate", "fewshot") else ""
    if not (attribute or options.direction) and (
        mode == "manipulate" or mode == "fewshot" and not (context.workdir / mode).exists()
    ):
        attribute = context.attributes()[0]
    strengths = options.strengths if mode == "manipulate" else Options.strengths
    return context.within(mode, n=n, attribute=attribute, strengths=strengths)


def command_of(context: Context, mode: str) -> str:
    """The command that does one mode as the report did."""
    theirs, usual = vars(context.options), vars(Options())
    flags = [
        f"--{name}={_text(value)}"
        for name, value in theirs.items()
        if value != usual[name] and name != "scored"
    ]
    return shlex.join(
        ["python", "-m", "pdae_jax.main", f"--mode={mode}", f"--workdir={context.workdir}", *flags]
    )


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def lead(context: Context) -> str:
    """The report's first words: what this is, and what its pictures are to the training."""
    return (
        "A frozen diffusion model made an autoencoder: each picture becomes a code "
        f"z of {context.model.arch.z_size} numbers, which holds its meaning, and noise x_T "
        "of the picture's own shape, which holds its detail. " + held_out(context)
    )


def held_out(context: Context) -> str:
    """A sentence on what the pictures of the report are to the training."""
    trained_on = {record.name for record in trained_data(context.workdir)}
    if not trained_on:
        return "The model was brought in: whether it was trained on these pictures is not known."
    data = context.data()
    if trained_on == {data.name}:
        return "None of the pictures below was trained on."
    return f"The pictures are of {data.name}; it was trained on {', '.join(sorted(trained_on))}."


def curve_sections(workdir: Path) -> list[Section]:
    """Loss, loss by time range and health lines of every objective that left records."""
    sections = []
    for objective, title in TRAINED.items():
        path = workdir / objective / "metrics.jsonl"
        if not path.exists():
            continue
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        series: dict[str, tuple[list, list]] = {}
        for line in lines:
            for name, value in line.items():
                if name != "step":
                    x, y = series.setdefault(name, ([], []))
                    x.append(line["step"])
                    y.append(value)
        series = {name: (np.array(x), np.array(y)) for name, (x, y) in series.items()}
        ranges = {
            name.removeprefix("loss_"): xy
            for name, xy in series.items()
            if name.startswith("loss_t")
        }
        parts = []
        if "loss" in series:
            parts.append(
                Curves(
                    {"loss": series["loss"]},
                    x_label="step",
                    y_label="loss",
                    log_y=True,
                    smooth=5,
                    caption="Training loss.",
                )
            )
        if ranges:
            parts.append(
                Curves(
                    ranges,
                    x_label="step",
                    y_label="loss",
                    log_y=True,
                    ordered=True,
                    smooth=5,
                    caption="Training loss by range of t.",
                )
            )
        if "loss_own_z" in series:
            parts.append(
                Curves(
                    {
                        "its own z": series["loss_own_z"],
                        "another picture's z": series["loss_shuffled_z"],
                    },
                    x_label="step",
                    y_label="loss",
                    log_y=True,
                    caption="Is z used? The loss with each picture's own z, and with "
                    "its neighbour's in the batch.",
                )
            )
            parts.append(
                Curves(
                    {"|dL/dz|": series["dloss_dz_norm"]},
                    x_label="step",
                    y_label="norm",
                    log_y=True,
                    caption="How strongly the loss of a picture pulls at its z.",
                )
            )
        if parts:
            sections.append(Section(f"Training: {title}", parts))
    return sections


def made_section(workdir: Path, command: str, seconds: float) -> Section:
    rows = [
        [
            "checkpoints",
            ", ".join(
                f"{name} at step {step:,}"
                for name, step in checkpoint.latest_steps(workdir).items()
            ),
        ],
        ["training time", training_time(workdir)],
        ["report's own time", f"{seconds:.0f} s"],
        [
            "machine",
            f"{platform.system()} {platform.machine()}, "
            f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        ],
        ["date", time.strftime("%Y-%m-%d")],
        ["versions", ", ".join(f"{p} {version(p)}" for p in ("jax", "flax", "optax"))],
    ]
    return Section(
        "How this was made",
        [
            Text(
                "The command, which goes on where it stopped and repeats nothing that is done:",
                command,
            ),
            Table(["", ""], rows),
        ],
    )


def training_time(workdir: Path) -> str:
    seconds = {
        path.parent.name: json.loads(path.read_text().splitlines()[-1])["seconds"]
        for path in sorted(workdir.glob("*/time.jsonl"))
    }
    return ", ".join(f"{name} {s / 60:.1f} min" for name, s in seconds.items()) or "not recorded"
