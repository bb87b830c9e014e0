"""What goes wrong outside of us: two runs at once, damaged files, full disks."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from helpers import DIGITS_ARCH, ROOT, environment, run_command, run_program

from pdae_jax.data.dataset import Data
from pdae_jax.runtime import sharding
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir import lock
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.checksums import checksums, differing
from pdae_jax.workdir.workdir import Workdir

DIGITS = Data("digits", flip=False)
QUICK = Settings(steps=2, batch_size=16, pictures_every=0, health_every=0, ema=0.5, save_every=1)
TINY_RUN = (
    "--config=configs/digits.py:dpm",
    "--config.model.base=32",
    "--config.model.mult=(1,)",
    "--config.model.attention=()",
    "--config.dpm.batch_size=16",
    "--config.dpm.save_every=1",
)


# Two at once.


def test_a_second_run_in_a_workdir_is_told_whose_it_is(tmp_path, capsys):
    """The lock outlives neither an end nor a kill."""
    run = ["-m", "pdae_jax.main", *TINY_RUN, f"--workdir={tmp_path}", "--config.dpm.steps=100000"]
    first = subprocess.Popen(
        [sys.executable, *run], env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    for line in first.stderr:
        if line.startswith("dpm in"):
            break
    assert run_command(*TINY_RUN, f"--workdir={tmp_path}") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and re.search(
        rf"{tmp_path} is being written by process {first.pid} on {os.uname().nodename}, since "
        r"20\d\d-.*: wait until it has ended, or choose another", said[0]
    )  # fmt: skip
    first.send_signal(signal.SIGKILL)
    first.communicate()
    there = Workdir(tmp_path).latest_steps.get("dpm", 0)
    assert (tmp_path / lock.NAME).exists()  # but held by nobody
    assert run_command(*TINY_RUN, f"--workdir={tmp_path}", f"--config.dpm.steps={there + 1}") == 0
    assert Workdir(tmp_path).latest_steps == {"dpm": there + 1}
    assert not (tmp_path / lock.NAME).exists()


def test_a_lock_is_the_threads_that_took_it(tmp_path):
    found = []

    def other():
        try:
            with lock.Lock(tmp_path):
                found.append("entered")
        except ValueError as error:
            found.append(str(error))

    with lock.Lock(tmp_path), lock.Lock(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1 and "another thread of this process" in found[0]
    other()
    assert found[1] == "entered" and not list(tmp_path.iterdir())


def test_two_commands_do_not_write_one_page(workdir, capsys):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from pdae_jax.workdir.lock import Lock\n"
            f"with Lock(Path({str(workdir / 'encode')!r})): print('held'); sys.stdout.flush(); "
            "sys.stdin.read()",
        ],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    assert run_command("--mode=encode", f"--workdir={workdir}") == 2
    assert f"encode is being written by process {holder.pid}" in capsys.readouterr().err
    holder.communicate("")
    assert run_command("--mode=encode", f"--workdir={workdir}") == 0
    shutil.rmtree(workdir / "encode")


# Checksums.


def test_any_changed_word_changes_the_checksum():
    rng = np.random.default_rng(0)
    tree = {
        "float32": rng.standard_normal((16, 40, 24)).astype(np.float32),
        "bfloat16": jax.numpy.asarray(rng.standard_normal(7), jax.numpy.bfloat16),
        "float64": np.arange(6.0).reshape(2, 3),
        "int32": np.int32(3),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    before = checksums(tree)
    for name, value in tree.items():
        for k in range(0, np.asarray(value).nbytes, 997):
            changed = np.array(value)
            changed.reshape(-1).view(np.uint8)[k] ^= 1 << k % 8
            assert differing(before, checksums({**tree, name: changed})) == [name]
    assert differing(before, checksums({k: tree[k] for k in tree if k != "bool"})) == ["bool"]
    moved = {**tree, "float64": tree["float64"].reshape(3, 2)}
    assert differing(before, checksums(moved)) == ["float64"]


def test_checksums_do_not_depend_on_the_devices(tmp_path):
    tree = {"a": np.random.default_rng(0).standard_normal((64, 40, 24)).astype(np.float32)}
    mesh = sharding.make_mesh(1)
    on_devices = jax.device_put(tree, sharding.over_fsdp(mesh, tree))
    assert checksums(on_devices) == checksums(tree)
    done = run_program("checksums_of_shards", devices=8)
    assert done.stdout.split("\n")[0] == str(checksums(tree))


@pytest.mark.slow
def test_whatever_is_damaged_is_named_or_harmless(tmp_path):
    """One bit in any file, a file cut short, a file gone: never other arrays, never pages."""
    home = Workdir.create(tmp_path / "run")
    assert train(home, "dpm", arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    whole = checksums(home.weights())
    folder = home.path / "dpm"
    files = [f for f in (folder / "2").rglob("*") if f.is_file() and f.parents[0].name != "train"]
    refused = 0
    for file in files:
        content = file.read_bytes()
        damages = [content[: len(content) // 2], None]
        for k in np.linspace(0, len(content) - 1, 3).astype(int) if content else ():
            damages.append(content[:k] + bytes([content[k] ^ 4]) + content[k + 1 :])
        for damage in damages:
            file.unlink() if damage is None else file.write_bytes(damage)
            try:
                assert checksums(Workdir(home.path).weights()) == whole, file
            except ValueError as error:
                refused += 1
                assert str(error).startswith(f"the checkpoint {folder / '2'} is damaged ("), error
                assert str(error).endswith(
                    f"{folder / '1'} is whole: move the damaged one away to use it"
                )
            file.write_bytes(content)
    assert refused > len(files)
    assert checksums(Workdir(home.path).weights()) == whole


@pytest.mark.parametrize("item", ["ema", "train"])
def test_a_flipped_bit_is_named_with_its_array(workdir, tmp_path, item, capsys):
    shutil.copytree(workdir / "dpm", tmp_path / "dpm")
    data = max((tmp_path / "dpm" / "2" / item).rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with Checkpoints(tmp_path / "dpm") as checkpoints:
        ema = checkpoints.shapes(2)
        assert checkpoints.restore(2, ema=ema) if item == "train" else True
    if item == "ema":
        with pytest.raises(ValueError, match=r"dpm/2 is damaged \(dpm/\S+ of 'ema' is not what"):
            Workdir(tmp_path).weights()
    else:  # what is resumed from
        assert run_resumed(tmp_path) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.search(r"dpm/2 is damaged \(\S+/dpm/\S+ of 'train' is not what was saved", said)


def run_resumed(path) -> int:
    arch = [
        f"--config.model.{name}={getattr(DIGITS_ARCH, name)}"
        for name in ("base", "mult", "attention", "heads", "z_size", "encoder_widths")
    ]
    return run_command(
        "--config=configs/digits.py:dpm", *arch, f"--workdir={path}", "--config.dpm.steps=3",
        "--config.dpm.batch_size=16",
    )  # fmt: skip


@pytest.mark.slow
def test_a_file_cut_short_is_one_line_of_the_command(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    data = max((tmp_path / "run/pdae/2/ema").rglob("*"), key=lambda f: f.stat().st_size)
    os.truncate(data, data.stat().st_size // 3)
    done = subprocess.run(
        [sys.executable, "-m", "pdae_jax.main", "--mode=encode", f"--workdir={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "pdae/2 is damaged (" in done.stderr


# A disk that fills up.


@pytest.mark.slow
def test_a_save_that_finds_no_room_is_one_line(tmp_path):
    """What is partial goes, and the last whole checkpoint loads and is gone on from."""
    home = Workdir.create(tmp_path)
    assert run_command(*TINY_RUN, f"--workdir={home}", "--config.dpm.steps=2") == 0
    line = (*TINY_RUN, f"--workdir={home}", "--config.dpm.steps=4", "--compilation_cache=")
    done = run_program("full_disk", 100_000, *line, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert re.search(
        r"a checkpoint could not be written in .*/dpm \(.*File too large\); that of step 2 is "
        r"whole: make room and re-run", said
    ), done.stderr  # fmt: skip
    assert {path.name for path in (tmp_path / "dpm").iterdir() if path.is_dir()} <= {"1", "2"}
    assert Workdir(tmp_path).weights(["dpm"])
    assert run_command(*TINY_RUN, f"--workdir={home}", "--config.dpm.steps=4") == 0
    assert Workdir(tmp_path).latest_steps == {"dpm": 4}
