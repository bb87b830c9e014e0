"""The one owner of the disk: where groups lie, what is read how often, what is whole."""

import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, run_command

import pdae_jax
from pdae_jax import latent
from pdae_jax.commands import report
from pdae_jax.data.dataset import Data
from pdae_jax.runtime import atomic
from pdae_jax.training import losses
from pdae_jax.training.objectives import OBJECTIVES, Objective
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir import workdir as workdir_lib
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.workdir import FOLDERS, Workdir

DIGITS = Data("digits", flip=False)
QUICK = Settings(steps=2, batch_size=16, pictures_every=0, health_every=0, ema=0.5)


def quick(workdir, objective, **more):
    return train(workdir, objective, arch=DIGITS_ARCH, data=DIGITS, settings=QUICK, **more)


def test_imported_groups_lie_where_trained_ones_do(workdir, tmp_path):
    """A latent model over an imported PDAE: training another PDAE in the same place is refused."""
    assert quick(tmp_path, "latent", pretrained=workdir)
    here, there = Workdir(tmp_path), Workdir(workdir)
    assert here.saved.keys() == {"dpm", "pdae", "latent", "statistics"}
    assert set(here.saved["pdae"].groups) == {"encoder", "gradient"}
    assert not here.saved["pdae"].resumable and here.saved["latent"].resumable
    np.testing.assert_array_equal(
        here.weights(["encoder"])["encoder"]["out"]["kernel"],
        there.weights(["encoder"])["encoder"]["out"]["kernel"],
    )
    for objective in ("pdae", "dpm"):
        with pytest.raises(ValueError, match="imported, not trained here.*another --workdir"):
            quick(tmp_path, objective)


def test_two_sets_of_one_group_are_refused(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "dpm", tmp_path / "run" / "other")
    with pytest.raises(ValueError, match="two sets of parameters 'dpm', in dpm/ and other/"):
        pdae_jax.load(tmp_path / "run")


def test_the_disk_is_scanned_once_and_frozen_weights_are_read_once(workdir, tmp_path, monkeypatch):
    shutil.copytree(workdir / "dpm", tmp_path / "dpm")
    scans, reads = [], []
    scan, restore = Workdir._scan, Checkpoints.restore
    monkeypatch.setattr(Workdir, "_scan", lambda self: (scans.append(self), scan(self))[1])
    monkeypatch.setattr(
        Checkpoints,
        "restore",
        lambda self, step, **items: (reads.append(items.keys()), restore(self, step, **items))[1],
    )
    home = Workdir.create(tmp_path)
    assert quick(home, "pdae")
    assert len(scans) == 1 and reads == [{"ema"}]
    assert home.latest_steps == {"dpm": 2, "pdae": 2} and len(scans) == 2  # it has saved since


def test_a_checkpoint_of_anything_else_is_no_objective(workdir, tmp_path):
    """What is not a checkpoint is passed over: a page's folder, a file of the user's."""
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "notes").mkdir()
    (tmp_path / "run" / "notes" / "7").mkdir()
    assert Workdir(tmp_path / "run").latest_steps == Workdir(workdir).latest_steps


def test_folders_are_those_of_the_objectives():
    for row in OBJECTIVES.values():
        assert {FOLDERS.get(group, group) for group in row.trains} == {row.name}
        assert set(row.needs) <= {*row.prerequisites, "statistics"}
        assert callable(row.loss) and callable(row.draw) and row.title


def test_a_new_objective_is_one_row_and_its_functions(workdir, tmp_path, monkeypatch):
    def squared_loss(given, drawn):
        z = latent.normalise(given.params["statistics"], drawn["z"])
        wrong = latent.logits(given.params["classifier"], z) - drawn["label"]
        return jnp.square(wrong).mean(-1)

    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("classifier"))
    row = dataclasses.replace(OBJECTIVES["classifier"], name="squared", title="least squares")
    monkeypatch.setitem(OBJECTIVES, "squared", row)
    monkeypatch.setattr(losses, "squared_loss", squared_loss, raising=False)
    monkeypatch.setattr(losses, "squared_draw", losses.classifier_draw, raising=False)
    assert quick(tmp_path / "run", "squared")
    home = Workdir(tmp_path / "run")
    assert home.folder_of("classifier") == "squared" and home.saved["squared"].resumable
    assert report.training_curves(home.records("squared"))
    assert isinstance(row, Objective) and row.settings == OBJECTIVES["classifier"].settings


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(ValueError, match="no model at .*; give the workdir of a training run"):
        pdae_jax.load(tmp_path)
    assert run_command("--mode=report", f"--workdir={tmp_path / 'new'}") == 2
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="no parameters 'encoder'.*train or convert them first"):
        Workdir(tmp_path).weights(["encoder"])


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "one")
    with pytest.raises(KeyboardInterrupt), atomic.new_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "one"
    with pytest.raises(OSError), atomic.new_folder(tmp_path / "deep" / "folder") as partial:
        (partial / "b.txt").write_text("half")
        raise OSError("disk full")
    with atomic.new_folder(tmp_path / "deep" / "folder") as partial:
        (partial / "b.txt").write_text("whole")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a.txt", "deep/folder/b.txt"}


def test_statistics_are_saved_once_a_model(workdir, monkeypatch):
    home, saves = Workdir(workdir), []
    key = home.cache_key(DIGITS)
    assert key["checkpoints"].keys() == {"dpm", "pdae"}  # no code depends on the others
    monkeypatch.setattr(
        workdir_lib.Workdir, "save_weights", lambda self, params, step: saves.append(step)
    )
    home.write_statistics({"mean": np.zeros(8), "std": np.ones(8)}, key)
    assert not saves
    key["checkpoints"]["pdae"] = 3
    home.write_statistics({"mean": np.zeros(8), "std": np.ones(8)}, key)
    assert saves == [3]
