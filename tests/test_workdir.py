"""The one owner of the disk: where groups lie, what is read how often, what is whole."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, run_command

import pdae_jax
from pdae_jax import latent
from pdae_jax.commands import provenance, report
from pdae_jax.commands.page_command import run_page
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import GROUPS
from pdae_jax.pages.page import Curves, Table
from pdae_jax.runtime import atomic
from pdae_jax.training import losses
from pdae_jax.training.objectives import OBJECTIVES, Objective
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.workdir import Workdir

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


def test_groups_and_functions_are_those_of_the_objectives():
    for row in OBJECTIVES.values():
        assert row.trains == tuple(g for g, group in GROUPS.items() if group.objective == row.name)
        assert set(row.needs) <= {*row.prerequisites, "statistics"}
        assert callable(row.loss) and callable(row.draw) and row.title
    functions = re.compile(r"(\w+?)_(loss|draw|health|schedule)")
    for name in vars(losses):  # none is of an objective that there is not
        found = functions.fullmatch(name)
        assert not found or found[1] in OBJECTIVES, name


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
    (part,) = provenance.training_curves(home.records("squared"))
    assert isinstance(part, Table)  # two points are no curve
    for k in range(3, 8):
        home.records("squared").add_scalars(k, {"loss": 1 / k})
    (part,) = provenance.training_curves(home.records("squared"))
    assert isinstance(part, Curves)
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


def test_a_chain_of_stages_reads_each_checkpoint_once(tmp_path, monkeypatch):
    """Training saves them; the stages after read them, and a re-run too, once each."""
    reads = []
    restore = Checkpoints.restore

    def count(self, step, **items):
        if items.keys() == {"ema"}:
            reads.append(self._manager.directory.name)
        return restore(self, step, **items)

    monkeypatch.setattr(Checkpoints, "restore", count)
    for expected in (["dpm", "pdae", "statistics"], ["dpm", "pdae"]):
        home = Workdir.create(tmp_path)
        for objective in ("dpm", "pdae", "latent", "classifier"):
            assert quick(home, objective)
        assert sorted(reads) == expected
        reads.clear()


def statistics_of(path):
    """The stored statistics, and those of the codes as they are."""
    model, source = pdae_jax.load(path), DIGITS.open("train")
    z = np.asarray(model.encode(np.stack([source.image(i) for i in range(len(source))])))
    return model.params["statistics"]["mean"], z.mean(0)


def test_statistics_follow_the_codes(tmp_path):
    """PDAE trained further after a page has normalised its codes: nothing rests on the old ones."""
    for objective, steps in (("dpm", 4), ("pdae", 2)):
        settings = dataclasses.replace(QUICK, steps=steps)
        assert train(tmp_path, objective, arch=DIGITS_ARCH, data=DIGITS, settings=settings)
    run_page("probe", tmp_path)
    first, _ = statistics_of(tmp_path)
    settings = dataclasses.replace(QUICK, steps=3, learning_rate=0.05)
    assert train(tmp_path, "pdae", arch=DIGITS_ARCH, data=DIGITS, settings=settings)
    assert not Workdir(tmp_path).statistics_are_current
    assert quick(tmp_path, "latent")
    stored, actual = statistics_of(tmp_path)
    np.testing.assert_allclose(stored, actual, rtol=1e-3, atol=1e-4)
    assert np.abs(stored - first).max() > 0.01
    few = dataclasses.replace(DIGITS, name="folder:elsewhere")
    with pytest.raises(ValueError, match="latent in .* rests on codes of other pictures"):
        Workdir(tmp_path).write_statistics({"mean": stored, "std": stored}, few)


def test_statistics_of_an_imported_model_stay(workdir, tmp_path):
    there = Workdir(workdir)
    arch, params = there.architecture, there.weights(["dpm", "encoder", "gradient", "statistics"])
    home = Workdir.create(tmp_path)
    home.write_architecture(arch)
    home.save_weights(params)
    assert home.statistics_are_current
    home.write_statistics({"mean": np.zeros(8), "std": np.ones(8)}, DIGITS)
    np.testing.assert_array_equal(
        home.weights(["statistics"])["statistics"]["mean"], params["statistics"]["mean"]
    )


@pytest.mark.nightly
def test_a_report_is_up_to_date_after_what_it_computed_itself(workdir, tmp_path, capsys):
    """Statistics that a report's probe leaves behind do not make the report old."""
    others = shutil.ignore_patterns("latent", "classifier", "statistics", "codes")
    shutil.copytree(workdir, tmp_path / "run", ignore=others)
    options = report.Options(
        n=2, scored=2, steps=2, invert_steps=2, latent_steps=2, inversions=("dpm++2m",)
    )
    page = run_page("report", tmp_path / "run", options, data=DIGITS).page
    assert "statistics" in Workdir(tmp_path / "run").groups
    written = page.stat().st_mtime_ns
    run_page("report", tmp_path / "run", options, data=DIGITS, skip_current=True)
    assert page.stat().st_mtime_ns == written and "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.json", "pdae/data.json", "statistics/cache_key.json"])
