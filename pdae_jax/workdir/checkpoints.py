"""The checkpoints of one objective; one format for all.

    FOLDER/STEP/ema     averaged parameters, {group: parameters}: what every use of the model reads
    FOLDER/STEP/train   what training needs to resume; absent from imported weights

A save appears whole or not at all (Orbax renames a finished folder), so a run killed in the midst
of one finds the save before it.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from pdae_jax.networks.groups import Params


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Not asked: JAX would take the step for the last of `processes.stop_asked`'s questions.

        The stop that it then agrees on is the number after: one asked long ago, or far off.
        """
        return False


class Checkpoints:
    """The checkpoints in one folder, saved in the background, the last `keep` of them kept."""

    def __init__(self, folder: str | os.PathLike, keep: int | None = None):
        self._manager = _Manager(
            Path(folder).absolute(),
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ("ema", "train")},
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        )

    def latest(self) -> int | None:
        """The step of the latest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, ema: Params, train: Any = None) -> None:
        """Starts a save of the averaged parameters and, for a run, of what it resumes from."""
        items = {"ema": ocp.args.StandardSave(ema)}
        if train is not None:
            items["train"] = ocp.args.StandardSave(train)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, **items: Any) -> dict[str, Any]:
        """Reads the named items; each is given as a tree of arrays or shapes, which it fills."""
        args = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in items}

    def resumable(self, step: int) -> bool:
        """Whether there is more than weights: imported ones have nothing to resume from."""
        return "train" in self._manager.item_metadata(step).keys()

    def shapes(self, step: int) -> Params:
        """The tree of "ema" as empty NumPy arrays: what is there, without reading it."""
        metadata = self._manager.item_metadata(step)["ema"].tree
        return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
