"""Reads the .npz files that this package keeps; a damaged one is named, with the remedy."""

from collections.abc import Collection
from pathlib import Path

import numpy as np


def read(path: Path, names: Collection[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of a file, by their names, each compared with the checksum that its format has.

    names: those that must be there.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
            if missing := set(names) - found.keys():
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
            return found
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file makes the reader raise anything
        raise ValueError(
            f"{path} is damaged ({error}): delete it, and the same command computes it again"
        ) from error