@pytest.mark.parametrize("text", ["", "{", "\xff\x00"])
def test_a_broken_json_file_is_named(workdir, tmp_path, capsys, name, text):
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(text.encode("latin-1"))
    command = ["--mode=fewshot", f"--workdir={tmp_path / 'run'}", "--attribute=3"]
    assert run_command(*command, f"--out={tmp_path / 'out'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file} is broken" in line and "restore it from a copy" in line


@pytest.mark.parametrize("name", ["model.json", "pdae/data.json"])
def test_fields_of_another_version_are_named(workdir, tmp_path, name):
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run" / name
    value = json.loads(file.read_text())
    (value if isinstance(value, dict) else value[0])["colour"] = "blue"
    file.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=f"{name} has what this version does not know: colour"):
        home = Workdir(tmp_path / "run")
        assert home.architecture and home.trained_on


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    records = Workdir(tmp_path).records("dpm")
    records.folder.mkdir()
    for step in (1, 2, 3):
        records.add_scalars(step, {"loss": 1 / step})
    with (records.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in records.scalars()] == [1, 2, 3]
    records.forget_after(2)
    assert (records.folder / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n'
    )


def test_what_was_trained_over_older_codes_is_stale_and_made_again(tmp_path, capsys):
    """PDAE is trained further: no classifier of before is used, and its stage makes it again."""
    longer = dataclasses.replace(QUICK, steps=3)
    home = Workdir.create(tmp_path)
    for objective in ("dpm", "pdae", "latent", "classifier"):
        assert quick(home, objective)
    before = home.weights(["latent", "classifier", "statistics"])
    assert home.stale == () and quick(home, "latent")
    assert train(home, "pdae", arch=DIGITS_ARCH, data=DIGITS, settings=longer)
    assert "classifier and latent will be stale" in capsys.readouterr().err
    assert set(Workdir(tmp_path).stale) == {"latent", "classifier"}
    warned = "stale, and not used: classifier and latent in .*:classifier and :latent"
    with pytest.warns(UserWarning, match=warned):
        model = pdae_jax.load(tmp_path)
    assert not {"latent", "classifier"} & model.params.keys()
    with pytest.raises(ValueError, match="this model has no 'latent'.*:latent variant"):
        model.generate_codes(1)

    assert run_command("--mode=probe", f"--workdir={tmp_path}") == 0  # which renews the statistics
    assert set(Workdir(tmp_path).stale) == {"latent", "classifier"}
    for objective in ("latent", "classifier"):
        assert quick(home, objective)
    assert (
        "latent was trained over the codes of before: it is made again" in capsys.readouterr().err
    )
    assert home.stale == () and home.latest_steps["latent"] == 2
    after = home.weights(["latent", "classifier", "statistics"])
    for group in after:
        same = jax.tree.map(np.array_equal, before[group], after[group])
        assert not jax.tree.all(same)


def test_a_version_without_records_goes_by_the_statistics(tmp_path):
    home = Workdir.create(tmp_path)
    for objective in ("dpm", "pdae", "latent"):
        assert quick(home, objective)
    (tmp_path / "latent" / "cache_key.json").unlink()
    assert Workdir(tmp_path).stale == ()
    assert train(
        home, "pdae", arch=DIGITS_ARCH, data=DIGITS, settings=dataclasses.replace(QUICK, steps=3)
    )
    assert Workdir(tmp_path).stale == ("latent",)
    assert run_command("--mode=probe", f"--workdir={tmp_path}") == 0
    assert Workdir(tmp_path).stale == ("latent",)


def test_what_has_no_effect_on_a_finished_stage_is_said(tmp_path, capsys):
    assert quick(tmp_path, "dpm") and quick(tmp_path, "dpm")
    assert "no effect" not in capsys.readouterr().err
    others = {
        "learning_rate = 0.5": dict(settings=dataclasses.replace(QUICK, learning_rate=0.5)),
        "data.flip = True": dict(data=Data("digits", flip=True)),
        "seed = 7": dict(seed=7),
        "dropout = 0.5": dict(arch=dataclasses.replace(DIGITS_ARCH, dropout=0.5)),
        "precision = bfloat16": dict(precision="bfloat16"),
    }
    for words, changes in others.items():
        given = dict(arch=DIGITS_ARCH, data=DIGITS, settings=QUICK) | changes
        assert train(tmp_path, "dpm", **given)
        said = capsys.readouterr().err
        assert f"dpm is done; this has no effect on it: {words} (it was " in said, said
        assert said.count("\n") == 1 and "raise --config.dpm.steps" in said
    quiet = dataclasses.replace(QUICK, save_every=7, log_every=3)
    assert train(tmp_path, "dpm", arch=DIGITS_ARCH, data=DIGITS, settings=quiet)
    assert "no effect" not in capsys.readouterr().err
