"""Each command on a small trained model: its page, numbers and files."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet
import pytest
from helpers import golden, run_command, run_program, stand_in
from PIL import Image

import pdae_jax
from pdae_jax import commands
from pdae_jax.commands import evaluate, fewshot, generate, reconstruct
from pdae_jax.commands.context import Context
from pdae_jax.commands.evaluate import metrics_of
from pdae_jax.commands.options import protocol_by
from pdae_jax.commands.page_command import run_page
from pdae_jax.convert import name_map
from pdae_jax.data import open_source
from pdae_jax.images import to_uint8
from pdae_jax.metrics import inception, lpips
from pdae_jax.metrics.frechet import Moments, frechet_distance
from pdae_jax.protocol import PROTOCOLS, Sampling
from pdae_jax.tasks import evaluation
from pdae_jax.workdir import chunk_cache, code_table, samples_npz
from pdae_jax.workdir.chunk_cache import ChunkCache
from pdae_jax.workdir.workdir import Workdir

QUICK = {
    "n": 3,
    "steps": 2,
    "invert_steps": 2,
    "latent_steps": 2,
    "inversions": ("dpm++2m",),
    "inversion_steps": (2,),
    "temperatures": (0.0, 1.0),
    "folds": 2,
}


def options_of(name, **more):
    """A command's options: what it has of QUICK, and `more`."""
    options = commands.module_of(name).Options
    own = {field.name for field in dataclasses.fields(options)}
    return options(**{key: value for key, value in QUICK.items() if key in own} | more)


def z_of(folder):
    """z in the table that encode wrote."""
    return np.stack(pyarrow.parquet.read_table(folder / "codes.parquet")["z"].to_numpy())


def run(workdir, name, out, **more):
    output = run_page(name, workdir, options_of(name, **more), out=out)
    assert output.page.read_text().startswith("<!DOCTYPE html>")
    return json.loads((out / "numbers.json").read_text())["numbers"]


@pytest.mark.parametrize(
    "mode, files",
    [
        ("encode", ["codes.parquet", "cache_key.json", "kept.json"]),
        ("project", ["project.csv"]),
        ("reconstruct", ["reconstruct.png"]),
        ("interpolate", ["interpolate.png", "interpolate.gif"]),
        ("generate", ["generate.png", "samples.npz"]),
        ("gap", ["gap.csv"]),
        ("denoise", ["denoise.png"]),
        ("shift", ["shift.png"]),
        ("probe", ["probe.csv", "probe.tex"]),
        ("evaluate", ["row.md", "reconstruction"]),
        ("sampling", ["temperature.png"]),
    ],
)
def test_mode(workdir, tmp_path, mode, files):
    numbers = run(workdir, mode, tmp_path / "out", **{"times": (5, 999)} if mode == "shift" else {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "index.html",
        "numbers.json",
        *files,
    }
    if mode == "probe":
        assert numbers["means"].keys() == {"z", "pixels", "principal components"}
        assert all(0.5 < mean["auroc"] <= 1 for mean in numbers["means"].values())
    if mode == "gap":
        rows = np.loadtxt(tmp_path / "out" / "gap.csv", delimiter=",", skiprows=1)
        np.testing.assert_allclose(
            numbers["closed"], 1 - rows[:, 2].sum() / rows[:, 1].sum(), rtol=1e-5
        )
    if mode == "generate":
        assert np.load(tmp_path / "out" / "samples.npz")["arr_0"].shape == (3, 8, 8, 1)
    if mode == "interpolate":
        assert numbers["pairs"] == 1  # three pictures: the third has no neighbour
        assert Image.open(tmp_path / "out" / "interpolate.gif").n_frames == 16 + 14
    if mode == "shift":
        assert numbers["times"] == [5, 999]
    if mode == "evaluate":
        model, images = pdae_jax.load(workdir), digits(3)
        z = model.encode(images)
        alone = model.decode(z, steps=2) / 2 + 0.5  # x_T = 0
        mse = ((alone - images / 255) ** 2).mean()
        np.testing.assert_allclose(numbers["reconstruction"]["z alone"]["mse"], mse, rtol=1e-4)
        assert numbers["fid"] is None and "--metrics=DIR" in numbers["missing"]["LPIPS"]
        heading, rule, row = (tmp_path / "out" / "row.md").read_text().splitlines()
        assert heading.count("|") == rule.count("|") == row.count("|") == 11
        assert "| digits | 3 | 2, 2 (dpm++2m) | 0 |" in row
    if mode == "sampling":
        paper, fast = numbers["inversions"]
        assert (paper["evaluations"], fast["evaluations"]) == (999 + 100, 4)
        cold, warm = numbers["temperatures"]
        assert cold["diversity"] == 0 < warm["diversity"] and cold["code"] > 0


def test_one_word_is_the_papers_protocol(workdir, tmp_path):
    """--protocol=paper: 1000 and 100 steps of clipped DDIM, x_T drawn; other flags go over it."""
    model, images = pdae_jax.load(workdir, protocol="paper"), digits(3)
    options = evaluate.Options(n=3, protocol="paper", invert_steps=50)
    run_page("evaluate", workdir, options, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "numbers.json").read_text())["numbers"]
    how = record["protocol"]
    assert how["invert"] == dataclasses.asdict(Sampling("ddim", "uniform", 50, "static"))
    assert how["decode"] == dataclasses.asdict(Sampling("ddim", "uniform", 100, "static"))
    z = model.encode(images)
    decoded = model.decode(z, model.invert(images, z, steps=50))
    mse = ((decoded - (images / 127.5 - 1)) ** 2).mean() / 4
    means = record["reconstruction"]
    np.testing.assert_allclose(means["z, inferred x_T"]["mse"], mse, rtol=1e-3)
    mse = ((model.decode(z, rng=0) - (images / 127.5 - 1)) ** 2).mean() / 4
    np.testing.assert_allclose(means["z alone"]["mse"], mse, rtol=1e-3)


