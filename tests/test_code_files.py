"""Codes as files: what was written is what the readers of others read, chunk by chunk."""

import io
import json
import re

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import scanpy
from helpers import ROOT, run_command
from PIL import Image
from scipy import stats

import pdae_jax
from pdae_jax.commands import encode
from pdae_jax.commands.page_command import run_page
from pdae_jax.data import open_source
from pdae_jax.workdir import code_files, code_table
from pdae_jax.workdir.code_files import FORMATS, Header, Rows, classes, inverse_normal
from pdae_jax.workdir.code_table import Codes, CodeTable
from pdae_jax.workdir.workdir import Workdir

N, D = 50, 6
ATTRIBUTES = ("age", "kind=cat", "kind=dog", "kind=fish", "x", "y", "one=only")


def codes(rng, n=N, broken=(7, 33)):
    """Codes of n pictures of ten groups, with labels that are not known, and some broken."""
    kind = rng.integers(0, 3, n)
    labels = np.stack([rng.normal(size=n), *(kind == k for k in range(3)), *rng.random((3, n))], 1)
    labels[5] = np.nan
    z = rng.standard_normal((n, D)).astype(np.float32)
    z[list(broken)] = np.nan
    path = np.array([f"{'sub/' * (k % 3)}{k}.png" for k in range(n)])
    return Codes(
        z,
        labels.astype(np.float32),
        ATTRIBUTES,
        np.char.add("/data/", path),
        np.array([[f"/data/{path[k]}", "cut short"] for k in broken]).reshape(-1, 2),
        path,
        np.array([f"patient{k % 10}" for k in range(n)]),
        np.array(["train", "test"])[(np.arange(n) % 5 == 0).astype(int)],
    )


def pngs(n):
    """Pictures of n rows, one of them missing."""
    found = []
    for k in range(n):
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 4), k, np.uint8)).save(stream, "PNG")
        found.append(stream.getvalue() if k != 7 else None)
    return found


def header_of(table, **more):
    has = {"groups": len(table.group) > 0, "splits": len(table.split) > 0}
    record = {"model": "a", "checkpoints": {"dpm": [1, "x"]}, "range": "0 to 255"}
    return Header(D, table.attributes, **has, record=record, **more)


def write(name, folder, table, chunk=20, thumbnails=()):
    """Writes a table in chunks; the paths of the files."""
    folder.mkdir(exist_ok=True)
    paths = [folder / one for one in FORMATS[name].names]
    with FORMATS[name](paths, header_of(table, thumbnails=bool(thumbnails))) as file:
        for start in range(0, len(table.z), chunk):
            some = slice(start, start + chunk)
            rows = ("z", "labels", "where", "path", "group", "split")
            part = {k: getattr(table, k)[some] for k in rows}
            bad = np.isin(table.broken[:, 0], part["where"])
            part = table._replace(**part, broken=table.broken[bad])
            file.add(Rows(part, thumbnails[some]))
    return paths


def without_groups(table):
    return table._replace(group=np.zeros(0, str), split=np.zeros(0, str))


@pytest.fixture
def table():
    return codes(np.random.default_rng(0))


def test_every_format_is_an_option():
    assert tuple(FORMATS) == encode.FORMATS


# Each format, by its own readers.


def test_pandas_reads_parquet(table, tmp_path):
    (path,) = write("parquet", tmp_path, table, thumbnails=pngs(N))
    found = pd.read_parquet(path)
    assert list(found["path"]) == list(table.path) and list(found["group"]) == list(table.group)
    assert list(found["split"]) == list(table.split)
    np.testing.assert_array_equal(np.stack(found["z"]), table.z)
    np.testing.assert_array_equal(found[[f"z_{k}" for k in range(D)]], table.z)
    np.testing.assert_array_equal(found[list(ATTRIBUTES)], table.labels)
    assert found.dtypes["age"] == found.dtypes["z_0"] == np.float32
    kinds = np.array(["cat", "dog", "fish"], object)[table.labels[:, 1:4].argmax(1)]
    assert found["kind"][5] is None
    known = np.arange(N) != 5
    assert list(found["kind"][known]) == list(kinds[known])
    assert "one" not in found  # of one value alone: a label as others
    shown = [
        row and np.asarray(Image.open(io.BytesIO(row["bytes"])))[0, 0] for row in found.thumbnail
    ]
    assert shown == [k if k != 7 else None for k in range(N)]
    assert found.thumbnail[8]["path"] == table.path[8]


