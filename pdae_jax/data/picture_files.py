"""`Folder` and `Manifest`: pictures in files, below a folder or named by a table."""

import collections
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from pdae_jax.data.label_table import LabelTable, labels_of, match, path_column, read_table
from pdae_jax.data.source import Source
from pdae_jax.data.splits import (
    check_disjoint,
    check_split,
    held_out,
    held_out_groups,
    split_names,
    words_of_groups,
)
from pdae_jax.formats import files
from pdae_jax.formats.errors import DataError
from pdae_jax.formats.stack import Layout, Picture, Stack
from pdae_jax.runtime.paths import local, natural
from pdae_jax.value_range import ValueRange

PARENT, FILE = "parent", "file"  # groups that need no table
HELD_OUT = ("test", "valid")  # splits of a table, the first that there is
HELD_OUT_FOLDERS = ("test", "val", "validation")


class Broken(Stack):
    """A file that cannot be opened: one picture, which cannot be read."""

    def __init__(self, error: Exception):
        self._error = error

    def picture(self, k: int) -> Picture:
        raise self._error


class Files(Source):
    """Pictures in files, each of one or several. The base class of `Folder` and `Manifest`.

    files: a path for each picture. stacks: the opened file of each picture, and its place there.
    """

    def __init__(self, name: str, root: Path, paths: Sequence[str], layout: Layout):
        self.name, self.root = name, root
        self._stacks: list[tuple[Stack, int]] = []
        self.files: list[str] = []
        self.from_file: list[int] = []  # of each picture the file's number
        for number, path in enumerate(paths):
            try:
                stack = files.open_stack(path, layout)
            except Exception as error:  # noqa: BLE001 - a broken header makes readers raise anything
                stack = Broken(error)
            self._stacks += [(stack, k) for k in range(len(stack))]
            self.files += [path] * len(stack)
            self.from_file += [number] * len(stack)
        self.channel_names = self._stacks[0][0].channel_names if self._stacks else ()

    def __len__(self) -> int:
        return len(self._stacks)

    def check_channel_names(self, value_range: ValueRange) -> None:
        wanted = value_range.channels
        for k, (stack, place) in enumerate(self._stacks):
            found = stack.channel_names
            if place == 0 and wanted and found and found != wanted:
                order = [str(found.index(name)) for name in wanted if name in found]
                remedy = "choose others, or name them alike"
                if len(order) == len(wanted):
                    remedy = f"set the option channels to {','.join(order)}"
                raise DataError(
                    f"{self.where(k)} has the channels {', '.join(found)}, where "
                    f"{', '.join(wanted)} are expected: {remedy}"
                )

    def read(self, i: int) -> Picture:
        stack, k = self._stacks[i]
        return stack.picture(k)

    def image(self, i: int) -> np.ndarray:
        return self.read(i).values

    def where(self, i: int) -> str:
        return self.files[i] + self._place(i)

    def path(self, i: int) -> str:
        return self._relative(i) + self._place(i)

    def _relative(self, i: int) -> str:
        """The file's path from the root, as tables have it."""
        relative = os.path.relpath(self.files[i], self.root)
        return Path(self.files[i] if relative.startswith("..") else relative).as_posix()

    def _place(self, i: int) -> str:
        """A picture's place among several in one file."""
        stack, k = self._stacks[i]
        return f"[{k}]" if len(stack) > 1 else ""

    def read_from(self) -> list[str]:
        return list(dict.fromkeys(on_disk(path) for path in dict.fromkeys(self.files)))

    # Which pictures, in which order, with which labels and groups.

    def take(self, indices: np.ndarray) -> None:
        """Keeps some of the pictures."""
        for name in ("_stacks", "files", "from_file"):
            setattr(self, name, [getattr(self, name)[i] for i in indices])
        for name in ("group", "split_of"):
            if len(getattr(self, name)):
                setattr(self, name, getattr(self, name)[indices])
        if self.attributes:
            self.labels = self.labels[indices]

    def _names_for(self, table: LabelTable) -> list[str]:
        """What a table may call the pictures: with their places in files, where it has such."""
        placed = any(
            re.search(r"\[\d+\]$", text) for name in table.names[:2] for text in table.texts(name)
        )
        return [self.path(i) if placed else self._relative(i) for i in range(len(self))]

    def set_group(self, group: str, table: LabelTable | None, rows: np.ndarray) -> None:
        """Sets `group` of each picture, as the setting names it.

        Without one it is the table's own column of that name; else, where several files have
        several pictures each, the file: its pictures are mostly slices of one thing.
        """
        column = group or (table.find("group") or "" if table is not None else "")
        paths = [self._relative(i) for i in range(len(self))]
        if column == PARENT:
            # One patient's folders below train and below test are of one patient.
            below = [Path(*Path(path).parts[bool(len(self.split_of)) :]) for path in paths]
            self.group = np.array([path.parent.as_posix() for path in below])
        elif column == FILE:
            self.group = np.array(paths)
        elif column:
            self.group = _column(table, rows, column, self)
        elif 1 < len(set(self.from_file)) < len(self):
            self.group = np.array(paths)
            self.words += (
                f"{self.name}: files hold several pictures, so each file is a group "
                f"(--config.data.group=COLUMN or parent for others)",
            )
        if len(self.group) and (self.group == "").any():
            first = self.where(int(np.argmax(self.group == "")))
            raise DataError(
                f"{first} has no group in {column!r}: fill it in, or leave the picture out"
            )

    def set_given_split(self, table: LabelTable, rows: np.ndarray, column: str) -> None:
        """Sets each picture's part as a table's column says, groups being whole; says how many.

        "test" is what is held out, or where there is none "valid". Pictures of no row are of none.
        """
        texts = table.texts(column)
        known = np.flatnonzero(rows >= 0)
        parts = np.full(len(self), "", "<U8")
        of_known = [int(row) for row in rows[known]]
        parts[known] = split_names(
            [texts[row] for row in of_known],
            [table.lines[row] for row in of_known],
            table.name,
            column,
        )
        if len(self.group):
            check_disjoint(self.group[known], parts[known])
        tests = next((name for name in HELD_OUT if (parts == name).any()), "test")
        others = [name for name in (*HELD_OUT, "") if name != tests and (parts == name).any()]
        self.split_of = np.where(parts == tests, "test", parts)
        counts = [f"{int((parts == name).sum()):,} {name}" for name in ("train", tests)]
        words = f"{table.name}: split by column {column!r}: {', '.join(counts)}"
        if len(self.group):
            sides = [len(set(self.group[parts == name])) for name in ("train", tests)]
            words += f", of {sides[0]:,} and {sides[1]:,} groups, none on both sides"
        for name in others:
            n = int((parts == name).sum())
            words += f"; {n:,} {name or 'without a line'} are in neither"
        self.words += (words,)

    def take_given(self, split: str, name: str) -> None:
        """Keeps the pictures of a split that was given; DataError where there are none."""
        there = sorted(set(self.split_of.tolist()) - {""})
        self.take(np.flatnonzero((self.split_of == split) | (split == "all")))
        if not len(self):
            raise DataError(
                f"{name} has no picture of split {split!r}: its column split has {', '.join(there)}"
            )

    def set_split(self, split: str, fraction: float, seed: int) -> np.ndarray:
        """Divides the pictures at random, by group where there are groups; the split's indices."""
        tests = np.zeros(len(self), bool)
        if len(self.group):
            if fraction:
                tests[held_out_groups(self.group, "test", fraction, seed)] = True
            chosen = held_out_groups(self.group, split, fraction, seed)
        else:
            if fraction and len(self) > 1:
                tests[held_out(len(self), "test", fraction, seed)] = True
            chosen = held_out(len(self), split, fraction, seed)
        self.split_of = np.where(tests, "test", "train")
        if len(self.group):
            self.words += (words_of_groups(self.group, np.flatnonzero(tests)),)
        return chosen

    def set_labels(self, table: LabelTable, rows: np.ndarray, group: str, *skip: str) -> None:
        """Sets the labels, and words on columns that are none. skip: columns known to be none."""
        found = labels_of(table, rows, skip=(*skip, "split", "group", group))
        self.attributes, self.labels = found.attributes, found.values
        self.words += (f"{table.name}: {found.words}",) if found.words else ()


