"""All that the model's state allows, in one page."""

import dataclasses
import platform
import shlex
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands import (
    denoise,
    evaluate,
    fewshot,
    gap,
    generate,
    interpolate,
    manipulate,
    probe,
    project,
    reconstruct,
    sampling,
    shift,
)
from pdae_jax.commands.context import Context, Result, write_files
from pdae_jax.commands.options import option
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.images import to_float
from pdae_jax.pages.page import Curves, Part, Section, Table, Text
from pdae_jax.runtime.choices import nearest
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # --help needs no JAX
    import jax

    from pdae_jax.runtime import processes
    from pdae_jax.tasks import evaluation, verdict
    from pdae_jax.workdir import records as records_lib

COMMANDS: dict[str, Any] = {
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "evaluate": evaluate,
    "sampling": sampling,
    "manipulate": manipulate,
    "generate": generate,
    "fewshot": fewshot,
    "probe": probe,
    "project": project,
    "gap": gap,
    "denoise": denoise,
    "shift": shift,
}
PCA_PICTURES = 2000  # training pictures at most that components are of
OWN_NUMBER = ("gap", "generate", "fewshot")  # which show their own number of pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(
    evaluate.Options,
    manipulate.Options,
    generate.Options,
    fewshot.Options,
    reconstruct.Options,
    sampling.Options,
    interpolate.Options,
    gap.Options,
    denoise.Options,
    probe.Options,
):
    scored: int = option(180, "held-out pictures that the scores are means over", at_least=1)
    every: int = option(1, "every so many-th of the pictures is shown", at_least=1)
    sections: tuple[str, ...] = option((), f"sections of the report: {', '.join(COMMANDS)}; all")
    attributes: tuple[str, ...] = option((), "attributes to show edits of; else --attribute's")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.sections:
            nearest(name, COMMANDS, "section of a report")

    def ignored(self) -> str:
        return ""  # of one command, perhaps, and not of another


def run(context: Context[Options]) -> Result:
    """Each command's section in turn, its files in a folder of its own; what is skipped, and why.

    Raises ValueError where no command can run.
    """
    began = time.perf_counter()
    sections: list[Section] = []
    headline: dict[str, float] = {}
    numbers: dict[str, Any] = {}
    skipped = []
    chosen = [name for name in COMMANDS if name in (context.options.sections or COMMANDS)]
    edits = context.options.attributes or ("",)
    parts = [(name, one) for name in chosen for one in (edits if name == "manipulate" else ("",))]
    processes.say(f"report: {len(parts)} sections, {', '.join(chosen)}")
    for number, (name, edit) in enumerate(parts, 1):
        started = time.perf_counter()
        folder = f"{name}-{edit}".replace(" ", "-") if edit else name
        output = context.output.within(name, folder)
        try:
            with output.claimed():
                part = part_of(context, name, folder, edit)
                result = COMMANDS[name].run(part)
                line = command_line(part, name)
                write_files(output, result, command=line)
        except ValueError as error:
            skipped.append([name, str(error)])
            processes.say(f"report {number}/{len(parts)}: no {name}, as {error}")
            continue
        seconds = time.perf_counter() - started
        processes.say(f"report {number}/{len(parts)}: {folder}, {seconds:.0f} s")
        *first, last = result.sections
        sections += [*first, Section(last.title, [*last.parts, Text(command=line)])]
        headline |= result.headline
        numbers[folder] = result.numbers
    if not sections:
        why = "; ".join(reason for _, reason in skipped)
        raise ValueError(f"{context.workdir} has nothing to report: {why}")
    for objective in OBJECTIVES.values():
        curves = training_curves(context.workdir.records(objective.name))
        if curves:
            sections.append(Section(f"Training: {objective.title}", curves))
    if skipped:
        sections.append(Section("Skipped", [Table(["command", "reason"], skipped)]))
    sections.append(provenance(context, time.perf_counter() - began))
    found = verdict_of(context, numbers)
    headline["numbers in z"] = context.model.arch.z_size
    title = f"PDAE on {context.workdir.name}"
    return Result(
        sections, numbers, headline=headline, title=title, lead=lead(context), verdict=found
    )


def verdict_of(context: Context[Options], numbers: dict[str, Any]) -> "verdict.Verdict | None":
    """Whether the model is trained well; None where scores or training pictures are not known."""
    trained_on = context.workdir.trained_on
    if "evaluate" not in numbers or not trained_on or context.given:
        return None
    arch, scores = context.model.arch, numbers["evaluate"]["reconstruction"]
    shape, data = arch.image_shape, trained_on[-1]
    value_range = context.model.value_range
    train, held_out = (
        (to_float(first_pictures(source, shape, most, data.max_broken)) + 1) / 2
        for source, most in (
            (data.open("train", value_range), PCA_PICTURES),
            (data.open("test", value_range), context.options.scored),
        )
    )
    error, components = verdict.principal_error(train, held_out, arch.z_size)
    records = context.workdir.records("pdae")
    settings, step = records.settings(), context.workdir.latest_steps.get("pdae", 0)
    steps = settings.get("steps") or step or 1
    average = Settings(steps=steps, ema=settings.get("ema")).average
    used = [line["shuffled_over_own"] for line in records.scalars() if "shuffled_over_own" in line]
    return verdict.judge(
        verdict.Evidence(
            scores[evaluation.ALONE]["mse"],
            scores[evaluation.NO_CODE]["mse"],
            error,
            components,
            done=step / steps,
            untrained=average ** max(step, 1),
            used=used[-1] if used else None,
        )
    )


