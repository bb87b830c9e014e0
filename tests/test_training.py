"""Training: one state machine, exact resumes, any number of devices, and its ways to end."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, ROOT, run_program
from PIL import Image

from pdae_jax.data.dataset import Data
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import sharding
from pdae_jax.schedule import linear
from pdae_jax.training import losses, trainer
from pdae_jax.training.log import Log
from pdae_jax.training.loop import TrainingError
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import compiled_step, make_update
from pdae_jax.training.trainer import train
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.records import Records
from pdae_jax.workdir.workdir import Workdir

ARCH = dataclasses.replace(DIGITS_ARCH, dropout=0.1)
DIGITS = Data("digits", flip=True)
QUICK = Settings(
    steps=6,
    batch_size=16,
    learning_rate=1e-3,
    warmup=2,
    decay="cosine",
    ema=0.9,
    log_every=2,
    health_every=3,
    pictures_every=0,
    save_every=3,
    keep=10,
)
# Nothing of it depends on the step: what is compiled for one test is read by the next.
PLAIN = dataclasses.replace(QUICK, decay="constant", warmup=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir with both objectives trained for six steps, checkpoints at 3 and 6."""
    workdir = tmp_path_factory.mktemp("run")
    for objective in ("dpm", "pdae"):
        assert train(workdir, objective, arch=ARCH, data=DIGITS, settings=QUICK)
    return workdir


def state_at(workdir, objective, step):
    """Every array of a checkpoint, as NumPy."""
    row, optimizer = OBJECTIVES[objective], QUICK.optimizer()
    shapes = jax.eval_shape(
        lambda: TrainState.create(Networks(ARCH).init(jax.random.key(0), row.trains), optimizer)
    )
    shapes = jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)
    with Checkpoints(Path(workdir) / objective) as checkpoints:
        items = checkpoints.restore(
            step, ema=shapes.ema, train={k: v for k, v in shapes._asdict().items() if k != "ema"}
        )
    return jax.tree.leaves(items)


