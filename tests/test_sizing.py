"""Sizes that are chosen by the pictures and the machine, and how long they are said to take."""

import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, ROOT, run_command
from PIL import Image

from pdae_jax.commands import choosing
from pdae_jax.config import complete, description, field_names, load_config, load_module
from pdae_jax.cost import duration, forecast, sizing
from pdae_jax.cost.sizing import Pictures, Wishes
from pdae_jax.data.dataset import Data
from pdae_jax.data.source import binary
from pdae_jax.main import parse
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import machine as machine_lib
from pdae_jax.runtime import sharding
from pdae_jax.runtime.machine import Machine
from pdae_jax.schedule import SCHEDULES
from pdae_jax.training import memory
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import compiled_step
from pdae_jax.training.trainer import TOO_UNTRAINED
from pdae_jax.workdir.workdir import Workdir

LAPTOP = Machine("cpu", 1, 2, 16e9, 150e9)
WORKSTATION = Machine("cpu", 1, 32, 64e9, 2e12)
GPU = Machine("NVIDIA H100 80GB HBM3", 1, 16, 70e9, 600e12)
EIGHT = GPU._replace(devices=8)
FEW, MANY = Pictures(180, 20, 500, 3), Pictures(90_000, 10_000, 500, 3)
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def seconds(plan, machine):
    """Of both stages on pictures."""
    return sum(
        duration.training_seconds(stage, plan.arch, settings, machine)
        for stage, settings in plan.settings.items()
    )