def _column(table: LabelTable | None, rows: np.ndarray, column: str, source: Source) -> np.ndarray:
    """A column's texts for each picture; "" where the table has none."""
    if table is None:
        raise DataError(
            f"group = {column!r} is a column of a table, and {source.name} has none: give "
            f"--config.data.attributes=FILE, or group=parent for the folders that pictures lie in"
        )
    known = table.find(column)
    if known is None:
        raise DataError(
            f"{table.name} has no column {column!r} for groups: it has {', '.join(table.names)}"
        )
    texts = table.texts(known)
    return np.array([texts[row] if row >= 0 else "" for row in rows])


class Folder(Files):
    """Every picture below a folder, in natural order (`img2` before `img10`).

    path: the folder; or a picture, a glob such as `scans/*.png`, an archive, an array in a file
        (`scans.h5:train/images`), or several of these, comma-separated, in that order. Nested
        folders, links, ZIP archives, and every format of `pdae_jax.formats`. Names that begin with
        a dot are left out.
    split: with a subfolder `train`, that, and `test`, `val` or `validation`; without one, a seeded
        share `test_fraction` is held out, by whole groups where there are groups. "all" is all.
    attributes: a table of labels (`label_table`), whose rows are found by path, name or stem.
    group: a column of the table, "parent" for the folder that a picture lies in, "file" for the
        file; "" the table's column "group", or "file" where files hold several pictures each.
    layout: how arrays are meant whose files do not say.

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
        group: str = "",
        layout: Layout = Layout(),  # noqa: B008 - frozen
    ):
        check_split(split)
        root = local(path)
        matched = [] if root.is_dir() and not is_store(root) else named_pictures(str(root))
        train = root / "train" if (root / "train").is_dir() else root
        tests = [root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()]
        own = not matched and train != root and bool(tests)
        table = read_table(attributes) if attributes is not None else None
        grouped = bool(group or table is not None and table.find("group"))
        if matched:
            found = matched
            root = Path(os.path.commonpath([os.path.dirname(file) for file in found]))
        elif own and split != "all" and grouped:  # of which none must lie on both sides
            found = find_pictures(train) + find_pictures(tests[0])
        elif own and split != "all":
            found = find_pictures(train if split == "train" else tests[0])
        else:
            found = find_pictures(root if split == "all" else train)
        super().__init__(f"folder:{root}", root, found, layout)
        if own:
            inside = [Path(self.path(i)).parts[0] for i in range(len(self))]
            self.split_of = np.array(["train" if name == "train" else "test" for name in inside])
        rows = np.full(len(self), -1)
        if table is not None:
            found_in = match(table, self._names_for(table))
            rows = found_in.rows
            self.words += (found_in.words,)
            self.set_labels(table, rows, group, found_in.column)
        self.set_group(group, table, rows)
        parts = table.find("split") if table is not None else None
        if own:
            if len(self.group):
                check_disjoint(self.group, self.split_of)
                self.words += (
                    words_of_groups(self.group, np.flatnonzero(self.split_of == "test")),
                )
            if grouped and split != "all":
                self.take(np.flatnonzero(self.split_of == split))
        elif table is not None and parts is not None:
            self.set_given_split(table, rows, parts)
            self.take_given(split, f"folder:{root}")
        else:
            self.take(self.set_split(split, test_fraction, seed))
            if split == "all" and train != root:  # of which a share of train alone is held out
                self.split_of = np.zeros(0, str)


class Manifest(Files):
    """The pictures that a table names: a column `path`, and perhaps `split`, `group` and labels.

    table: a CSV, TSV, parquet or XLSX (`label_table`); paths are relative to its folder.
    split: as its column says ("test", or where there is none "valid"); without the column, a
        seeded share `test_fraction` is held out, by whole groups where there are groups.
    group, layout: as of `Folder`.
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        split: str = "train",
        *,
        test_fraction: float = 0.1,
        seed: int = 0,
        group: str = "",
        layout: Layout = Layout(),  # noqa: B008 - frozen
    ):
        check_split(split)
        rows = read_table(table, alone=True)
        root = local(table).absolute().parent
        column = path_column(rows)
        paths = [path.replace("\\", "/") for path in rows.texts(column)]
        if "" in paths:
            raise DataError(f"{rows.where(paths.index(''))}: no path under {column!r}")
        if len(set(paths)) < len(paths):
            twice = next(path for path, n in collections.Counter(paths).items() if n > 1)
            raise DataError(
                f"{table} names {twice!r} twice under {column!r}: leave one line of each picture"
            )
        super().__init__(
            f"table:{table}", root, [os.path.join(root, path) for path in paths], layout
        )
        self.words += rows.said
        lines = np.array(self.from_file)
        self.set_labels(rows, lines, group, column)
        self.set_group(group, rows, lines)
        parts = rows.find("split")
        if parts is not None:
            self.set_given_split(rows, lines, parts)
            self.take_given(split, str(table))
        else:
            self.take(self.set_split(split, test_fraction, seed))


