"""Sources of pictures: folders, LMDBs and TFDS names, behind one small interface.

A source is picklable and cheap to pickle: worker processes open files and databases for themselves.
"""

import collections
import csv
import functools
import glob
import importlib
import io
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from pdae_jax.data.transforms import CELEBA_CROP, Crop, decode, to_uint8
from pdae_jax.formats.errors import DataError
from pdae_jax.runtime.paths import local

SPLITS = ("train", "test", "all")


class Source:
    """Pictures by index, with their labels. The base class of every source.

    A subclass gives `__len__` and `image`. Attributes:
      name:        its name in messages.
      attributes:  names of the labels, a tuple of A strings.
      labels:      float32 `[N, A]`; NaN where unknown, 0 and 1 for yes and no.
      crop:        `(top, bottom, left, right)` that the data set is known to need, or None.
      group:       str `[N]`, what each picture belongs to, such as a patient; `[0]` without groups.
      split_of:    str `[N]`, "train" or "test"; `[0]` where that is not known.
    """

    name = "source"
    attributes: tuple[str, ...] = ()
    crop: Crop | None = None
    group: np.ndarray = np.zeros(0, str)
    split_of: np.ndarray = np.zeros(0, str)

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, i: int) -> np.ndarray:
        """Picture `i`, uint8 `[h, w, c]`, in the size and channels it is stored in.

        Raises any exception where the picture cannot be read.
        """
        raise NotImplementedError

    def where(self, i: int) -> str:
        """The path or key of picture `i`, for messages."""
        return f"{self.name}[{i}]"

    def path(self, i: int) -> str:
        """The same, relative to the data set's folder: what tables are joined by."""
        return self.where(i)

    def read_from(self) -> list[str]:
        """The files that pictures are read from, where a person may change them."""
        return []

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return np.zeros((len(self), 0), np.float32)

    def example(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture `i` and its labels, float32 `[A]`."""
        return self.image(i), self.labels[i]


def binary(labels: np.ndarray) -> list[int]:
    """The columns of labels `[N, A]` that are yes or no: 0 and 1 occur, and besides only NaN."""
    columns = (column[np.isfinite(column)] for column in labels.T)
    return [k for k, column in enumerate(columns) if set(np.unique(column)) == {0, 1}]


def require(module: str, package: str) -> ModuleType:
    """Imports an optional module, or says in one line what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"this data needs the package {package}: pip install {package} ({error})"
        ) from error


def check_split(split: str, splits: Iterable[str] = SPLITS) -> None:
    """Raises DataError unless `split` is one of `splits`."""
    if split not in splits:
        raise DataError(f"no split {split!r} here: choose one of {', '.join(splits)}")


def held_out(size: int, split: str, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of a split of `size` pictures, a seeded random `fraction` being the test set.

    The same seed gives the same division: "train" and "test" share nothing and make up "all".
    Raises DataError where the split is empty.
    """
    check_split(split)
    if split == "all":
        return np.arange(size)
    if not 0 <= fraction < 1:
        raise DataError(f"test_fraction is {fraction}: must be at least 0 and below 1")
    order = np.random.default_rng(seed).permutation(size)
    tests = min(max(round(size * fraction), 1 if fraction else 0), size - 1)
    chosen = order[:tests] if split == "test" else order[tests:]
    if not len(chosen):
        raise DataError(
            f"the test split of {size} picture(s) is empty with "
            f"test_fraction={fraction}: raise it, or add pictures"
        )
    return np.sort(chosen)


class Folder(Source):
    """Every picture below a folder, in natural order (`img2` before `img10`).

    path: the folder; or a picture, a glob such as `scans/*.png`, or several of these,
        comma-separated, in that order. Nested folders, links, any size and any format Pillow reads,
        and `.npy` arrays `[H, W]` or `[H, W, C]` (scaled as in `to_uint8`). Names that begin with a
        dot are left out.
    split: with a subfolder `train`, that, and `test`, `val` or `validation`; without one, a seeded
        share `test_fraction` is held out. "all" is everything.
    attributes: a table as in `read_attributes`, by file name or by path relative to the folder.

    Raises DataError for a folder that is missing, unreadable or without pictures.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        attributes: str | os.PathLike[str] | None = None,
        test_fraction: float = 0.1,
        seed: int = 0,
    ):
        check_split(split)
        root = local(path)
        matched = [] if root.is_dir() else named_pictures(str(root))
        train = root / "train" if split != "all" and (root / "train").is_dir() else root
        tests = [root / name for name in ("test", "val", "validation") if (root / name).is_dir()]
        if matched:
            files = [matched[i] for i in held_out(len(matched), split, test_fraction, seed)]
            root = Path(os.path.commonpath([file.parent for file in files]))
        elif train != root and tests:
            files = find_pictures(train if split == "train" else tests[0])
        else:
            files = find_pictures(train)
            files = [files[i] for i in held_out(len(files), split, test_fraction, seed)]
        self.name = f"folder:{root}"
        self.files = [str(file) for file in files]
        if attributes is not None:
            relative = [Path(file).relative_to(root).as_posix() for file in files]
            self.attributes, self.labels = match_attributes(
                attributes, [(name, Path(name).name, Path(name).stem) for name in relative]
            )

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> np.ndarray:
        if self.files[i].lower().endswith(".npy"):
            return to_uint8(np.load(self.files[i], allow_pickle=False))
        return decode(self.files[i])

    def where(self, i: int) -> str:
        return self.files[i]

    def read_from(self) -> list[str]:
        return self.files