@pytest.mark.parametrize("objective", ["dpm", "pdae"])
def test_resume_is_the_uninterrupted_run_bit_for_bit(trained, tmp_path, objective):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    shutil.rmtree(workdir / objective / "6")
    if objective == "dpm":  # what rests on it would refuse its training
        shutil.rmtree(workdir / "pdae")
    assert train(workdir, objective, arch=ARCH, data=DIGITS, settings=QUICK)
    for a, b in zip(state_at(trained, objective, 6), state_at(workdir, objective, 6), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [
        json.loads(line)["step"]
        for line in (workdir / objective / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps) and steps[-1] == 6


def test_kernels_may_lie_as_a_gpu_has_them(trained, tmp_path, monkeypatch):
    """From the start, and saved so and resumed as on a CPU: the same training."""
    layouts, run = [], trainer.Loop.run

    def look(tree):
        kernels = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 4]
        layouts.append({leaf.format.layout.major_to_minor for leaf in kernels})

    def seen(self, state, frozen, *others):
        look(state), look(frozen)
        state, done = run(self, state, frozen, *others)
        look(state)
        return state, done

    monkeypatch.setattr(trainer.Loop, "run", seen)
    settings = dataclasses.replace(QUICK, pictures_every=3)
    for gpu in (True, False):
        monkeypatch.setattr(sharding, "as_cudnn_reads", lambda mesh, dtype, gpu=gpu: gpu)
        assert train(
            tmp_path, "pdae", arch=ARCH, data=DIGITS, settings=settings, pretrained=trained
        )
        for ours, theirs in zip(state_at(tmp_path, "pdae", 6), state_at(trained, "pdae", 6)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
        shutil.rmtree(tmp_path / "pdae" / "6")
    assert layouts == [{(3, 0, 1, 2)}] * 3 + [{(0, 1, 2, 3)}] * 3


def test_a_step_over_two_levels_with_kernels_as_a_gpu_has_them(monkeypatch):
    """Of the frozen model's up-sampling convolution the sums of taps, which lie otherwise."""
    net, row = Networks(dataclasses.replace(ARCH, mult=(1, 2))), OBJECTIVES["pdae"]
    mesh, found = sharding.make_mesh(), []
    init = jax.jit(lambda: net.init(jax.random.key(0), (*row.trains, *row.needs)))
    for gpu in (False, True):
        monkeypatch.setattr(sharding, "as_cudnn_reads", lambda mesh, dtype, gpu=gpu: gpu)
        params = init()  # anew: a step takes its state's memory
        frozen = net.frozen({group: params[group] for group in row.needs})
        state = TrainState.create({group: params[group] for group in row.trains}, PLAIN.optimizer())
        state, frozen = (
            jax.device_put(tree, sharding.placed(mesh, tree, net.dtype)) for tree in (state, frozen)
        )
        taps = frozen["dpm"]["up"]["upsample_1"]["conv_in"]["taps"]
        order = taps.format.layout.major_to_minor
        step = compiled_step(row, net, net.schedule, PLAIN, mesh, state, frozen)
        batch = {"image": jnp.arange(16 * 64, dtype=jnp.uint8).reshape(16, 8, 8, 1)}
        found.append((order, step(state, frozen, batch, jax.random.key(1))))
    (plain, ours), (moved, theirs) = found
    assert (plain, moved) == ((0, 1, 2, 3), (2, 0, 1, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_a_stage_that_is_done_is_not_done_again(trained):
    before = sorted(p.stat().st_mtime_ns for p in (trained / "dpm").rglob("*"))
    assert train(trained, "dpm", arch=ARCH, data=DIGITS, settings=QUICK)
    assert sorted(p.stat().st_mtime_ns for p in (trained / "dpm").rglob("*")) == before


def test_frozen_parameters_are_untouched(trained, tmp_path):
    """The diffusion model that PDAE was trained on, in another workdir, is still the same."""
    assert train(tmp_path, "pdae", arch=ARCH, data=DIGITS, settings=QUICK, pretrained=trained)
    ours, theirs = (Workdir(w).weights(["dpm"]) for w in (tmp_path, trained))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert sorted(Workdir(tmp_path).groups) == ["dpm", "encoder", "gradient"]


def test_health_lines_and_scalars_are_recorded(trained):
    lines = [
        json.loads(line) for line in (trained / "pdae" / "metrics.jsonl").read_text().splitlines()
    ]
    names = set().union(*lines)
    assert {"loss", "grad_norm", "loss_own_z", "loss_shuffled_z", "dloss_dz_norm"} <= names
    assert any(name.startswith("loss_t") for name in names)


def test_tensorboard_file_is_written(trained):
    pytest.importorskip("tensorflow")
    assert list((trained / "pdae").glob("events.out.tfevents*"))


def _update_inputs(objective="pdae", arch=ARCH, B=8):
    net, schedule, row = Networks(arch), linear(), OBJECTIVES[objective]
    params = jax.jit(lambda: net.init(jax.random.key(0)))()
    params = jax.tree.map(lambda p: p + 0.02, params)
    images = jax.random.uniform(jax.random.key(1), (B, *arch.image_shape), minval=-1, maxval=1)
    drawn = row.draw(jax.random.key(2), {"image": images}, schedule.T)
    return (
        row,
        net,
        schedule,
        {g: params[g] for g in row.trains},
        {g: params[g] for g in row.needs},
        drawn,
    )


def test_a_step_that_is_not_finite_changes_only_the_counters():
    row, net, schedule, params, frozen, drawn = _update_inputs()
    update = jax.jit(make_update(row, net, schedule, PLAIN))
    state = TrainState.create(params, PLAIN.optimizer())
    good, _ = update(state, frozen, drawn, None)
    bad = {**drawn, "x_0": drawn["x_0"].at[0, 0, 0, 0].set(jnp.nan)}
    after, metrics = update(good, frozen, bad, None)
    assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == 1
    for a, b in zip(
        jax.tree.leaves((good.params, good.ema, good.opt_state)),
        jax.tree.leaves((after.params, after.ema, after.opt_state)),
    ):
        np.testing.assert_array_equal(a, b)
    again, metrics = update(after, frozen, drawn, None)
    assert int(again.step) == 3 and int(metrics["skipped"]) == 1
    assert int(metrics["skipped_in_a_row"]) == 0


def test_too_many_such_steps_stop_the_run(tmp_path):
    settings = dataclasses.replace(
        QUICK, steps=20, learning_rate=1e30, decay="constant", warmup=0, max_skipped=3
    )
    with pytest.raises(TrainingError, match=r"in a row.*lower learning_rate"):
        train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=settings)


def test_accumulation_equals_the_whole_batch():
    row, net, schedule, params, frozen, drawn = _update_inputs()
    results = []
    for n in (1, 4):
        settings = dataclasses.replace(PLAIN, accumulate=n, batch_size=8)
        state = TrainState.create(params, settings.optimizer())
        state, metrics = jax.jit(make_update(row, net, schedule, settings))(
            state, frozen, drawn, None
        )
        results.append(metrics)
    for name in ("loss", "grad_norm", "time_sums"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters():
    """Compute alone is bfloat16: gradients, moments, EMA, statistics and loss are float32."""
    row, _, schedule, params, frozen, drawn = _update_inputs()
    update = make_update(row, Networks(ARCH, jnp.bfloat16), schedule, QUICK)
    state = TrainState.create(params, QUICK.optimizer())
    after, metrics = jax.jit(update)(state, frozen, drawn, jax.random.key(3))
    floats = [
        leaf.dtype
        for leaf in jax.tree.leaves((after, metrics))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert set(floats) == {jnp.dtype("float32")}
    exact = make_update(row, Networks(ARCH), schedule, QUICK)
    _, wanted = jax.jit(exact)(state, frozen, drawn, jax.random.key(3))
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], rtol=0.02)
    assert float(metrics["loss"]) != float(wanted["loss"])


@pytest.mark.slow
def test_health_lines_need_no_more_memory_than_a_micro_batch(monkeypatch, tmp_path):
    seen = []
    health = losses.pdae_health

    def spy(given, drawn):
        seen.append(len(drawn["x_0"]))
        return health(given, drawn)

    monkeypatch.setattr(losses, "pdae_health", spy)
    settings = dataclasses.replace(QUICK, steps=1, health_every=1, accumulate=4)
    train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=QUICK)
    train(tmp_path, "pdae", arch=ARCH, data=DIGITS, settings=settings)
    assert seen == [QUICK.batch_size // 4]


def test_a_stop_asked_in_the_last_step_is_obeyed(tmp_path, monkeypatch):
    """The stage is whole, but what comes after it must not start."""
    write = Checkpoints.save

    def save(self, step, ema, train=None):
        signal.raise_signal(signal.SIGTERM)
        write(self, step, ema, train)

    monkeypatch.setattr(Checkpoints, "save", save)
    settings = dataclasses.replace(QUICK, save_every=QUICK.steps)
    assert not train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=settings)
    monkeypatch.undo()
    assert Workdir(tmp_path).latest_steps == {"dpm": 6}
    assert train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=settings)


def test_a_start_that_failed_does_not_bind_the_workdir(tmp_path):
    with pytest.raises(ValueError, match="needs a trained dpm"):
        train(tmp_path, "pdae", arch=ARCH, data=DIGITS, settings=QUICK)
    other = dataclasses.replace(ARCH, z_size=9)
    assert train(tmp_path, "dpm", arch=other, data=DIGITS, settings=QUICK)


def test_other_held_out_pictures_are_refused(trained):
    for data in (
        dataclasses.replace(DIGITS, seed=1),
        dataclasses.replace(DIGITS, test_fraction=0.5),
    ):
        with pytest.raises(ValueError, match="other pictures would be held out"):
            train(trained, "pdae", arch=ARCH, data=data, settings=QUICK)


def test_broken_pictures_are_named_and_grids_are_files(tmp_path, capfd):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(24):
        np.save(folder / f"{k}.npy", np.full((8, 8, 1), 10 * k, np.uint8))
    (folder / "13.npy").write_bytes(b"not numpy")
    settings = dataclasses.replace(QUICK, pictures_every=6)
    assert train(
        tmp_path / "run", "dpm", arch=ARCH, data=Data(f"folder:{folder}"), settings=settings
    )
    shown = capfd.readouterr().err
    assert shown.count("broken picture skipped") == 1 and str(folder / "13.npy") in shown
    assert str(folder / "13.npy") in (tmp_path / "run" / "dpm" / "broken.txt").read_text()
    (grid,) = (tmp_path / "run" / "dpm" / "pictures").iterdir()
    assert Image.open(grid).size[0] > 8 and grid.name.startswith("000000006")


def test_a_run_goes_on_with_other_settings(trained, tmp_path):
    """What the advice after bad steps asks for: a clip, a warmup, another rate."""
    workdir = tmp_path / "run"
    shutil.copytree(trained / "dpm", workdir / "dpm")
    settings = dataclasses.replace(QUICK, steps=7, clip=1.0, warmup=0, decay="constant")
    assert train(workdir, "dpm", arch=ARCH, data=DIGITS, settings=settings)
    assert Workdir(workdir).latest_steps["dpm"] == 7


def test_a_pre_trained_model_must_be_the_configs_own(trained, tmp_path):
    other = dataclasses.replace(ARCH, heads=2)  # same shapes, other mathematics
    with pytest.raises(ValueError, match="heads is 1 there and 2 here"):
        train(tmp_path, "pdae", arch=other, data=DIGITS, settings=QUICK, pretrained=trained)


def test_imported_weights_cannot_be_trained_on(trained, tmp_path):
    assert train(tmp_path, "pdae", arch=ARCH, data=DIGITS, settings=QUICK, pretrained=trained)
    with pytest.raises(ValueError, match="was imported, not trained here"):
        train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=QUICK)