def test_options_make_a_protocol():
    """What options set goes over the protocol; where they cannot go together, it is said."""

    def by(**given):
        return protocol_by(reconstruct.Options(**given))

    fast, paper = PROTOCOLS["fast"], PROTOCOLS["paper"]
    assert by() == fast and by(protocol="paper") == paper
    assert by(steps=30).invert == fast.invert and by(steps=30).draw.steps == 30
    assert by(solver="bdia", steps=7).invert == by(solver="bdia", steps=7).decode
    assert by(solver="bdia", invert_steps=9).decode.steps == 9
    few = by(protocol="fewstep", steps=4)
    assert few.draw.steps == 4 and few.decode == fast.decode
    with pytest.raises(ValueError, match="decodes in the steps that it inferred x_T in, .* = 9"):
        by(solver="bdia", invert_steps=9, steps=8)


def test_precision_is_of_the_work_alone(workdir, tmp_path):
    """A table is made anew in another precision; the codes that all work shares are float32's."""
    home = tmp_path / "home"
    shutil.copytree(workdir, home)
    shutil.rmtree(home / "codes", ignore_errors=True)
    tables = []
    for precision in ("float32", "bfloat16"):
        run(home, "encode", tmp_path / "out", precision=precision)
        tables.append(z_of(tmp_path / "out"))
    assert 1e-4 < np.abs(tables[0] - tables[1]).max() / np.abs(tables[0]).max() < 0.05
    given = Workdir(home)
    options = options_of("gap", precision="bfloat16")
    Context(given, options, given.output("gap", tmp_path / "gap")).codes("test")
    shared = np.load(home / "codes" / "test" / "codes.npz")["z"]
    np.testing.assert_allclose(shared[:3], pdae_jax.load(home).encode(digits(3)), atol=1e-5)


def digits(n):
    source = open_source("digits", "test")
    return np.stack([source.image(i) for i in range(n)])


