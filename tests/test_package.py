"""The package as a stranger meets it: absent libraries, configs, the machine's settings."""

import ast

import jax
import numpy as np
import pytest
from helpers import ROOT, by_day, run_program
from PIL import Image

from pdae_jax.commands import train
from pdae_jax.config import load_config
from pdae_jax.convert import name_map
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import cpu
from pdae_jax.training.settings import Settings
from pdae_jax.workdir.workdir import Workdir

CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9 + i, 12, 3), np.uint8)).save(pictures / f"{i}.png")
    return pictures


@pytest.mark.slow
def test_a_folder_trains_without_tensorflow_clu_and_ml_collections(folder, tmp_path):
    run = run_program("train_folder", folder, tmp_path / "run")
    assert run.stdout.strip() == "(3, 4)"
    assert run.stderr.count("no TensorBoard file") == 2  # one line a run


# Parameters in millions, as published: eps_theta + G with z embedding, trainable G, encoder.
SIZES = {
    "celeba64": (116.0, 52.0, 1.49),
    "celebahq128": (177.1, 78.5, 3.91),
    "ffhq128": (177.1, 78.5, 3.91),
    "horse128": (177.1, 78.5, 3.91),
    "bedroom128": (177.1, 78.5, 3.91),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name):
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    net = Networks(Architecture(**config.model))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    counts = {
        group: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
        for group, tree in shapes.items()
    }
    if name in SIZES:
        both, trainable, encoder = SIZES[name]
        assert counts["dpm"] + counts["gradient"] == pytest.approx(both, abs=0.05)
        assert counts["gradient"] == pytest.approx(trainable, abs=0.05)
        assert counts["encoder"] == pytest.approx(encoder, abs=0.005)
    for variant in ("dpm", "pdae", "report"):
        stages = load_config(str(ROOT / "configs" / f"{name}.py:{variant}")).stages
        assert stages == (variant,)
    for objective in ("dpm", "pdae"):
        Settings(**config[objective])


def test_every_config_is_there_and_documented():
    assert CONFIGS == sorted(
        [
            "bedroom128",
            "horse128",
            "ffhq128",
            "celebahq128",
            "celeba64",
            "mnist32",
            "digits",
            "emoji",
            "folder",
            "pretrained",
        ]
    )
    for name in CONFIGS:
        text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
        for word in (f"--config=configs/{name}.py", "Hardware", "Score"):
            assert word in text, f"{name}: no {word!r}"
        assert any(unit in text for unit in (" minutes", " hours", " day")), f"{name}: no time"


@pytest.mark.parametrize("name", by_day(CONFIGS, "celeba64", "digits"))
@pytest.mark.slow
def test_every_config_trains_two_steps(name, folder, tmp_path):
    """Heads, attention and channels as they are; its deepest level alone, few pixels, narrow."""
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    model = config.model
    model.attention = (4,) if model.attention else ()
    model.update(
        image_shape=(4 * model.patch, 4 * model.patch, model.image_shape[2]),
        base=32,
        mult=model.mult[-1:],
        blocks=1,
        z_size=4,
        encoder_widths=(32,),
    )
    if name not in ("digits", "emoji"):
        config.data.name = f"folder:{folder}"
    for objective in ("dpm", "pdae"):
        config[objective].update(steps=2, batch_size=4, log_every=1, save_every=2)
        if name == "digits":  # the same for all, and slow to compile
            config[objective].update(pictures_every=2, health_every=2)
    config.stages = ("dpm", "pdae")
    assert train.run(config, tmp_path / "run", "the command")
    assert Workdir(tmp_path / "run").latest_steps == {"dpm": 2, "pdae": 2}


def test_cpu_settings_are_made_once_and_never_over_the_users_own(monkeypatch):
    monkeypatch.setattr(cpu.platform, "system", lambda: "Linux")
    added = cpu.environment({"JAX_PLATFORMS": "cpu"})
    assert added["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" and added[cpu._MARK] == "1"
    assert cpu.environment({"JAX_PLATFORMS": "cpu", **added}) == {}
    mine = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_a=1", "GLIBC_TUNABLES": "glibc.malloc.x=2"}
    added = cpu.environment(mine)
    assert added["GLIBC_TUNABLES"].startswith("glibc.malloc.x=2:")
    assert added.get("XLA_FLAGS", "--xla_a=1").startswith("--xla_a=1")
    own = f"{cpu._NO_YNN.partition('=')[0]}=x"
    assert own in cpu.environment({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": own}).get("XLA_FLAGS", own)
    assert cpu._NO_YNN not in (
        cpu.environment({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": own}).get("XLA_FLAGS", "")
    )
    monkeypatch.setattr(cpu, "_PLUGINS", ("jax",))
    monkeypatch.setattr(cpu, "_GPU", (__file__,))
    assert cpu.environment({}) == {}, "a GPU and its plugin are there"
    monkeypatch.setattr(cpu, "_GPU", ())
    assert cpu.environment({})["JAX_PLATFORMS"] == "cpu", "a plugin alone compiles for others"
    monkeypatch.setattr(cpu, "_TPU", (__file__,))
    assert cpu.environment({}) == {}, "a TPU is there"


def test_flags_are_tried_out_and_kept(tmp_path, monkeypatch):
    """On the real jaxlib: a flag that it lacks ends a process, one without effect is not taken."""
    file = tmp_path / "flags.json"
    found = cpu.found_flags(str(file))
    assert found in ([cpu._NO_YNN], [cpu._NO_YNN, cpu._ONEDNN]) and file.exists()
    if cpu._ONEDNN in found:
        assert cpu.instructions() & {*cpu._BFLOAT16}
    monkeypatch.setattr(cpu, "_NO_YNN", "--xla_cpu_that_no_jaxlib_has=1")
    assert cpu.found_flags(str(file)) == found, "what is known is not tried again"
    other = tmp_path / "other.json"
    assert cpu.found_flags(str(other)) == [] and other.exists()
    monkeypatch.setattr(cpu, "_PATIENCE", 0.01)
    assert cpu.found_flags(str(tmp_path / "slow.json")) == []
    assert not (tmp_path / "slow.json").exists(), "a busy machine says nothing of flags"
    monkeypatch.setattr(cpu, "_PATIENCE", 60)
    monkeypatch.setattr(cpu, "_TRIAL", "raise SystemExit(1)")
    assert cpu.found_flags(str(tmp_path / "third.json")) == []
    assert not (tmp_path / "third.json").exists(), "what fails anyway says nothing of flags"


def test_name_map_covers_every_parameter_of_every_config():
    for name in CONFIGS:
        arch = Architecture(**load_config(str(ROOT / "configs" / f"{name}.py")).model)
        shapes = jax.eval_shape(lambda arch=arch: Networks(arch).init(jax.random.key(0)))
        paths = {tuple(k.key for k in path) for path, _ in jax.tree.leaves_with_path(shapes)}
        table = name_map.decoder(arch) | name_map.encoder(arch)
        assert {entry.path for entry in table.values()} == paths