@pytest.mark.slow
def test_a_pre_trained_model_is_never_silently_unused(trained, tmp_path):
    """The workdir's own dpm, or another imported before, is not what was asked for."""
    with pytest.raises(ValueError, match="has dpm trained in it"):
        train(trained, "pdae", arch=ARCH, data=DIGITS, settings=QUICK, pretrained=trained)
    other, workdir = tmp_path / "other", tmp_path / "run"
    quick = dataclasses.replace(QUICK, steps=1)
    assert train(other, "dpm", arch=ARCH, data=DIGITS, settings=quick)
    assert train(workdir, "pdae", arch=ARCH, data=DIGITS, settings=quick, pretrained=trained)
    with pytest.raises(ValueError, match="begun with another dpm"):
        train(workdir, "pdae", arch=ARCH, data=DIGITS, settings=QUICK, pretrained=other)
    shutil.rmtree(other)  # once the weights are here, their source may go
    assert train(workdir, "pdae", arch=ARCH, data=DIGITS, settings=QUICK, pretrained=other)


def test_what_pdae_was_trained_over_is_not_trained_on(trained):
    longer = dataclasses.replace(QUICK, steps=9)
    with pytest.raises(ValueError, match="pdae in .* was trained over dpm as it is at step 6"):
        train(trained, "dpm", arch=ARCH, data=DIGITS, settings=longer)