@pytest.fixture(scope="module")
def metric_weights(tmp_path_factory):
    """A directory of metric weights, as the converter makes it, with stand-in numbers."""
    folder, data = tmp_path_factory.mktemp("metrics"), golden("image_metrics")
    states = {
        "alexnet": (
            name_map.plain("alexnet", lpips.alexnet_shapes()),
            stand_in("lpips_alexnet", 1),
        ),
        "lpips": (
            name_map.plain("lpips", lpips.head_shapes()),
            {f"lin{i}.model.1.weight": data[f"lpips_head_{i}"] for i in range(5)},
        ),
        "inception": (
            name_map.plain("inception", inception.shapes()),
            stand_in("fid_inception", 2),
        ),
    }
    for table, state in states.values():
        Workdir(folder).save_weights(name_map.to_params(table, state))
    return folder


@pytest.mark.nightly
def test_evaluate_gives_fid_where_the_weights_are(workdir, tmp_path, metric_weights):
    """Against the training pictures, against ADM's file of pictures, and against their moments."""
    metrics = metrics_of(metric_weights)
    train = open_source("digits", "train")
    pictures = np.stack([train.image(i) for i in range(4)])
    samples_npz.write(tmp_path / "pictures.npz", [pictures[:1], pictures[1:]], pictures.shape)
    assert np.array_equal(np.load(tmp_path / "pictures.npz")["arr_0"], pictures)
    moments = Moments.of(metrics.features(pictures))
    np.savez(tmp_path / "moments.npz", mu=moments.mean, sigma=moments.covariance)
    fid = {}
    for name in ("", "pictures.npz", "moments.npz"):
        numbers = run(
            workdir,
            "evaluate",
            tmp_path / f"out{name}",
            n=4,
            metrics=str(metric_weights),
            reference=str(tmp_path / name) if name else "",
        )
        fid[name] = numbers["fid"]
        assert numbers["missing"].keys() == {"LPIPS"}  # 8 x 8 is too small for AlexNet
    assert fid[""] > 0
    np.testing.assert_allclose(list(fid.values()), fid[""], rtol=1e-5)
    made = pdae_jax.load(workdir).generate(4, steps=2, latent_steps=2)
    seen = Moments.of(metrics.features(to_uint8(made)))
    np.testing.assert_allclose(
        fid[""],
        frechet_distance(seen.mean, seen.covariance, moments.mean, moments.covariance),
        rtol=1e-4,
    )
    np.savez(tmp_path / "neither.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="neither.npz is no reference for FID.*it has x"):
        run(
            workdir,
            "evaluate",
            tmp_path / "out",
            n=4,
            metrics=str(metric_weights),
            reference=str(tmp_path / "neither.npz"),
        )
    with pytest.raises(ValueError, match="no metric weights in"):
        run(workdir, "evaluate", tmp_path / "o", n=4, metrics=str(tmp_path))
    big = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 1), np.uint8)
    same = metrics.compare(big, big)
    np.testing.assert_allclose([same["lpips"], same["mse"]], 0, atol=1e-6)
    assert list(same) == ["ssim", "lpips", "mse", "psnr"]
    assert (metrics.compare(big, 255 - big)["lpips"] > 0.01).all()


