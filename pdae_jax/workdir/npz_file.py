"""Reads the .npz files that this package keeps; a damaged one is named, with the remedy."""

import zipfile
from pathlib import Path

import numpy as np


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by their names; each has a checksum, as its format has it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it, and the same command computes it again"
        ) from error