def test_parquet_has_nulls_row_groups_and_a_record(table, tmp_path, monkeypatch):
    monkeypatch.setattr(code_files, "ROW_GROUP", 2 * 10 * D * 4)  # bytes of ten rows of z, and more
    (path,) = write("parquet", tmp_path, table, chunk=10)
    file = pyarrow.parquet.ParquetFile(path)
    assert file.num_row_groups == 5 and file.metadata.num_rows == N
    assert file.read()["age"].null_count == file.read()["kind"].null_count == 1
    assert file.schema_arrow.field("z").type.value_type == "float"
    record = json.loads(file.schema_arrow.metadata[b"pdae_jax"])
    assert record == header_of(table).record
    plain = without_groups(table)
    (path,) = write("parquet", tmp_path / "b", plain)
    assert not {"group", "split", "thumbnail"} & set(pd.read_parquet(path))


@pytest.mark.parametrize("grouped", [True, False])
def test_npz_is_what_a_table_of_codes_is(table, tmp_path, grouped):
    table = table if grouped else without_groups(table)
    write("npz", tmp_path, table)
    (tmp_path / "whole").mkdir()
    CodeTable(tmp_path / "whole").write(table, {})
    one, two = (CodeTable(folder).read() for folder in (tmp_path, tmp_path / "whole"))
    for mine, other in zip(one, two, strict=True):
        np.testing.assert_array_equal(mine, other)
        assert np.asarray(mine).dtype == np.asarray(other).dtype


def test_scanpy_works_on_h5ad(table, tmp_path):
    table = table._replace(z=np.nan_to_num(table.z))
    (path,) = write("h5ad", tmp_path, table)
    found = scanpy.read_h5ad(path)
    np.testing.assert_array_equal(found.X, table.z)
    assert list(found.obs_names) == list(found.obs["path"]) == list(table.path)
    assert list(found.var_names) == [f"z_{k}" for k in range(D)]
    assert set(found.obs) == {"path", "split", "group", "age", "x", "y", "one=only", "kind"}
    assert list(found.obs["kind"].cat.categories) == ["cat", "dog", "fish"]
    assert list(found.obs["group"]) == list(table.group)
    assert found.obs["kind"].isna().tolist() == [k == 5 for k in range(N)]
    np.testing.assert_array_equal(found.obs["age"], table.labels[:, 0])
    assert json.loads(found.uns["pdae_jax"]["checkpoints"]) == {"dpm": [1, "x"]}
    scanpy.pp.pca(found, n_comps=3)
    scanpy.pp.neighbors(found, n_neighbors=5)
    assert found.obsp["connectivities"].shape == (N, N)
    backed = anndata.read_h5ad(path, backed="r")
    np.testing.assert_array_equal(backed.X[3:5], table.z[3:5])
    backed.file.close()
    found.write_h5ad(tmp_path / "again.h5ad")


def test_h5py_reads_h5(table, tmp_path):
    (path,) = write("h5", tmp_path, table)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["features"], table.z)
        assert file["features"].dtype == np.float32
        assert list(file["paths"].asstr()) == list(table.path)
        assert list(file["groups"].asstr()) == list(table.group)
        assert list(file["splits"].asstr()) == list(table.split)
        assert list(file["label_names"].asstr()) == list(ATTRIBUTES)
        np.testing.assert_array_equal(file["labels"], table.labels)
        np.testing.assert_array_equal(file["coords"], table.labels[:, 4:6])
        assert json.loads(file.attrs["pdae_jax"]) == header_of(table).record
    plain = without_groups(table)._replace(attributes=(), labels=np.zeros((N, 0), np.float32))
    (path,) = write("h5", tmp_path / "b", plain)
    with h5py.File(path) as file:
        assert set(file) == {"features", "paths"}


def test_gwas_tables_have_a_row_for_each_group(table, tmp_path):
    raw, normal = write("gwas", tmp_path, table, chunk=7)
    found = pd.read_csv(raw, sep="\t", dtype={"FID": str, "IID": str})
    assert list(found) == ["FID", "IID", *(f"Z{k}" for k in range(D))]
    assert list(found.FID) == list(found.IID) == [f"patient{k}" for k in range(10)]
    means = pd.DataFrame(table.z).groupby(table.group).mean()  # which leaves out NaN
    np.testing.assert_allclose(found.iloc[:, 2:], means, rtol=1e-6)
    normal = pd.read_csv(normal, sep="\t")
    assert list(normal.FID) == list(found.FID)
    ranks = found.iloc[:, 2:].rank()
    np.testing.assert_allclose(normal.iloc[:, 2:], stats.norm.ppf((ranks - 0.375) / 10.25))