@pytest.mark.parametrize(
    "mode, files", [("generate", "samples.npz"), ("evaluate", "row.md"), ("encode", "codes.npz")]
)
def test_interrupted_work_resumes_with_the_same_result(workdir, tmp_path, monkeypatch, mode, files):
    for module, rows in ((code_table, 600), (evaluation, 6), (generate, 6)):
        monkeypatch.setattr(module, "CHUNK_ROWS", rows)
    how = {"format": ("npz",)} if mode == "encode" else {"n": 20}  # encode takes all 1,797
    run(workdir, mode, tmp_path / "whole", **how)
    real, seen = np.savez, []

    def fail_at_third(file, **arrays):
        seen.append(file.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(file, **arrays)

    monkeypatch.setattr(chunk_cache.np, "savez", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(workdir, mode, tmp_path / "cut", **how)
    assert len(list((tmp_path / "cut").glob("*/0*.npz"))) == 2
    before = len(seen)
    monkeypatch.setattr(
        chunk_cache.np,
        "savez",
        lambda file, **arrays: (seen.append(file.name), real(file, **arrays)),
    )
    run(workdir, mode, tmp_path / "cut", **how)
    assert not {Path(path).name for path in seen[:2]} & {Path(path).name for path in seen[before:]}
    if mode == "evaluate":
        first, second = (
            json.loads((tmp_path / name / "numbers.json").read_text())["numbers"]
            for name in ("whole", "cut")
        )
        assert first == second
    else:
        first, second = (np.load(tmp_path / name / files) for name in ("whole", "cut"))
        for key in first.files:
            np.testing.assert_array_equal(first[key], second[key])


def test_chunks_of_another_key_are_computed_anew(tmp_path):
    def compute(rows, advance):
        made.append(rows)
        return {"x": np.array(rows)}

    made = []
    for cache_key, n, expected in (
        ({"a": 1}, 10, 3),
        ({"a": 1}, 10, 0),
        ({"a": 1}, 12, 1),
        ({"a": 2}, 12, 3),
    ):
        made.clear()
        np.testing.assert_array_equal(
            ChunkCache(tmp_path / "p", cache_key, size=4).joined(n, compute, "x")["x"], np.arange(n)
        )
        assert len(made) == expected


def test_generate_to_a_folder(workdir, tmp_path):
    run(workdir, "generate", tmp_path / "npz", n=5)
    run(workdir, "generate", tmp_path / "folder", n=5, samples="folder")
    files = sorted((tmp_path / "folder" / "samples").iterdir())
    assert [path.name for path in files] == [f"{i:06d}.png" for i in range(5)]
    np.testing.assert_array_equal(
        np.stack([np.array(Image.open(path)) for path in files]),
        np.load(tmp_path / "npz" / "samples.npz")["arr_0"][..., 0],
    )


def test_report_has_all_that_the_model_allows_and_names_the_rest(workdir, tmp_path):
    numbers = run(
        workdir, "report", tmp_path / "r", scored=3, attribute="3", keep=("5",), ddpm=False
    )
    assert numbers.keys() == set(commands.PAGES) - {"report", "encode", "demo"}
    page = (tmp_path / "r" / "index.html").read_text()
    for mode in numbers:
        assert f"pdae_jax {mode} {workdir}" in page
        assert json.loads((tmp_path / "r" / mode / "numbers.json").read_text())["mode"] == mode
    assert "http" not in page.replace("http-equiv", "") and "Skipped" not in page
    bare = tmp_path / "bare"
    shutil.copytree(
        workdir,
        bare,
        ignore=lambda folder, names: set(names) & {"latent", "classifier", "statistics", "codes"},
    )
    numbers = run(bare, "report", tmp_path / "b", scored=3, ddpm=False)
    assert numbers.keys() == set(commands.PAGES) - {
        "report",
        "encode",
        "demo",
        "generate",
        "fewshot",
        "manipulate",
    }
    page = (tmp_path / "b" / "index.html").read_text()
    assert "Skipped" in page and ":latent variant" in page and ":classifier variant" in page
    assert not (tmp_path / "b" / "generate").exists()


def test_a_few_shot_classifier_is_kept(workdir, tmp_path, capsys):
    """The :fewshot variant, from an attribute and from a list of labelled pictures."""
    home = tmp_path / "run"
    shutil.copytree(workdir, home)
    with pytest.raises(ValueError, match="no few-shot classifier: give --attribute=NAME"):
        run(home, "fewshot", tmp_path / "no")
    done = run_command(
        "--config=configs/digits.py:fewshot",
        f"--workdir={home}",
        "--config.fewshot.attribute=0",
        "--config.fewshot.positives=9",
        "--config.fewshot.negatives=8",
    )
    assert done == 0 and "attribute 0, labelled 17, positives 9" in capsys.readouterr().out
    numbers = run(home, "fewshot", tmp_path / "kept")
    fresh = run(home, "fewshot", tmp_path / "fresh", attribute="0", positives=9, negatives=8)
    assert numbers == fresh and numbers["labelled"] == 17
    assert run_page("fewshot", home, options_of("fewshot")).folder == home / "fewshot"
    assert "fewshot" in pdae_jax.load(home).params
    source = open_source("digits", "train")
    for k in range(12):
        Image.fromarray(source.image(k)[..., 0]).save(tmp_path / f"{k}.png")
    (tmp_path / "list.csv").write_text(
        "file,odd\n" + "".join(f"{k}.png,{'' if k > 8 else k % 2}\n" for k in range(12))
    )
    labels = fewshot.Labels(
        images=str(tmp_path),
        labels=str(tmp_path / "list.csv"),
        attribute="odd",
        positives=0,
        negatives=0,
    )
    fewshot.fit_and_keep(Workdir(home), labels)
    numbers = run(home, "fewshot", tmp_path / "list")
    assert (numbers["attribute"], numbers["labelled"], numbers["positives"]) == ("odd", 9, 4)
    assert "agreement" not in numbers  # nobody knows the others' labels
    fewshot.fit_and_keep(Workdir(home), dataclasses.replace(labels, unlabelled=100))
    assert run(home, "fewshot", tmp_path / "list")["unlabelled"] == 100


@pytest.mark.slow
@pytest.mark.nightly
def test_eight_devices_give_the_same_as_one(workdir, tmp_path):
    run_program("all_commands", workdir, tmp_path / "8", devices=8)
    run_program("all_commands", workdir, tmp_path / "1")
    pictures = sorted((tmp_path / "1").rglob("*.png"))
    assert len(pictures) == 8
    for path in pictures:
        one, eight = (
            np.asarray(Image.open(p), np.int32)
            for p in (path, tmp_path / "8" / path.relative_to(tmp_path / "1"))
        )
        assert np.abs(one - eight).max() <= 1, path
    for mode in ("evaluate", "gap", "manipulate", "fewshot"):
        one, eight = (
            json.loads((tmp_path / devices / "report" / mode / "numbers.json").read_text())[
                "numbers"
            ]
            for devices in ("1", "8")
        )
        assert jax.tree.structure(one) == jax.tree.structure(eight)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
            assert a == b if isinstance(a, str) else np.isclose(a, b, rtol=1e-3), mode
    one, eight = (z_of(tmp_path / devices / "encode") for devices in ("1", "8"))
    np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)


def test_manipulate_by_attribute_and_by_direction(workdir, tmp_path):
    numbers = run(workdir, "manipulate", tmp_path / "a", attribute="3", keep=("8", "5"))
    assert numbers["attribute"] == "3, with 8, 5 held" and "logit_change" in numbers
    np.save(tmp_path / "d.npy", np.arange(8.0))
    run(workdir, "manipulate", tmp_path / "b", direction=str(tmp_path / "d.npy"))
    numbers = run(workdir, "manipulate", tmp_path / "m", attribute="3", by="matched")
    assert "3, by the means of pictures matched in the rest" in numbers["attribute"]
    np.save(tmp_path / "d.npy", np.arange(7.0))
    for more, says in (
        ({"attribute": "three"}, "no attribute 'three'; there is 0, 1, 2, 3, 4"),
        ({"attribute": "3", "keep": ("3",)}, "'3' is to change, and cannot be held still"),
        ({}, "which attribute"),
        ({"direction": str(tmp_path / "d.npy")}, "must hold 8 numbers"),
        ({"direction": "no.npy"}, "direction: no such file or folder: no.npy"),
    ):
        with pytest.raises(ValueError, match=says):
            run(workdir, "manipulate", tmp_path / "c", **more)


@pytest.mark.parametrize("labels", [{"negatives": 20}, {"unlabelled": 200}])
def test_fewshot(workdir, tmp_path, labels):
    numbers = run(workdir, "fewshot", tmp_path / "out", attribute="0", positives=20, **labels)
    assert numbers["labelled"] == 20 + labels.get("negatives", 0)
    assert 0 <= numbers["acceptance"] <= 1 and numbers["made"] <= numbers["wanted"] == 3
    with pytest.raises(ValueError, match="9999 positive examples are wanted"):
        run(workdir, "fewshot", tmp_path / "out", attribute="0", positives=9999)


def test_ones_own_pictures(workdir, tmp_path):
    for k in range(5):
        Image.fromarray(np.full((9, 9), 50 * k, np.uint8)).save(tmp_path / f"{k}.png")
    for images, n in ((tmp_path, 5), (tmp_path / "[23].png", 2), (tmp_path / "0.png", 1)):
        numbers = run(workdir, "encode", tmp_path / f"out{n}", images=str(images))
        assert numbers["pictures"] == n
    run(workdir, "encode", tmp_path / "two", images=f"{tmp_path}/3.png,{tmp_path}/1.png")
    paths = pyarrow.parquet.read_table(tmp_path / "two" / "codes.parquet")["path"]
    assert [Path(where).name for where in paths.to_pylist()] == ["3.png", "1.png"]
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ValueError, match="bad.png"):
        run(workdir, "reconstruct", tmp_path / "bad", images=str(tmp_path / "bad.png"))
    with pytest.raises(ValueError, match="no such file or folder.*gone.png"):
        run(workdir, "encode", tmp_path / "out", images=f"{tmp_path}/3.png,{tmp_path}/gone.png")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="no folder, and no picture"):
        run(workdir, "encode", tmp_path / "out", images=str(tmp_path / "notes.txt"))


