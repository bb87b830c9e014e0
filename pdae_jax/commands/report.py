"""All that the model's state allows, in one page."""

import dataclasses
import math
import re
import shlex
import time
from collections.abc import Sequence
from typing import Any

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
    provenance,
    reconstruct,
    sampling,
    shift,
)
from pdae_jax.commands.context import Context, Result, page_key, save_figures, write_files
from pdae_jax.commands.options import option
from pdae_jax.pages.page import Rendered, Section, Table, Text, rendered
from pdae_jax.runtime.choices import nearest
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.runtime import processes
    from pdae_jax.tasks import verdict
    from pdae_jax.workdir import shipped

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
PCA_PICTURES, PCA_VALUES = 2000, 10**8  # of the training, at most, that components are of
JUDGED = 64  # held-out pictures by which the model is judged
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
    sections: tuple[str, ...] = option((), f"sections of the report: {', '.join(COMMANDS)}; all")
    attributes: tuple[str, ...] = option((), "attributes to show edits of; else --attribute's")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.sections:
            nearest(name, COMMANDS, "section of a report")

    def ignored(self) -> str:
        """Most are of one command and not of another; --keep is of one alone."""
        return "--keep with --by=matched" if self.keep and self.by == "matched" else ""


def run(context: Context[Options]) -> Result:
    """Each command's section in turn, its files in a folder of its own; what is skipped, and why.

    A part whose options, checkpoints and pictures did not change is kept as it is. Raises
    ValueError where no command can run.
    """
    began = time.perf_counter()
    sections: list[Section | Rendered] = []
    headline: dict[str, float] = {}
    numbers: dict[str, Any] = {}
    files: list[str] = []
    skipped = []
    chosen = [name for name in COMMANDS if name in (context.options.sections or COMMANDS)]
    edits = context.options.attributes or ("",)
    for name in context.options.attributes:
        context.attribute(name)  # raises of one that there is not, before hours of work
    parts = [(name, one) for name in chosen for one in (edits if name == "manipulate" else ("",))]
    processes.say(f"report: {len(parts)} sections, {', '.join(chosen)}")
    for number, (name, edit) in enumerate(parts, 1):
        started = time.perf_counter()
        slug = re.sub(r"[^\w-]+", "-", edit)
        folder = f"{name}-{slug}" if edit else name
        try:
            made = make_part(context, name, folder, edit)
        except ValueError as error:
            skipped.append([name, str(error)])
            processes.say(f"report {number}/{len(parts)}: no {name}, as {error}")
            continue
        seconds = time.perf_counter() - started
        how = "kept" if made.kept else f"{seconds:.0f} s"
        processes.say(f"report {number}/{len(parts)}: {folder}, {how}")
        sections += made.sections
        headline |= made.headline
        numbers[folder] = made.numbers
        files += made.figures
    if not sections:
        why = "; ".join(reason for _, reason in skipped)
        raise ValueError(f"{context.workdir} has nothing to report: {why}")
    sections.insert(0, provenance.model_and_data(context))
    for objective in OBJECTIVES.values():
        curves = provenance.training_curves(context.workdir.records(objective.name))
        if curves:
            sections.append(Section(f"Training: {objective.title}", curves))
    if skipped:
        sections.append(Section("Skipped", [Table(["command", "reason"], skipped)]))
    sections.append(provenance.how_made(context, time.perf_counter() - began))
    found = verdict_of(context)
    headline["numbers in z"] = context.model.arch.z_size
    title = f"PDAE on {context.workdir.name}"
    return Result(
        sections,
        numbers,
        headline=headline,
        files=files,
        verdict=found,
        title=title,
        lead=lead(context),
    )


@dataclasses.dataclass(frozen=True)
class Made:
    """What a part of the report gives to its page. figures: their files. kept: of an earlier
    report."""

    sections: Sequence[Rendered]
    headline: dict[str, float]
    numbers: dict[str, Any]
    figures: list[str]
    kept: bool = False