@pytest.mark.parametrize(
    "machine, side, base, levels, precision",
    [
        (LAPTOP, 32, 64, 2, "float32"),
        pytest.param(WORKSTATION, 64, 64, 3, "float32", marks=pytest.mark.nightly),
        (GPU, 64, 64, 4, "bfloat16"),
        pytest.param(EIGHT, 64, 64, 4, "bfloat16", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("pictures", [pytest.param(FEW, marks=pytest.mark.nightly), MANY])
@pytest.mark.slow
def test_a_faster_machine_trains_larger_networks(machine, side, base, levels, precision, pictures):
    plan = sizing.choose(pictures, machine, Wishes(), {})
    assert plan.arch.image_shape == (side, side, 3)
    assert (plan.arch.base, len(plan.arch.mult)) == (base, levels)
    assert plan.precision == precision
    assert seconds(plan, machine) <= 3 * 3600
    assert plan.memory(machine.devices) <= sizing.MEMORY * machine.memory
    for settings in plan.settings.values():
        assert settings.ema**settings.steps < TOO_UNTRAINED
        assert settings.batch_size % (machine.devices * settings.accumulate) == 0
        assert settings.log_every <= settings.steps >= settings.save_every


@pytest.mark.slow
def test_more_pictures_and_more_hours_bring_more_steps():
    few, many = (sizing.choose(some, LAPTOP, Wishes(), {}) for some in (FEW, MANY))
    assert few.settings["dpm"].steps < many.settings["dpm"].steps
    assert few.affordable > few.wanted and many.affordable < many.wanted
    assert seconds(few, LAPTOP) < 2 * 3600 < seconds(many, LAPTOP)
    twice = LAPTOP._replace(flops=2 * LAPTOP.flops)
    for longer in (
        sizing.choose(MANY, LAPTOP, Wishes(hours=6), {}),
        sizing.choose(MANY, twice, Wishes(), {}),
    ):
        assert 1.8 < longer.affordable / many.affordable < 2.5


@pytest.mark.slow
def test_sizes_by_name():
    small = sizing.choose(MANY, GPU, Wishes("small"), {})
    assert small.arch.image_shape == (64, 64, 3) and small.arch.patch == 2
    paper = sizing.choose(FEW, LAPTOP, Wishes("paper"), {})
    assert paper.arch.mult == (1, 2, 4, 8) and paper.arch.z_size == 512
    for settings in paper.settings.values():
        assert (settings.steps, settings.batch_size) == (100_000, 128)
        assert settings.accumulate > 1  # 28 GB with 128 pictures at once
    assert seconds(paper, LAPTOP) > 100 * 86400
    with pytest.raises(ValueError, match="accumulate = 1 wants 28.* GB .*accumulate=2"):
        sizing.choose(FEW, LAPTOP, Wishes("paper"), {"dpm.accumulate": 1})


def test_what_is_given_is_kept_and_the_rest_suits_it():
    given = {
        "model.image_shape": (48, 96, 1),
        "model.base": 32,
        "dpm.steps": 40,
        "pdae.batch_size": 24,
        "pdae.ema": 0.5,
        "precision": "bfloat16",
    }
    plan = sizing.choose(FEW, LAPTOP, Wishes("small"), given)
    fields = plan.fields()
    assert {name: fields[name] for name in given} == given
    assert fields["dpm.ema"] ** 40 < TOO_UNTRAINED and fields["dpm.log_every"] == 1
    assert {*fields, "stages"} == set(sizing.FIELDS)


def test_small_pictures_have_small_networks_on_any_machine():
    plan = sizing.choose(Pictures(1400, 360, 8, 1), GPU, Wishes(), {})
    assert plan.arch.image_shape == (8, 8, 1) and plan.arch.z_size == 32
    assert plan.arch.mult == (1, 2)


@pytest.mark.parametrize("side", [4, 8, 16, 20, 24, 28, 30, 31, 32, 48, 50, 64, 96, 128, 200, 256])
def test_any_size_of_pictures_has_networks(side):
    for tier in sizing.TIERS:
        for shape in ((side, side, 3), (side, side + 4, 1)):
            arch = sizing.architecture(tier, FEW, {"model.image_shape": shape})
            assert arch.image_shape == shape
    small = sizing.architecture(sizing.TIERS[0], FEW._replace(side=side), {})
    assert side <= small.image_shape[0] <= max(2 * side, 8) or small.image_shape[0] == 32


def test_memory_decides_the_micro_batches():
    need = sizing.need("pdae", sizing.choose(FEW, LAPTOP, Wishes(), {}).arch, "float32", False)
    tight = LAPTOP._replace(memory=(need.fixed + 20 * need.image) / sizing.MEMORY)
    plan = sizing.choose(FEW, tight, Wishes(), {})
    assert plan.settings["pdae"].accumulate == 4 and plan.settings["pdae"].batch_size == 64
    kept = sizing.choose(FEW, LAPTOP, Wishes(), {}, parts={"pdae": 8})
    assert kept.settings["pdae"].accumulate == 8 and kept.settings["dpm"].accumulate == 1
    with pytest.raises(ValueError, match="wants .* GB of memory, .* are free; set .*remat=True"):
        sizing.choose(FEW, LAPTOP._replace(memory=need.fixed), Wishes(), {})


@pytest.mark.parametrize("objective", ["dpm", "pdae"])
def test_memory_is_what_the_compiler_allots(objective):
    batch = 32
    need = memory.need(objective, DIGITS_ARCH)
    cost = forecast.train_step(
        objective, DIGITS_ARCH, Settings(batch_size=batch), jax.devices()[:1]
    )
    assert 0.6 < need.image * batch / cost.temporary < 1.6
    # Gradients are in it, and no argument.
    assert need.fixed / 1.4 < cost.arguments < need.fixed
    assert memory.need(objective, DIGITS_ARCH, remat=True).image < 0.7 * need.image
    half = Settings(batch_size=batch, accumulate=2)
    assert need.of(half, 2) == need.fixed + need.image * batch // 4


def test_free_memory_is_the_least_of_host_and_groups(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert machine_lib.free_memory(tmp_path / "nothing") > 1e8
    write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   4000 kB\n")
    assert machine_lib.free_memory(tmp_path) == 4000 * 1024
    write("proc/self/cgroup", "4:memory:/a/b\n0::/c\n")
    assert machine_lib.free_memory(tmp_path) == 4000 * 1024
    group = "sys/fs/cgroup/memory/a"
    write(f"{group}/memory.limit_in_bytes", "3000000\n")
    write(f"{group}/memory.usage_in_bytes", "1000000\n")
    write(f"{group}/memory.stat", "cache 9\ntotal_inactive_file 400000\n")
    assert machine_lib.free_memory(tmp_path) == 2_400_000
    write("sys/fs/cgroup/c/memory.max", "max\n")
    write("sys/fs/cgroup/c/memory.current", "5\n")
    write("sys/fs/cgroup/c/memory.stat", "inactive_file 0\n")
    assert machine_lib.free_memory(tmp_path) == 2_400_000
    write("sys/fs/cgroup/c/memory.max", "1000005\n")
    assert machine_lib.free_memory(tmp_path) == 1_000_000


def test_this_machine():
    found = machine_lib.measured()
    assert found.is_cpu == (jax.default_backend() == "cpu") and found.devices == jax.device_count()
    assert 1e8 < found.flops < 1e16 and found.memory > 1e8 and found.cores >= 1
    assert "FLOP/s" in str(found)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_step_takes_as_long_as_is_said():
    """Seconds of real steps against the arithmetic, each beside its own matmul: median of five.

    Within a factor of ten, as other tests run beside it; on a quiet machine it is two.
    """
    arch, settings = sizing.architecture(sizing.TIERS[0], Pictures(9, 1, 8, 3), {}), Settings()
    row, net, mesh = OBJECTIVES["dpm"], Networks(arch), sharding.make_mesh(1, jax.devices()[:1])
    params = jax.jit(lambda: net.init(jax.random.key(0), row.trains))()
    state = TrainState.create(params, settings.optimizer())
    schedule, rng = SCHEDULES["linear"](arch.T), jax.random.key(1)
    step = compiled_step(row, net, schedule, settings, mesh, state, {}, dropout=True)
    batch = {"image": jnp.zeros((settings.batch_size, *arch.image_shape), jnp.uint8)}
    state, metrics = jax.block_until_ready(step(state, {}, batch, rng))
    ratios = []
    for _ in range(5):
        machine = Machine("cpu", 1, 1, 1e9, machine_lib.matmul_flops("float32", 1024))
        began = time.perf_counter()
        for _ in range(3):
            state, metrics = jax.block_until_ready(step(state, {}, batch, rng))
        took = (time.perf_counter() - began) / 3
        said = settings.batch_size * duration.example_seconds("dpm", arch, machine)
        ratios.append(said / took)
    assert 0.1 < statistics.median(ratios) < 10, ratios


def test_time_in_words():
    for number, words in {40: "40 s", 720: "12 min", 5400: "1.5 h", 216_000: "2.5 days"}.items():
        assert duration.in_words(number) == words
    said = duration.line({"dpm": 720, "pdae": 0, "report": 40})
    assert said == "expected: dpm 12 min, report 40 s; about 13 min in all"


# What is chosen for a folder of pictures, and kept.


def write_pictures(folder, n, shape=(20, 24, 3)):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for i in range(n):
        pixels = rng.integers(0, 256, shape, np.uint8).squeeze()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def write_table(path, n):
    rows = [f"{i}.png,{i % 2},{i}" for i in range(n)]
    path.write_text("\n".join(["file,odd,number", *rows]))
    return path


def chosen(workdir, folder, *flags, variant="", machine=None, monkeypatch=None):
    """The config of a command line, completed."""
    if machine:
        monkeypatch.setattr(machine_lib, "measured", lambda precision: machine)
    file = ROOT / "configs" / "folder.py"
    line = [f"--config={file}{variant}", f"--workdir={workdir}"]
    parsed = parse(["x", *line, f"--config.data.name=folder:{folder}", *flags])
    complete(load_module(str(file)), parsed.config, parsed.given, parsed.workdir)
    return parsed.config


def test_pictures_are_looked_at(tmp_path):
    folder = write_pictures(tmp_path / "p", 20)
    table = write_table(tmp_path / "table.csv", 20)
    data = Data(f"folder:{folder}", attributes=str(table))
    assert choosing.look_at(data) == Pictures(18, 2, 20, 3, ("odd",))
    (folder / "0.png").write_bytes(b"broken")
    assert choosing.look_at(data)[:4] == (18, 2, 20, 3)
    grey = write_pictures(tmp_path / "grey", 4, (30, 30, 1))
    assert choosing.look_at(Data(f"folder:{grey}")) == Pictures(4 - 1, 1, 30, 1)
    assert choosing.look_at(Data(f"folder:{grey}", test_fraction=0)).held_out == 0
    for file in grey.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="can be read"):
        choosing.look_at(Data(f"folder:{grey}"))


def test_yes_and_no_are_told_from_numbers():
    labels = np.array([[0, 1, 2, np.nan], [1, 1, 0, 1], [np.nan, 1, 1, 0]], np.float32)
    assert binary(labels) == [0, 3] and binary(labels[:, :0]) == []


def test_attributes_bring_the_classifier(tmp_path, monkeypatch, capsys):
    folder = write_pictures(tmp_path / "p", 20)
    how = {"machine": LAPTOP, "monkeypatch": monkeypatch}
    table = f"--config.data.attributes={write_table(tmp_path / 'table.csv', 20)}"
    everything = ("dpm", "pdae", "latent", "classifier", "report")
    assert chosen(tmp_path / "run", folder, table, **how).stages == everything
    plain = chosen(tmp_path / "run", folder, **how)
    assert plain.stages == ("dpm", "pdae", "latent", "report")
    assert plain.model.image_shape == (32, 32, 3)  # the next size above the pictures' 20
    said = capsys.readouterr().err
    for words in ("18 pictures and 2 held out", "1 attributes", "2 cores, 16.0 GB free"):
        assert words in said
    assert "--config.hours=3" in said and "in all" in said
    alone = chosen(tmp_path / "run", folder, variant=":small:pdae", **how)
    assert alone.stages == ("pdae",) and alone.model == plain.model
    flag = "--config.stages=('dpm','pdae')"
    assert chosen(tmp_path / "run", folder, flag, **how).stages == ("dpm", "pdae")
    # What a stage that is left out would have read is refused, as everywhere.
    line = [f"--config={ROOT / 'configs' / 'folder.py'}", f"--config.data.name=folder:{folder}"]
    line += [f"--workdir={tmp_path / 'run'}", "--config.classifier.steps=3"]
    assert run_command(*line) == 2
    assert "the stages are dpm, pdae, latent, report" in capsys.readouterr().err


TINY = [
    "--config.model.image_shape=(8,8,3)",
    "--config.model.base=32",
    "--config.model.mult=(1,)",
    "--config.model.attention=()",
    "--config.model.encoder_widths=(32,)",
    "--config.dpm.batch_size=8",
    "--config.dpm.steps=2",
]


@pytest.mark.slow
def test_a_resumed_run_keeps_what_was_chosen_first(tmp_path, monkeypatch, capsys):
    folder, run = write_pictures(tmp_path / "p", 20), tmp_path / "run"
    line = [f"--config.data.name=folder:{folder}", f"--workdir={run}"]
    config = f"--config={ROOT / 'configs' / 'folder.py'}"
    monkeypatch.setattr(machine_lib, "measured", lambda precision: LAPTOP)
    assert run_command(f"{config}:dpm", *line, *TINY) == 0
    first = json.loads((run / "config.json").read_text())
    write_pictures(folder, 23)  # a few more
    later = {"machine": EIGHT._replace(devices=1), "monkeypatch": monkeypatch}
    capsys.readouterr()
    second = chosen(run, folder, **later)
    assert "as before" in capsys.readouterr().err
    for section in ("model", "dpm", "pdae"):
        assert json.loads(second[section].to_json()) == first[section]
    assert second.precision == first["precision"] == "float32"
    # A flag decides all the same, and other hours choose the steps anew: not the networks.
    assert chosen(run, folder, "--config.dpm.steps=9", **later).dpm.steps == 9
    more = chosen(run, folder, "--config.hours=5", **later)
    assert more.model == second.model and more.dpm.steps > second.dpm.steps
    assert more.dpm.batch_size == 8
    # Less memory: more micro-batches, which change nothing that is learnt.
    need = sizing.need("pdae", Workdir(run).architecture, "float32", False)
    later["machine"] = LAPTOP._replace(memory=(need.fixed + 20 * need.image) / sizing.MEMORY)
    assert chosen(run, folder, **later).pdae.accumulate == 4
    with pytest.raises(ValueError, match="trained with other sizes than :paper"):
        chosen(run, folder, variant=":paper", **later)


def test_a_pretrained_model_decides_the_networks(workdir, tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "p", 20, (8, 8, 1))
    flag = f"--config.pretrained={workdir}"
    config = chosen(tmp_path / "run", folder, flag, machine=GPU, monkeypatch=monkeypatch)
    assert config.stages == ("pdae", "latent", "report")
    assert config.model.to_dict() == DIGITS_ARCH.to_dict()


def test_what_is_left_is_expected_and_nothing_where_all_is_done(workdir, tmp_path):
    flags = [f"--config.{stage}.steps=1" for stage in ("dpm", "pdae")]
    parsed = parse(
        ["x", f"--config={ROOT / 'configs' / 'folder.py'}", f"--workdir={workdir}", *flags]
    )
    config = parsed.config
    (workdir / "config.json").write_text(config.to_json_best_effort())
    config.data.name = f"folder:{write_pictures(tmp_path / 'p', 20, (8, 8, 1))}"
    began = time.perf_counter()
    found = choosing.choose(config, parsed.given, workdir)
    assert time.perf_counter() - began < 2  # nothing is measured
    assert found["model.base"] == DIGITS_ARCH.base and "dpm.steps" not in found
    arch, settings = DIGITS_ARCH, Settings(steps=100)
    whole, half, none = (
        duration.training_seconds("latent", arch, settings, LAPTOP, done) for done in (0, 50, 100)
    )
    assert whole > half > none == 0


@pytest.mark.parametrize(
    "args, says",
    [
        (["--config.sizes=smal"], "no sizes 'smal'; did you mean 'small'"),
        (["--config.hours=0"], "hours must be above 0"),
        (["--config.precision=bfloat61"], "did you mean 'bfloat16'"),
        (["--config.model.image_shape=(8,8)"], "image_shape must be"),
        (["--config.dpm.batch_size=0"], "batch_size must be at least 1, got 0"),
        (["--config.dpm.steps=0"], "steps must be at least 1, got 0"),
    ],
)
def test_bad_wishes_are_one_line(args, says, tmp_path, capsys):
    folder = write_pictures(tmp_path / "p", 20, (8, 8, 1))
    line = [f"--config={ROOT / 'configs' / 'folder.py'}", f"--workdir={tmp_path / 'run'}"]
    assert run_command(*line, f"--config.data.name=folder:{folder}", *args) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert says in error and not (tmp_path / "run").exists()


def test_hours_of_the_papers_sizes_are_refused(tmp_path):
    folder = write_pictures(tmp_path / "p", 20)
    with pytest.raises(ValueError, match="--config.hours=2 would be ignored: :paper"):
        chosen(tmp_path / "run", folder, "--config.hours=2", variant=":paper")


# --help.


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_every_config_is_described(name):
    file = str(ROOT / "configs" / f"{name}.py")
    config, module = load_config(file), load_module(file)
    for field in field_names(config):
        words = description(field, module)
        assert len(words) > 10 and not words.endswith(".") and "\n" not in words
    if hasattr(module, "to_choose"):
        assert set(module.to_choose()) < set(field_names(config))


def test_help_tells_fields_that_are_chosen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no line is wrapped
    assert run_command("--help", f"--config={ROOT / 'configs' / 'folder.py'}") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["--config.dpm.steps"].endswith("steps of the optimiser (chosen at the start)")
    assert lines["--config.hours=3.0"].endswith("hours that all stages together may take")
    assert "chosen" not in lines["--config.model.T=1000"]
