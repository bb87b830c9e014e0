"""The prerequisites of an objective: weights that are in its workdir, or imported, and fit."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pdae_jax.data import range_search
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture, group_of
from pdae_jax.networks.groups import Networks, Params
from pdae_jax.runtime import processes
from pdae_jax.training.objectives import OBJECTIVES, Objective
from pdae_jax.value_range import ValueRange, parse
from pdae_jax.workdir.workdir import Workdir

Source = str | os.PathLike[str]  # of weights: a run's workdir or a converted checkpoint


class Prerequisites(NamedTuple):
    """The averaged weights of an objective's prerequisites, and a line on where they are from."""

    weights: Params
    origin: str


def gather(
    workdir: Workdir, row: Objective, net: Networks, pretrained: Source | None
) -> Prerequisites:
    """Reads the prerequisites of an objective, each once.

    What the workdir lacks is imported from `pretrained` and saved in it, so that it stays complete
    by itself. Raises ValueError where a group is nowhere, of another model, or not the one that
    `pretrained` would bring.
    """
    missing = [group for group in row.prerequisites if group not in workdir.groups]
    there = [group for group in row.prerequisites if group not in missing]
    shapes = net.shapes(row.prerequisites)
    weights = workdir.weights(there)
    check_shapes(shapes, weights, workdir)
    if pretrained:
        check_pretrained(workdir, there, missing, weights, pretrained)
    origin = [origin_of(workdir, group) for group in there]
    processes.wait("workdir read")
    if missing:
        weights |= import_groups(workdir, row, missing, net.arch, shapes, pretrained)
        origin += [f"an imported {group}" for group in missing]
    return Prerequisites(
        {group: weights[group] for group in row.prerequisites},
        "; over " + " and ".join(origin) if origin else "",
    )


def origin_of(workdir: Workdir, group: str) -> str:
    if not trained_here(workdir, group):
        return f"an imported {group}"
    return f"the {group} of step {workdir.latest_steps[workdir.folder_of(group)]}"


def import_groups(
    workdir: Workdir,
    row: Objective,
    groups: list[str],
    arch: Architecture,
    shapes: Params,
    pretrained: Source | None,
) -> Params:
    """Copies groups of another model into the workdir; returns their weights."""
    if not pretrained:
        variant = next(name for name, one in OBJECTIVES.items() if groups[0] in one.trains)
        raise ValueError(
            f"{row.name} needs a trained {' and '.join(groups)}, which {workdir} does not hold: "
            f"give one with --config.pretrained=DIR (a run's workdir or a converted checkpoint), "
            f"or train it first with the config's :{variant} variant in the same workdir"
        )
    other = Workdir(pretrained)
    if not other.path.is_dir():
        raise ValueError(f"no pre-trained model at {other}: no such folder")
    check_same_model(other, arch, groups)
    weights = other.weights(groups)
    check_shapes(shapes, weights, other)
    workdir.save_weights(weights)
    return weights


def check_can_train(workdir: Workdir, row: Objective) -> int:
    """The step that training resumes from, 0 to begin.

    Raises ValueError where the objective's weights were imported.
    """
    for group in row.trains:
        save = workdir.save_of(group)
        if save and not (save.resumable and workdir.folder_of(group) == row.name):
            raise ValueError(
                f"{' and '.join(row.trains)} in this workdir was imported, not trained here: there "
                f"is no training to resume; choose another --workdir"
            )
    return workdir.latest_steps.get(row.name, 0)


def discard_stale(workdir: Workdir, row: Objective) -> None:
    """Deletes what was trained over networks, or their codes, of before, to make it again."""
    stale = row.name in workdir.stale  # all of them look, as they open checkpoints together
    if processes.ask_first(lambda: stale):
        what = "networks" if row.sees_pictures else "codes"
        processes.say(f"{row.name} was trained over the {what} of before: it is made again")
        workdir.discard(row.name)


def say_what_becomes_stale(workdir: Workdir, row: Objective) -> None:
    """Says what was made of what the objective changes, and is made again by its stage.

    Raises ValueError where something else was trained over it, which nobody would want to lose.
    """
    stale = []
    for name in workdir.latest_steps:
        other = OBJECTIVES.get(name)
        if other and set(other.prerequisites) & set(row.trains):
            if not other.derived:
                raise ValueError(
                    f"{name} in {workdir} was trained over {' and '.join(row.trains)} as it is at "
                    f"step {workdir.latest_steps[row.name]}, and would not fit it after more "
                    f"steps; train it further in a copy of the workdir without {name}/"
                )
            stale.append(name)
    if stale:
        processes.say(
            f"{' and '.join(stale)} will be stale, as the codes change: the config's stages of "
            f"that name make it again"
        )


