"""Codes as files that others read: parquet, npz, h5ad, h5 and tables for GWAS, written in chunks.

A writer is opened with the paths of its files and a `Header`, takes rows chunk by chunk and holds
no more of z than one row group:

    with FORMATS["parquet"]([path], header) as file:
        for rows in chunks:
            file.add(rows)

`CodeFiles` is the folder that they stand in.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import numpy as np

from pdae_jax.data.label_table import categories
from pdae_jax.formats.errors import require
from pdae_jax.runtime import atomic, processes
from pdae_jax.workdir import code_table
from pdae_jax.workdir.chunk_cache import ChunkCache
from pdae_jax.workdir.code_table import Codes
from pdae_jax.workdir.lock import Lock

ROW_GROUP = 64 * 2**20  # bytes of a row group of parquet, held in memory
OWN_COLUMNS = ("path", "split", "group", "z", "thumbnail")  # of parquet, beside z_0 ... and labels


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known of codes before the first row.

    z_size: d. attributes: the names of the labels. groups, splits, thumbnails: whether rows have
    them. record: how the codes were made, of texts, numbers, lists and dicts.
    """

    z_size: int
    attributes: tuple[str, ...] = ()
    groups: bool = False
    splits: bool = False
    thumbnails: bool = False
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some pictures' codes, and their thumbnails where asked for: PNGs, or None where broken."""

    codes: Codes
    thumbnails: Sequence[bytes | None] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """What was encoded. pictures: that could be read; broken: the others, (where, why) each."""

    pictures: int
    z_size: int
    attributes: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` and JSON made of it."""
        broken = tuple((where, why) for where, why in value["broken"])
        return cls(value["pictures"], value["z_size"], tuple(value["attributes"]), broken)


def classes(
    attributes: Sequence[str], labels: np.ndarray
) -> dict[str, tuple[list[str], np.ndarray]]:
    """The columns of words that labels [N, A] were made of: {column: (values, which [N])}.

    which: the index of each picture's value; -1 where it is not known.
    """
    found = {}
    for column, indices in categories(attributes).items():
        some = labels[:, indices]
        which = np.where((some == 1).sum(1) == 1, (some == 1).argmax(1), -1)
        found[column] = [attributes[k].partition("=")[2] for k in indices], which
    return found


class CodeFile:
    """The writer of one format. names: of its files. A subclass gives `_open`, `add` and `_finish`.

    Left by an error it has not finished its files, which are to be removed.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, paths: Sequence[Path], header: Header):
        self.check(header)
        self.header = header
        self._stack = contextlib.ExitStack()
        self._open(*paths)

    @classmethod
    def check(cls, header: Header) -> None:
        """Raises ValueError, with the remedy, where such codes cannot be written."""

    def _open(self, *paths: Path) -> None:
        raise NotImplementedError

    def add(self, rows: Rows) -> None:
        """Writes the next rows."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Writes what comes last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._stack:
            if kind is None:
                self._finish()


class Parquet(CodeFile):
    """Columns path, split, group, each label, z_0 ... and z as one list; and thumbnails.

    Labels that are not known are null. A column of words is that column, and one of 0 and 1 for
    each word. Thumbnails are structs {bytes, path}, as Hugging Face's data sets have pictures.
    """

    names = ("codes.parquet",)

    @classmethod
    def check(cls, header: Header) -> None:
        z = {f"z_{k}" for k in range(header.z_size)}
        taken = [name for name in header.attributes if name in z or name in OWN_COLUMNS]
        if taken:
            raise ValueError(
                f"the label {taken[0]!r} has the name of a column that the table of codes has: "
                f"rename it in the table of labels"
            )

    def _open(self, *paths: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        header = self.header
        self._columns = list(categories(header.attributes))
        texts = ["path", *["split"] * header.splits, *["group"] * header.groups, *self._columns]
        fields = [(name, pa.string()) for name in texts]
        fields += [(name, pa.float32()) for name in header.attributes]
        fields += [(f"z_{k}", pa.float32()) for k in range(header.z_size)]
        fields.append(("z", pa.list_(pa.float32(), header.z_size)))
        record = {"pdae_jax": json.dumps(header.record)}
        if header.thumbnails:
            fields.append(("thumbnail", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
            features = {"thumbnail": {"_type": "Image"}}
            record["huggingface"] = json.dumps({"info": {"features": features}})
        self._schema = pa.schema(fields, record)
        # Of z_0 ... neither dictionaries nor statistics help; both would take memory for each.
        how: dict[str, Any] = {"use_dictionary": texts}
        how["write_statistics"] = [*texts, *header.attributes]
        self._writer = self._stack.enter_context(
            pyarrow.parquet.ParquetWriter(paths[0], self._schema, **how)
        )
        self._waiting: list[Any] = []

    def add(self, rows: Rows) -> None:
        import pyarrow as pa

        codes, texts = rows.codes, {"path": rows.codes.path.tolist()}
        if self.header.splits:
            texts["split"] = codes.split.tolist()
        if self.header.groups:
            texts["group"] = codes.group.tolist()
        for column, (values, which) in classes(codes.attributes, codes.labels).items():
            texts[column] = [values[k] if k >= 0 else None for k in which]
        arrays = [pa.array(values, pa.string()) for values in texts.values()]
        labels, z = codes.labels.astype(np.float32), codes.z.astype(np.float32)
        arrays += [pa.array(column.copy(), from_pandas=True) for column in labels.T]  # NaN is null
        arrays += [pa.array(column) for column in np.ascontiguousarray(z.T)]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), self.header.z_size))
        if self.header.thumbnails:
            pngs = pa.array(rows.thumbnails, pa.binary())
            none = pa.array([png is None for png in rows.thumbnails])
            arrays.append(
                pa.StructArray.from_arrays([pngs, arrays[0]], ["bytes", "path"], mask=none)
            )
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        if sum(table.nbytes for table in self._waiting) >= ROW_GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self._waiting)
        if len(table):
            self._writer.write_table(table, row_group_size=len(table))
        self._waiting = []

    def _finish(self) -> None:
        if self._waiting:
            self._write()


class Npz(CodeFile):
    """The arrays of `Codes`, each as np.load gives it. `CodeTable` reads such a file."""

    names = ("codes.npz",)

    def _open(self, *paths: Path) -> None:
        self._path = paths[0]
        self._columns = {
            name: _Spool(self._stack, paths[0].parent)
            for name in Codes._fields
            if name != "attributes"
        }

    def add(self, rows: Rows) -> None:
        for name, spool in self._columns.items():
            spool.add(getattr(rows.codes, name))

    def _finish(self) -> None:
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, spool in self._columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    spool.pour(stream)
            with archive.open("attributes.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array(self.header.attributes, str))


class _Spool:
    """An array that grows by rows, in a file without a name until all its rows are known."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path):
        self._file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        self._parts: list[tuple[np.dtype[Any], tuple[int, ...]]] = []

    def add(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._parts.append((array.dtype, array.shape))

    def pour(self, stream: IO[bytes]) -> None:
        """Writes the rows as one array in NumPy's format, texts as long as the longest."""
        dtype = np.result_type(*(dtype for dtype, _ in self._parts))
        shape = (sum(shape[0] for _, shape in self._parts), *self._parts[0][1][1:])
        descr = np.lib.format.dtype_to_descr(dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        self._file.seek(0)
        for own, part in self._parts:
            data = self._file.read(own.itemsize * int(np.prod(part)))
            stream.write(np.frombuffer(data, own).astype(dtype).tobytes() if data else b"")


class _HDF5(CodeFile):
    """A format within HDF5: arrays that grow."""

    extra: ClassVar[str] = "hdf5"

    @classmethod
    def check(cls, header: Header) -> None:
        require("h5py", cls.extra)

    def _open(self, *paths: Path) -> None:
        self._file = self._stack.enter_context(require("h5py", self.extra).File(paths[0], "w"))

    def _array(self, name: str, width: int = 0) -> Any:
        """An array of texts [0], or of float32 [0, width], to grow."""
        if not width:
            text = require("h5py", self.extra).string_dtype()
            return self._file.create_dataset(name, (0,), text, maxshape=(None,), chunks=(4096,))
        rows = max(1, min(4096, 2**20 // (4 * width)))  # a chunk of at most 1 MB
        return self._file.create_dataset(
            name, (0, width), np.float32, maxshape=(None, width), chunks=(rows, width)
        )

    @staticmethod
    def _append(array: Any, rows: np.ndarray) -> None:
        start = len(array)
        array.resize(start + len(rows), axis=0)
        array[start:] = rows.astype(object) if rows.dtype.kind == "U" else rows


class H5(_HDF5):
    """features [N, d], as tools of pathology call z; paths, splits, groups, labels, label_names.

    coords [N, 2] where two labels are called x and y, as those of a tile. How it was made is the
    attribute "pdae_jax" of the file.
    """

    names = ("codes.h5",)

    def _open(self, *paths: Path) -> None:
        super()._open(*paths)
        header = self.header
        self._file.attrs["pdae_jax"] = json.dumps(header.record)
        self._arrays = {"features": self._array("features", header.z_size)}
        texts = ["paths", *["splits"] * header.splits, *["groups"] * header.groups]
        self._arrays |= {name: self._array(name) for name in texts}
        if header.attributes:
            self._arrays["labels"] = self._array("labels", len(header.attributes))
            self._append(self._array("label_names"), np.array(header.attributes))
        lower = [name.lower() for name in header.attributes]
        self._x_y = [lower.index(name) for name in ("x", "y") if lower.count(name) == 1]
        if len(self._x_y) == 2:
            self._arrays["coords"] = self._array("coords", 2)

    def add(self, rows: Rows) -> None:
        codes = rows.codes
        columns = {
            "features": codes.z,
            "paths": codes.path,
            "splits": codes.split,
            "groups": codes.group,
            "labels": codes.labels,
            "coords": codes.labels[:, self._x_y],
        }
        for name, array in self._arrays.items():
            self._append(array, columns[name])


class H5ad(_HDF5):
    """AnnData on disk: X = z, obs = path, split, group and labels, uns = how it was made.

    z is written chunk by chunk; of obs there is all in memory, and anndata writes it.
    """

    names = ("codes.h5ad",)
    extra = "h5ad"

    @classmethod
    def check(cls, header: Header) -> None:
        super().check(header)
        require("anndata", cls.extra)
        columns = [*header.attributes, *categories(header.attributes)]
        odd = [name for name in columns if "/" in name.partition("=")[0]]
        if odd:
            raise ValueError(
                f"the label {odd[0]!r} has a / in its name, which h5ad takes for a folder: rename "
                f"it in the table of labels, or leave out --format=h5ad"
            )
        taken = [name for name in header.attributes if name in ("path", "split", "group")]
        if taken:
            raise ValueError(
                f"the label {taken[0]!r} has the name of a column that the table of codes has: "
                f"rename it in the table of labels"
            )

    def _open(self, *paths: Path) -> None:
        super()._open(*paths)
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self._x = self._array("X", self.header.z_size)
        self._x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self._rest: list[Codes] = []

    def add(self, rows: Rows) -> None:
        self._append(self._x, rows.codes.z)
        self._rest.append(rows.codes._replace(z=np.zeros((0, 0), np.float32)))

    def _finish(self) -> None:
        pandas, anndata = require("pandas", self.extra), require("anndata.io", self.extra)

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(rows, name) for rows in self._rest])

        path, labels = joined("path").astype(object), joined("labels")
        columns: dict[str, Any] = {"path": path}
        for name, there in (("split", self.header.splits), ("group", self.header.groups)):
            if there:
                columns[name] = pandas.Categorical(joined(name))
        grouped = categories(self.header.attributes)
        in_groups = {k for indices in grouped.values() for k in indices}
        for k, name in enumerate(self.header.attributes):
            if k not in in_groups:
                columns[name] = labels[:, k]
        for column, (values, which) in classes(self.header.attributes, labels).items():
            columns[column] = pandas.Categorical.from_codes(which, values)
        names = path if len(set(path)) == len(path) else np.arange(len(path)).astype(str)
        obs = pandas.DataFrame(columns, index=pandas.Index(names, dtype=object))
        var = pandas.DataFrame(index=[f"z_{k}" for k in range(self.header.z_size)])
        record = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.header.record.items()
        }
        rest = {name: {} for name in ("layers", "obsm", "obsp", "varm", "varp")}
        for name, value in {"obs": obs, "var": var, "uns": {"pdae_jax": record}, **rest}.items():
            anndata.write_elem(self._file, name, value)


class Gwas(CodeFile):
    """FID, IID and Z0 ...: the mean z of each group, as it is and inverse-normal; one row a group.

    The rows are in the order of the groups' names. Broken pictures do not count.
    """

    names = ("codes.raw.tsv", "codes.int.tsv")

    @classmethod
    def check(cls, header: Header) -> None:
        if not header.groups:
            raise ValueError(
                "--format=gwas has one row for each group, and the pictures have none: give "
                "--group=COLUMN (with --images), or train with --config.data.group=COLUMN"
            )

    def _open(self, *paths: Path) -> None:
        self._paths = paths
        self._place: dict[str, int] = {}  # of each group among the sums
        self._sums = np.zeros((0, self.header.z_size))
        self._counts = np.zeros(0, int)

    def add(self, rows: Rows) -> None:
        codes = rows.codes.without_broken()
        names, which = np.unique(codes.group, return_inverse=True)
        for name in map(str, names):
            if len(name.split()) != 1:
                raise ValueError(
                    f"the group {name!r} has a space, which ends a name in tables for GWAS: "
                    f"rename it"
                )
        places = np.array([self._place.setdefault(str(n), len(self._place)) for n in names], int)
        more = len(self._place) - len(self._sums)
        if more > 0:  # half as many again, so that growing costs little
            more = max(more, len(self._sums) // 2)
            self._sums = np.pad(self._sums, ((0, more), (0, 0)))
            self._counts = np.pad(self._counts, (0, more))
        np.add.at(self._sums, places[which], codes.z)
        np.add.at(self._counts, places[which], 1)

    def _finish(self) -> None:
        names = sorted(self._place)
        order = [self._place[name] for name in names]
        means = self._sums[order] / self._counts[order, None]
        for path, values in zip(self._paths, (means, inverse_normal(means)), strict=True):
            with path.open("w", encoding="utf-8", newline="\n") as file:
                header = ("FID", "IID", *(f"Z{k}" for k in range(self.header.z_size)))
                print(*header, sep="\t", file=file)
                for name, row in zip(names, values, strict=True):
                    print(name, name, *(f"{value:.9g}" for value in row), sep="\t", file=file)


def inverse_normal(values: np.ndarray) -> np.ndarray:
    """Columns of values [N, d] by rank to a normal distribution: Phi^-1((rank - 3/8)/(N + 1/4)).

    Blom's offset; equal values have the mean of their ranks.
    """
    from scipy import stats

    if not len(values):
        return values
    return stats.norm.ppf((stats.rankdata(values, axis=0) - 3 / 8) / (len(values) + 1 / 4))


FORMATS: dict[str, type[CodeFile]] = {
    "parquet": Parquet,
    "npz": Npz,
    "h5ad": H5ad,
    "h5": H5,
    "gwas": Gwas,
}


class CodeFiles:
    """The files of codes in a folder, and the cache key of what they were computed from.

    formats: those that are asked for; others, of the same key, stay.
    """

    def __init__(self, folder: str | os.PathLike, formats: Sequence[str]):
        self._folder, self._formats = Path(folder), tuple(formats)
        self._record = self._folder / "cache_key.json"
        self._chunks = self._folder / "chunks"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files."""
        return _names(self._formats)

    def sizes(self) -> dict[str, int]:
        """The bytes of each file, by its name."""
        return {name: (self._folder / name).stat().st_size for name in self.names}

    def is_current(self, cache_key: Mapping[str, Any]) -> bool:
        """Whether all files are there, and were computed from what `cache_key` says."""

        def answer() -> bool:
            there = all((self._folder / name).exists() for name in self.names)
            return there and self._known().get("cache_key") == _as_json(cache_key)

        return processes.ask_first(answer)

    def found(self) -> Found:
        """What was encoded."""
        return Found.of(self._known()["found"])

    def _known(self) -> dict[str, Any]:
        """The record; {} where there is none."""
        try:
            known = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def check(self, header: Header) -> None:
        """Raises ValueError, with the remedy, where a format cannot hold such codes."""
        for name in self._formats:
            FORMATS[name].check(header)

    def lock(self) -> Lock:
        """Held by what computes the files."""
        return Lock(self._folder)

    def chunks(self, cache_key: dict[str, Any]) -> ChunkCache:
        """Where codes are kept until the files are whole."""
        return ChunkCache(self._chunks, cache_key, size=code_table.CHUNK_ROWS)

    def write(self, header: Header, chunks: Iterable[Rows], cache_key: Mapping[str, Any]) -> Found:
        """Writes all files while the chunks come.

        All processes must call this, since they compute the chunks together; the first writes.
        """
        with processes.fail_together():
            pictures, broken = 0, []
            with contextlib.ExitStack() as stack:
                writers = list(self._writers(stack, header)) if processes.writes() else []
                for rows in chunks:
                    for writer in writers:
                        writer.add(rows)
                    pictures += len(rows.codes.without_broken().z)
                    broken += [(str(where), str(why)) for where, why in rows.codes.broken]
                if writers:
                    self._forget(cache_key)  # no old file lies beside new ones, or a new record
            found = Found(pictures, header.z_size, header.attributes, tuple(broken))
            if processes.writes():
                record = {"cache_key": cache_key, "found": dataclasses.asdict(found)}
                atomic.write_text(self._record, json.dumps(record, sort_keys=True) + "\n")
        return found

    def _writers(self, stack: contextlib.ExitStack, header: Header) -> Iterator[CodeFile]:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in self._formats:
            kind = FORMATS[name]
            new = [stack.enter_context(atomic.new_file(self._folder / one)) for one in kind.names]
            yield stack.enter_context(kind(new, header))

    def _forget(self, cache_key: Mapping[str, Any]) -> None:
        """Removes what will not be true: the record, and files of another key."""
        same = self._known().get("cache_key") == _as_json(cache_key)
        self._record.unlink(missing_ok=True)
        for name in self.names if same else _names(FORMATS):
            (self._folder / name).unlink(missing_ok=True)


def _names(formats: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for one in formats for name in FORMATS[one].names)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