def test_a_folder_that_is_not_ours_is_left_alone(workdir, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="did not write; choose another --out"):
        run(workdir, "gap", tmp_path)
    run(workdir, "gap", tmp_path / "gap")
    run(workdir, "gap", tmp_path / "gap")  # its own may be written again
    with pytest.raises(ValueError, match="what --mode=gap wrote"):
        run(workdir, "shift", tmp_path / "gap")


def test_a_report_keeps_the_parts_that_did_not_change(workdir, tmp_path, capsys):
    """Another option of one part makes that part anew; its page is the whole page of before."""
    sections = ("reconstruct", "gap", "project")
    first = run(workdir, "report", tmp_path / "r", sections=sections)
    page = (tmp_path / "r" / "index.html").read_text()
    capsys.readouterr()
    assert run(workdir, "report", tmp_path / "r", sections=sections) == first
    assert capsys.readouterr().err.count(", kept") == 3
    again = (tmp_path / "r" / "index.html").read_text()
    cut = [one[: one.index("time of this page")] for one in (page, again)]
    assert cut[0] == cut[1]
    run(workdir, "report", tmp_path / "r", sections=sections, uniform=True, save=("svg",))
    said = capsys.readouterr().err
    assert said.count(", kept") == 0  # as figures were asked for
    figures = tmp_path / "r" / "figures"
    assert {path.name for path in figures.iterdir()} >= {
        "posterior-mean-gap.svg",
        "reconstruction.svg",
    }
    run(workdir, "report", tmp_path / "r", sections=sections, save=("svg",))
    said = capsys.readouterr().err
    assert "reconstruct, kept" in said and "project, kept" in said and "gap, kept" not in said
    (figures / "reconstruction.svg").unlink()
    (figures / "of-an-earlier-page.svg").write_text("")
    run(workdir, "report", tmp_path / "r", sections=sections, save=("svg",))
    said = capsys.readouterr().err
    assert "gap, kept" in said and "reconstruct, kept" not in said
    assert (figures / "reconstruction.svg").exists()
    assert not (figures / "of-an-earlier-page.svg").exists()
    (tmp_path / "r" / "reconstruct" / "reconstruct.png").unlink()
    run(workdir, "report", tmp_path / "r", sections=sections, save=("svg",))
    assert "reconstruct, kept" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, change",
    [
        ("reconstruct", {"every": 5}),
        ("reconstruct", {"protocol": "paper", "ddpm": False}),
        ("reconstruct", {"seed": 3}),
        ("manipulate", {"direction": "other"}),
        ("manipulate", {"strengths": (0.0,)}),
    ],
)
def test_a_part_is_made_anew_for_every_option_that_it_reads(
    workdir, tmp_path, capsys, name, change
):
    """Of a file that an option names also when the file is another."""
    file = tmp_path / "direction.npy"
    np.save(file, np.eye(8)[0])
    how = {"sections": (name,), "direction": str(file)} if name == "manipulate" else {}
    how = {"sections": (name,)} | how
    run(workdir, "report", tmp_path / "r", **how)
    if "direction" in change:
        np.save(file, np.eye(8)[1])
        change = {}
    capsys.readouterr()
    run(workdir, "report", tmp_path / "r", **how | change)
    assert f"{name}, kept" not in capsys.readouterr().err


