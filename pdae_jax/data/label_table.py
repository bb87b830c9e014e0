"""Tables of labels as people have them: read, matched to pictures, and turned into attributes."""

import codecs
import collections
import csv
import dataclasses
import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pdae_jax.formats.errors import DataError
from pdae_jax.runtime.paths import local, natural

# Names of a column that says which picture a line is of, best first.
KEYS = (
    *("path", "file", "filename", "file_name", "image", "image_path", "img", "name", "picture"),
    *("id", "key", "filepath", "file_path", "image_name", "image_file", "image_id", "img_path"),
    *("img_name", "stem"),
)
# Cells that say that a value is not known.
UNKNOWN = frozenset(
    ["", "NA", "N/A", "na", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None", "-", ".", "?"]
    + ["<NA>", "#N/A"]
)
# Words that are 1 and 0: all of a column are of one of these.
YES_NO = (
    {"yes": 1, "y": 1, "no": 0, "n": 0},
    {"true": 1, "t": 1, "false": 0, "f": 0},
)
MOST_CATEGORIES = 50  # of a column of words; more are no classes
MOST_MIXED = 20  # of a column of words and numbers
SURELY_NUMBERS = 0.9  # the share of numbers from which a word among them is a mistake
TEXTS = (".csv", ".tsv", ".txt", ".tab")

_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_UNNAMED = re.compile(r"(unnamed: \d+)?", re.IGNORECASE)  # pandas calls such a column so
_PICTURE = re.compile(r"\.(png|jpe?g|tiff?|bmp|gif|webp|npy|dcm|nii|nii\.gz)$", re.IGNORECASE)
_ENDING = re.compile(r"(\.nii\.gz|\.ome\.\w+|\.[A-Za-z]\w{0,7})$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTable:
    """A table of M lines, as it was read: not yet interpreted, nor matched to pictures.

    name: the file, in messages. columns: by name, in order; each object `[M]` of texts without
    spaces around them, or int or float `[M]` where the file knows them to be numbers (NaN where
    empty). A first column without a name is called "". lines: int `[M]`, where each line stands in
    the file. unit: what a line is called. separator: of its cells, where it is a text. said: what
    was taken for granted in reading, in words.
    """

    name: str
    columns: dict[str, np.ndarray]
    lines: np.ndarray
    unit: str = "line"
    separator: str = ","
    said: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def find(self, *names: str) -> str | None:
        """The column called as one of `names`, in their order and in any case; None without."""
        for name in names:
            if name in self.columns:
                return name
            for column in self.columns:
                if _plain(column) == _plain(name):
                    return column
        return None

    def cells(self, column: str) -> list[str]:
        """The cells of a column as texts, as they stand in the file."""
        values = self.columns[column]
        return values.tolist() if values.dtype == object else [_written(v) for v in values.tolist()]

    def texts(self, column: str) -> np.ndarray:
        """The same, str `[M]`, with "" for cells that say that the value is not known."""
        return np.array(["" if cell in UNKNOWN else cell for cell in self.cells(column)], str)

    def where(self, row: int) -> str:
        """The file and the line of a row, for messages."""
        return f"{self.name}, {self.unit} {self.lines[row]}"


class Matched(NamedTuple):
    """Pictures found in a table.

    rows: int `[N]`, each picture's row, -1 without. by: "path", "name" or "stem". words: the share
    found, and what was taken for granted, in one line. column: the one that names the pictures.
    """

    rows: np.ndarray
    by: str
    words: str
    column: str


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The attributes of N pictures.

    attributes: A names. values: float32 `[N, A]`, NaN where not known. left_out: (column, reason)
    of each column that became none. notes: what else is worth a look.
    """

    attributes: tuple[str, ...]
    values: np.ndarray
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What was left out and why, in one line; "" where there is nothing to say."""
        out = [f"{column or 'the first column'} ({reason})" for column, reason in self.left_out]
        said = [f"left out: {', '.join(out)}"] if out else []
        return "; ".join([*said, *self.notes])


# Reading


def read_table(path: str | os.PathLike[str], alone: bool = False) -> LabelTable:
    """Reads a table with a header: CSV, TSV, CelebA's text layout, parquet or XLSX.

    Texts are UTF-8, UTF-16 with its mark, or Windows-1252 (said); their separator is the one of
    the header line: a tab, `;` or `,`, in this order, the first with which all lines have as many
    cells as the header. CelebA's layout is a count, a line of names, then file name and values.
    alone: whether one column is enough, as for a list of pictures.

    Raises DataError, with the line, for what cannot be read as a table of at least two columns.
    """
    name, file = os.fspath(path), local(path)
    suffix = file.suffix.lower()
    if file.is_dir():
        raise DataError(f"cannot read the attributes in {name}: it is a folder, and not a table")
    if not file.exists():
        raise DataError(f"cannot read the attributes in {name}: no such file")
    read: Callable[[str, Path], LabelTable]
    if suffix == ".parquet":
        read = _read_parquet
    elif suffix == ".xlsx":
        read = _read_xlsx
    elif suffix in TEXTS:
        read = _read_text
    else:
        raise DataError(
            f"{name} ends with {suffix or 'nothing'}: a table is "
            f"{', '.join(TEXTS)}, .parquet or .xlsx (save it as one of these)"
        )
    try:
        table = read(name, file)
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or [""])[0]
        raise DataError(f"cannot read the attributes in {name}: {reason}") from error
    if len(table.columns) < (1 if alone else 2):
        raise DataError(
            f"no attributes in {name}: one column alone, {next(iter(table.columns), '')!r} (need a "
            "header line and one line per picture, with cells separated by , ; or tab)"
        )
    return table


def _read_text(name: str, file: Path) -> LabelTable:
    text, said = _decoded(name, file.read_bytes())
    lines = io.StringIO(text, newline="")
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.isdecimal():
        return _read_celeba(name, text, said)
    separators = [s for s in "\t;," if s in re.sub(r'"[^"]*"', "", first)]
    if given := re.fullmatch(r"sep=(.)", first, re.IGNORECASE):  # Excel's own first line
        separators = [given[1]]
    if not first:
        raise DataError(
            f"no attributes in {name}: it is empty (need a header line and one line per picture)"
        )
    separators = separators or [","]
    if len(separators) > 1:
        fitting = [separator for separator in separators if _fits(name, text, separator)]
        separators = fitting or sorted(separators, key=first.count, reverse=True)
    rows = _rows(name, text, separators[0])
    return _table(name, rows[1:] if given else rows, separators[0], said)


def _decoded(name: str, data: bytes) -> tuple[str, tuple[str, ...]]:
    """The text of a file's bytes, and what was taken for granted."""
    said: tuple[str, ...] = ()
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")
                said = ("not UTF-8, read as Windows-1252 (Latin-1)",)
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot read the attributes in {name}: it is no text ({error.reason} at byte "
            f"{error.start}; save it as UTF-8)"
        ) from error
    if "\0" in text:
        raise DataError(
            f"cannot read the attributes in {name}: it is no text, or UTF-16 without its mark "
            "(save it as UTF-8)"
        )
    return text, said


def _rows(name: str, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The lines that are not empty: the number of each, and its cells."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    rows, start = [], 1
    try:
        for row in reader:
            cells = list(map(sys.intern, map(str.strip, row)))  # the same text is kept once
            if any(cells):
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f'{name}, line {start}: {error} (a cell that begins with " must end with one)'
        ) from error
    return rows


def _fits(name: str, text: str, separator: str) -> bool:
    """Whether all lines have the same number of cells."""
    try:
        return len({len(row) for _, row in _rows(name, text, separator)}) == 1
    except DataError:
        return False


def _read_celeba(name: str, text: str, said: tuple[str, ...]) -> LabelTable:
    lines = io.StringIO(text, newline="")
    rows = [
        (number, list(map(sys.intern, line.split())))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    count = int(rows[0][1][0])
    if len(rows) < 3:
        raise _no_lines(name)
    number, header = rows[1]
    if len(header) != len(rows[2][1]):
        header = ["", *header]
    if count != len(rows) - 2:
        said = (*said, f"its first line counts {count:,} and there are {len(rows) - 2:,}")
    return _table(name, [(number, header), *rows[2:]], said=said)


def _table(
    name: str,
    rows: Sequence[tuple[int, list[str]]],
    separator: str = ",",
    said: tuple[str, ...] = (),
) -> LabelTable:
    """A table of texts. rows: the header first."""
    if len(rows) < 2:
        raise _no_lines(name)
    header = rows[0][1]
    while header and not header[-1]:  # a separator at the end of the line
        header = header[:-1]
    size = len(header)
    for number, row in rows[1:]:
        if len(row) > size and not any(row[size:]):
            del row[size:]
        if len(row) != size:
            raise DataError(
                f"{name}, line {number}: {len(row)} cells, and the header has {size} (a cell with "
                "a separator in it must stand in quotes; R: write.csv(row.names = FALSE))"
            )
    columns = [np.array(column, object) for column in zip(*(row for _, row in rows[1:]))]
    numbers = np.array([number for number, _ in rows[1:]])
    return _named(LabelTable(name, {}, numbers, separator=separator, said=said), header, columns)


def _named(table: LabelTable, header: Sequence[str], columns: Sequence[np.ndarray]) -> LabelTable:
    """The table with its columns, once their names are found to be good."""
    kept: dict[str, np.ndarray] = {}
    for k, (name, column) in enumerate(zip(header, columns, strict=True)):
        name = " ".join(name.split())  # also of several lines
        if not name and _is_empty(column):
            continue  # what a separator at the end of each line leaves
        if not name and k:
            raise DataError(
                f"{table.name}: column {k + 1} has no name, and {_example(column)!r} in it: name "
                "it in the header, or remove it"
            )
        if name in kept:
            raise DataError(f"{table.name} has two columns named {name!r}: rename or remove one")
        if _PICTURE.search(name):
            raise DataError(
                f"{table.name} has no header: its first line holds {name!r}: put a line with the "
                "names of the columns before it"
            )
        if "=" in name:
            raise DataError(
                f"{table.name}: the column {name!r} has = in its name, which stands between a "
                "column and a category: rename it"
            )
        kept[name] = column
    return dataclasses.replace(table, columns=kept)


def _no_lines(name: str) -> DataError:
    return DataError(
        f"no attributes in {name}: need a header line and one line per picture, and there is a "
        "header alone"
    )


def _is_empty(column: np.ndarray) -> bool:
    return not any(column) if column.dtype == object else bool(np.isnan(column).all())


def _example(column: np.ndarray) -> Any:
    return next((cell for cell in column.tolist() if cell not in ("", None)), "")


def _read_parquet(name: str, file: Path) -> LabelTable:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with open(file, "rb") as opened:
            arrow = pyarrow.parquet.read_table(opened)
        columns = [
            (column, str(values.type), _arrow_cells(values))
            for column, values in zip(arrow.column_names, arrow.columns)
        ]
    except (pa.ArrowException, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"cannot read the attributes in {name}: {reason}") from error
    if not arrow.num_rows:
        raise _no_lines(name)
    found, said = [], []
    for column, kind, cells in columns:
        if cells is None:
            said.append(f"{column!r} left out (of type {kind})")
        elif re.fullmatch(r"__index_level_\d+__", column):  # of pandas, without a name
            found.insert(0, ("", cells))
        else:
            found.append((column, cells))
    table = LabelTable(name, {}, np.arange(1, arrow.num_rows + 1), unit="row", said=tuple(said))
    return _named(table, [column for column, _ in found], [cells for _, cells in found])


def _arrow_cells(column: Any) -> np.ndarray | None:
    """A column of Arrow as texts or numbers; None where it is neither."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_integer(kind) and not column.null_count:
        return column.to_numpy()
    if types.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        try:
            return column.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:  # whole numbers that a float does not hold
            return np.array([_written(cell) for cell in column.to_pylist()], object)
    if types.is_temporal(kind):
        column, kind = column.cast(pa.string()), pa.string()
    texts = (types.is_string, types.is_large_string, types.is_null)
    if any(is_text(kind) for is_text in texts) or str(kind) == "string_view":
        return np.array([_written(cell) for cell in column.to_pylist()], object)
    return None


def _read_xlsx(name: str, file: Path) -> LabelTable:
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{name} needs openpyxl: pip install 'pdae_jax[xlsx]' (or save it as CSV)"
        ) from error
    try:
        sheets = openpyxl.load_workbook(file).worksheets
        formulas = sheets and any(c.data_type == "f" for row in sheets[0] for c in row)
        valued = openpyxl.load_workbook(file, data_only=True).worksheets if formulas else sheets
    except OSError:
        raise
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read the attributes in {name}: no XLSX ({reason})") from error
    if not sheets:
        raise DataError(f"no attributes in {name}: it has no sheet")
    sheet = sheets[0]
    if merged := sorted(str(cells) for cells in sheet.merged_cells.ranges):
        raise DataError(
            f"{name}: the cells {merged[0]} of sheet {sheet.title!r} are merged: unmerge them, "
            "and fill in each"
        )
    said = (f"sheet {sheet.title!r}, the first of {len(sheets)}",) if len(sheets) > 1 else ()
    rows: list[tuple[int, list[Any]]] = []
    for number, (cells, values) in enumerate(zip(sheet.iter_rows(), valued[0].values), 1):
        for cell, value in zip(cells, values):
            if value is None and cell.data_type == "f":
                raise DataError(
                    f"{name}: the cell {cell.coordinate} is a formula without a value: open it in "
                    "a spreadsheet program and save it"
                )
        if any(value is not None and value != "" for value in values):
            rows.append((number, list(values)))
    if len(rows) < 2:
        raise _no_lines(name)
    header = [_written(value) for value in rows[0][1]]
    columns = [_sheet_cells(column) for column in zip(*(row for _, row in rows[1:]))]
    numbers = np.array([number for number, _ in rows[1:]])
    return _named(LabelTable(name, {}, numbers, unit="row", said=said), header, columns)


def _sheet_cells(column: Iterable[Any]) -> np.ndarray:
    """A column of a sheet: numbers, where each cell is one, or is empty; else texts."""
    cells = [None if isinstance(cell, str) and not cell.strip() else cell for cell in column]
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds and (kinds <= {int, float} or kinds == {bool}):
        return np.array([np.nan if cell is None else float(cell) for cell in cells])
    return np.array([_written(cell) for cell in cells], object)


def _written(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value).strip()


# Which line is of which picture


def path_column(table: LabelTable) -> str:
    """The column of a manifest that names the pictures' files: the first of `KEYS` that it has.

    Raises DataError without one.
    """
    column = table.find(*KEYS)
    if column is None:
        raise DataError(
            f"{table.name} has no column 'path': call the one that names the pictures' files so "
            f"(it has {', '.join(map(repr, table.names[:8]))})"
        )
    return column


class _Hits(NamedTuple):
    """What one column finds in one way.

    rows: for each picture found, or path, its rows. several: (row, the text that some share). of:
    which of these each of the N pictures is.
    """

    column: str
    by: str
    rows: dict[int, list[int]]
    several: list[tuple[int, str]]
    of: Sequence[int]

    @property
    def found(self) -> int:
        """The number of pictures that have a row."""
        return sum(target in self.rows for target in self.of)


def match(
    table: LabelTable, paths: Sequence[str], aliases: Sequence[Sequence[str]] | None = None
) -> Matched:
    """The row of each picture.

    paths: of all pictures of the data set, whatever the split, with /, relative to its folder;
    those with the same path have the same row. aliases: for every picture other names, best first,
    which are tried before, as they are, and may be shared.

    A key of the table is a picture's path, where one ends with the other (with / or \\, from any
    folder or drive); else its name; else its stem, the name without its ending. Which of these it
    is, is found for the whole table; as is the column, the one of `KEYS` that finds most pictures,
    or without one the first that does not just number the lines.

    Warns where pictures have no line. Raises DataError where none has, where a key may be several
    pictures, and where a picture has two lines that differ.
    """
    if not len(paths):
        raise DataError(f"{table.name}: there are no pictures to find in it")
    columns = _key_columns(table)
    tried = [hits for column in columns if (hits := _find(table, column, paths, aliases))]
    if not tried:
        raise _none_found(table, columns[0], paths, aliases)
    best = max(tried, key=lambda hits: hits.found)  # the first of those that find as many
    if best.several:
        raise _several(table, best, paths)
    notes = list(table.said)
    twice = [rows for rows in best.rows.values() if len(rows) > 1]
    for rows in twice:
        _check_same(table, best.column, rows)
    rows = np.array([best.rows.get(target, [-1])[0] for target in best.of], int)
    found, used = int((rows >= 0).sum()), sum(len(rows) for rows in best.rows.values())
    if twice:
        has = "pictures have" if len(twice) > 1 else "picture has"
        notes.append(f"{len(twice):,} {has} several {table.unit}s, all the same")
    if used < len(table):
        n = len(table) - used
        notes.append(f"{n:,} {table.unit}{'s name' if n > 1 else ' names'} no picture")
    if found < len(paths):
        warnings.warn(
            f"{table.name} has no line for {len(paths) - found:,} of {len(paths):,} pictures: "
            "their attributes are taken as not known",
            stacklevel=3,
        )
    share = f"{table.name}: {found:,} of {len(paths):,} pictures found by {best.by}"
    share += f" (column {best.column!r})" if len(columns) > 1 else ""
    return Matched(rows, best.by, ", ".join([share, *notes]), best.column)


def _key_columns(table: LabelTable) -> list[str]:
    """The columns that may name the pictures, best first."""
    plain = {_plain(column): column for column in reversed(table.names)}
    named = [plain[key] for key in map(_plain, KEYS) if key in plain]
    return list(dict.fromkeys(named)) or [
        next((name for name in table.names if not _is_index(table, name)), table.names[0])
    ]


def _plain(name: str) -> str:
    return re.sub(r"[ _-]+", "_", name.strip().casefold())


def _is_index(table: LabelTable, column: str) -> bool:
    """Whether a column just numbers the lines, from 0 or from 1."""
    if not _UNNAMED.fullmatch(column) and column.casefold() != "index":
        return False
    cells = table.cells(column)
    return any(cells == list(map(str, range(k, k + len(cells)))) for k in (0, 1))


def _find(
    table: LabelTable,
    column: str,
    paths: Sequence[str],
    aliases: Sequence[Sequence[str]] | None,
) -> _Hits | None:
    """What a column finds, in the first way that finds anything."""
    cells = [_nfc(cell) for cell in table.cells(column)]
    if aliases is not None:
        rows_of: dict[str, list[int]] = {}
        for row, cell in enumerate(cells):
            rows_of.setdefault(cell, []).append(row)
        found = {}
        for i, names in enumerate(aliases):
            rows = next((rows_of[name] for name in map(_nfc, names) if name in rows_of), None)
            if rows:
                found[i] = rows
        if found:
            return _Hits(column, "name", found, [], range(len(paths)))
    number = {path: k for k, path in enumerate(dict.fromkeys(paths))}
    of = [number[path] for path in paths]
    pictures = [tuple(_nfc(path).split("/")) for path in number]
    keys = [_parts(cell) for cell in cells]
    exact = any("/" in cell or "\\" in cell for cell in cells)  # then 1.png is one at the top
    for by, ours, theirs in (
        ("name", pictures, keys),
        ("stem", [_stemmed(parts) for parts in pictures], keys),
        ("stem", [_stemmed(parts) for parts in pictures], [_stemmed(parts) for parts in keys]),
    ):
        for strict in (True, False):
            rows, several, deep = _suffixes(ours, theirs, exact, strict)
            if rows or several:
                by = "path" if by == "name" and strict and deep else by
                return _Hits(column, by, rows, several, of)
    return None


def _suffixes(
    pictures: Sequence[tuple[str, ...]],
    keys: Sequence[tuple[str, ...]],
    exact: bool,
    strict: bool,
) -> tuple[dict[int, list[int]], list[tuple[int, str]], bool]:
    """The picture with which each key has most last parts in common.

    strict: all parts of the one or of the other, which is a path as seen from another folder; else
    the last part at least, and the key with most parts in common has the picture. exact: a key
    that is a whole path of one picture does not mean others that end with it.

    Returns each picture's rows, the rows that may mean several pictures, and whether any was found
    by more than the last part.
    """
    whole = {"/".join(parts): k for k, parts in enumerate(pictures)}
    ending: dict[str, int] = {}  # -1: several
    for k, parts in enumerate(pictures):
        for n in range(1, len(parts) + 1):
            text = "/".join(parts[-n:])
            ending[text] = -1 if text in ending else k
    found: dict[int, list[tuple[int, int]]] = {}
    several, deep = [], False
    for row, parts in enumerate(keys):
        for n in range(len(parts), 0, -1):
            text = "/".join(parts[-n:])
            picture = ending.get(text)
            if picture is None:
                continue
            if picture < 0 and text in whole and (exact or n < len(parts)):
                picture = whole[text]
            if n == len(parts) or (picture >= 0 and n == len(pictures[picture])) or not strict:
                deep |= len(parts) > 1
                if picture < 0:
                    several.append((row, text))
                else:
                    found.setdefault(picture, []).append((n, row))
            break
    rows = {
        picture: [row for n, row in pairs if strict or n == max(pairs)[0]]
        for picture, pairs in found.items()
    }
    return rows, several, deep


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part for part in key.replace("\\", "/").split("/") if part not in ("", "."))


def _stemmed(parts: tuple[str, ...]) -> tuple[str, ...]:
    """A path's parts, the last one without its ending."""
    return (*parts[:-1], _ENDING.sub("", parts[-1]) or parts[-1]) if parts else parts


def _nfc(text: str) -> str:
    """The text with composed letters: macOS takes those of file names apart."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _several(table: LabelTable, hits: _Hits, paths: Sequence[str]) -> DataError:
    row, text = hits.several[0]
    meant = [
        path
        for path in dict.fromkeys(paths)
        if f"/{path}".endswith(f"/{text}")
        or f"/{'/'.join(_stemmed(_parts(path)))}".endswith(f"/{text}")
    ]
    paths_of = [path if "/" in path else f"./{path}" for path in meant[:2]]
    return DataError(
        f"{table.where(row)}: {table.cells(hits.column)[row]!r} is ambiguous, as it may be "
        f"{' or '.join(map(repr, paths_of))}: write the paths of the pictures in the table"
    )


def _none_found(
    table: LabelTable,
    column: str,
    paths: Sequence[str],
    aliases: Sequence[Sequence[str]] | None,
) -> DataError:
    called = aliases[0][0] if aliases and aliases[0] else paths[0]
    key = next(filter(None, table.cells(column)), "")
    counts = {
        other: hits.found
        for other in table.names
        if (hits := _find(table, other, paths, aliases)) and 2 * hits.found >= len(paths)
    }
    other = max(counts, key=lambda name: counts[name], default=None)
    remedy = (
        ""
        if other is None
        else f" (the column {other!r} would find {counts[other]:,} of them: "
        "if it names the pictures, call it 'path')"
    )
    return DataError(
        f"{table.name} names none of the {len(paths):,} pictures: it has {key!r} under "
        f"{column!r}, the pictures are called like {called!r}{remedy}"
    )


def _check_same(table: LabelTable, key: str, rows: Sequence[int]) -> None:
    """Raises DataError where lines of one picture differ."""
    for column in table.names:
        if column == key or _is_index(table, column) or _UNNAMED.fullmatch(column):
            continue
        values = table.columns[column][list(rows)].tolist()
        if len({_written(value) for value in values}) > 1:
            other = next(k for k, v in enumerate(values) if _written(v) != _written(values[0]))
            raise DataError(
                f"{table.name} has two {table.unit}s for one picture, "
                f"{table.cells(key)[rows[0]]!r} in {table.unit} {table.lines[rows[0]]} and "
                f"{table.cells(key)[rows[other]]!r} in {table.unit} {table.lines[rows[other]]}, "
                f"with {_written(values[0])!r} and {_written(values[other])!r} under {column!r}: "
                f"remove one"
            )


# What the cells mean


class _Categories(NamedTuple):
    """A column of words. values: them, in natural order; codes: int `[M]`, -1 where unknown."""

    values: list[str]
    codes: np.ndarray


def labels_of(
    table: LabelTable, rows: np.ndarray | Sequence[int], skip: Iterable[str] = ()
) -> Labels:
    """The attributes of pictures, from every column but those of `skip`.

    rows: int `[N]`, each picture's row, -1 without. A column is interpreted as a whole, whichever
    rows are asked for: numbers as they are, -1 and 1 alone as 0 and 1, yes/no, y/n, true/false,
    t/f and +/- as 1 and 0, and words as categories: an attribute `column=value` of 0 and 1 for
    each. Columns of words that are all different, more than `MOST_CATEGORIES` or one alone are
    left out, as are those without values and those that number the lines or name the pictures.

    Raises DataError, with line and cell, for a column of numbers in which other words stand.
    """
    rows = np.asarray(rows, int)
    skipped = {table.find(name) or name for name in skip}
    names: list[str] = []
    values: list[np.ndarray] = []
    left_out: list[tuple[str, str]] = []
    notes: list[str] = []
    for column in table.names:
        if column in skipped:
            continue
        found = _interpreted(table, column)
        if isinstance(found, str):
            left_out.append((column, found))
        elif isinstance(found, _Categories):
            names += [f"{column}={value}" for value in found.values]
            values += [
                np.where(found.codes < 0, np.nan, found.codes == k)
                for k in range(len(found.values))
            ]
            notes += _alike(column, found.values)
            notes += _not_known(column, table)
        else:
            names.append(column)
            values.append(found)
    result = np.full((len(rows), len(names)), np.nan, np.float32)
    there = rows >= 0
    for k, column in enumerate(values):
        result[there, k] = column[rows[there]]
    return Labels(tuple(names), result, tuple(left_out), tuple(notes))


def categories(attributes: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the attributes `column=value` of each column that has two or more of them."""
    found: dict[str, list[int]] = {}
    for k, name in enumerate(attributes):
        column, equals, _ = name.partition("=")
        if equals:
            found.setdefault(column, []).append(k)
    return {column: indices for column, indices in found.items() if len(indices) > 1}


def _interpreted(table: LabelTable, name: str) -> np.ndarray | _Categories | str:
    """A column's numbers, float64 `[M]`, or its categories, or the reason why it has neither."""
    column = table.columns[name]
    if _is_index(table, name):
        return "it numbers the lines"
    if _UNNAMED.fullmatch(name):
        return "it has no name"
    if column.dtype != object:
        return _numbers_checked(table, name, column.astype(np.float64))
    count = collections.Counter(column.tolist())
    signs = {"+", "-"} <= count.keys() and all(c in UNKNOWN for c in count if c != "+")
    known = [cell for cell in count if cell not in UNKNOWN or (signs and cell == "-")]
    if not known:
        return "no cell has a value"
    words = {"+": 1, "-": 0} if signs else _yes_no(known)
    if words:
        return _mapped(column, {cell: words[cell.casefold()] for cell in known})
    comma = table.separator != ","
    numbers = {cell: value for cell in known if (value := _number(cell, comma)) is not None}
    total = sum(count[cell] for cell in known)
    share = sum(count[cell] for cell in numbers) / total
    if share == 1:
        _check_commas(table, name, list(numbers))
        return _numbers_checked(table, name, _mapped(column, numbers))
    odd = [cell for cell in known if cell not in numbers]
    if _plain(name) in map(_plain, KEYS) and len(known) == total:
        return "it names the pictures"
    if share or all(map(_with_commas, odd)):
        _check_words(table, name, odd, numbers, share, total)
    if len(known) == 1:
        return f"one value alone, {known[0][:60]!r}"
    if len(known) == total:
        return f"all its {total:,} values are different"
    if len(known) > MOST_CATEGORIES:
        return f"{len(known):,} different values, and at most {MOST_CATEGORIES} become categories"
    in_one_line = {cell: " ".join(cell.split()) for cell in known}
    values = sorted(set(in_one_line.values()), key=natural)
    code = {cell: values.index(value) for cell, value in in_one_line.items()}
    return _Categories(values, np.array([code.get(cell, -1) for cell in column.tolist()]))


def _mapped(column: np.ndarray, values: dict[str, float]) -> np.ndarray:
    return np.array([values.get(cell, np.nan) for cell in column.tolist()], np.float64)


def _yes_no(known: Sequence[str]) -> dict[str, int] | None:
    """What the words of a column are, where they are yes and no; None where they are not."""
    words = {cell.casefold() for cell in known}
    if len(words) == 1 and len(next(iter(words))) == 1:
        return None  # one letter may be anything
    return next((pair for pair in YES_NO if words <= pair.keys()), None)


def _number(cell: str, comma: bool) -> float | None:
    text = cell.replace("\N{MINUS SIGN}", "-")
    if not text.isascii():
        return None
    if _POINT.fullmatch(text):
        return float(text)
    return float(text.replace(",", ".")) if comma and _COMMA.fullmatch(text) else None


def _with_commas(cell: str) -> bool:
    """Whether a cell would be a number if commas were decimal, or separated thousands."""
    return bool(_COMMA.fullmatch(cell) or _THOUSANDS.fullmatch(cell))


def _check_commas(table: LabelTable, name: str, cells: Sequence[str]) -> None:
    """Raises DataError where it is not sure what a comma or a point stands for."""
    commas = [cell for cell in cells if "," in cell]
    points = [cell for cell in cells if "." in cell]
    if commas and points:
        raise DataError(
            f"{_where(table, name, commas[0])} and {points[0]!r} in another line: write decimal "
            "points, or decimal commas, in the whole column"
        )
    if commas and table.separator == "\t" and all(map(_THOUSANDS.fullmatch, commas)):
        raise DataError(
            f"{_where(table, name, commas[0])} may be a decimal number, or thousands: write "
            f"{commas[0].replace(',', '.')}, or {commas[0].replace(',', '')}"
        )
    if points and all(_THOUSANDS.fullmatch(cell.replace(".", ",")) for cell in points):
        texts = [column for column in table.columns.values() if column.dtype == object]
        if any(_COMMA.fullmatch(cell) for column in texts for cell in set(column.tolist())):
            raise DataError(
                f"{_where(table, name, points[0])} may be a decimal number, or thousands, as "
                f"other columns have decimal commas: write {points[0].replace('.', ',')}, or "
                f"{points[0].replace('.', '')}"
            )


def _check_words(
    table: LabelTable,
    name: str,
    odd: Sequence[str],
    numbers: dict[str, float],
    share: float,
    total: int,
) -> None:
    """Raises DataError where words among a column's numbers are more likely mistakes than classes.

    odd: the words; share: of the cells that are numbers, of `total`.
    """
    if all(map(_with_commas, odd)):
        raise DataError(
            f"{_where(table, name, odd[0])} is not a number here: write a decimal point and no "
            "separators of thousands (decimal commas are read where ; separates the cells)"
        )
    different = len(odd) + len(numbers)
    classes = (
        different <= MOST_MIXED
        and 2 * different <= total
        and all(number.is_integer() for number in numbers.values())
        and not any(_yes_no([cell]) for cell in odd)
    )
    if share >= SURELY_NUMBERS or (share >= 0.5 and not classes):
        raise DataError(
            f"{_where(table, name, odd[0])} is not a number (leave unknown cells empty; for "
            f"categories write numbers as words too, such as '{name} 1')"
        )


def _where(table: LabelTable, name: str, cell: str) -> str:
    row = table.columns[name].tolist().index(cell)
    return f"{table.where(row)}: {cell!r} under {name!r}"


def _numbers_checked(table: LabelTable, name: str, values: np.ndarray) -> np.ndarray | str:
    """The numbers of a column, -1 and 1 alone as 0 and 1; or the reason why they are no labels."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "no cell has a value"
    large = np.abs(known) > np.finfo(np.float32).max
    if large.any():
        row = int(np.flatnonzero(np.isin(values, known[large]))[0])
        raise DataError(
            f"{table.where(row)}: {values[row]:g} under {name!r} is too large (leave unknown "
            "cells empty)"
        )
    different, whole = np.unique(known), bool((known == np.round(known)).all())
    if whole and len(different) == len(known) > 1:
        if _plain(name) in map(_plain, KEYS):
            return "it numbers the pictures"
        if np.abs(known).max() > 2**24:
            return "whole numbers that are all different and longer than float32 holds"
    if -1 in different and set(different) <= {-1, 1}:
        values = np.where(values == -1, 0, values)
    return values


def _alike(column: str, values: Sequence[str]) -> list[str]:
    """A note where categories differ in upper and lower case alone."""
    same: dict[str, list[str]] = {}
    for value in values:
        same.setdefault(value.casefold(), []).append(value)
    twice = [" and ".join(group) for group in same.values() if len(group) > 1]
    return [f"{column} has categories that differ in case alone: {', '.join(twice)}"] * bool(twice)


def _not_known(column: str, table: LabelTable) -> list[str]:
    """A note where a word among categories, such as None, was taken as not known."""
    count = collections.Counter(table.columns[column].tolist())
    marks = [
        f"{n:,} of its cells, {mark!r}" for mark, n in count.items() if mark and mark in UNKNOWN
    ]
    return [f"{column} is taken as not known in {', '.join(marks)}"] * bool(marks)
