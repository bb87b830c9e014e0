"""Models that ship: packed and unpacked bit for bit in float16, found by their names."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax.data.dataset import Data
from pdae_jax.images import to_float
from pdae_jax.workdir import shipped
from pdae_jax.workdir.workdir import Workdir


def test_a_packed_model_is_the_model_in_float16(workdir, tmp_path):
    """Its records too, so that nothing in it is stale and pages show its training."""
    home = Workdir(workdir)
    shipped.pack(workdir, tmp_path / "packed")
    back = shipped.unpack(tmp_path / "packed", tmp_path / "unpacked")
    assert back.latest_steps == home.latest_steps and back.stale == home.stale == ()
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_equal(
            ours, np.asarray(theirs).astype(np.float16).astype(np.float32)
        ),
        back.weights(),
        home.weights(),
    )
    assert back.attributes == home.attributes and back.trained_on == home.trained_on
    assert back.architecture == home.architecture
    assert back.records("pdae").scalars() == home.records("pdae").scalars()
    with pytest.raises(ValueError, match="holds a packed model"):
        shipped.pack(workdir, tmp_path / "packed")


def test_a_folder_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    assert shipped.located("emoji") == "emoji" and shipped.located("other") == "other"


def test_programs_that_unpack_it_at_once_all_have_it(tmp_path):
    """The first use of a model that ships, by several programs, and by threads of one."""
    line = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; "
        "from pdae_jax.workdir import shipped; from pdae_jax.workdir.workdir import Workdir; "
        f"shipped.CACHE = {str(tmp_path)!r}; "
        "found = lambda _: Workdir(shipped.located('emoji')).latest_steps['pdae']; "
        "print(*Pool(3).map(found, 'abc'))"
    )
    programs = [
        subprocess.Popen([sys.executable, "-c", line], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [program.communicate(timeout=300)[0].split() for program in programs]
    steps = str(Workdir(shipped.located("emoji")).latest_steps["pdae"])
    assert said == [[steps] * 3] * 3
    assert len(list(tmp_path.glob("emoji-*/*"))) == 1  # nor is anything left beside


def test_the_shipped_model_rebuilds_a_picture_that_ships(tmp_path, monkeypatch):
    """Held-out people: from z alone far below the mean picture's error, with x_T to 1e-4."""
    monkeypatch.setattr(shipped, "CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert shipped.names() == ["emoji"]
    folder = shipped.folder() / "emoji"
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 20e6
    assert "CC-BY 4.0" in (folder / "LICENSE").read_text()
    model = pdae_jax.load("emoji")
    usual = Workdir(shipped.located("emoji")).usual_distances
    assert (
        usual is not None and 0.5 < usual[0] < 1 < usual[1] < 2
    )  # to tell what it was not made of
    images = pdae_jax.images.load(str(folder / "pictures" / "*.png"), model)
    assert len(images) >= 8
    z = model.encode(images)
    rebuilt, exact = model.decode(z, temperature=0.0), model.decode(z, model.invert(images, z))

    def error(found):  # of pixels in [0, 1]
        return float(np.mean((found - to_float(images)) ** 2)) / 4

    source = Data("emoji").open("train")
    mean = np.mean(
        [to_float(pdae_jax.images.load(source.files[i], model)) for i in range(0, 1146, 9)], 0
    )
    assert error(rebuilt) < 0.45 * error(mean) and error(exact) < 1e-4
    assert "dark skin" in model.attributes