# Pillow knows these by name, and reads none of them as a picture without more software.
NO_PICTURES = {"MPEG", "HDF5", "GRIB", "BUFR", "EPS", "WMF"}


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """The file suffixes that are read, lower case: Pillow's pictures, and `.npy`."""
    known = Image.registered_extensions()
    return frozenset(
        suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES
    ) | {".npy"}


def named_pictures(names: str) -> list[Path]:
    """Paths of the pictures that a name, a glob, or a comma-separated list of them means."""
    found: list[Path] = []
    for name in [names] if os.path.exists(names) else names.split(","):
        exact = [str(local(name))] if os.path.isfile(local(name)) else None  # [ and ] in its name
        matched = [
            Path(path)
            for path in exact or glob.glob(str(local(name)), recursive=True)
            if Path(path).suffix.lower() in picture_suffixes()
        ]
        if not matched and glob.has_magic(name):
            raise DataError(f"no picture matches {name} (a glob, taken from {os.getcwd()})")
        if not matched and os.path.isdir(local(name)):
            raise DataError(f"{name} is a folder, and one of several must be a picture or a glob")
        if not matched:
            reason = (
                "no folder, and no picture" if os.path.exists(name) else "no such file or folder"
            )
            raise DataError(f"{reason}: {name} (give a picture, or the folder that holds them)")
        found += sorted(matched, key=natural)
    return found


def find_pictures(folder: Path) -> list[Path]:
    """Paths of the pictures below a folder, in natural order; DataError if there are none."""

    def fail(error: OSError) -> NoReturn:
        raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error

    files: list[Path] = []
    other: set[str] = set()
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in picture_suffixes():
                files.append(path)
            else:
                other.add(path.suffix or name)
    if not files:
        found = f"only {', '.join(sorted(other)[:5])} files" if other else "it is empty"
        raise DataError(
            f"no pictures in {folder}: {found} (any format that Pillow reads will do, "
            "such as .png or .jpg, or .npy arrays)"
        )
    return sorted(files, key=natural)


def natural(path: Path) -> tuple[list[Any], str]:
    """Sort key under which numbers in a path count as numbers."""
    parts = re.split(r"(\d+)", Path(path).as_posix())
    return [int(part) if part.isdecimal() else part.casefold() for part in parts], str(path)


