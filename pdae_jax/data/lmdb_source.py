"""`LMDB`: databases of pictures in the layout of Diff-AE."""

import functools
import io
import os
from typing import Any

import numpy as np

from pdae_jax.data.label_table import labels_of, match, read_table
from pdae_jax.data.source import Source
from pdae_jax.data.splits import check_split, held_out
from pdae_jax.data.transforms import CELEBA_CROP
from pdae_jax.formats.errors import DataError
from pdae_jax.formats.pillow_file import decode
from pdae_jax.runtime.paths import local

CELEBA_SPLITS = {"train": (0, 162_770), "valid": (162_770, 182_637), "test": (182_637, 202_599)}


class LMDB(Source):
    """A database in the layout of Diff-AE: keys `256-00000`, `256-0000000` or `None-0000000`.

    path: the folder (or file) of the database.
    split: the whole CelebA (`None-` keys, 202,599 pictures) has its own "train", "valid" and
        "test"; elsewhere a seeded share `test_fraction` is held out (0 trains on everything, as the
        paper).
    attributes: a table as in `read_attributes`; rows are found by key or by the data set's own file
        name: CelebA's `000001.jpg` is picture 0, CelebA-HQ's `0.jpg` is picture 0.

    CelebA's pictures carry `crop = CELEBA_CROP`. Raises DataError for a path that is no such
    database.
    """

    formats = ("256-{:05d}", "256-{:07d}", "None-{:07d}")

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        attributes: str | os.PathLike[str] | None = None,
        test_fraction: float = 0.01,
        seed: int = 0,
    ):
        self._database = os.path.realpath(local(path))
        self.name = f"lmdb:{path}"
        with _environment(self._database).begin() as txn:
            layout = next((f for f in self.formats if txn.get(f.format(0).encode())), None)
            length = txn.get(b"length")
        if layout is None or length is None:
            expected = ", ".join(f.format(0) for f in self.formats)
            raise DataError(
                f"{path} is an LMDB of another layout: need the key 'length' and one of "
                f"the keys {expected}"
            )
        self.format = layout
        length, celeba = int(length), layout.startswith("None")
        self.crop = CELEBA_CROP if celeba else None
        if celeba and length == CELEBA_SPLITS["test"][1]:
            check_split(split, (*CELEBA_SPLITS, "all"))
            self.indices = np.arange(*CELEBA_SPLITS.get(split, (0, length)))
        else:
            self.indices = held_out(length, split, test_fraction, seed)
        self.split_of = self._split_of(length, celeba, test_fraction, seed)[self.indices]
        if attributes is not None:
            file = "{:06d}.jpg" if celeba else "{}.jpg"
            table = read_table(attributes)
            rows = self.indices.tolist()
            names = [(file.format(i + celeba), self.format.format(i)) for i in rows]
            matched = match(table, [one for one, _ in names], names)
            found = labels_of(table, matched.rows)
            self.attributes, self.labels = found.attributes, found.values
            self.words += (matched.words,)

    def _split_of(self, length: int, celeba: bool, fraction: float, seed: int) -> np.ndarray:
        if celeba and length == CELEBA_SPLITS["test"][1]:
            names = np.empty(length, "U5")
            for name, (first, end) in CELEBA_SPLITS.items():
                names[first:end] = name
            return names
        tests = np.full(length, "train")
        if fraction and length > 1:
            tests[held_out(length, "test", fraction, seed)] = "test"
        return tests

    def __len__(self) -> int:
        return len(self.indices)

    def _key(self, i: int) -> str:
        return self.format.format(int(self.indices[i]))

    def image(self, i: int) -> np.ndarray:
        with _environment(self._database).begin() as txn:
            value = txn.get(self._key(i).encode())
        if value is None:
            raise DataError(f"key {self._key(i)} is missing")
        return decode(io.BytesIO(value))

    def where(self, i: int) -> str:
        return f"{self._database}:{self._key(i)}"

    def read_from(self) -> list[str]:
        inside = os.path.join(self._database, "data.mdb")
        return [inside if os.path.exists(inside) else self._database]


@functools.cache
def _environment(path: str) -> Any:
    """The open LMDB at `path`: LMDB allows a process to open each database once."""
    import lmdb

    if not os.path.exists(path):
        raise DataError(f"no such LMDB: {path} (give the folder that holds data.mdb)")
    try:
        return lmdb.open(
            path,
            subdir=os.path.isdir(path),
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
        )
    except lmdb.Error as error:
        raise DataError(f"cannot open {path} as an LMDB: {error}") from error