def test_images_a_second_are_shown_from_the_first_line(tmp_path, capfd):
    """Also where something else happens every step, which is left out of them."""
    settings = dataclasses.replace(QUICK, log_every=1, save_every=1)
    assert train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=settings)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dpm 2/")]
    assert len(lines) == 1 and "images/s ?" not in lines[0] and "ETA ?" not in lines[0]
    assert re.search(r"idle \d+%", lines[0])


def test_only_an_idle_device_waits(tmp_path):
    """Steps are dispatched ahead: of a batch's time only that after the last of them is waiting."""
    log = Log(Records(tmp_path), "dpm", 0, 10, 4)
    with log.idle():  # before the first step
        time.sleep(0.01)
    first = log.idle_seconds
    assert first >= 0.01
    done = threading.Event()
    step = SimpleNamespace(is_ready=done.is_set, block_until_ready=done.wait)
    with log.idle(step):
        time.sleep(0.01)
    assert log.idle_seconds == first  # the device was busy all the time
    with log.idle(step):
        ready = time.perf_counter()
        done.set()
        time.sleep(0.5)
    second = log.idle_seconds
    assert 0 < second - first <= time.perf_counter() - ready  # and here but for the end
    with log.idle(step):
        time.sleep(0.01)
    assert log.idle_seconds - second >= 0.01  # here never
    log.close()


def test_clipping_bounds_the_update():
    optimizer = Settings(clip=1.0).optimizer()
    grads = {"w": jnp.full((4,), 100.0)}
    state = optimizer.init(grads)
    _, state = optimizer.update(grads, state, grads)
    first_moment = state[1][0].mu["w"]
    np.testing.assert_allclose(jnp.linalg.norm(first_moment), 0.1, rtol=1e-5)  # (1 - b1) * clip


