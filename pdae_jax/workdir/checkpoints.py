"""Checkpoints: one folder a training objective, one format for all.

    workdir/model.json           the architecture (models.Architecture)
    workdir/OBJECTIVE/STEP/ema   what every use of the model reads: {group: parameters}
    workdir/OBJECTIVE/STEP/train what training needs to go on; absent from imported weights

A save appears whole or not at all (Orbax renames a finished folder), so a run killed in the midst
of one finds the save before it.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from pdae_jax.networks.architecture import GROUP_FIELDS, Architecture
from pdae_jax.runtime import processes

MODEL_FILE = "model.json"


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Not asked: JAX would take the step for the last of `processes.stop_asked`'s questions.

        The stop that it then agrees on is the number after: one asked long ago, or far off.
        """
        return False


class Checkpoints:
    """The checkpoints of one objective, saved in the background, the last `keep` of them kept."""

    def __init__(self, folder: str | os.PathLike, keep: int | None = None):
        self._manager = _Manager(
            Path(folder).absolute(),
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ("ema", "train")},
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        )

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, ema, train=None) -> None:
        """Starts a save of the averaged parameters and, for a run, of what it resumes from."""
        items = {"ema": ocp.args.StandardSave(ema)}
        if train is not None:
            items["train"] = ocp.args.StandardSave(train)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, **items) -> dict:
        """Reads the named items; each is given as a tree of arrays or shapes, which it fills."""
        args = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in items}

    def resumable(self, step: int) -> bool:
        """Whether there is more than weights: imported ones have nothing to go on from."""
        return "train" in self._manager.item_metadata(step).keys()

    def shapes(self, step: int) -> dict:
        """The tree of "ema" as empty NumPy arrays: what is there, without reading it."""
        metadata = self._manager.item_metadata(step)["ema"].tree
        return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def write_architecture(workdir: str | os.PathLike, arch: Architecture) -> None:
    """Writes model.json; raises ValueError where it would not fit the parameters saved there."""
    path = Path(workdir) / MODEL_FILE
    if path.exists():
        there = read_architecture(workdir)
        fixed = {
            field
            for save in saved(workdir)
            for group in save.groups
            for field in GROUP_FIELDS.get(group, ())
        }
        differs = [
            f"{name} is {getattr(there, name)} there and {getattr(arch, name)} here"
            for name in sorted(fixed)
            if getattr(there, name) != getattr(arch, name)
        ]
        if differs:
            raise ValueError(
                f"{path} belongs to another model: {'; '.join(differs)}; choose another --workdir"
            )
    processes.wait("model.json read")
    with processes.together():
        if processes.writes():
            path.write_text(json.dumps(arch.to_dict(), indent=1) + "\n")


def read_architecture(workdir: str | os.PathLike) -> Architecture:
    path = Path(workdir) / MODEL_FILE
    if not path.exists():
        raise ValueError(
            f"no model at {workdir}: it has no {MODEL_FILE}; give the workdir of a "
            f"training run or a converted checkpoint"
        )
    return Architecture(**json.loads(path.read_text()))


ATTRIBUTES = "attributes.json"


def write_attributes(workdir: str | os.PathLike, names) -> None:
    """Records the names of what the classifier tells."""
    if processes.writes():
        (Path(workdir) / "classifier" / ATTRIBUTES).write_text(json.dumps(list(names)) + "\n")


def read_attributes(workdir: str | os.PathLike) -> tuple[str, ...]:
    """The names of the classifier's attributes, in its order; () where there is none."""
    path = Path(workdir) / "classifier" / ATTRIBUTES
    return tuple(json.loads(path.read_text())) if path.exists() else ()


def read_weights(workdir: str | os.PathLike, groups=None) -> dict:
    """The latest averaged parameters under workdir, {group: nested dict of NumPy arrays}.

    groups: those wanted, None for all there are; ValueError names one that is not there.
    """
    there = saved(workdir)
    for group in groups or ():
        if not any(group in save.groups for save in there):
            raise ValueError(
                f"no parameters {group!r} at {workdir}, which has "
                f"{sorted(g for save in there for g in save.groups) or 'none'}; "
                f"train or convert them first"
            )
    params: dict = {}
    for save in there:
        if groups is None or set(save.groups) & set(groups):
            with Checkpoints(save.folder) as checkpoints:
                params |= checkpoints.restore(save.step, ema=checkpoints.shapes(save.step))["ema"]
    return {group: params[group] for group in groups or params}


class Saved(NamedTuple):
    """The latest checkpoint of one objective."""

    folder: Path
    step: int
    groups: tuple[str, ...]
    trained_here: bool  # else brought in


def saved(workdir: str | os.PathLike) -> list[Saved]:
    """The latest checkpoint of each objective under workdir, without reading its arrays."""
    there = []
    for folder in sorted({path.parents[1] for path in Path(workdir).absolute().glob("*/*/ema")}):
        with Checkpoints(folder) as checkpoints:
            step = checkpoints.latest()
            if step is not None:
                there.append(
                    Saved(
                        folder, step, tuple(checkpoints.shapes(step)), checkpoints.resumable(step)
                    )
                )
    return there


def latest_steps(workdir: str | os.PathLike) -> dict[str, int]:
    """The step of the latest checkpoint of each objective under workdir."""
    return {save.folder.name: save.step for save in saved(workdir)}