def check_pretrained(
    workdir: Workdir,
    there: Sequence[str],
    missing: Sequence[str],
    weights: Params,
    pretrained: Source,
) -> None:
    """Raises ValueError where the workdir would not use what `pretrained` brings.

    there, missing: groups of the prerequisites; weights: of those that are there. A folder that is
    gone does not matter once its weights are here.
    """
    imported = [group for group in there if not trained_here(workdir, group)]
    if there and not imported and not missing:
        raise ValueError(
            f"the workdir has {' and '.join(there)} trained in it, so --config.pretrained="
            f"{pretrained} would be unused; leave it out, or choose another --workdir"
        )
    other = Workdir(pretrained)
    for group in imported if other.path.is_dir() else ():
        same = jax.tree.map(np.array_equal, weights[group], other.weights([group])[group])
        if not jax.tree.all(same):
            raise ValueError(
                f"the workdir was begun with another {group} than that of --config.pretrained="
                f"{pretrained}; choose another --workdir"
            )


def trained_here(workdir: Workdir, group: str) -> bool:
    """Whether a group was trained in the workdir, not imported."""
    save = workdir.save_of(group)
    return save is not None and save.resumable


def check_same_model(other: Workdir, arch: Architecture, groups: Iterable[str]) -> None:
    """Raises ValueError where groups of a pre-trained model are not the config's."""
    there = other.architecture
    fields = dict.fromkeys(name for group in groups for name in group_of(group).fields)
    differs = [
        f"{name} is {getattr(there, name)} there and {getattr(arch, name)} here"
        for name in fields
        if getattr(there, name) != getattr(arch, name)
    ]
    if differs:
        raise ValueError(
            f"the model at {other} is not this config's: {'; '.join(differs)}; set --config.model "
            f"to its values"
        )


def check_shapes(shapes: Params, weights: Params, where: Workdir) -> None:
    """Raises ValueError with the first array that one side lacks or shapes otherwise."""
    for group, tree in weights.items():
        here, there = _shapes_by_name(shapes[group]), _shapes_by_name(tree)
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise ValueError(
                    f"{group} at {where} is of another architecture: {name} is "
                    f"{there.get(name, 'missing')} there, {here.get(name, 'missing')} in this "
                    f"config; set config.model to the model's own sizes"
                )


def _shapes_by_name(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def settle_range(
    workdir: Workdir, data: Data, arch: Architecture, pretrained: Source | None
) -> tuple[ValueRange, list[str]]:
    """The range of the pictures' values, and lines on it for a person.

    The one that was found before, here or in `pretrained`, so that all stages agree; else the one
    that the data ask for, which process 0 finds. Raises ValueError where they ask for another than
    what something was trained with.
    """
    there, where = workdir.value_range if workdir.saved else None, workdir
    if there is None and pretrained:
        where = Workdir(pretrained)
        there = where.value_range
    if there is not None:
        asked = parse(data.range)
        same = data.range in ("", there.asked) or (asked.low, asked.high) == (there.low, there.high)
        if not same:
            raise ValueError(
                f"{where} was trained with values from {there} (data.range = {there.asked!r}), and "
                f"--config.data.range={data.range} asks for others: leave it out, or choose "
                f"another --workdir"
            )
        there.check_channels(arch.image_shape[2])
        return there, []

    def search() -> str:
        found, words = range_search.find(data.open("train"), data.range, arch.image_shape[2])
        return json.dumps([dataclasses.asdict(found), words])

    found, words = json.loads(processes.of_first(search))
    value_range = ValueRange(**found)
    return value_range, [] if value_range.eight_bit else [f"{words}; kept with the model"]


def check_same_split(workdir: Workdir, data: Data) -> None:
    """Raises ValueError where pictures that were trained on would be held out, or the reverse."""
    for before in workdir.trained_on:
        for field in ("seed", "test_fraction", "group"):
            there, here = getattr(before, field), getattr(data, field)
            if before.name == data.name and there != here:
                raise ValueError(
                    f"this workdir was begun with data.{field} = {there}, now {here}: other "
                    f"pictures would be held out; choose another --workdir"
                )