def is_store(path: str | Path) -> bool:
    """Whether a folder is one file's arrays, such as of Zarr."""
    return str(path).lower().endswith(".zarr")


def on_disk(path: str) -> str:
    """The file that a path of `formats.files` lies in: without an archive's member, or an array."""
    for end in re.finditer(r"[:/\\]", path):
        place = path[: end.start()]
        if end.start() > 1 and (os.path.isfile(place) or is_store(place)):
            return place
    return path


def named_pictures(names: str) -> list[str]:
    """The files that a name, a glob, or a comma-separated list of them means."""
    found: list[str] = []
    for name in [names] if os.path.exists(names) else names.split(","):
        exact = str(local(name))
        if os.path.isfile(exact):  # [ and ] in its name
            matched = [exact]
        elif os.path.exists(on_disk(exact)):  # file.h5:dataset, or within an archive
            matched = [exact]
        elif glob.has_magic(exact) and files.INSIDE.search(exact):  # scans/*.h5:dataset
            end = [end.end() for end in files.INSIDE.finditer(exact)][-1]
            matched = [
                f"{one}:{exact[end:]}" for one in glob.glob(exact[: end - 1], recursive=True)
            ]
        else:
            matched = glob.glob(exact, recursive=True)
        if not matched and glob.has_magic(name):
            raise DataError(f"no picture matches {name} (a glob, taken from {os.getcwd()})")
        if os.path.isdir(exact) and not is_store(exact):
            raise DataError(f"{name} is a folder, and one of several must be a picture or a glob")
        pictures = [path for path in matched if is_readable(path)]
        if not pictures:
            reason = (
                "no folder, and no picture" if os.path.exists(exact) else "no such file or folder"
            )
            raise DataError(f"{reason}: {name} (give a picture, or the folder that holds them)")
        for path in sorted(pictures, key=natural):
            found += _inside(path)
    return found


