"""Long work in parts: what is done is kept in a folder, and not done again when the work goes on."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pdae_jax.runtime import processes
from pdae_jax.runtime.progress import bar

Make = Callable[[range, Callable[[int], object]], dict[str, np.ndarray]]


class Parts:
    """Parts of a long work in a folder, each an .npz of arrays.

    made_from: what the work depends on, as JSON has it; parts of something else are thrown away.
    """

    def __init__(self, folder: str | os.PathLike, made_from: dict, size: int = 1024):
        self.folder, self.size = Path(folder), size
        record = self.folder / "made_from.json"
        made_from = json.dumps(made_from | {"size": size}, sort_keys=True, indent=1) + "\n"
        with processes.together():
            if processes.writes():
                if record.exists() and record.read_text() != made_from:
                    shutil.rmtree(self.folder)
                self.folder.mkdir(parents=True, exist_ok=True)
                record.write_text(made_from)

    def run(self, n: int, make: Make, words: str) -> Iterator[dict[str, np.ndarray]]:
        """Yields the parts of 0..n in order, those that are missing made first.

        make(rows, advance) makes one part, and calls advance(k) after every k rows of it, for the
        progress bar that says `words`. Of several processes each makes its share, all yield all;
        between parts they heed a signal to stop.
        """
        parts = [range(start, min(start + self.size, n)) for start in range(0, n, self.size)]
        several, index = processes.count(), processes.index()
        with bar(words, total=sum(map(len, parts[index::several]))) as progress:
            if several > 1:
                for turn in itertools.zip_longest(*[iter(parts)] * several, fillvalue=range(0)):
                    with processes.together():
                        if turn[index]:
                            self._make(turn[index], make, progress.update)
                    processes.heed_stop()
            for rows in parts:
                with np.load(self._make(rows, make, progress.update)) as part:
                    yield dict(part)

    def _make(self, rows: range, make: Make, advance) -> Path:
        """Makes the part of some rows, where it is missing."""
        path = self.folder / f"{rows.start:09d}-{rows.stop:09d}.npz"
        if path.exists():
            advance(len(rows))
        else:
            partial = path.with_name(f".partial-{path.name}")
            np.savez(partial, **make(rows, advance))
            partial.rename(path)
        return path

    def whole(self, n: int, make: Make, words: str) -> dict[str, np.ndarray]:
        """All parts joined, for what fits into memory."""
        parts = list(self.run(n, make, words))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def remove(self) -> None:
        """Throws the parts away, once every process has read them."""
        processes.wait(f"read {self.folder}")
        if processes.writes():
            shutil.rmtree(self.folder, ignore_errors=True)