def test_the_line_under_a_part_makes_that_part(workdir, tmp_path):
    """Every option of the report that the part reads is in it, and its pictures are the same."""
    run(workdir, "report", tmp_path / "r", sections=("reconstruct", "interpolate"), every=3)
    for name in ("reconstruct", "interpolate"):
        folder = tmp_path / "r" / name
        line = json.loads((folder / "numbers.json").read_text())["command"]
        program, *words = shlex.split(line)
        assert program == "pdae_jax" and words[:2] == [name, str(workdir)]
        assert run_command(*words, f"--out={tmp_path / name}") == 0
        assert (tmp_path / name / f"{name}.png").read_bytes() == (
            folder / f"{name}.png"
        ).read_bytes()


def test_a_misspelt_attribute_ends_a_report_at_once(workdir, tmp_path):
    with pytest.raises(ValueError, match="no attribute 'thre'"):
        run(workdir, "report", tmp_path / "r", attributes=("3", "thre"))
    assert not (tmp_path / "r").exists()


def test_a_report_says_what_was_trained_on_what_and_how_long(workdir, tmp_path):
    run(workdir, "report", tmp_path / "r", sections=("gap",))
    page = (tmp_path / "r" / "index.html").read_text()
    n = sum(x.size for x in jax.tree.leaves(Workdir(workdir).weights(["dpm"])))
    counts = [len(open_source("digits", split)) for split in ("train", "test")]
    assert page.index("Model and data") < page.index("Posterior-mean gap")
    for words in (
        "digits: trained on {:,} pictures, {:,} held out".format(*counts),
        "8 x 8 px, 1 channel",
        f"{n:,}",
        "the gap is how far its guess is from the truth",
        "time of this page",
        f"jax {jax.__version__}",
    ):
        assert words in page, words


