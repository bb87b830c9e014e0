"""The checkpoints of one objective; one format for all.

    FOLDER/STEP/ema        averaged parameters, {group: parameters}: what every use of the model
                           reads
    FOLDER/STEP/train      what training needs to resume; absent from imported weights
    FOLDER/STEP/checksums  a checksum of every array, compared when it is read

A save appears whole or not at all (Orbax renames a finished folder), so a run killed in the midst
of one finds the save before it.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pdae_jax.networks.groups import Params
from pdae_jax.runtime import processes
from pdae_jax.runtime.choices import listed
from pdae_jax.workdir.checksums import checksums, differing
from pdae_jax.workdir.hush import hush_orbax

LATE_WRITES = 10  # tenths of a second in which threads of a failed save may still write


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Not asked: JAX would take the step for the last of `processes.stop_asked`'s questions.

        The stop that it then agrees on is the number after: one asked long ago, or far off. And of
        processes whose SIGTERM ends them it may not be asked at all (orbax#3406).
        """
        return False


class Checkpoints:
    """The checkpoints in one folder, saved in the background, the last `keep` of them kept.

    ValueError names a checkpoint that is damaged, and OSError one that cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, keep: int | None = None):
        self._folder = Path(folder).absolute()
        self._failed = False
        hush_orbax()
        self._ema = ocp.StandardCheckpointHandler()
        self._shapes_of: dict[int, Params] = {}  # Orbax takes long to read them
        handlers: dict[str, Any] = {"ema": self._ema, "train": ocp.StandardCheckpointHandler()}
        self._manager = _Manager(
            self._folder,
            item_handlers=handlers | {"checksums": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        )

    def latest(self) -> int | None:
        """The step of the latest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, ema: Params, train: Any = None) -> None:
        """Starts a save of the averaged parameters and, for a run, of what it resumes from."""
        self._shapes_of.pop(step, None)
        items = {"ema": ema} if train is None else {"ema": ema, "train": train}
        args: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args["checksums"] = ocp.args.JsonSave({n: checksums(tree) for n, tree in items.items()})
        self._written(lambda: self._manager.save(step, args=ocp.args.Composite(**args), force=True))

    def restore(self, step: int, **items: Any) -> dict[str, Any]:
        """Reads the named items; each is given as a tree of arrays or shapes, which it fills."""
        self._check_shapes(step, items.get("ema", {}))
        try:
            return self._whole(step, items)
        except _Damaged as damaged:
            self._refuse(step, damaged, items)

    def identity(self, step: int) -> str:
        """What tells a checkpoint from another of the same step; "" of one without checksums."""
        saved = self._item(step, "checksums") / "metadata"
        return hashlib.sha256(saved.read_bytes()).hexdigest()[:16] if saved.exists() else ""

    def resumable(self, step: int) -> bool:
        """Whether there is more than weights: imported ones have nothing to resume from."""
        return self._item(step, "train").exists()

    def shapes(self, step: int) -> Params:
        """The tree of "ema" as empty NumPy arrays: what is there, without reading it."""
        try:
            return self._shapes(step)
        except _Damaged as damaged:
            self._refuse(step, damaged)

    def _shapes(self, step: int) -> Params:
        if step not in self._shapes_of:
            try:
                metadata = self._ema.metadata(epath.Path(self._item(step, "ema"))).tree
                shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)
            except Exception as error:  # noqa: BLE001 - a damaged file makes Orbax raise anything
                raise _Damaged("its metadata cannot be read") from error
            self._shapes_of[step] = shapes
        return self._shapes_of[step]

    def _item(self, step: int, name: str) -> Path:
        return self._folder / str(step) / name

    def _whole(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        """Reads items and compares their checksums; `_Damaged` where something is not as saved.

        Of several processes all read, compare and fail together.
        """
        args: dict[str, Any] = {
            name: ocp.args.StandardRestore(tree) for name, tree in items.items()
        }
        read, saved, wrong = {}, {}, ""
        try:
            if self._item(step, "checksums").exists():  # older versions had none
                args["checksums"] = ocp.args.JsonRestore()
            read = self._manager.restore(step, args=ocp.args.Composite(**args))
            saved = {name: dict(read["checksums"][name]) for name in items if "checksums" in args}
        except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            raise  # no fault of the checkpoint's
        except Exception as error:  # noqa: BLE001 - a damaged file makes Orbax raise anything
            wrong = _reason(error)
        _raise_together(wrong)
        for name in saved:
            if differs := differing(saved[name], checksums(read[name])):
                raise _Damaged(f"{listed(differs, 3)} of {name!r} is not what was saved")
        return {name: read[name] for name in items}

    def _check_shapes(self, step: int, ema: Params) -> None:
        """Raises ValueError where a tree is to be filled that is not the one saved."""
        there, here = (
            {
                jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
                for path, leaf in jax.tree.leaves_with_path(tree)
            }
            for tree in (self._shapes(step), ema)
        )
        for name in sorted(there | here) if ema else ():
            if there.get(name) != here.get(name):
                raise ValueError(
                    f"the checkpoint {self._folder / str(step)} is of other networks or data: "
                    f"{name} is {there.get(name, 'missing')} there, {here.get(name, 'missing')} "
                    f"here; choose another --workdir"
                )

    def _refuse(
        self, step: int, damaged: "_Damaged", items: dict[str, Any] | None = None
    ) -> NoReturn:
        """Raises ValueError, with the newest checkpoint before `step` that is whole."""
        remedy = "no older one there is whole: restore it from a copy, or train or convert anew"
        for older in sorted((s for s in self._manager.all_steps() if s < step), reverse=True):
            try:
                self._whole(older, items or {"ema": self._shapes(older)})
            except _Damaged:
                continue
            remedy = f"{self._folder / str(older)} is whole: move the damaged one away to use it"
            break
        raise ValueError(
            f"the checkpoint {self._folder / str(step)} is damaged ({damaged}); {remedy}"
        ) from damaged

    def _written(self, write: Callable[[], Any]) -> None:
        """Writes, or waits for what is being written; OSError where that cannot be done."""
        try:
            write()
        except Exception as error:  # noqa: BLE001 - as Orbax passes on whatever the disk says
            self._failed = True
            latest = self.latest()
            kept = "none was saved before" if latest is None else f"that of step {latest} is whole"
            raise OSError(
                f"a checkpoint could not be written in {self._folder} ({_reason(error)}); {kept}: "
                f"make room and re-run the command to go on from there"
            ) from error

    def remove_partial(self) -> None:
        """Removes what a save that failed, or was killed, has left."""
        if processes.writes():
            for partial in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._written(self._manager.wait_until_finished)

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()
            for _ in range(LATE_WRITES if self._failed else 0):
                self.remove_partial()
                time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Damaged(Exception):
    """A checkpoint cannot be read, or is not what was saved; the words say how."""


def _raise_together(wrong: str) -> None:
    """Raises `_Damaged` on all processes where one of them has words on what is wrong."""
    try:
        with processes.fail_together():
            if wrong:
                raise ValueError(wrong)
    except ValueError as error:
        raise _Damaged(str(error)) from error


def _reason(error: Exception) -> str:
    """The end of Orbax's and TensorStore's long messages, which says what happened."""
    text = (str(error).splitlines() or [""])[0]
    text = re.sub(r" \[\w+='.*", "", text)  # where in TensorStore's source
    text = text.rpartition('": ')[2] or text
    return text[:100] or type(error).__name__