def part_of(context: Context[Options], name: str, folder: str, edit: str = "") -> Context[Any]:
    """One of the report's commands, with the report's options as they suit it.

    edit: the attribute that pictures are edited by, where the report shows several.
    """
    options, own = context.options, COMMANDS[name].Options
    n = options.scored if name == "evaluate" else 0 if name in OWN_NUMBER else options.n
    changes: dict[str, Any] = {"n": n}
    if name in ("manipulate", "fewshot"):
        kept = name == "fewshot" and "fewshot" in context.workdir.groups
        direction = name == "manipulate" and options.direction
        if edit or not (options.attribute or kept or direction):
            changes["attribute"] = edit or context.attributes()[0]
    if name in ("probe", "project"):
        changes = {"n": own.n} if name == "project" else {}
    return context.within(name, own.out_of(options, **changes), folder)


def command_line(context: Context[Any], name: str) -> str:
    """The command line that does what the report did for one command."""
    words = ["python", "-m", "pdae_jax.main", f"--mode={name}", f"--workdir={context.workdir}"]
    return f"{shlex.join(words)} {context.options.flags()}".rstrip()


def lead(context: Context[Options]) -> str:
    """The report's first words: what this is, and what its pictures are to the training."""
    return (
        "A frozen diffusion model made an autoencoder: each picture becomes a code "
        f"z of {context.model.arch.z_size} numbers, which holds its meaning, and noise x_T "
        "of the picture's own shape, which holds its detail. " + held_out(context)
    )


def held_out(context: Context[Options]) -> str:
    """A sentence on what the pictures of the report are to the training."""
    trained_on = {data.name for data in context.workdir.trained_on}
    if not trained_on:
        return "The model was imported: whether it was trained on these pictures is not known."
    data = context.data()
    if trained_on == {data.name}:
        return "None of the pictures below was trained on."
    return f"The pictures are of {data.name}; it was trained on {', '.join(sorted(trained_on))}."


def training_curves(records: "records_lib.Records") -> list[Part]:
    """Loss, loss by time range and health lines over the steps."""
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

    def add(curves: dict[str, Any], caption: str, y_label: str = "loss", **how: Any) -> None:
        parts.append(
            Curves(curves, x_label="step", y_label=y_label, log_y=True, caption=caption, **how)
        )

    if "loss" in arrays:
        add({"loss": arrays["loss"]}, "Training loss.", smooth=5)
    if ranges:
        add(ranges, "Training loss by range of t.", ordered=True, smooth=5)
    if "loss_own_z" in arrays:
        both = {"its own z": arrays["loss_own_z"], "another picture's z": arrays["loss_shuffled_z"]}
        add(
            both,
            "Is z used? The loss with each picture's own z, and with its neighbour's in the batch.",
        )
        pull = {"|dL/dz|": arrays["dloss_dz_norm"]}
        add(pull, "How strongly the loss of a picture pulls at its z.", y_label="norm")
    return parts


def provenance(context: Context[Options], seconds: float) -> Section:
    """The checkpoints, times, machine and versions behind the page."""
    workdir = context.workdir
    steps = workdir.latest_steps.items()
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    rows = [
        ["checkpoints", ", ".join(f"{name} at step {step:,}" for name, step in steps)],
        ["training time", training_time(context)],
        ["report's own time", f"{seconds:.0f} s"],
        ["machine", f"{platform.system()} {platform.machine()}, {device}"],
        ["date", time.strftime("%Y-%m-%d")],
        ["versions", ", ".join(f"{p} {version(p)}" for p in ("jax", "flax", "optax"))],
    ]
    words = "Re-running the command is a no-op; interrupt and re-run it to resume:"
    every = f"python -m pdae_jax.main --mode=encode --workdir={shlex.quote(str(workdir))}"
    return Section(
        "How this was made",
        [
            Text(words, context.line),
            Table(["", ""], rows),
            Text("All codes as a table (npz and parquet):", every),
        ],
    )


def training_time(context: Context[Options]) -> str:
    seconds = {name: context.workdir.records(name).seconds() for name in OBJECTIVES}
    words = [f"{name} {s / 60:.1f} min" for name, s in seconds.items() if s is not None]
    return ", ".join(words) or "not recorded"