def read_attributes(
    path: str | os.PathLike[str],
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Reads a table of attributes: their names, and a dict from picture to its row.

    Two layouts: a CSV whose first column is the file name or relative path and whose header names
    the other, numeric columns, with NaN for an empty cell; and CelebA's text layout (a count, a
    line of names, then file name and values). A column of -1 and 1 alone becomes 0 and 1.

    Returns (tuple of A names, `{picture: float32 [A]}`). Raises DataError naming the line that
    cannot be read.
    """
    try:
        lines = local(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the attributes in {path}: {error}") from error
    celeba = bool(lines) and lines[0].strip().isdecimal()
    rows = [line.split() for line in lines[1:]] if celeba else list(csv.reader(lines))
    rows = [(number, row) for number, row in enumerate(rows, 2 if celeba else 1) if row]
    if len(rows) < 2:
        raise DataError(f"no attributes in {path}: need a header line and one line per picture")
    header = [name.strip() for name in rows[0][1]]
    names = tuple(header if celeba else header[1:])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has two columns named {twice[0]!r}: rename or remove one")
    pictures, values = [], np.full((len(rows) - 1, len(names)), np.nan, np.float32)
    for k, (number, row) in enumerate(rows[1:]):
        if len(row) != len(names) + 1:
            raise DataError(f"{path}, line {number}: {len(row) - 1} values for {len(names)} names")
        pictures.append(row[0].strip())
        for a, cell in enumerate(row[1:]):
            try:
                values[k, a] = float(cell) if cell.strip() else np.nan
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: {cell!r} under {names[a]!r} is not a "
                    "number (leave unknown cells empty)"
                ) from error
    signs = np.all(np.isnan(values) | (np.abs(values) == 1), axis=0) & np.any(values == -1, axis=0)
    values = np.where(signs & (values == -1), np.float32(0), values)
    if twice := [name for name, n in collections.Counter(pictures).items() if n > 1]:
        raise DataError(f"{path} has two lines for {twice[0]!r}: remove one")
    return names, dict(zip(pictures, values, strict=True))


def match_attributes(
    path: str | os.PathLike[str], aliases: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels of pictures from a table: names, and float32 `[N, A]` with NaN for absent pictures.

    aliases: for every picture the names that it may have in the table, best first.
    """
    names, table = read_attributes(path)
    labels = np.full((len(aliases), len(names)), np.nan, np.float32)
    found = 0
    for i, candidates in enumerate(aliases):
        row = next((table[name] for name in candidates if name in table), None)
        if row is not None:
            labels[i], found = row, found + 1
    if not found:
        raise DataError(
            f"{path} names none of the {len(aliases)} pictures: it has "
            f"{next(iter(table))!r}, the pictures are called like {aliases[0][0]!r}"
        )
    if found < len(aliases):
        warnings.warn(
            f"{path} has no line for {len(aliases) - found} of {len(aliases)} pictures: their "
            f"attributes are taken as not known",
            stacklevel=3,
        )
    return names, labels


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
        self.path = os.path.realpath(local(path))
        self.name = f"lmdb:{path}"
        with _environment(self.path).begin() as txn:
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
        if attributes is not None:
            file = "{:06d}.jpg" if celeba else "{}.jpg"
            self.attributes, self.labels = match_attributes(
                attributes,
                [(file.format(i + celeba), self.format.format(i)) for i in self.indices.tolist()],
            )

    def __len__(self) -> int:
        return len(self.indices)

    def _key(self, i: int) -> str:
        return self.format.format(int(self.indices[i]))

    def image(self, i: int) -> np.ndarray:
        with _environment(self.path).begin() as txn:
            value = txn.get(self._key(i).encode())
        if value is None:
            raise DataError(f"key {self._key(i)} is missing")
        return decode(io.BytesIO(value))

    def where(self, i: int) -> str:
        return f"{self.path}:{self._key(i)}"

    def read_from(self) -> list[str]:
        inside = os.path.join(self.path, "data.mdb")
        return [inside if os.path.exists(inside) else self.path]


@functools.cache
def _environment(path: str) -> Any:
    """The open LMDB at `path`: LMDB allows a process to open each database once."""
    lmdb = require("lmdb", "lmdb")
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


