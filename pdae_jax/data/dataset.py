"""`Data`, the settings of a data set, and `open_source`, which opens one by its name."""

import difflib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pdae_jax.data.builtin import Digits, Emoji
from pdae_jax.data.sources import LMDB, TFDS, Folder, Source
from pdae_jax.formats.errors import DataError
from pdae_jax.runtime.fields import REQUIRED, described
from pdae_jax.runtime.paths import local

BUILT_IN: dict[str, Callable[..., Source]] = {"digits": Digits, "emoji": Emoji}
KINDS: dict[str, Callable[..., Source]] = {"folder": Folder, "lmdb": LMDB, "tfds": TFDS}


@dataclass(frozen=True)
class Data:
    """The settings of a data set: which pictures, and how they are read (see `open_source`)."""

    name: str = described(REQUIRED, "digits, emoji, folder:PATH, lmdb:PATH or tfds:NAME")
    flip: bool = described(True, "random horizontal flips")
    workers: int = described(0, "loader processes; 0: threads")
    seed: int = described(0, "random seed of the held-out share and of the order")
    test_fraction: float = described(
        -1.0, "held-out share where the data have no split; below 0: 0.1, or the source's own"
    )
    attributes: str = described("", "CSV or CelebA text table of attributes, of a folder or LMDB")
    data_dir: str = described("", "folder in which TFDS data were prepared")
    max_broken: float = described(0.1, "share of unreadable pictures that ends a run")

    @property
    def pictures(self) -> dict[str, Any]:
        """The settings that decide which pictures there are, however they are read."""
        return {name: getattr(self, name) for name in ("name", "seed", "test_fraction", "data_dir")}

    def fingerprint(self) -> str:
        """A hash of the paths, sizes and times of the files: another where a person changed any."""
        found = hashlib.sha256()
        for file in (*self.open("all").read_from(), self.attributes):
            path = os.path.abspath(os.path.expanduser(file))
            found.update(path.encode(errors="surrogateescape") + b"\0")
            if file and os.path.exists(path):
                state = os.stat(path)
                found.update(f"{state.st_size} {state.st_mtime_ns} ".encode())
        return found.hexdigest()[:16]

    def open(self, split: str) -> Source:
        """Opens one split, "train", "test" or "all"; DataError where it cannot be read."""
        return open_source(
            self.name,
            split,
            seed=self.seed,
            attributes=self.attributes or None,
            test_fraction=None if self.test_fraction < 0 else self.test_fraction,
            data_dir=self.data_dir or None,
        )


def open_source(
    name: str,
    split: str = "train",
    *,
    seed: int = 0,
    attributes: str | os.PathLike[str] | None = None,
    test_fraction: float | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """Opens a source of pictures by name.

    name: "digits", "emoji", "folder:PATH" (or the path of an existing folder), "lmdb:PATH" or
        "tfds:NAME".
    split: "train", "test" or "all" (and "valid" where the data set has one).
    seed, test_fraction: of the held-out share, where the data set has no split of its own; None is
        0.2 for digits, 0.1 for emoji and folders, 0.01 for LMDB and TFDS. Use the same for train
        and test.
    attributes: path of a CSV or CelebA text table of attributes (folder and LMDB).
    data_dir: where TFDS data was prepared (tfds).

    Raises DataError (a ValueError) for an unknown name, with the nearest valid ones, and for data
    that is missing, empty or cannot be read.
    """
    kind, _, rest = str(name).partition(":")
    arguments: tuple[str, ...]
    if kind in KINDS and rest:
        opener, arguments = KINDS[kind], (rest,)
    elif name in BUILT_IN:
        opener, arguments = BUILT_IN[name], ()
    elif os.path.isdir(os.path.expanduser(name)):
        kind, opener, arguments = "folder", KINDS["folder"], (name,)
    else:
        valid = [*BUILT_IN, *(f"{kind}:" for kind in KINDS)]
        near = difflib.get_close_matches(str(name), valid, n=2) or valid
        local(name)  # raises of a bucket's address
        raise DataError(
            f"no data called {str(name)!r} and no such folder: did you mean "
            f"{' or '.join(near)}? (valid: digits, emoji, folder:PATH, lmdb:PATH, tfds:NAME)"
        )
    options: dict[str, Any] = {
        "attributes": attributes,
        "test_fraction": test_fraction,
        "data_dir": data_dir,
    }
    options = {key: value for key, value in options.items() if value is not None}
    if "attributes" in options and kind not in ("folder", "lmdb"):
        raise DataError(f"{name} brings its own attributes: leave out attributes={attributes!r}")
    if "data_dir" in options and kind != "tfds":
        raise DataError(f"data_dir={data_dir!r} is for tfds: names alone, not for {name}")
    return opener(*arguments, split, seed=seed, **options)
