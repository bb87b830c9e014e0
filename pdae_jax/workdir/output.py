"""`Output`: the folder of one command, with its page, its numbers and its files."""

import contextlib
import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pdae_jax.images import grid, to_pil, visible
from pdae_jax.runtime import atomic, processes
from pdae_jax.workdir import json_file, lock, samples_npz
from pdae_jax.workdir.chunk_cache import ChunkCache
from pdae_jax.workdir.code_files import CodeFiles
from pdae_jax.workdir.code_table import CodeTable
from pdae_jax.workdir.lock import Lock


class Output:
    """Where a command writes. All of several processes make the same calls, and the first's alone
    write here; chunks of long work are shared.

    numbers.json marks the folder as this package's, and records the command and its cache key.
    """

    def __init__(self, folder: Path, command: str):
        self.folder, self.command = folder, command
        self.page = folder / "index.html"
        self._numbers, self._kept = folder / "numbers.json", folder / "kept.json"

    def within(self, command: str, folder: str = "") -> "Output":
        """The folder of another command inside this one, by its own name or another."""
        return Output(self.folder / (folder or command), command)

    def is_current(self, cache_key: Mapping[str, Any]) -> bool:
        """Whether the page is there, and has this cache key."""
        return processes.ask_first(
            lambda: self.page.exists() and self._mark().get("cache_key") == cache_key
        )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder, in which this command alone writes while the block runs.

        ValueError where it holds what this command did not write, or where another process is
        writing. A block that raises ValueError before it has written anything leaves no folder.
        """
        with processes.fail_together():
            if processes.writes():
                self._check()
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise ValueError(
                        f"{self.folder} cannot be made: {error.strerror}; choose another --out"
                    ) from error
        with Lock(self.folder):
            if processes.writes() and not self._numbers.exists():
                atomic.write_text(self._numbers, json.dumps({"mode": self.command}) + "\n")
            try:
                yield
            except ValueError:
                if processes.writes() and self._files() == {self._numbers.name}:
                    shutil.rmtree(self.folder)
                raise

    def _check(self) -> None:
        writer = self._mark().get("mode")
        if writer not in (None, self.command):
            raise ValueError(
                f"{self.folder} holds what --mode={writer} wrote; choose another --out"
            )
        if writer is None and self.folder.exists() and self._files():
            raise ValueError(
                f"{self.folder} holds what this command did not write; choose another --out"
            )

    def _files(self) -> set[str]:
        """The names in the folder, but for its lock; its own where it is no folder."""
        there = self.folder.iterdir() if self.folder.is_dir() else [self.folder]
        return {path.name for path in there} - {lock.NAME}

    def _mark(self) -> dict[str, Any]:
        """The folder's record; {} where this package did not write it."""
        try:
            mark = json.loads(self._numbers.read_text())
        except (OSError, ValueError):
            return {}
        return mark if isinstance(mark, dict) else {}

    # Long work.

    def chunks(self, name: str, cache_key: dict[str, Any], size: int) -> ChunkCache:
        """A cache of chunks in a folder of its own."""
        return ChunkCache(self.folder / name, cache_key, size)

    def code_table(self, name: str = "") -> CodeTable:
        """A table of codes here, or in the folder `name`."""
        return CodeTable(self.folder / name)

    def code_files(self, formats: Sequence[str]) -> CodeFiles:
        """The files of codes here, in these formats."""
        return CodeFiles(self.folder, formats)

    # What a part of a report leaves for the next one.

    def keep(self, cache_key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Keeps what `kept` gives back under the same cache key, while its `files` are there."""
        with self._new(self._kept.name) as path:
            path.write_text(json.dumps({"cache_key": cache_key, **value}), encoding="utf-8")

    def kept(self, cache_key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was kept under this cache key; None where there is nothing, or a file is gone."""
        found = json_file.read(self._kept) if self._kept.exists() else {}
        as_written = json.loads(json.dumps(cache_key))  # tuples are lists
        there = found.get("cache_key") == as_written and all(
            (self.folder / name).exists() for name in found["files"]
        )
        return found if processes.ask_first(lambda: there) else None

    # Files, each named by its stem.

    def write_numbers(self, numbers: Mapping[str, Any], **record: Any) -> None:
        """Writes numbers as JSON, with a record of how they were made."""
        value = {"mode": self.command} | record | {"numbers": numbers}
        with self._new("numbers.json") as path:
            path.write_text(json.dumps(value, indent=1) + "\n")

    def write_markdown(self, name: str, text: str) -> None:
        with self._new(f"{name}.md") as path:
            path.write_text(text)

    def write_latex(self, name: str, text: str) -> None:
        with self._new(f"{name}.tex") as path:
            path.write_text(text, encoding="utf-8")

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows of the same keys as CSV, one column a key; None is an empty cell."""
        with (
            self._new(f"{name}.csv") as path,
            path.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def write_columns(self, name: str, header: Sequence[str], *columns: Iterable[float]) -> None:
        """Writes numbers as CSV."""
        lines = (",".join(f"{value:.8g}" for value in row) for row in zip(*columns, strict=True))
        with self._new(f"{name}.csv") as path:
            path.write_text("\n".join([",".join(header), *lines]) + "\n")

    def write_broken(self, broken: Sequence[tuple[str, str]]) -> None:
        """Lists pictures that could not be read, where and why each; no file of none."""
        if len(broken):
            with self._new("broken.tsv") as path:
                path.write_text("".join(f"{where}\t{why}\n" for where, why in broken))
        elif processes.writes():
            (self.folder / "broken.tsv").unlink(missing_ok=True)  # of an earlier call

    def save_grid(self, name: str, rows: Sequence[np.ndarray]) -> None:
        """Saves rows of uint8 [n, H, W, C] as a PNG, small pictures enlarged to about 96 pixels."""
        with self._new(f"{name}.png") as path:
            to_pil(grid(rows, gap=1), max(1, 96 // rows[0].shape[2])).save(path, "PNG")

    def save_figure(self, name: str, kind: str, draw: Callable[[Path, str], None]) -> str:
        """Saves a figure that `draw` writes to a path, of a kind such as "pdf"; its file's name."""
        file = f"figures/{name}.{kind}"
        if processes.writes():
            (self.folder / "figures").mkdir(exist_ok=True)
            with self._new(file) as path:
                draw(path, kind)
        return file

    def keep_figures(self, files: Iterable[str]) -> None:
        """Deletes the figures of earlier pages, those that are not among these files."""
        if processes.writes():
            for path in (self.folder / "figures").glob("*"):
                if f"figures/{path.name}" not in files:
                    path.unlink()

    def save_animation(self, name: str, frames: Sequence[Image.Image]) -> None:
        """Saves frames as a GIF that repeats."""
        with self._new(f"{name}.gif") as path:
            frames[0].save(
                path, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0
            )

    def save_samples(
        self, chunks: Iterable[np.ndarray], shape: tuple[int, ...], how: str = "npz"
    ) -> None:
        """Saves chunks [k, H, W, C], `shape` in all.

        how: "npz", ADM's, of uint8; "units", .npy of float32; "folder", PNGs of uint8.

        All processes must call this, since chunks may be computed while they are saved.
        """
        if how == "npz":
            with self._new("samples.npz") as path:
                samples_npz.write(path, chunks, shape)
            return
        if how == "units":
            with self._new("samples.npy") as path:
                samples_npz.write_npy(path, chunks, shape)
            return
        folder = self.folder / "samples"
        if processes.writes():
            shutil.rmtree(folder, ignore_errors=True)  # more of an earlier call would stay
            folder.mkdir()
        number = 0
        for chunk in chunks:
            for image in chunk if processes.writes() else ():
                to_pil(visible(image)).save(folder / f"{number:06d}.png")
                number += 1

    @contextlib.contextmanager
    def _new(self, name: str) -> Iterator[Path]:
        """The path at which to write a file: beside its own; elsewhere if this process does not."""
        if processes.writes():
            with atomic.new_file(self.folder / name) as path:
                yield path
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / name