def test_what_was_encoded_is_shown_and_mapped(workdir, tmp_path):
    """Thumbnails and a map of the codes, of the pictures that were given."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    source = open_source("digits", "test")
    for i in range(12):
        Image.fromarray(source.image(i)[..., 0]).save(folder / f"{i:02d}.png")
    run(workdir, "encode", tmp_path / "e", images=str(folder))
    page = (tmp_path / "e" / "index.html").read_text()
    shown = page[page.index("<h2>Pictures</h2>") : page.index("<h2>Map of the codes</h2>")]
    assert shown.count("<img") == 12 and "12 of the pictures" in shown
    mapped = page[page.index("<h2>Map of the codes</h2>") :]
    assert "12 of 12" in mapped and "all that can be read" in mapped and "07.png" in mapped
    (tmp_path / "two").mkdir()
    for name in ("00.png", "01.png"):
        shutil.copy(folder / name, tmp_path / "two")
    run(workdir, "encode", tmp_path / "t", images=str(tmp_path / "two"))
    assert "Map of the codes" not in (tmp_path / "t" / "index.html").read_text()


def test_a_model_whose_training_pictures_are_gone_still_works(workdir, tmp_path, capsys):
    """On another machine: pictures that are given, a report of them, and generation."""
    home, folder = tmp_path / "run", tmp_path / "pictures"
    shutil.copytree(workdir, home, ignore=shutil.ignore_patterns("codes"))
    for file in home.glob("*/data.json"):
        gone = json.loads(file.read_text())
        file.write_text(json.dumps([one | {"name": "folder:/no/such/place"} for one in gone]))
    file = home / "statistics" / "cache_key.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in record.items() if k != "usual_distances"}))
    folder.mkdir()
    source = open_source("digits", "test")
    for i in range(3):
        Image.fromarray(source.image(i)[..., 0]).save(folder / f"{i}.png")
    run(home, "reconstruct", tmp_path / "a", images=str(folder))
    run(home, "generate", tmp_path / "b")
    for _ in range(2):
        run(home, "report", tmp_path / "c", images=str(folder), sections=("reconstruct",))
    said = capsys.readouterr().err
    assert "not judged whether it is trained" in said and "reconstruct, kept" in said
    assert "which are not here any more" in (tmp_path / "c" / "index.html").read_text()
