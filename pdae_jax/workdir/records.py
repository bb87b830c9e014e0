"""The records of one objective's training: scalars, time, picture grids, settings and data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.data.dataset import Data
from pdae_jax.images import to_pil
from pdae_jax.runtime import atomic
from pdae_jax.workdir import json_file


class Records:
    """The records of a training, beside its checkpoints."""

    def __init__(self, folder: Path):
        self.folder = folder  # TensorBoard's event files go here too
        self._scalars, self._time = folder / "metrics.jsonl", folder / "time.jsonl"
        self._data, self._settings = folder / "data.json", folder / "settings.jsonl"

    def scalars(self) -> list[dict[str, float]]:
        """All recorded lines, {"step": ..., name: value}; [] where there are none."""
        if not self._scalars.exists():
            return []
        return json_file.read_lines(self._scalars)

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Appends a line; values must be finite, as JSON has no NaN."""
        with self._scalars.open("a") as file:  # `forget_after` has seen to its last line
            file.write(json.dumps({"step": step, **values}) + "\n")

    def forget_after(self, step: int) -> None:
        """Removes the scalars of later steps, which a resumed run records again."""
        if self._scalars.exists():
            kept = [line for line in json_file.read_lines(self._scalars) if line["step"] <= step]
            atomic.write_text(self._scalars, "".join(json.dumps(line) + "\n" for line in kept))

    def seconds(self) -> float | None:
        """The time spent in training, over all starts; None where none is recorded."""
        lines = json_file.read_lines(self._time) if self._time.exists() else []
        return lines[-1]["seconds"] if lines else None

    def add_seconds(self, step: int, seconds: float) -> None:
        """Adds a finished stretch, which ended at `step`."""
        total = (self.seconds() or 0.0) + seconds
        json_file.append_line(self._time, {"step": step, "seconds": total})

    def add_picture(self, step: int, name: str, grid: np.ndarray) -> None:
        """Keeps a grid, uint8 [H, W, 1 or 3], as a PNG."""
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        to_pil(grid).save(folder / f"{step:09d}_{name}.png")

    def broken_list(self, process: int) -> Path:
        """The file in which a process lists its broken pictures."""
        return self.folder / (f"broken-{process}.txt" if process else "broken.txt")

    def add_broken(self, broken: dict[str, str], process: int) -> None:
        """Appends {path: reason} to a process's list of broken pictures."""
        with self.broken_list(process).open("a") as file:
            file.writelines(f"{path}\t{reason}\n" for path, reason in broken.items())

    def data(self) -> list[Data]:
        """The data sets that the objective was trained on, first to last."""
        if not self._data.exists():
            return []
        records = json_file.read(self._data)
        return [json_file.read_as(Data, self._data, record) for record in records]

    def settings(self) -> dict[str, Any]:
        """The settings of the last start that trained; {} where none are recorded."""
        lines = json_file.read_lines(self._settings) if self._settings.exists() else []
        return lines[-1] if lines else {}

    def add_settings(self, step: int, settings: dict[str, Any]) -> None:
        """Records the settings of a start at `step`."""
        json_file.append_line(self._settings, {"step": step, **settings})

    def add_data(self, data: Data) -> None:
        """Records that the objective is trained on `data`."""
        there = self.data()
        if data not in there:
            records = [dataclasses.asdict(one) for one in [*there, data]]
            atomic.write_text(self._data, json.dumps(records, indent=1) + "\n")