def make_part(context: Context[Options], name: str, folder: str, edit: str = "") -> Made:
    """Runs one command in a folder of the report's, or finds there what it has written before.

    edit: the attribute that pictures are edited by, where the report shows several.
    """
    output = context.output.within(name, folder)
    with output.claimed():
        part = part_of(context, name, folder, edit)
        key = page_key(part.workdir, part.options, part.run_data)
        key["save"] = context.options.save
        if kept := output.kept(key):
            sections = [Rendered(*section) for section in kept["sections"]]
            return Made(sections, kept["headline"], kept["numbers"], kept["figures"], kept=True)
        with part.at_work():
            result = COMMANDS[name].run(part)
        line = command_line(part, name)
        *first, last = result.sections
        sections = [*first, Section(last.title, [*last.parts, Text(command=line)])]
        figures = save_figures(context.output, sections, context.options.save)
        shown = [rendered(section) for section in sections]
        write_files(output, result, command=line, cache_key=key)
        files = [f"../{name}" for name in figures] + [f"{stem}.png" for stem in result.grids]
        output.keep(
            key,
            {
                "sections": [dataclasses.astuple(section) for section in shown],
                "headline": result.headline,
                "numbers": result.numbers,
                "figures": figures,
                "files": files,
            },
        )
    return Made(shown, result.headline, result.numbers, figures)


def verdict_of(context: Context[Options]) -> "verdict.Verdict | None":
    """Whether the model is trained well; None where it was imported, or its pictures are gone."""
    trained_on, model = context.workdir.trained_on, context.model
    if not trained_on or "gradient" not in model.params:
        return None
    of_pca = max(2, min(PCA_PICTURES, PCA_VALUES // math.prod(model.arch.image_shape)))
    try:
        train, held_out = (
            context.spread(trained_on[-1].open(split, model.value_range), most)
            for split, most in (("train", of_pca), ("test", JUDGED))
        )
    except (ValueError, OSError) as error:
        processes.say(f"not judged whether it is trained: {error}")
        return None
    evidence = verdict.measure(model, train, held_out)
    steps, records = context.workdir.latest_steps, context.workdir.records("pdae")
    of_dpm, settings = context.workdir.records("dpm").settings(), records.settings()
    average = Settings(steps=settings.get("steps") or 1, ema=settings.get("ema")).average
    used = [line["shuffled_over_own"] for line in records.scalars() if "shuffled_over_own" in line]
    return verdict.judge(
        evidence._replace(
            done=steps.get("pdae", 0) / settings["steps"] if settings else 1.0,
            dpm_done=steps.get("dpm", 0) / of_dpm["steps"] if of_dpm else 1.0,
            untrained=average ** max(steps.get("pdae", 0), 1) if settings else 0.0,
            used=used[-1] if used else None,
        )
    )


def part_of(context: Context[Options], name: str, folder: str, edit: str = "") -> Context[Any]:
    """One of the report's commands, with the report's options as they suit it.

    edit: the attribute that pictures are edited by, where the report shows several.
    """
    options, own = context.options, COMMANDS[name].Options
    n = options.scored if name == "evaluate" else 0 if name in OWN_NUMBER else options.n
    changes: dict[str, Any] = {"n": n, "save": ()}
    if name == "interpolate" and "frames" not in options.changed():
        changes["frames"] = interpolate.ON_PAPER  # its animation is of its own page
    if name == "manipulate" and not options.inferred:
        changes["invert_steps"] = None
    if name in ("manipulate", "fewshot"):
        kept = name == "fewshot" and "fewshot" in context.workdir.groups
        direction = name == "manipulate" and options.direction
        if edit or not (options.attribute or kept or direction):
            changes["attribute"] = edit or context.attributes()[0]
    if name in ("probe", "project"):
        changes = {"n": own.n, "save": ()} if name == "project" else {"save": ()}
    return context.within(name, own.out_of(options, **changes), folder)


def command_line(context: Context[Any], name: str) -> str:
    """The command line that does what the report did for one command."""
    words = ["pdae_jax", name, shipped.name_of(context.workdir.path)]
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
