"""Files and folders that appear whole or not at all: written beside, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path beside `path`; what is written there takes its place, unless an error comes."""
    path = Path(path)
    partial = _beside(path)
    try:
        yield partial
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The same for a folder; `path` must not exist, or be an empty folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir()
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces a file's text."""
    with new_file(path) as partial:
        partial.write_text(text)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
