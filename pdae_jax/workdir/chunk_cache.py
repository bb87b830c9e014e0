"""Long work in chunks: finished chunks are kept in a folder, so that interrupted work resumes."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.runtime import atomic, processes
from pdae_jax.runtime.progress import bar
from pdae_jax.workdir import npz_file

Arrays = dict[str, np.ndarray]
Advance = Callable[[int], object]
Compute = Callable[[range, Advance], Arrays]


class ChunkCache:
    """Chunks of long work in a folder, each an .npz of arrays.

    cache_key: all that the work depends on, as JSON has it; chunks of another key are removed.
    size: rows of a chunk.
    """

    def __init__(self, folder: str | os.PathLike, cache_key: dict[str, Any], size: int = 1024):
        self.folder, self.size = Path(folder), size
        record = self.folder / "cache_key.json"
        text = json.dumps(cache_key | {"size": size}, sort_keys=True, indent=1) + "\n"
        with processes.fail_together():
            if processes.writes():
                if record.exists() and record.read_text() != text:
                    shutil.rmtree(self.folder)
                self.folder.mkdir(parents=True, exist_ok=True)
                atomic.write_text(record, text)

    def run(self, n: int, compute: Compute, words: str) -> Iterator[Arrays]:
        """Yields the chunks of rows 0..n in order, the missing ones computed first.

        compute(rows, advance) computes one chunk, and calls advance(k) after every k rows of it,
        for the progress bar labelled `words`. Several processes compute a share each and yield
        all; between chunks they stop where a signal asked for it (`processes.Stopped`).
        """
        chunks = [range(start, min(start + self.size, n)) for start in range(0, n, self.size)]
        count, index = processes.count(), processes.index()
        with bar(words, total=sum(map(len, chunks[index::count]))) as progress:
            if count > 1:
                for turn in itertools.zip_longest(*[iter(chunks)] * count, fillvalue=range(0)):
                    with processes.fail_together():
                        if turn[index]:
                            self._file(turn[index], compute, progress.update)
                    processes.raise_if_stopped()
            for rows in chunks:
                yield npz_file.read(self._file(rows, compute, progress.update))

    def _file(self, rows: range, compute: Compute, advance: Advance) -> Path:
        """The file of one chunk, computed where it is missing."""
        path = self.folder / f"{rows.start:09d}-{rows.stop:09d}.npz"
        if path.exists():
            advance(len(rows))
        else:
            with atomic.new_file(path) as partial, partial.open("wb") as file:
                arrays: dict[str, Any] = compute(rows, advance)
                np.savez(file, **arrays)
        return path

    def joined(self, n: int, compute: Compute, words: str) -> Arrays:
        """All chunks as one, for what fits into memory."""
        chunks = list(self.run(n, compute, words))
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def remove(self) -> None:
        """Deletes the chunks, once every process has read them."""
        processes.wait(f"read {self.folder}")
        if processes.writes():
            shutil.rmtree(self.folder, ignore_errors=True)
