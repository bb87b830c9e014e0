"""Whether given pictures are like the training's: by their codes, and by what z alone rebuilds."""

import json
import shutil

import numpy as np
import pytest
from helpers import run_command
from PIL import Image
from sklearn.datasets import load_digits

from pdae_jax.tasks import familiarity
from pdae_jax.tasks.familiarity import Familiarity, distances, measure, usual, warning
from pdae_jax.workdir.workdir import Workdir

STATISTICS = {"mean": np.array([1.0, 2.0]), "std": np.array([2.0, 0.5])}


def test_distances_are_root_mean_squares_of_normalised_codes():
    z = np.array([[1.0, 2.0], [3.0, 2.5], [1.0, 0.0]])
    np.testing.assert_allclose(distances(STATISTICS, z), [0, 1, np.sqrt(8)])


def test_codes_of_the_same_kind_are_usual_and_those_further_out_are_not():
    rng = np.random.default_rng(0)
    z, more = rng.standard_normal((2, 2000, 16))
    statistics = {"mean": z.mean(0), "std": z.std(0)}
    bounds = usual(statistics, z)
    assert 0 < bounds[0] < 1 < bounds[1]
    assert measure(statistics, more, bounds).outside == pytest.approx(0.02, abs=0.01)
    for strange in (3 * more, 0.01 * more):  # noise and the like lie far out, or all at the mean
        found = measure(statistics, strange, bounds)
        assert found.outside > 0.99
        assert "100% of 2000 codes lie where next to none" in warning(found)


@pytest.mark.parametrize(
    "found, words",
    [
        (Familiarity(64, 0.1, 1.0, (0.5, 1.5)), ""),
        (Familiarity(64, 0.1, 1.0, (0.5, 1.5), error=0.03, held_out=0.01), ""),
        (Familiarity(64, 0.9, 2.3, (0.5, 1.5)), "median distance from their mean 2.3 standard"),
        (
            Familiarity(64, 0.0, 1.0, (0.5, 1.5), error=0.09, held_out=0.01),
            "0.09, 9.0 times that of",
        ),
        (Familiarity(1, 1.0, 3.0, (0.5, 1.5)), "its code lies where"),
    ],
)
def test_a_warning_says_what_was_seen_and_what_to_do(found, words):
    said = warning(found)
    assert words in said and bool(said) == bool(words)
    assert not said or "train on pictures like these" in said


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Digits as the model was trained on, and noise."""
    there = tmp_path_factory.mktemp("pictures")
    digits = (load_digits().images[-24:] * 255 / 16).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 2, (24, 8, 8)) * 255
    for name, images in (("digits", digits), ("noise", noise.astype(np.uint8))):
        (there / name).mkdir()
        for k, image in enumerate(images):
            Image.fromarray(image).save(there / name / f"{k:02d}.png")
    return there


def test_given_pictures_of_another_kind_are_named(workdir, folders, tmp_path, capsys):
    assert Workdir(workdir).usual_distances
    told = {}
    for name in ("digits", "noise"):
        line = ["--mode=encode", f"--workdir={workdir}", f"--images={folders / name}"]
        assert run_command(*line, f"--out={tmp_path / name}") == 0
        told[name] = capsys.readouterr().out
        page = (tmp_path / name / "index.html").read_text()
        assert ("unlike the training" in page) == ("unlike the training" in told[name])
    assert "unlike the training" in told["noise"] and "unlike" not in told["digits"]


def test_a_command_that_decodes_looks_at_what_comes_back(workdir, folders, tmp_path, monkeypatch):
    """The error of z alone against that of held-out pictures."""
    seen = []
    monkeypatch.setattr(familiarity, "warning", lambda found: seen.append(found) or "")
    line = ["--mode=reconstruct", f"--workdir={workdir}", f"--images={folders / 'noise'}"]
    assert run_command(*line, "--steps=2", "--invert_steps=2", "--n=16", f"--out={tmp_path}") == 0
    (found,) = seen
    measured = json.loads((tmp_path / "numbers.json").read_text())["numbers"]["z alone, x_T = 0"]
    assert found.error == pytest.approx(measured["mse"], rel=1e-4)
    assert 0 < found.held_out < found.error


def test_a_broken_picture_more_than_a_run_allows_is_no_reason_to_lose_a_page(
    workdir, folders, tmp_path
):
    """Of the few that are looked at a larger share may be broken than of all."""
    shutil.copytree(folders / "digits", tmp_path / "pictures")
    for k in range(2):
        (tmp_path / "pictures" / f"zz{k}.png").write_bytes(b"no picture")
    line = ["--mode=encode", f"--workdir={workdir}", f"--images={tmp_path / 'pictures'}"]
    assert run_command(*line, f"--out={tmp_path / 'out'}") == 0
    assert "Map of the codes" in (tmp_path / "out" / "index.html").read_text()


def test_an_older_workdir_has_them_computed(workdir, folders, tmp_path, capsys):
    """One whose statistics were kept without the usual distances."""
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run" / "statistics" / "cache_key.json"
    record = json.loads(file.read_text())
    known = record.pop("usual_distances")
    file.write_text(json.dumps(record))
    home = Workdir(tmp_path / "run")
    assert home.usual_distances is None and Workdir(workdir).usual_distances == tuple(known)
    line = ["--mode=encode", f"--workdir={tmp_path / 'run'}", f"--images={folders / 'noise'}"]
    assert run_command(*line, f"--out={tmp_path / 'out'}") == 0
    assert "unlike the training" in capsys.readouterr().out
