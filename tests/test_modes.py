"""Each mode of the command on a small trained model: its page, numbers and files."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdae_jax import modes
from pdae_jax.main import MODES, OPTIONS

ROOT = Path(__file__).parent.parent
QUICK = {"n": 3, "steps": 2, "invert_steps": 2, "latent_steps": 2}


def run(workdir, mode, out, **more):
    page = modes.run(mode, workdir, modes.Options(**QUICK | more), out=out)
    assert page.read_text().startswith("<!DOCTYPE html>")
    return json.loads((out / "numbers.json").read_text())["numbers"]


@pytest.mark.parametrize("mode, files", [
    ("encode", ["codes.npz", "codes.parquet"]), ("reconstruct", ["reconstruct.png"]),
    ("interpolate", ["interpolate.png"]), ("generate", ["generate.png", "samples.npz"]),
    ("gap", ["gap.csv"]), ("denoise", ["denoise.png"]), ("shift", ["shift.png"]), ("probe", []),
])
def test_mode(workdir, tmp_path, mode, files):
    numbers = run(workdir, mode, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} - {"made_from.json"} == {
        "index.html", "numbers.json", *files}
    if mode == "probe":
        assert numbers["means"].keys() == {"z", "pixels", "principal components"}
        assert all(0.5 < mean["auroc"] <= 1 for mean in numbers["means"].values())
    if mode == "gap":
        rows = np.loadtxt(tmp_path / "out" / "gap.csv", delimiter=",", skiprows=1)
        np.testing.assert_allclose(numbers["closed"], 1 - rows[:, 2].sum() / rows[:, 1].sum(),
                                   rtol=1e-5)
    if mode == "generate":
        assert np.load(tmp_path / "out" / "samples.npz")["arr_0"].shape == (3, 8, 8, 1)


def test_manipulate_by_attribute_and_by_direction(workdir, tmp_path):
    numbers = run(workdir, "manipulate", tmp_path / "a", attribute="3", keep=("8", "5"))
    assert numbers["attribute"] == "3, with 8, 5 held" and "logit_change" in numbers
    np.save(tmp_path / "d.npy", np.arange(8.0))
    run(workdir, "manipulate", tmp_path / "b", direction=str(tmp_path / "d.npy"))
    np.save(tmp_path / "d.npy", np.arange(7.0))
    for more, says in (({"attribute": "three"}, "no attribute 'three'; did you mean"), ({}, "which"),
                       ({"direction": str(tmp_path / "d.npy")}, "must hold 8 numbers"),
                       ({"direction": "no.npy"}, "no.npy is no .npy of a direction")):
        with pytest.raises(ValueError, match=says):
            run(workdir, "manipulate", tmp_path / "c", **more)


@pytest.mark.parametrize("labels", [{"negatives": 20}, {"unlabelled": 200}])
def test_fewshot(workdir, tmp_path, labels):
    numbers = run(workdir, "fewshot", tmp_path / "out", attribute="0", positives=20, **labels)
    assert numbers["labels"] == 20 + labels.get("negatives", 0)
    assert 0 <= numbers["acceptance"] <= 1 and numbers["made"] <= numbers["wanted"] == 3
    with pytest.raises(ValueError, match="9999 positive examples are wanted"):
        run(workdir, "fewshot", tmp_path / "out", attribute="0", positives=9999)


def test_ones_own_pictures(workdir, tmp_path):
    for k in range(5):
        Image.fromarray(np.full((9, 9), 50 * k, np.uint8)).save(tmp_path / f"{k}.png")
    for images, n in ((tmp_path, 5), (tmp_path / "[23].png", 2), (tmp_path / "0.png", 1)):
        numbers = run(workdir, "encode", tmp_path / f"out{n}", images=str(images))
        assert numbers["pictures"] == n
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="not a folder or a picture"):
        run(workdir, "encode", tmp_path / "out", images=str(tmp_path / "notes.txt"))


def test_a_folder_that_is_not_ours_is_left_alone(workdir, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="did not write; choose another --out"):
        run(workdir, "gap", tmp_path)
    run(workdir, "gap", tmp_path / "gap")
    run(workdir, "gap", tmp_path / "gap")  # its own may be written again
    with pytest.raises(ValueError, match="what --mode=gap wrote"):
        run(workdir, "shift", tmp_path / "gap")


def test_options_and_modes_are_the_commands():
    assert OPTIONS.keys() == {f.name for f in modes.dataclasses.fields(modes.Options)}
    assert MODES.keys() == {"train", "verify", *modes.MODES}


@pytest.mark.parametrize("args, says", [
    (["--mode=gap"], "--mode=gap needs --workdir=DIR"),
    (["--mode=gap", "--workdir=no/such"], "no model at no/such"),
    (["--mode=gapp", "--workdir=x"], "did you mean 'gap'"),
    (["--mode=gap", "--workdir={run}", "--steps=0"], "steps must be at least 1, got 0"),
    (["--mode=gap", "--workdir={run}", "--steps=1001"], "steps = 1001 is more than the model's T"),
    (["--mode=gap", "--workdir={run}", "--nn=3"], "did you mean 'n'"),
    (["--mode=gap", "--workdir={run}", "--images=no/such"], "no such folder: no/such"),
])
def test_bad_commands_are_one_line(workdir, tmp_path, args, says):
    args = [arg.format(run=workdir) for arg in args]
    done = subprocess.run([sys.executable, "-m", "pdae_jax.main", *args, f"--out={tmp_path / 'o'}"],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert says in done.stderr.splitlines()[-1] and len(done.stderr.splitlines()) == 1, done.stderr
