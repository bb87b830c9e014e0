"""The examples run from top to bottom, and print what is true."""

import importlib.util
import re

import nbclient
import nbformat
import numpy as np
import pytest
from helpers import DIGITS_ARCH, OPTIMISED, ROOT, environment
from PIL import Image

import pdae_jax
from pdae_jax.data import open_source

EXAMPLES = ROOT / "examples"


@pytest.mark.slow
def test_reconstruct_and_edit(tmp_path, capsys, monkeypatch):
    """From nothing, with the smallest model and a few steps; the printed errors are the model's."""
    path = EXAMPLES / "reconstruct_and_edit.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "SMALL", DIGITS_ARCH)
    monkeypatch.setattr(example, "STEPS", {"dpm": 20, "pdae": 20, "classifier": 40})
    example.main(str(tmp_path))
    said = capsys.readouterr().out
    assert len(path.read_text().splitlines()) < 100

    source, model = open_source("digits", "test"), pdae_jax.load(tmp_path)
    images = np.stack([source.image(i) for i in range(180)])
    z = model.encode(images)
    inferred = np.asarray(model.decode(z, model.invert(images, z))) / 2 + 0.5
    x = images / 255
    for decoded, words in ((inferred, "z and the inferred x_T"), (x.mean(0), "of no code")):
        printed = float(re.search(rf"(\S+) (?:from )?{words}", said)[1])
        np.testing.assert_allclose(printed, ((decoded - x) ** 2).mean(), rtol=0.06)  # two digits
    before, after = map(float, re.search(r"p\(3\) (\S+) -> (\S+),", said).groups())
    assert 0 <= before <= after <= 1
    assert Image.open(tmp_path / "reconstruct_and_edit.png").size[0] > 12 * 8 * 6


@pytest.fixture
def executed(monkeypatch):
    """Runs a notebook from top to bottom: how many figures it shows, and what it prints."""

    def run(name, workdir=None):
        notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells)  # they would be old
        if workdir:
            (parameters,) = [
                c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())
            ]
            parameters.source = f"workdir = {str(workdir)!r}"
        for variable, value in environment(**OPTIMISED).items():
            monkeypatch.setenv(variable, value)
        nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=EXAMPLES)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        outputs = [out for cell in code for out in cell.outputs]
        assert not any(out.output_type == "error" for out in outputs)
        figures = sum("image/png" in out.get("data", {}) for out in outputs)
        said = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
        return figures, "\n".join(said)

    return run


@pytest.mark.slow
def test_walkthrough(workdir, executed):
    """No cell fails, and each chapter shows its figure."""
    figures, _ = executed("walkthrough", workdir)
    assert figures == 6


@pytest.mark.nightly
@pytest.mark.slow
def test_people_are_edited_by_the_model_that_ships(executed):
    figures, said = executed("edit_people")
    assert figures == 6
    alone, exact = map(float, re.search(r"alone (\S+), with x_T (\S+)", said).groups())
    assert exact < 1e-4 < alone < 0.03
    dark = [float(found) for found in re.findall(r"p\(dark skin\) (\S+)", said)]
    assert len(dark) == 3 and dark[0] < dark[1] < dark[2]


@pytest.mark.slow
def test_a_folder_becomes_a_table_and_a_probe(executed):
    _, said = executed("codes_and_probes")
    scores = re.findall(r"AUROC ([\d.]+)", said)
    assert len(scores) == 3 and min(map(float, scores)) > 0.8
    shared = re.findall(r"the same in ([\d.]+), by chance in ([\d.]+)", said)
    woman, by_chance = map(float, shared[0])  # of skin it is not so: the character comes first
    assert len(shared) == 3 and woman > by_chance
