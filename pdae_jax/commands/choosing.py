"""Chooses the fields of a config by its pictures, the machine, and what a resumed run has."""

import dataclasses
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.cost.sizing import FIELDS, SETTINGS, SHARE, Pictures, Plan, Wishes, stages
from pdae_jax.data.dataset import Data
from pdae_jax.data.source import Source, binary
from pdae_jax.formats.errors import DataError
from pdae_jax.networks.architecture import GROUPS, PRECISIONS
from pdae_jax.runtime.choices import nearest
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # --help needs no JAX
    import jax

    from pdae_jax.cost import duration, sizing
    from pdae_jax.runtime import machine as machine_lib
    from pdae_jax.workdir import workdir as workdir_lib

LOOKED_AT = 16  # pictures, for their size and channels
ACCUMULATE = tuple(f"{stage}.accumulate" for stage in SHARE)


def choose(config: Any, given: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of `sizing.FIELDS` that no flag set, {dotted name: value}; says what and why.

    config: a ConfigDict with the fields of `Wishes`. given: the fields that flags set. path: the
    workdir, whose own model and config decide where it has them. Raises ValueError where nothing
    fits into memory, DataError where the pictures cannot be read.
    """
    wishes, data = Wishes(config.sizes, config.hours), Data(**config.data)
    if wishes.sizes == "paper" and "hours" in given:
        raise ValueError(
            f"--config.hours={wishes.hours:g} would be ignored: :paper trains for 100,000 steps a "
            f"stage; set --config.dpm.steps and --config.pdae.steps, or leave out :paper"
        )
    workdir = workdir_lib.Workdir(path)
    pictures = look_at(data)
    settled = kept(workdir, config, given) | dict(given)
    parts = {
        name.partition(".")[0]: settled.pop(name)  # a machine with less memory needs more
        for name in ACCUMULATE
        if name in settled and name not in given
    }
    order = tuple(config.stages)
    if len(order) > 1 and "stages" not in given:  # a variant is one stage
        order = stages(pictures, config.pretrained)
    if set(FIELDS) <= {*settled, *ACCUMULATE, "stages"} and is_trained(workdir, order, settled):
        fields = settled | distilled(order, settled)
        return {"stages": order} | {n: v for n, v in fields.items() if n not in given}
    precision = settled.get("precision", sizing.precision_on(jax.default_backend() == "cpu"))
    machine = machine_lib.measured(nearest(precision, PRECISIONS, "precision"))
    plan = sizing.choose(pictures, machine, wishes, settled, parts)
    resumed = any(name in settled and name not in given for name in FIELDS)
    print(f"{of_pictures(pictures, data)}; {machine}", file=sys.stderr)
    print(of_plan(plan, wishes, resumed), file=sys.stderr)
    seconds = expected(order, plan, config, workdir, machine, pictures)
    print(duration.line(seconds), file=sys.stderr)
    chosen = {"stages": order} | plan.fields()
    chosen |= distilled(order, chosen)
    return {name: value for name, value in chosen.items() if name not in given}


def kept(workdir: "workdir_lib.Workdir", config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are settled by what was trained in the workdir, or by a pre-trained model.

    With other `hours` than before, all that follows from the number of steps is not. Raises
    ValueError where other `sizes` are asked for than it was trained with.
    """
    if not workdir.saved:
        if not config.pretrained:
            return {}
        return of_pretrained(workdir_lib.Workdir(config.pretrained))
    before = workdir.config
    if config.sizes and before and config.sizes != before.get("sizes"):
        raise ValueError(
            f"{workdir} was trained with other sizes than :{config.sizes}: leave it out to resume "
            f"with them, or choose another --workdir"
        )
    settled = {}
    for name in set(FIELDS) - {"stages"}:
        section, _, field = name.rpartition(".")
        there = before.get(section, {}) if section else before
        if field in there:
            settled[name] = there[field]
    if "hours" in given and given["hours"] != before.get("hours"):
        stay = ("batch_size", "accumulate", "precision")
        settled = {n: value for n, value in settled.items() if n.rpartition(".")[2] in stay}
    return settled | of_model(workdir)


def distilled(stages: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of what is distilled on pictures: as `config.distilled` sets them by PDAE's."""
    found = {}
    for stage in stages:
        if stage in OBJECTIVES and OBJECTIVES[stage].sees_pictures and OBJECTIVES[stage].derived:
            found |= {f"{stage}.{name}": fields[f"pdae.{name}"] for name in SETTINGS}
            found[f"{stage}.steps"] = -(-fields["pdae.steps"] // 2)
            found[f"{stage}.ema"] = fields["pdae.ema"] ** 2
    return found


def of_model(workdir: "workdir_lib.Workdir") -> dict[str, Any]:
    return {f"model.{name}": value for name, value in workdir.architecture.to_dict().items()}


def of_pretrained(workdir: "workdir_lib.Workdir") -> dict[str, Any]:
    """The networks that it has: of a diffusion model by itself the encoder is still to choose."""
    found = of_model(workdir)
    if "encoder" in workdir.groups:
        return found
    return {f"model.{name}": found[f"model.{name}"] for name in GROUPS["dpm"].fields}


def is_trained(
    workdir: "workdir_lib.Workdir", stages: Sequence[str], settled: Mapping[str, Any]
) -> bool:
    """Whether nothing is left to train on pictures."""
    done = workdir.latest_steps
    return all(
        done.get(stage, 0) >= settled[f"{stage}.steps"] for stage in SHARE if stage in stages
    )


def look_at(data: Data) -> Pictures:
    """How many pictures there are, and how some of them are."""
    source = data.open("train")
    try:
        held_out = len(data.open("test"))
    except DataError:  # none: for the stage that needs them to refuse
        held_out = 0
    shapes = [
        shape
        for i in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int))
        if (shape := shape_of(source, int(i))) is not None
    ]
    if not shapes:
        raise DataError(f"none of {LOOKED_AT} pictures of {source.name} can be read")
    channels = {channels for *_, channels in shapes}
    names = tuple(source.attributes[k] for k in binary(source.labels))
    return Pictures(
        len(source),
        held_out,
        side=int(np.median([min(height, width) for height, width, _ in shapes])),
        # Grey among colour becomes colour; other numbers of channels are for training to refuse.
        channels=3 if channels == {1, 3} else max(channels),
        binary=names,
    )


def shape_of(source: Source, i: int) -> tuple[int, ...] | None:
    """Height, width and channels of a picture; None of a broken one, which training names."""
    try:
        return source.image(i).shape
    except Exception:  # whatever the decoder raises
        return None


def expected(
    stages: Sequence[str],
    plan: Plan,
    config: Any,
    workdir: "workdir_lib.Workdir",
    machine: "machine_lib.Machine",
    pictures: Pictures,
) -> dict[str, float]:
    """Seconds of what is left of each stage."""
    settings = dict(plan.settings)
    latent = Settings(**config.latent)
    settings["latent"] = dataclasses.replace(latent, steps=plan.latent_steps)
    settings["classifier"] = Settings(**config.classifier)
    like_pdae = distilled(stages, plan.fields())
    for stage in {name.partition(".")[0] for name in like_pdae}:
        steps = like_pdae[f"{stage}.steps"]
        settings[stage] = dataclasses.replace(plan.settings["pdae"], steps=steps)
    done, seconds = workdir.latest_steps, {}
    for stage in stages:
        if stage in OBJECTIVES:
            seconds[stage] = duration.training_seconds(
                stage, plan.arch, settings[stage], machine, done.get(stage, 0)
            )
        elif stage == "report":
            scored = min(config.report.scored, pictures.held_out)
            seconds[stage] = duration.report_seconds(plan.arch, machine, scored)
    return seconds


def of_pictures(pictures: Pictures, data: Data) -> str:
    """A line on the pictures."""
    binary = f", {len(pictures.binary)} attributes" if pictures.binary else ""
    return (
        f"{data.name}: {pictures.train:,} pictures and {pictures.held_out:,} held out, about "
        f"{pictures.side} px, {pictures.channels} channel(s){binary}"
    )


def of_plan(plan: Plan, wishes: Wishes, resumed: bool) -> str:
    """Lines on what was chosen, and why."""
    arch, seen = plan.arch, {}
    for stage, settings in plan.settings.items():
        seen[stage] = f"{settings.steps:,} steps of {settings.batch_size} pictures"
        if settings.accumulate > 1:
            seen[stage] += f" in {settings.accumulate} parts, to fit into memory"
    why = (
        "as before"
        if resumed
        else ":paper"
        if wishes.sizes == "paper"
        else (f"{wishes.sizes and ':' + wishes.sizes + ', '}--config.hours={wishes.hours:g}")
    )
    few = ""
    if not resumed and plan.affordable < plan.wanted:
        hours = wishes.hours * plan.wanted / plan.affordable
        few = f"\nso many pictures deserve more steps: --config.hours={math.ceil(hours)}"
    return (
        f"chosen ({why}): {' x '.join(map(str, arch.image_shape))}, patch {arch.patch}, base "
        f"{arch.base}, mult {arch.mult}, z of {arch.z_size} numbers, {plan.precision}; "
        + "; ".join(f"{stage} {words}" for stage, words in seen.items())
        + few
    )