def test_the_inverse_normal_gives_equal_values_the_mean_of_their_ranks():
    found = inverse_normal(np.array([[3.0], [1], [3], [2], [9]]))[:, 0]
    ranks = np.array([3.5, 1, 3.5, 2, 5])
    np.testing.assert_allclose(found, stats.norm.ppf((ranks - 3 / 8) / 5.25))
    np.testing.assert_allclose(inverse_normal(np.array([[5.0]])), 0)
    many = inverse_normal(np.random.default_rng(0).exponential(size=(2000, 1)))
    assert abs(many.mean()) < 1e-9 and abs(many.std() - 1) < 0.01


def test_classes_come_back_from_zeros_and_ones():
    labels = np.array([[1, 0, 5], [0, 1, 6], [np.nan, np.nan, 7], [1, 1, 8], [0, 0, 9]])
    found = classes(("a=x y", "a=z=2", "b"), labels)
    assert found.keys() == {"a"} and found["a"][0] == ["x y", "z=2"]
    assert found["a"][1].tolist() == [0, 1, -1, -1, -1]  # two at once, or none, are not known


@pytest.mark.parametrize(
    "name, changes, says",
    [
        ("gwas", {"groups": False}, "one row for each group, and the pictures have none: give"),
        ("parquet", {"attributes": ("z_3",)}, "'z_3' has the name of a column .* rename it"),
        ("parquet", {"attributes": ("path",)}, "'path' has the name of a column"),
        ("h5ad", {"attributes": ("a/b",)}, "'a/b' has a / in its name, .* rename it"),
        ("h5ad", {"attributes": ("group",)}, "'group' has the name of a column"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, changes, says):
    header = Header(**{"z_size": D, "groups": True} | changes)
    with pytest.raises(ValueError, match=says):
        FORMATS[name]([tmp_path / one for one in FORMATS[name].names], header)
    assert not list(tmp_path.iterdir())


def test_a_group_with_a_space_is_refused_for_gwas(table, tmp_path):
    odd = table._replace(group=np.char.add("patient ", table.group))
    with pytest.raises(ValueError, match="the group 'patient patient0' has a space"):
        write("gwas", tmp_path, odd)


# The command.


@pytest.fixture
def pictures(tmp_path):
    """Pictures of three patients, one of them broken, and a table of labels."""
    lines = ["path,kind,age"]
    for k in range(21):
        folder = tmp_path / "pictures" / f"patient{k % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 12 * k, np.uint8)).save(folder / f"{k}.png")
        lines.append(f"patient{k % 3}/{k}.png,{('cat', 'dog')[k % 2]},{k / 2 if k else ''}")
    (tmp_path / "pictures/patient1/4.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "pictures"


def line_of(workdir, pictures, out, *more):
    labels = pictures.parent / "labels.csv"
    given = [f"--images={pictures}", f"--labels={labels}", "--group=parent", f"--out={out}"]
    return ["--mode=encode", f"--workdir={workdir}", *given, *more]


def test_encode_writes_all_formats_in_one_pass(workdir, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(code_table, "CHUNK_ROWS", 8)
    out = tmp_path / "out"
    line = line_of(workdir, pictures, out, f"--format={','.join(FORMATS)}", "--thumbnails")
    assert run_command(*line) == 0
    names = {name for kind in FORMATS.values() for name in kind.names}
    own = {"index.html", "numbers.json", "cache_key.json", "kept.json", "broken.tsv"}
    assert {path.name for path in out.iterdir()} == names | own
    frame = pd.read_parquet(out / "codes.parquet").set_index("path")
    assert len(frame) == 20 and "patient1/4.png" not in frame.index
    one = frame.loc["patient2/5.png"]
    assert (one["kind"], one["age"], one["group"]) == ("dog", 2.5, "patient2")
    assert np.asarray(Image.open(io.BytesIO(one["thumbnail"]["bytes"]))).shape == (8, 8)
    model = pdae_jax.load(workdir)
    np.testing.assert_allclose(
        one["z"], model.encode(np.full((1, 8, 8, 1), 60, np.uint8))[0], rtol=1e-4, atol=1e-5
    )
    z = np.stack(frame["z"])
    for other in (
        CodeTable(out).read().z,
        scanpy.read_h5ad(out / "codes.h5ad").X,
        h5py.File(out / "codes.h5")["features"][:],
    ):
        np.testing.assert_array_equal(z, other)
    gwas = pd.read_csv(out / "codes.raw.tsv", sep="\t")
    means = pd.DataFrame(z).groupby(frame["group"].to_numpy()).mean()
    np.testing.assert_allclose(gwas.iloc[:, 2:], means, rtol=1e-4, atol=1e-6)
    record = json.loads(pyarrow.parquet.read_schema(out / "codes.parquet").metadata[b"pdae_jax"])
    assert record["checkpoints"] == Workdir(workdir).contents and record["model"] == "digits"
    assert "--mode=encode" in record["command"] and record["pdae_jax"] == pdae_jax.__version__


def test_a_table_is_made_once_and_other_formats_are_added(workdir, pictures, tmp_path, monkeypatch):
    out, seen, real = tmp_path / "out", [], pdae_jax.Model.encode
    monkeypatch.setattr(
        pdae_jax.Model, "encode", lambda self, x: (seen.append(len(x)), real(self, x))[1]
    )

    def again(*more):
        seen.clear()
        assert run_command(*line_of(workdir, pictures, out, *more)) == 0
        return bool(seen)

    assert again()
    before = (out / "codes.parquet").stat().st_mtime_ns
    numbers = json.loads((out / "numbers.json").read_text())["numbers"]
    assert not again() and (out / "codes.parquet").stat().st_mtime_ns == before
    assert numbers == json.loads((out / "numbers.json").read_text())["numbers"]
    assert numbers == {"pictures": 20, "broken": 1, "numbers in z": 8}
    assert again("--format=npz") and (out / "codes.parquet").stat().st_mtime_ns == before
    assert not again("--format=npz,parquet")
    assert again("--keep_broken")  # another table: what was made of the one before goes
    assert not (out / "codes.npz").exists()
    assert len(pd.read_parquet(out / "codes.parquet")) == 21
    assert again("--keep_broken", "--thumbnails")
    shown = pd.read_parquet(out / "codes.parquet")
    assert shown["thumbnail"].isna().sum() == shown["z_0"].isna().sum() == 1


def test_an_interrupted_file_resumes_with_the_same_result(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(code_table, "CHUNK_ROWS", 600)
    options = encode.Options(format=("parquet", "gwas"))
    with pytest.raises(ValueError, match="the pictures have none"):
        run_page("encode", workdir, options, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    options = encode.Options(format=("parquet", "h5"))
    run_page("encode", workdir, options, out=tmp_path / "whole")
    real, seen = code_files.Parquet.add, []

    def fail(self, rows):
        seen.append(len(rows.codes.z))
        if len(seen) == 2:
            raise KeyboardInterrupt
        real(self, rows)

    monkeypatch.setattr(code_files.Parquet, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        run_page("encode", workdir, options, out=tmp_path / "cut")
    left = {path.name for path in (tmp_path / "cut").iterdir()}
    assert left == {"chunks", "numbers.json"}  # no part of a file
    assert len(list((tmp_path / "cut" / "chunks").glob("0*.npz"))) == 2
    run_page("encode", workdir, options, out=tmp_path / "cut")
    one, two = (
        pyarrow.parquet.read_table(tmp_path / n / "codes.parquet") for n in ("whole", "cut")
    )
    assert one.equals(two) and len(one) == len(open_source("digits", "all"))


@pytest.mark.parametrize(
    "more, says",
    [
        (["--format=parket"], "no format 'parket'; did you mean 'parquet'"),
        (["--format=h5", "--thumbnails"], "would be ignored: thumbnails are of parquet, and f"),
        (["--format=,"], "format names no file: give some of parquet, npz, h5ad, h5, gwas"),
    ],
)
def test_options_that_cannot_be_are_one_line(workdir, pictures, tmp_path, capsys, more, says):
    assert run_command(*line_of(workdir, pictures, tmp_path / "out", *more)) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_diverged_writes_no_table(workdir, pictures, tmp_path, monkeypatch, capsys):
    real = pdae_jax.Model.encode
    monkeypatch.setattr(pdae_jax.Model, "encode", lambda self, x: real(self, x) * np.nan)
    assert run_command(*line_of(workdir, pictures, tmp_path / "out")) == 2
    assert "0.png has values that are NaN or infinite: the model's" in capsys.readouterr().err
    assert not (tmp_path / "out" / "codes.parquet").exists()


# What docs/codes.md shows.


def test_the_lines_of_the_document_run(workdir, pictures, tmp_path, monkeypatch):
    out = tmp_path / "out"
    line = line_of(workdir, pictures, out, f"--format={','.join(FORMATS)}", "--thumbnails")
    assert run_command(*line) == 0
    text = (ROOT / "docs" / "codes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(out)
    (tmp_path / "clinic.csv").write_text("path,age\npatient0/0.png,61\npatient2/5.png,70\n")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda *a, **k: None)
    for block in blocks:
        exec(block.replace("clinic.csv", str(tmp_path / "clinic.csv")), {})  # noqa: S102