class TFDS(Source):
    """A TensorFlow Datasets name, read through its random-access data source without TensorFlow.

    name: such as "celeb_a" or "lsun/bedroom", prepared beforehand as array_record files.
    split: "train"; "test" (the data set's "test", else its "validation", else a seeded share
        `test_fraction` of "train" held out; a data set without "train" is split so as a whole);
        "valid" where there is one; "all".
    data_dir: where it was prepared; None is TFDS's own default.

    Labels are the scalar features (numbers, bools, class indices) and the dict `attributes`; they
    are read in one pass over the records, without decoding pictures, when first asked for.
    celeb_a carries `crop = CELEBA_CROP`. Raises DataError with the command that prepares the data.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        *,
        data_dir: str | os.PathLike[str] | None = None,
        test_fraction: float = 0.01,
        seed: int = 0,
    ):
        check_split(split, ("train", "valid", "test", "all"))
        self.name, self._data_dir = f"tfds:{name}", data_dir
        try:
            builder = self._builder()
            splits = builder.info.splits
        except Exception as error:  # TFDS has a class for each way of not finding a name
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"TFDS does not know {name!r}: {_first_line(error)} "
                "(see tensorflow.org/datasets/catalog)"
            ) from error
        if not splits or not any(s.num_examples for s in splits.values()):
            raise self._unprepared()
        own = {"train": ("train",), "valid": ("validation",), "test": ("test", "validation")}
        part = next((s for s in own.get(split, ()) if s in splits), None)
        has_train = "train" in splits
        if split == "valid" and not (part and has_train):
            raise DataError(
                f"{name} has no validation split beside a train split: it has {', '.join(splits)}"
            )
        if split == "all" or not has_train:
            self._split = "+".join(splits)
        else:
            self._split = part or "train"
        shared = split in ("train", "test") and not (
            has_train and any(s in splits for s in own["test"])
        )
        size = len(self._records)
        self.indices = held_out(size, split, test_fraction, seed) if shared else np.arange(size)
        features = dict(builder.info.features.items())
        images = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
        if not images:
            raise DataError(f"{name} has no picture among its features: {', '.join(features)}")
        self._image = images[0]
        self._scalars: list[tuple[str, ...]] = [
            (key,) for key, feature in features.items() if _is_number(feature)
        ]
        nested = features.get("attributes", {})
        self._scalars += [("attributes", key) for key in nested if _is_number(nested[key])]
        self.attributes = tuple(path[-1] for path in self._scalars)
        self.crop = CELEBA_CROP if name.split("/")[0].split(":")[0] == "celeb_a" else None

    def _builder(self) -> Any:
        tfds = require("tensorflow_datasets", "tensorflow-datasets")
        return tfds.builder(self.name.removeprefix("tfds:"), data_dir=self._data_dir)

    def _unprepared(self) -> DataError:
        place = f" --data_dir={self._data_dir}" if self._data_dir else ""
        return DataError(
            f"{self.name} is not prepared for random access; run once: pip install "
            f"tensorflow && tfds build {self.name.removeprefix('tfds:')} "
            f"--file_format=array_record{place}"
        )

    @functools.cached_property
    def _records(self) -> Any:
        require("array_record", "array_record")
        tfds = require("tensorflow_datasets", "tensorflow-datasets")
        builder = self._builder()
        skip = {
            key: tfds.decode.SkipDecoding()
            for key, feature in builder.info.features.items()
            if type(feature).__name__ == "Image"
        }
        try:
            return builder.as_data_source(split=self._split, decoders=skip)
        except NotImplementedError as error:  # prepared, but as tfrecord
            raise self._unprepared() from error

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay here: a worker process opens its own.
        return {key: value for key, value in self.__dict__.items() if key != "_records"}

    def __len__(self) -> int:
        return len(self.indices)

    def _record(self, i: int) -> dict[str, Any]:
        return self._records[int(self.indices[i])]

    def _label(self, record: dict[str, Any]) -> np.ndarray:
        values = [
            functools.reduce(lambda tree, key: tree[key], path, record) for path in self._scalars
        ]
        return np.array(values, np.float32)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        rows = [self._label(self._record(i)) for i in range(len(self))]
        return np.stack(rows).reshape(len(self), len(self.attributes))

    def image(self, i: int) -> np.ndarray:
        return self.example(i)[0]

    def example(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        record = self._record(i)
        return decode(io.BytesIO(record[self._image])), self._label(record)


def _is_number(feature: Any) -> bool:
    dtype = getattr(feature, "np_dtype", None) or getattr(feature, "dtype", None)
    return getattr(feature, "shape", None) == () and np.dtype(dtype).kind in "biuf"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
