"""Tables of codes: z of every picture of a data set, with labels and where each picture is."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pdae_jax.runtime import atomic, processes
from pdae_jax.workdir import npz_file
from pdae_jax.workdir.chunk_cache import ChunkCache
from pdae_jax.workdir.lock import Lock

CHUNK_ROWS = 4096


class Codes(NamedTuple):
    """z of every picture, float32 [N, d], and what is known of it.

    labels: float32 [N, A], with the attributes' names. where: the picture's full path or its key.
    broken: those that could not be read, [K, 2] of where and why; they have no rows, or, where they
    were asked for, rows of NaN. path: as `where`, relative to the data set's folder, for joining
    tables. group: such as the patient; split: "train" or "test". The last three are [N] of str, or
    [0] where there are none.
    """

    z: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...]
    where: np.ndarray
    broken: np.ndarray = np.zeros((0, 2), str)
    path: np.ndarray = np.zeros(0, str)
    group: np.ndarray = np.zeros(0, str)
    split: np.ndarray = np.zeros(0, str)

    def without_broken(self) -> "Codes":
        """The rows whose picture could be read."""
        good = np.asarray(np.isfinite(self.z).all(1))
        columns = ("z", "labels", "where", "path", "group", "split")
        rows = {name: getattr(self, name) for name in columns}
        return self._replace(**{name: a[good] for name, a in rows.items() if len(a) == len(good)})


class CodeTable:
    """One table in a folder: codes.npz, and the cache key of what it was computed from."""

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder)
        self._table, self._record = self._folder / "codes.npz", self._folder / "cache_key.json"

    def is_current(self, cache_key: dict[str, Any]) -> bool:
        """Whether the table is there and was computed from what `cache_key` says."""

        def answer() -> bool:
            return (
                self._table.exists()
                and self._record.exists()
                and self._record.read_text() == _text(cache_key)
            )

        return processes.ask_first(answer)

    def read(self) -> Codes:
        """Reads the table; ValueError where there is none."""
        if not self._table.exists():
            raise ValueError(f"no codes at {self._folder}: encode the data first")
        table = npz_file.read(self._table, Codes._fields)
        attributes = tuple(map(str, table.pop("attributes")))
        return Codes(**table, attributes=attributes)

    def lock(self) -> Lock:
        """Held by what computes the table."""
        return Lock(self._folder)

    def chunks(self, cache_key: dict[str, Any]) -> ChunkCache:
        """Where the table is kept while it is being computed."""
        return ChunkCache(self._folder / "chunks", cache_key, size=CHUNK_ROWS)

    def write(self, codes: Codes, cache_key: dict[str, Any]) -> None:
        """Replaces the table."""
        with processes.fail_together():
            if processes.writes():
                with atomic.new_file(self._table) as partial:
                    with partial.open("wb") as file:
                        np.savez(file, **codes._asdict())
                    self._table.unlink(missing_ok=True)  # no old table lies beside the new record
                    atomic.write_text(self._record, _text(cache_key))


def _text(cache_key: dict[str, Any]) -> str:
    return json.dumps(cache_key, sort_keys=True, indent=1) + "\n"
