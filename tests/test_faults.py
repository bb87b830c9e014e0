"""What goes wrong outside of us: two runs at once, damaged files, full disks."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet
import pytest
from helpers import DIGITS_ARCH, ROOT, environment, run_command, run_program
from PIL import Image

import pdae_jax
from pdae_jax.data.dataset import Data
from pdae_jax.metrics import lpips
from pdae_jax.runtime import progress, sharding
from pdae_jax.runtime.paths import local
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir import lock
from pdae_jax.workdir.checksums import checksums, differing
from pdae_jax.workdir.code_table import CodeTable
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
    assert refused > len(files) // 2  # Orbax writes some that hold nothing, how many varies
    assert checksums(Workdir(home.path).weights()) == whole


@pytest.mark.parametrize("item", ["ema", "train"])
def test_a_flipped_bit_is_named_with_its_array(workdir, tmp_path, item, capsys):
    shutil.copytree(workdir / "dpm", tmp_path / "dpm")
    data = max((tmp_path / "dpm" / "2" / item).rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    if item == "ema":
        with pytest.raises(ValueError, match=r"dpm/2 is damaged \(dpm/\S+ of 'ema' is not what"):
            Workdir(tmp_path).weights()
    else:  # what is resumed from, while what is used is whole
        assert Workdir(tmp_path).weights()
        assert run_resumed(tmp_path) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.search(r"dpm/2 is damaged \(\S+/dpm/\S+ of 'train' is not what was saved", said)


def run_resumed(path) -> int:
    arch = [
        f"--config.model.{name}={getattr(DIGITS_ARCH, name)}"
        for name in ("patch", "base", "mult", "attention", "heads", "z_size", "encoder_widths")
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


# Broken pictures.


@pytest.fixture
def half_broken(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(14):
        file = folder / f"{k:02d}.png"
        Image.fromarray(np.full((9, 9), 15 * k, np.uint8)).save(file)
        if k in (3, 8):
            file.write_bytes(file.read_bytes()[:30])
    return folder


def test_broken_pictures_are_named_everywhere_and_have_no_rows(
    workdir, half_broken, tmp_path, capsys
):
    bad = [str(half_broken / name) for name in ("03.png", "08.png")]
    line = ["--mode=encode", f"--workdir={workdir}", f"--images={half_broken}"]
    line += ["--format=npz,parquet"]
    assert run_command(*line, f"--out={tmp_path / 'a'}") == 0
    said = capsys.readouterr().err
    table = CodeTable(tmp_path / "a").read()
    assert table.z.shape == (12, 8) and np.isfinite(table.z).all() and len(table.where) == 12
    assert table.broken[:, 0].tolist() == bad and not set(bad) & set(table.where)
    listed = (tmp_path / "a" / "broken.tsv").read_text()
    page = (tmp_path / "a" / "index.html").read_text()
    for path, why in table.broken:
        assert f"broken picture skipped: {path} ({why})" in said
        assert f"{path}\t{why}\n" in listed and path in page and why
    rows = pyarrow.parquet.read_table(tmp_path / "a" / "codes.parquet")
    assert rows.num_rows == 12 and not {"03.png", "08.png"} & set(rows["path"].to_pylist())
    numbers = json.loads((tmp_path / "a" / "numbers.json").read_text())["numbers"]
    assert numbers == {"pictures": 12, "broken": 2, "numbers in z": 8}

    assert run_command(*line, "--keep_broken", f"--out={tmp_path / 'a'}") == 0
    kept = CodeTable(tmp_path / "a").read()
    assert kept.z.shape == (14, 8) and np.isnan(kept.z).any(1).nonzero()[0].tolist() == [3, 8]
    for file in bad:
        os.remove(file)
    capsys.readouterr()
    assert run_command(*line, f"--out={tmp_path / 'b'}") == 0
    assert not (tmp_path / "b" / "broken.tsv").exists() and "broken" not in capsys.readouterr().err


def test_scores_are_means_over_the_pictures_that_could_be_read(workdir, half_broken, tmp_path):
    line = ["--mode=evaluate", f"--workdir={workdir}", "--steps=2", "--invert_steps=2"]
    found = []
    for out, images in (("a", half_broken), ("b", "{0}/0[0-24-7].png,{0}/09.png,{0}/1*.png")):
        images = str(images).format(half_broken)
        assert run_command(*line, f"--images={images}", f"--out={tmp_path / out}") == 0
        found.append(json.loads((tmp_path / out / "numbers.json").read_text())["numbers"])
    assert (found[0]["n"], found[0]["broken"]) == (12, 2) and found[1]["broken"] == 0
    means = [one["reconstruction"]["z, inferred x_T"]["mse"] for one in found]
    np.testing.assert_allclose(*means, rtol=1e-4)


# Small files, and interruptions.


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text", b"PK\x03\x04"])
def test_a_file_of_nothing_is_named(workdir, tmp_path, content, capsys):
    file, metrics = tmp_path / "some.npy", tmp_path / "metrics"
    file.write_bytes(content)
    shapes = {name: np.zeros(shape, np.float32) for name, shape in lpips.head_shapes().items()}
    Workdir.create(metrics).save_weights({"lpips": shapes})
    for line in (
        ["--mode=manipulate", f"--direction={file}"],
        ["--mode=evaluate", f"--reference={file}", f"--metrics={metrics}"],
    ):
        assert run_command(*line, f"--workdir={workdir}", f"--out={tmp_path / 'out'}") == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "some.npy is no " in said


@pytest.mark.slow
def test_an_interruption_is_one_line(workdir, tmp_path):
    """While it is imported, while it loads, compiles, and in the midst of its work."""
    line = ["--mode=generate", f"--workdir={workdir}", "--n=100000", f"--out={tmp_path / 'out'}"]
    for seconds in (0.3, 1, 2, 3, 4, 6, 9):
        process = subprocess.Popen(
            [sys.executable, "-m", "pdae_jax.main", *line],
            env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # of a background job
        )  # fmt: skip
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        assert process.returncode == 130, said
        lines = [line for line in said.splitlines() if line and "compil" not in line]
        assert lines == ["pdae_jax: interrupted; the same command goes on from there"]


def test_health_lines_draw_anew(tmp_path):
    """The same networks and batch at two steps: other t and eps."""
    from pdae_jax.networks.groups import Networks
    from pdae_jax.schedule import linear
    from pdae_jax.training.loop import Loop
    from pdae_jax.training.objectives import OBJECTIVES

    net = Networks(DIGITS_ARCH)
    params = jax.jit(lambda: net.init(jax.random.key(0), ("dpm", "encoder", "gradient")))()
    loop = Loop(OBJECTIVES["pdae"], net, linear(), Settings(), sharding.make_mesh(1))
    batch = {"image": np.full((4, 8, 8, 1), 100, np.uint8)}
    rng, health = jax.random.key(0), loop.health_fn()
    assert health is not None
    lines = [float(health(params, {}, batch, rng, k)["loss_own_z"]) for k in (10, 10, 20)]
    assert lines[0] == lines[1] != lines[2]


def test_long_work_says_how_far_it_is_where_there_is_no_terminal(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("encode", total=1000) as some:
        for _ in range(10):
            now[0] += 20
            some.update(100)
    for _ in progress.bar("short", range(3)):
        now[0] += 1
    for _ in progress.bar("without an end", iter(range(2))):
        now[0] += 40
    assert capfd.readouterr().err.splitlines() == [
        "encode: 200/1000 after 0:40, 2:40 left",
        "encode: 400/1000 after 1:20, 2:00 left",
        "encode: 600/1000 after 2:00, 1:20 left",
        "encode: 800/1000 after 2:40, 0:40 left",
        "without an end: 1 after 0:40",
        "without an end: 2 after 1:20",
    ]


# Addresses of buckets.


@pytest.mark.parametrize(
    "args",
    [
        ["--config=configs/digits.py", "--workdir=gs://bucket/run/a"],
        ["--config=configs/digits.py", "--config.data.name=folder:gs://bucket/run/a"],
        ["--config=configs/digits.py", "--config.data.name=lmdb:gs://bucket/run/a"],
        ["--config=configs/digits.py", "--config.data.name=gs://bucket/run/a"],
        ["--config=configs/digits.py:pdae", "--config.pretrained=gs://bucket/run/a"],
        ["--mode=encode", "--workdir=gs://bucket/run/a"],
        ["--mode=encode", "--workdir={run}", "--images=gs://bucket/run/a"],
        ["--mode=encode", "--workdir={run}", "--out=gs://bucket/run/a"],
        ["--mode=encode", "--workdir={run}", "--images={run}", "--labels=gs://bucket/run/a"],
        ["--mode=evaluate", "--workdir={run}", "--metrics=gs://bucket/run/a"],
    ],
)
def test_a_buckets_address_is_refused_with_what_to_mount(
    workdir, tmp_path, args, capsys, monkeypatch
):
    configs = ROOT / "configs"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(configs)
    assert run_command(*(one.format(run=workdir) for one in args)) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == (
        "pdae_jax: gs://bucket/run/a is an address, and only folders of this machine are used: "
        "mount it (gcsfuse --implicit-dirs --rename-dir-limit=100000 bucket FOLDER) and give "
        "FOLDER/run/a"
    )
    assert not (tmp_path / "gs:").exists() and not (workdir / "gs:").exists()


def test_paths_of_this_machine_are_taken(tmp_path):
    assert local("~/a") == Path.home() / "a" and local(tmp_path) == tmp_path
    assert local("C:/pictures") == Path("C:/pictures") and local("a:b") == Path("a:b")
    with pytest.raises(ValueError, match="s3://b/c is an address.*mount it as a folder, or copy"):
        local("s3://b/c")


# What a person types, and tables.


def test_a_table_that_says_two_things_is_refused(half_broken, tmp_path):
    table = tmp_path / "table.csv"
    for text, message in [
        ("name,a,b,a\n00.png,1,0,0\n", "table.csv has two columns named 'a'"),
        ("name,a\n00.png,1\n00.png,0\n", "table.csv has two lines for one picture, '00.png'"),
    ]:
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            Data(f"folder:{half_broken}", attributes=str(table)).open("all")
    table.write_text("name,a\n00.png,1\n01.png,0\n")
    with pytest.warns(UserWarning, match="table.csv has no line for 12 of 14 pictures"):
        Data(f"folder:{half_broken}", attributes=str(table)).open("all")


@pytest.mark.parametrize(
    "args, says",
    [
        (["--mode=encode", "--workdir={run}", "--images="], "--images= is empty: give a value"),
        (["--mode=encode", "--workdir={run}", "--images={run},{run}"], "is a folder, and one of s"),
        (["--config=configs/digits.py", "--config.stages=()"], "config.stages is empty: give some"),
    ],
)
def test_what_would_do_nothing_is_refused(workdir, tmp_path, args, says, capsys):
    args = [one.format(run=workdir) for one in args]
    args += [] if "--mode=encode" in args else [f"--workdir={tmp_path}"]
    assert run_command(*args) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_attention_that_no_level_has_is_said(tmp_path, capsys):
    arch = dataclasses.replace(DIGITS_ARCH, attention=(16,))
    assert train(tmp_path, "dpm", arch=arch, data=DIGITS, settings=QUICK)
    assert "attention = (16,), and no level has maps of 16 pixels: they have 8" in (
        capsys.readouterr().err
    )


def test_a_damaged_table_of_codes_is_named(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    line = ["--mode=probe", f"--workdir={tmp_path / 'run'}", "--folds=0"]
    assert run_command(*line) == 0
    table = tmp_path / "run/codes/train/codes.npz"
    content = bytearray(table.read_bytes())
    content[3000] ^= 1
    for damage in (content, content[:100], b""):
        table.write_bytes(damage)
        capsys.readouterr()
        assert run_command(*line) == 2
        said = capsys.readouterr().err
        assert f"{table} is damaged (" in said and said.count("\n") == 1
    table.unlink()
    assert run_command(*line) == 0


def test_a_file_with_a_wrong_value_is_named(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    model = tmp_path / "run" / "model.json"
    model.write_text(model.read_text().replace('"base": 32', '"base": "32"'))
    with pytest.raises(ValueError, match="model.json does not hold what it should: base must be"):
        pdae_jax.load(tmp_path / "run")


# What is derived follows what it was made of.


def test_codes_follow_the_pictures_files(workdir, half_broken, tmp_path):
    """Another picture in the folder, or another one under the same name: encoded again."""
    line = ["--mode=encode", f"--workdir={workdir}", f"--images={half_broken}"]
    line += ["--format=npz,parquet"]
    line += [f"--out={tmp_path / 'out'}"]
    for n in (12, 13):
        assert run_command(*line) == 0
        before = CodeTable(tmp_path / "out").read()
        assert len(before.z) == n
        Image.fromarray(np.full((9, 9), 99, np.uint8)).save(half_broken / "99.png")
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(half_broken / "00.png")
    assert run_command(*line) == 0
    after = CodeTable(tmp_path / "out").read()
    assert np.abs(after.z[0] - before.z[0]).max() > 1e-6
    np.testing.assert_array_equal(after.z[1:], before.z[1:])


def test_a_stage_that_was_trained_anew_is_not_the_one_before(tmp_path):
    """The same step, other weights: codes, latent model and pages are made again."""
    home = Workdir.create(tmp_path)
    for objective in ("dpm", "pdae", "latent"):
        assert train(home, objective, arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    before, codes = home.contents, home.code_table("train").read()
    shutil.rmtree(tmp_path / "pdae")
    home = Workdir(tmp_path)
    assert train(home, "pdae", arch=DIGITS_ARCH, data=DIGITS, settings=QUICK, seed=7)
    assert home.stale == ("latent",) and home.contents["pdae"] != before["pdae"]
    assert home.contents["pdae"][0] == before["pdae"][0] and home.contents["dpm"] == before["dpm"]
    assert train(home, "latent", arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    assert home.stale == () and home.statistics_are_current
    assert np.abs(home.code_table("train").read().z - codes.z).max() > 1e-3


def test_records_of_steps_alone_are_of_the_versions_before(workdir, tmp_path):
    """A workdir without checksums, whose records name steps: nothing is made again."""
    shutil.copytree(workdir, tmp_path / "run")
    steps = Workdir(tmp_path / "run").latest_steps
    for folder in (tmp_path / "run").glob("*/*/checksums"):
        shutil.rmtree(folder)
    for name in ("statistics", "latent", "classifier"):
        record = tmp_path / "run" / name / "cache_key.json"
        kept = json.loads(record.read_text())
        kept["checkpoints"] = {k: steps[k] for k in kept["checkpoints"]}
        record.write_text(json.dumps(kept))
    home = Workdir(tmp_path / "run")
    assert home.stale == () and home.statistics_are_current and home.weights()


@pytest.mark.parametrize("damage", ["ema", "checksums/metadata", "name", "record"])
def test_what_was_moved_or_edited_is_named(workdir, tmp_path, damage):
    shutil.copytree(workdir, tmp_path / "run")
    step = tmp_path / "run" / "pdae" / "2"
    if damage == "ema":
        shutil.rmtree(step / "ema")
    elif damage == "name":
        step.rename(step.parent / "best")
    elif damage == "record":
        (tmp_path / "run" / "latent" / "cache_key.json").write_text("[]")
    else:
        (step / damage).write_text("[1]")
    with pytest.raises(ValueError) as error:
        pdae_jax.load(tmp_path / "run")
    assert str(tmp_path / "run") in str(error.value) and "\n" not in str(error.value)


def test_a_line_that_a_kill_cut_off_goes(tmp_path):
    home = Workdir.create(tmp_path)
    assert train(home, "dpm", arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    for name in ("settings.jsonl", "time.jsonl", "metrics.jsonl"):
        with (tmp_path / "dpm" / name).open("a") as file:
            file.write('{"step": 4, "se')
    longer = dataclasses.replace(QUICK, steps=3)
    for _ in range(2):
        assert train(tmp_path, "dpm", arch=DIGITS_ARCH, data=DIGITS, settings=longer)
    records = home.records("dpm")
    assert records.settings()["steps"] == 3 and records.seconds() > 0