def is_readable(path: str) -> bool:
    """Whether a file holds pictures, or an archive of them, by its name."""
    return files.is_archive(path) or files.is_picture(on_disk(path))


def _inside(path: str) -> list[str]:
    """A file; of an archive the pictures in it."""
    return sorted(files.pictures_in(path), key=natural) if files.is_archive(path) else [path]


def find_pictures(folder: Path) -> list[str]:
    """Paths of the pictures below a folder, in natural order; DataError if there are none."""

    def fail(error: OSError) -> NoReturn:
        raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error

    found: list[str] = []
    other: set[str] = set()
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        stores = [name for name in folders if is_store(name)]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in stores]
        for name in (*names, *stores):
            if name.startswith("."):
                continue
            path = os.path.join(parent, name)
            if is_readable(path):
                found.append(path)
            else:
                other.add(os.path.splitext(name)[1] or name)
    pictures = [path for file in sorted(found, key=natural) for path in _inside(file)]
    if not pictures:
        words = f"only {', '.join(sorted(other)[:5])} files" if other else "it is empty"
        raise DataError(
            f"no pictures in {folder}: {words} (the formats are in docs/pictures.md: PNG, JPEG, "
            f"TIFF, DICOM, NIfTI, HDF5, Zarr, NumPy, ZIP and more)"
        )
    return pictures