@pytest.mark.parametrize("ema, warned", [(0.9, True), (0.3, False)])
def test_an_average_too_long_for_the_run_is_said(tmp_path, capfd, ema, warned):
    settings = dataclasses.replace(QUICK, ema=ema, health_every=0)
    assert train(tmp_path, "dpm", arch=ARCH, data=DIGITS, settings=settings)
    line = "ema = 0.9 over 6 steps leaves 53% of the untrained weights"
    assert (line in capfd.readouterr().err) == warned


def test_ema_in_closed_form():
    row, net, schedule, params, frozen, drawn = _update_inputs()
    update = jax.jit(make_update(row, net, schedule, PLAIN))
    state = TrainState.create(params, PLAIN.optimizer())
    expected = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for _ in range(3):
        state, _ = update(state, frozen, drawn, None)
        expected = jax.tree.map(
            lambda e, p: 0.9 * e + 0.1 * np.asarray(p, np.float64), expected, state.params
        )
    jax.tree.map(
        lambda e, found: np.testing.assert_allclose(found, e, rtol=1e-5, atol=1e-7),
        expected,
        state.ema,
    )


def test_fsdp_puts_the_largest_divisible_dimension_on_its_axis():
    mesh = jax.sharding.AbstractMesh((2, 4), sharding.AXES)
    tree = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
        "odd": jax.ShapeDtypeStruct((3, 4098), jnp.float32),
        "bias": jax.ShapeDtypeStruct((128,), jnp.float32),
    }
    specs = {name: s.spec for name, s in sharding.over_fsdp(mesh, tree).items()}
    assert tuple(specs["kernel"]) == (None, None, None, "fsdp")
    assert "fsdp" not in specs["odd"] and "fsdp" not in specs["bias"]


@pytest.mark.slow
def test_eight_devices_train_as_one(trained, tmp_path):
    run_program("train_sharded", tmp_path, devices=8)
    for objective in ("dpm", "pdae"):
        losses = [
            [
                json.loads(line)["loss"]
                for line in (workdir / objective / "metrics.jsonl").read_text().splitlines()
                if "loss" in json.loads(line)
            ]
            for workdir in (trained, tmp_path)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)
    for group, tree in Workdir(tmp_path).weights().items():
        ours = Workdir(trained).weights([group])[group]
        # Adam divides by the root of a moment: where that is near 0, rounding shows.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), tree, ours)


COMMAND = [
    sys.executable,
    "-m",
    "pdae_jax.main",
    "--config=configs/digits.py:dpm",
    "--config.model.mult=(1,)",
    "--config.model.attention=()",
    "--config.model.heads=1",
    "--config.dpm.batch_size=16",
    "--config.dpm.log_every=1",
    "--config.dpm.pictures_every=0",
    "--config.dpm.health_every=0",
]


def _start(workdir, *more):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}", *more],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def _latest(workdir) -> int:
    return Workdir(workdir).latest_steps.get("dpm", 0)


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly(tmp_path):
    process = _start(tmp_path, "--config.dpm.steps=100000", "--config.dpm.save_every=100000")
    for line in process.stderr:
        if line.startswith("dpm 3/"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait() == 0
    assert "stopped at step" in rest and "re-run the command to resume" in rest
    assert _latest(tmp_path) >= 3


@pytest.mark.nightly
@pytest.mark.slow
def test_kill_in_the_midst_of_a_save(tmp_path):
    """kill -9 while a checkpoint is being written; the rerun ends where no kill would have."""
    steps = ["--config.dpm.steps=12", "--config.dpm.save_every=1"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = _start(killed, *steps)
    while process.poll() is None:
        unfinished = list((killed / "dpm").glob("*tmp*")) if (killed / "dpm").exists() else []
        if unfinished and (killed / "dpm" / "2").exists():
            process.kill()
            break
        time.sleep(0.001)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before a save could be caught"
    assert _latest(killed) < 12
    for workdir in (killed, whole):
        process = _start(workdir, *steps)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    ours, theirs = (Workdir(workdir).weights() for workdir in (killed, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
