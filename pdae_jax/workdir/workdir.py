"""`Workdir`, the one owner of a model's directory: a run's, or an imported one's.

model.json                   the architecture
values.json                  the range of values of the pictures that it was trained on
config.json                  the config of the last command
receipt.json                 the record of an import
OBJECTIVE/STEP/              checkpoints (`checkpoints`)
OBJECTIVE/metrics.jsonl ...  records of training (`records`)
classifier/attributes.json   the names of the classifier's attributes
codes/SPLIT/                 tables of codes (`code_table`)
COMMAND/                     a page, its numbers and files (`output`)
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture, group_of
from pdae_jax.networks.groups import Params
from pdae_jax.runtime import atomic, processes
from pdae_jax.runtime.paths import local
from pdae_jax.value_range import EIGHT_BIT, ValueRange
from pdae_jax.workdir import json_file
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.code_table import CodeTable
from pdae_jax.workdir.lock import Lock
from pdae_jax.workdir.output import Output
from pdae_jax.workdir.records import Records


class Saved(NamedTuple):
    """The latest checkpoint in one folder."""

    step: int
    groups: tuple[str, ...]
    resumable: bool  # trained here; else imported
    identity: str  # of its content; "" where an older version saved it


class Workdir:
    """One model's directory. Opening it creates and reads nothing.

    The checkpoints are looked for once, and again after this object has saved some; a checkpoint's
    weights are read once.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = local(path).absolute()
        self._saved: dict[str, Saved] | None = None
        self._weights: dict[tuple[str, int], Params] = {}  # by folder and step

    @property
    def name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, path: str | os.PathLike) -> "Workdir":
        """Makes the directory and proves that it can be written; ValueError otherwise."""
        workdir = cls(path)
        probe = workdir.path / f".write-probe-{processes.index()}-{os.getpid()}"
        try:
            workdir.path.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(
                f"workdir {workdir} cannot be written: {error.strerror}; choose another --workdir"
            ) from error
        return workdir

    def lock(self) -> Lock:
        """Held by what trains here; ValueError names the other process that holds it."""
        return Lock(self.path)

    # The model.

    @property
    def architecture(self) -> Architecture:
        """The architecture; ValueError where there is no model."""
        path = self.path / "model.json"
        if not path.exists():
            raise ValueError(
                f"no model at {self}: it has no {path.name}; give the workdir of a training run, a "
                f"converted checkpoint, or emoji, the model that ships"
            )
        return json_file.read_as(Architecture, path, json_file.read(path))

    def write_architecture(self, arch: Architecture) -> None:
        """Records the architecture; ValueError where it would not fit the parameters saved here."""
        path = self.path / "model.json"
        if path.exists():
            there = self.architecture
            fields = {name for group in self.groups for name in group_of(group).fields}
            differs = [
                f"{name} is {getattr(there, name)} there and {getattr(arch, name)} here"
                for name in sorted(fields)
                if getattr(there, name) != getattr(arch, name)
            ]
            if differs:
                raise ValueError(
                    f"{path} belongs to another model: {'; '.join(differs)}; choose another "
                    f"--workdir"
                )
        processes.wait("architecture read")
        self._write(path, arch.to_dict())

    @property
    def value_range(self) -> ValueRange | None:
        """Of the pictures that were trained on here; None where nothing tells."""
        path = self.path / "values.json"
        if path.exists():
            return json_file.read_as(ValueRange, path, json_file.read(path))
        return EIGHT_BIT if self.trained_on else None  # versions without the file knew 8 bits alone

    def write_value_range(self, value_range: ValueRange) -> None:
        self._write(self.path / "values.json", dataclasses.asdict(value_range))

    @property
    def config(self) -> dict[str, Any]:
        """The config of the last command, sections as dicts; {} where there is none."""
        path = self.path / "config.json"
        return json_file.read(path) if path.exists() else {}

    def write_config(self, text: str) -> None:
        """Keeps the config of the command: for people, and for a resumed run's chosen fields."""
        if processes.writes():
            atomic.write_text(self.path / "config.json", text + "\n")

    @property
    def was_converted(self) -> bool:
        """Whether the model, or a part of it, was converted from other files."""
        return (self.path / "receipt.json").is_file()

    @property
    def receipt(self) -> dict[str, Any]:
        """The record of an import; ValueError where the model was not converted."""
        path = self.path / "receipt.json"
        if not path.is_file():
            raise ValueError(f"{self} has no {path.name}: it was not converted from PyTorch files")
        return json_file.read(path)

    def write_receipt(self, receipt: dict[str, Any]) -> None:
        self._write(self.path / "receipt.json", receipt)

    # Parameters.

    @property
    def saved(self) -> dict[str, Saved]:
        """The latest checkpoint of each folder; no array is read.

        Raises ValueError where a group lies in two of them: nothing says which one is meant.
        """
        if self._saved is None:
            self._saved = self._scan()
        return self._saved

    def _scan(self) -> dict[str, Saved]:
        found: dict[str, Saved] = {}
        marks = ("ema", "_CHECKPOINT_METADATA")  # one of them may be lost
        there = {path.parents[1] for mark in marks for path in self.path.glob(f"*/*/{mark}")}
        for folder in sorted(there):
            with Checkpoints(folder) as checkpoints:
                step = checkpoints.latest()
                if step is None:
                    raise ValueError(
                        f"{folder} holds checkpoints under names that are no steps: give them the "
                        f"names of numbers back, or move them away"
                    )
                groups = tuple(checkpoints.shapes(step))
                of_step = checkpoints.resumable(step), checkpoints.identity(step)
                found[folder.name] = Saved(step, groups, *of_step)
        where: dict[str, str] = {}
        for folder, save in found.items():
            for group in save.groups:
                if where.setdefault(group, folder) != folder:
                    raise ValueError(
                        f"{self} holds two sets of parameters {group!r}, in {where[group]}/ and "
                        f"{folder}/; move the one that is not wanted away"
                    )
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of parameters that are there."""
        return tuple(group for save in self.saved.values() for group in save.groups)

    @property
    def latest_steps(self) -> dict[str, int]:
        """The step of the latest checkpoint of each objective."""
        return {objective: save.step for objective, save in self.saved.items()}

    def folder_of(self, group: str) -> str:
        """The folder that holds a group, or in which it belongs: the objective's that trains it."""
        there = (folder for folder, save in self.saved.items() if group in save.groups)
        return next(there, group_of(group).objective)

    def save_of(self, group: str) -> Saved | None:
        """The checkpoint that holds a group; None where there is none."""
        return self.saved.get(self.folder_of(group))

    def weights(self, groups: Iterable[str] | None = None) -> Params:
        """The latest averaged parameters, {group: nested dict of NumPy arrays}.

        groups: those wanted, None for all that are there and not stale; ValueError names one that
        is not there.
        """
        if groups is None:
            stale = self.stale
            groups = (group for group in self.groups if self.folder_of(group) not in stale)
        wanted = tuple(groups)
        for group in wanted:
            if group not in self.groups:
                raise ValueError(
                    f"no parameters {group!r} at {self}, which has {sorted(self.groups) or 'none'}"
                    f"; train or convert them first"
                )
        params: Params = {}
        for folder, save in self.saved.items():
            if set(save.groups) & set(wanted):
                params |= self._read(folder, save.step)
        return {group: params[group] for group in wanted}

    def _read(self, folder: str, step: int) -> Params:
        """The averaged parameters in a checkpoint, read at the first call."""
        if (folder, step) not in self._weights:
            self._weights = {key: tree for key, tree in self._weights.items() if key[0] != folder}
            with Checkpoints(self.path / folder) as checkpoints:
                shapes = checkpoints.shapes(step)
                self._weights[folder, step] = checkpoints.restore(step, ema=shapes)["ema"]
        return self._weights[folder, step]

    def save_weights(self, params: Params, step: int = 0, keep: int | None = None) -> None:
        """Saves parameters that are not trained here, each group in the folder where it belongs."""
        folders: dict[str, Params] = {}
        for group, tree in params.items():
            folders.setdefault(self.folder_of(group), {})[group] = tree
        for folder, trees in folders.items():
            with self.checkpoints(folder, keep) as checkpoints:
                checkpoints.save(step, trees)

    # What was made from codes, or distilled, lies beside a record of the networks' steps. Once they
    # are trained further it is stale, and is not used until it is made again.

    @property
    def stale(self) -> tuple[str, ...]:
        """The folders of what was trained over networks, or their codes, that are no longer so."""
        return tuple(
            folder
            for folder in self.saved
            if folder != "statistics" and self._is_derived(folder) and not self._is_of_now(folder)
        )

    def _is_of_now(self, folder: str) -> bool:
        record = self._origin(folder)
        if record is None:  # imported, or of a version without records
            return "statistics" not in self.groups or self._has_current_statistics()
        return self._are_the_networks(record["checkpoints"])

    def write_origin(self, folder: str, **more: Any) -> None:
        """Records the networks over which, or whose codes, something is made from now on."""
        self._write(self._origin_file(folder), {"checkpoints": self._networks()} | more)

    def renew_origin(self, folder: str) -> None:
        """Records that what is in a folder is of the networks as they are now, as copied ones."""
        if record := self._origin(folder):
            self.write_origin(folder, **{k: v for k, v in record.items() if k != "checkpoints"})

    def _origin(self, folder: str) -> dict[str, Any] | None:
        path = self._origin_file(folder)
        if not path.exists():
            return None
        record = json_file.read(path)
        if not isinstance(record, dict) or "checkpoints" not in record:
            raise ValueError(
                f"{path} does not hold what it should: delete {path.parent}, and its stage makes "
                f"it again"
            )
        return record

    def _origin_file(self, folder: str) -> Path:
        return self.path / folder / "cache_key.json"

    def discard(self, folder: str) -> None:
        """Deletes the checkpoints and records in a folder, such as of what is stale."""
        processes.wait(f"{folder} seen")
        if processes.writes():
            shutil.rmtree(self.path / folder)
        processes.wait(f"{folder} deleted")
        self._saved = None
        self._weights = {key: tree for key, tree in self._weights.items() if key[0] != folder}

    # Statistics of codes; imported ones have no record, and stay: what else was imported rests on
    # them.

    @property
    def statistics_are_current(self) -> bool:
        """Whether there are statistics, of codes of the networks as they are."""
        return processes.ask_first(self._has_current_statistics)

    def _has_current_statistics(self) -> bool:
        if "statistics" not in self.groups:
            return False
        record = self._origin("statistics")
        if record is None:  # imported, or of a version that recorded the largest step alone
            encoder = self.save_of("encoder")
            imported = encoder is not None and not encoder.resumable
            steps = [self.latest_steps[folder] for folder in self._networks()]
            return imported or self.latest_steps["statistics"] == max(steps)
        return self._are_the_networks(record["checkpoints"])

    @property
    def usual_distances(self) -> tuple[float, float] | None:
        """Between which the distances of the training codes lie; None where it is not known."""
        record = self._origin("statistics") or {}
        found = record.get("usual_distances")
        return (found[0], found[1]) if found else None

    def write_statistics(
        self,
        statistics: dict[str, Any],
        data: Data,
        usual_distances: tuple[float, float] | None = None,
    ) -> None:
        """Saves mean and standard deviation of the codes of `data`, unless they are there.

        usual_distances: see `tasks.familiarity`; kept beside them.
        Raises ValueError where something was trained over codes of other pictures or networks.
        """
        before = self.save_of("statistics")

        def are_there() -> bool:
            record = self._origin("statistics")
            of_these = record is not None and record.get("pictures") == data.pictures
            return (of_these or record is None) and self._has_current_statistics()

        if before and processes.ask_first(are_there):
            return
        stale = self.stale
        rest = [
            name
            for name in self.saved
            if name != "statistics" and self._is_from_codes(name) and name not in stale
        ]
        if before and rest:
            raise ValueError(
                f"{' and '.join(rest)} in {self} rests on codes of other pictures than "
                f"{data.name} has now: choose another --workdir"
            )
        for name in stale:  # that has no record is known to be stale by these statistics alone
            if self._origin(name) is None:
                self._write(self._origin_file(name), {"checkpoints": None})
        with Lock(self.path / "statistics"):
            self.save_weights({"statistics": statistics}, before.step + 1 if before else 1, keep=1)
            self.write_origin("statistics", pictures=data.pictures, usual_distances=usual_distances)

    @contextlib.contextmanager
    def checkpoints(self, objective: str, keep: int | None = None) -> Iterator[Checkpoints]:
        """The checkpoints of one objective, the last `keep` of which stay."""
        try:
            with Checkpoints(self.path / objective, keep) as checkpoints:
                checkpoints.remove_partial()  # of a save in whose midst a run was killed
                yield checkpoints
        finally:
            self._saved = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the classifier's attributes, in its order; () where there is none."""
        path = self.path / "classifier" / "attributes.json"
        return tuple(json_file.read(path)) if path.exists() else ()

    def write_attributes(self, names: Iterable[str]) -> None:
        self._write(self.path / "classifier" / "attributes.json", list(names))

    def few_shot(self) -> tuple[Params, dict[str, Any]]:
        """The few-shot classifier's parameters, and the record of the labels that it has seen."""
        save = self.save_of("fewshot")
        record = json_file.read(self._shots) if save and self._shots.exists() else {}
        if save and self.folder_of("fewshot") in self.stale:
            raise ValueError(
                f"the few-shot classifier in {self} is stale: the networks were trained further; "
                f"fit it again with the config's :fewshot variant"
            )
        if not save or record.pop("step", save.step) != save.step:  # killed between the two
            raise ValueError(
                f"{self} has no few-shot classifier: give --attribute=NAME, or train one with the "
                f"config's :fewshot variant"
            )
        return self.weights(["fewshot"])["fewshot"], record

    def write_few_shot(self, params: Params, record: dict[str, Any]) -> None:
        """Keeps a few-shot classifier, in place of the one that was there."""
        before = self.save_of("fewshot")
        step = before.step + 1 if before else 1
        self.save_weights({"fewshot": params}, step, keep=1)
        self._write(self._shots, record | {"step": step})
        self.write_origin(self.folder_of("fewshot"))

    @property
    def _shots(self) -> Path:
        return self.path / self.folder_of("fewshot") / "shots.json"

    # Data and records.

    def records(self, objective: str) -> Records:
        """The records of one objective's training."""
        return Records(self.path / objective)

    @property
    def trained_on(self) -> list[Data]:
        """All data sets that objectives were trained on here; [] of an imported model."""
        folders = sorted(path for path in self.path.glob("*") if path.is_dir())
        return [data for folder in folders for data in Records(folder).data()]

    def cache_key(self, data: Data) -> dict[str, Any]:
        """The key of codes of `data`: the checkpoints of the networks, the data, their files."""
        return {
            "checkpoints": self._networks(),
            "data": dataclasses.asdict(data),
            "files": data.fingerprint(),
            "format": 3,  # of the chunks and tables, which have paths, groups and splits since
        }

    def _networks(self) -> dict[str, list[Any]]:
        """The checkpoints on which codes depend, {folder: [step, identity]}."""
        return {
            folder: of_folder
            for folder, of_folder in self.contents.items()
            if not self._is_derived(folder)
        }

    @property
    def contents(self) -> dict[str, list[Any]]:
        """What tells all checkpoints from others, {folder: [step, identity]}, as JSON has it."""
        return {folder: [save.step, save.identity] for folder, save in self.saved.items()}

    def _are_the_networks(self, recorded: Any) -> bool:
        """Whether a record is of the networks as they are; older versions recorded steps alone."""
        now = self._networks()
        steps = {folder: step for folder, (step, _) in now.items()}
        return recorded == now or recorded == steps

    def _is_from_codes(self, folder: str) -> bool:
        return all(group_of(group).from_codes for group in self.saved[folder].groups)

    def _is_derived(self, folder: str) -> bool:
        return all(group_of(group).derived for group in self.saved[folder].groups)

    def code_table(self, split: str) -> CodeTable:
        """The codes of a split of the run's own data."""
        return CodeTable(self.path / "codes" / split)

    def few_shot_output(self) -> Output:
        """Where the pictures that a few-shot classifier is fitted on are encoded."""
        return Output(self.path / "codes" / "fewshot", "fewshot")

    def output(self, command: str, folder: str | os.PathLike | None = None) -> Output:
        """Where a command's page and files go: `folder`, or a folder of its own here."""
        return Output(local(folder) if folder else self.path / command, command)

    def _write(self, path: Path, value: Any) -> None:
        with processes.fail_together():
            if processes.writes():
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
