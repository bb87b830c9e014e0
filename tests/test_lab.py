"""A laboratory's pictures by README's lines: 12-bit OME-TIFFs of patients, from files to tables."""

import json
import re
import shlex

import numpy as np
import pytest
import tifffile
from helpers import ROOT

from pdae_jax import main

pytestmark = pytest.mark.slow

CHANNELS = ("nuclei", "actin", "tubulin")
# What makes README's training a test: small networks, few steps.
SMALL = {
    "model.image_shape": "(16,16,3)",
    "model.patch": 1,
    "model.base": 8,
    "model.mult": "(1,)",
    "model.blocks": 1,
    "model.attention": "()",
    "model.heads": 1,
    "model.z_size": 8,
    "model.encoder_widths": "(8,8)",
    "model.latent_layers": 2,
    "model.latent_hidden": 32,
    "dpm.steps": 4,
    "pdae.steps": 4,
    "latent.steps": 4,
    "classifier.steps": 40,
    "dpm.batch_size": 8,
    "pdae.batch_size": 8,
    "dpm.pictures_every": 0,
    "pdae.pictures_every": 0,
    "dpm.ema": 0.5,
    "pdae.ema": 0.5,
    "dpm.accumulate": 1,
    "pdae.accumulate": 1,
    "precision": "float32",
    "stages": '("dpm","pdae","latent","classifier")',  # the report has tests of its own
}


def section() -> str:
    text = (ROOT / "README.md").read_text()
    return text[text.index("## Laboratory pictures") : text.index("## In Python")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(), re.DOTALL)


def cells(folder):
    """Patients' folders of 12-bit OME-TIFFs of three channels, and a table of a spreadsheet."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40]
    lines = ["path;treatment;radius"]
    for patient in range(12):
        treatment = ("control", "drug A", "drug B")[patient % 3]
        for k in range(4):
            radius = 4 + 2 * (patient % 3) + rng.normal(0, 0.5)
            away = np.hypot(y - rng.uniform(12, 28), x - rng.uniform(12, 28))
            stains = [3900 * np.exp(-((away / radius) ** 2)), 900.0 * (away < radius)]
            stains.append(2500 / (1 + np.exp((away - radius) / 2)))
            image = np.clip(np.stack(stains) + rng.normal(60, 15, (3, 40, 40)), 0, 4095)
            path = folder / "cells" / f"patient{patient:02d}" / f"{k}.ome.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"axes": "CYX", "Channel": {"Name": list(CHANNELS)}}
            how = {"photometric": "minisblack", "metadata": metadata, "compression": "zlib"}
            tifffile.imwrite(path, image.astype(np.uint16), **how)
            name = path.relative_to(folder / "cells").as_posix()
            lines.append(
                f"{name};{treatment};{radius:.2f}".replace(".", ",").replace(",ome,", ".ome.")
            )
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which README's lines were typed."""
    folder = tmp_path_factory.mktemp("lab")
    cells(folder)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    commands = [line for line in blocks("bash")[0].splitlines() if line.startswith("python")]
    assert len(commands) == 4
    commands.append(commands[-1].replace("--mode=project", "--mode=reconstruct"))
    for line in commands:
        words = shlex.split(line)[3:]
        configs = [word.replace("configs/", f"{ROOT}/configs/") for word in words]
        small = [f"--config.{name}={value}" for name, value in SMALL.items()]
        assert main.main(["pdae_jax", *configs, *(small if "--mode" not in line else [])]) == 0
    yield folder
    patch.undo()


def numbers(place, command):
    return json.loads((place / "runs" / "cells" / command / "numbers.json").read_text())["numbers"]


def test_pictures_come_back_in_counts_far_within_one_8_bit_level(place):
    scope = {}
    exec(blocks("python")[0], scope)
    counts, files = scope["counts"], sorted((place / "cells" / "patient03").iterdir())
    there = np.stack([tifffile.imread(path).transpose(1, 2, 0) for path in files])
    model = scope["model"]
    level = (np.array(model.value_range.high) - model.value_range.low) / 255
    assert counts.shape == (4, 16, 16, 3) and (level[0] > 10, level[1] > 3) == (True, True)
    assert model.value_range.channels == CHANNELS
    # The same picture cut and scaled without any rounding: in its own counts, at the model's size.
    given = model.to_units(scope["x"])
    assert np.abs(given.mean((1, 2)) - there.mean((1, 2))).max() < 0.2 * there.mean()
    error = np.abs(counts - given).max((0, 1, 2))
    assert (error < level / 50).all(), error


def test_the_split_is_by_patient(place):
    from pdae_jax.data import Data

    record = json.loads((place / "runs" / "cells" / "dpm" / "data.json").read_text())[0]
    train, test = (Data(**record).open(split) for split in ("train", "test"))
    assert len(train) + len(test) == 48 and not set(train.group) & set(test.group)
    assert set(train.group) | set(test.group) == {f"patient{k:02d}" for k in range(12)}


def test_codes_have_paths_patients_splits_and_labels(place):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(place / "runs" / "cells" / "encode" / "codes.parquet")
    assert len(table) == 48 and table.path[0] == "patient00/0.ome.tif"
    assert set(table.split) == {"train", "test"} and table.group.nunique() == 12
    labels = pandas.read_csv(place / "cells.csv", sep=";", decimal=",")
    joined = table.merge(labels, on="path", suffixes=("", "_there"))
    assert len(joined) == 48 and (joined.treatment == joined.treatment_there).all()
    np.testing.assert_allclose(joined.radius, joined.radius_there, atol=1e-3)


def test_probes_are_by_patient_and_say_so(place):
    page = (place / "runs" / "cells" / "probe" / "index.html").read_text()
    assert "bootstrap over 4 groups" in page
    assert {"treatment", "radius"} == set(numbers(place, "probe")["attributes"])
    assert (place / "runs" / "cells" / "probe" / "probe.tex").exists()


def test_pages_show_the_channels(place):
    page = (place / "runs" / "cells" / "reconstruct" / "index.html").read_text()
    assert all(f"{name}: {hue}" in page for name, hue in zip(CHANNELS, ("red", "green", "blue")))
    assert all(f"{name} alone" in page for name in CHANNELS)
    found = numbers(place, "reconstruct")["rmse_in_units"]
    assert len(found["inferred x_T"]) == 3
