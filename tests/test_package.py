"""The package as a stranger meets it: layers, lazy imports, absent libraries, configs, errors."""

import ast
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import ROOT, run_program
from PIL import Image

from pdae_jax import main as command
from pdae_jax.convert import name_map
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import cpu
from pdae_jax.training.settings import Settings
from pdae_jax.workdir import checkpoints as checkpoint

PACKAGE = ROOT / "pdae_jax"
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))

# Who must not know whom: a module (or package) -> what it may not import, directly.
FORBIDDEN = {
    "schedule": ["flax", "optax", "pdae_jax"],
    "samplers": ["flax", "optax", "pdae_jax.models", "pdae_jax.pdae", "pdae_jax.training"],
    "pdae": [
        "flax",
        "optax",
        "pdae_jax.models",
        "pdae_jax.data",
        "pdae_jax.training",
        "pdae_jax.config",
        "pathlib",
        "os",
    ],
    "latent": ["flax", "optax", "pdae_jax.models", "pdae_jax.data", "pdae_jax.tasks", "pathlib"],
    "models": [
        "optax",
        "orbax",
        "pdae_jax.training",
        "pdae_jax.data",
        "pdae_jax.pdae",
        "pdae_jax.samplers",
        "pdae_jax.config",
        "pathlib",
    ],
    "data": ["jax", "flax", "optax", "pdae_jax.models", "pdae_jax.training", "pdae_jax.pdae"],
    "tasks": [
        "ml_collections",
        "pdae_jax.config",
        "pdae_jax.training",
        "pdae_jax.data",
        "pathlib",
        "os",
        "json",
    ],
    "metrics": ["flax", "pdae_jax.models", "pdae_jax.training", "pdae_jax.data"],
    "convert": ["flax", "optax", "pdae_jax.training", "pdae_jax.data", "pdae_jax.model"],
    "checkpoint": ["flax", "optax", "pdae_jax.training", "pdae_jax.data", "pdae_jax.pdae"],
    **{f"convert/{name}": ["torch"] for name in ("names", "torch_file", "sources", "infer")},
    "report": ["jax", "flax", "pdae_jax"],
    "parts": ["flax", "pdae_jax.model"],
    "sample_file": ["jax", "flax", "pdae_jax.model"],
    **{
        name: ["flax", "optax", "ml_collections", "pdae_jax.config", "pdae_jax.modes"]
        for name in ("codes", "evaluate", "fewshot")
    },
    "modes": ["flax", "optax", "ml_collections", "pdae_jax.config", "pdae_jax.main"],
    "training/loop": [
        "flax",
        "pdae_jax.pdae",
        "pdae_jax.latent",
        "pdae_jax.data",
        "pdae_jax.config",
        "ml_collections",
    ],
    **{
        f"training/{name}": ["flax", "pdae_jax.pdae", "pdae_jax.models", "pdae_jax.data"]
        for name in ("state", "step")
    },
    "training/hlo": ["jax", "flax", "pdae_jax"],
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def files_of(layer: str) -> list[Path]:
    folder = PACKAGE / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{layer}.py"]


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layers(layer):
    for path in files_of(layer):
        own = f"pdae_jax.{layer.replace('/', '.')}"
        for name in imports(path):
            if name == own or name.startswith(own + "."):
                continue
            bad = [f for f in FORBIDDEN[layer] if name == f or name.startswith(f + ".")]
            assert not bad, f"{path.relative_to(ROOT)} imports {name}"


def test_only_models_use_linen_and_only_config_and_main_use_config_dicts():
    for path in PACKAGE.rglob("*.py"):
        relative, found = path.relative_to(PACKAGE).as_posix(), imports(path)
        if not relative.startswith("models/"):
            assert not any(name.startswith("flax") for name in found), relative
        if relative not in ("config.py", "main.py"):
            assert not any(name.startswith("ml_collections") for name in found), relative


def test_importing_brings_nothing_heavy():
    assert run_program("imports").stdout.strip() == "[]"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9 + i, 12, 3), np.uint8)).save(pictures / f"{i}.png")
    return pictures


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
    config = command.load_config(str(ROOT / "configs" / f"{name}.py"))
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
        stages = command.load_config(str(ROOT / "configs" / f"{name}.py:{variant}")).stages
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
        ]
    )
    for name in CONFIGS:
        text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
        for word in (f"--config=configs/{name}.py", "Hardware", "Score"):
            assert word in text, f"{name}: no {word!r}"
        assert any(unit in text for unit in (" minutes", " hours", " day")), f"{name}: no time"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_trains_two_steps(name, folder, tmp_path):
    """Heads, attention and channels as they are; its deepest level alone, few pixels, narrow."""
    config = command.load_config(str(ROOT / "configs" / f"{name}.py"))
    model = config.model
    model.attention = (4,) if model.attention else ()
    model.update(
        image_shape=(4, 4, model.image_shape[2]),
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
    assert command.run(config, tmp_path / "run", "the command")
    assert checkpoint.latest_steps(tmp_path / "run") == {"dpm": 2, "pdae": 2}


def _bad_inputs():
    digits, bedroom = "--config=configs/digits.py", "--config=configs/bedroom128.py"
    small = ["--config.model.mult=(1,)", "--config.model.attention=()"]
    return {
        "no config": ([], "no --config given"),
        "config file": (["--config=configs/digit.py"], "did you mean 'configs/digits.py'"),
        "variant": (["--config=configs/digits.py:dmp"], "did you mean 'dpm'"),
        "field": ([digits, "--config.dpm.stpes=3"], "did you mean 'config.dpm.steps'"),
        "flag": ([digits, "--workdri=x"], "did you mean 'workdir'"),
        "type": ([digits, "--config.dpm.steps=many"], "invalid literal for int"),
        "mode": ([digits, "--mode=trian"], "did you mean 'train'"),
        "precision": ([digits, "--config.precision=bfloat61"], "did you mean 'bfloat16'"),
        "value": ([digits, "--config.dpm.batch_size=0"], "batch_size must be at least 1, got 0"),
        "size": ([digits, "--config.model.image_shape=(9,8,1)"], "9 is not divisible by 2"),
        "data": ([digits, "--config.data.name=digit"], "did you mean digits"),
        "no folder": ([digits, "--config.data.name=folder:no/such"], "no/such"),
        "empty folder": ([digits, "--config.data.name=folder:{empty}"], "no pictures"),
        "channels": ([digits, *small, "--config.data.name=folder:{four}"], "channels"),
        "no pre-trained model": (
            [bedroom, "--config.data.name=folder:{four}", "--config.model.image_shape=(16,16,4)"],
            "--config.pretrained",
        ),
        "pre-trained folder": (
            [
                bedroom,
                "--config.data.name=folder:{four}",
                "--config.model.image_shape=(16,16,4)",
                "--config.pretrained=no/such",
            ],
            "no/such",
        ),
        "mult": ([digits, "--config.model.mult=(1,'a')"], "mult must be whole numbers above 0"),
        "heads": ([digits, "--config.model.heads=5"], "64 channels do not divide into 5"),
        "encoder heads": ([digits, "--config.model.encoder_heads=5"], "encoder_heads = 5"),
        "head channels": ([digits, "--config.model.head_channels=-1"], "head_channels must be 0"),
        "head width": ([digits, "--config.model.head_channels=48"], "into heads of head_channels"),
        "base": ([digits, "--config.model.base=1"], "base must be even"),
        "one dash": ([digits, "-config.dpm.stpes=3"], "did you mean 'config.dpm.steps'"),
        "report steps": ([digits, "--config.report.steps=2000"], "more than the model's T = 1000"),
        "nothing held out": ([digits, "--config.data.test_fraction=0"], "test split"),
        "T": ([digits + ":dpm", "--config.model.T=20"], "needs T above 20, got 20"),
        "pre-trained unused": ([digits, "--config.pretrained={four}"], "would be unused"),
        "variance": ([digits, "--config.model.learned_variance=True"], "set it False"),
        "workdir": ([digits, "--workdir={file}/run"], "cannot be written"),
    }


@pytest.mark.parametrize("case", _bad_inputs())
def test_bad_input_is_one_clear_line(case, tmp_path):
    empty, four, file = tmp_path / "empty", tmp_path / "four", tmp_path / "file"
    empty.mkdir()
    four.mkdir()
    for i in range(4):
        np.save(four / f"{i}.npy", np.zeros((16, 16, 4), np.uint8))
    file.write_text("")
    arguments, message = _bad_inputs()[case]
    arguments = [a.format(empty=empty, four=four, file=file) for a in arguments]
    if not any(a.startswith("--workdir") for a in arguments):
        arguments.append(f"--workdir={tmp_path / 'run'}")
    run = subprocess.run(
        [sys.executable, "-m", "pdae_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert lines[-1].startswith("pdae_jax: ") and message in lines[-1], run.stderr
    assert len(lines) == 1, run.stderr


def test_cpu_settings_are_made_once_and_never_over_the_users_own(monkeypatch):
    monkeypatch.setattr(cpu.platform, "system", lambda: "Linux")
    added = cpu.environment({"JAX_PLATFORMS": "cpu"})
    assert added["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" and added[cpu._MARK] == "1"
    assert cpu.environment({"JAX_PLATFORMS": "cpu", **added}) == {}
    mine = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_a=1", "GLIBC_TUNABLES": "glibc.malloc.x=2"}
    added = cpu.environment(mine)
    assert added["GLIBC_TUNABLES"].startswith("glibc.malloc.x=2:")
    assert added.get("XLA_FLAGS", "--xla_a=1").startswith("--xla_a=1")
    own = f"{cpu._CONVOLUTION.partition('=')[0]}=x"
    assert "XLA_FLAGS" not in cpu.environment({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": own})
    monkeypatch.setattr(cpu, "_PLUGINS", ("jax",))
    assert cpu.environment({}) == {}, "an accelerator's plugin is there"
    monkeypatch.setattr(cpu, "_PLUGINS", ())
    assert cpu.environment({})["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setattr(cpu, "_TPU", (__file__,))
    assert cpu.environment({}) == {}, "a TPU is there"


def test_help_names_the_flags_and_the_configs_fields(capsys):
    command.main(["main", "--help", f"--config={ROOT / 'configs' / 'digits.py'}"])
    text = capsys.readouterr().out
    assert "--workdir" in text and "Handwritten digits" in text
    assert "--config.pdae.learning_rate=0.001" in text


def test_another_models_workdir_is_refused(tmp_path):
    checkpoint.write_architecture(tmp_path, Architecture(image_shape=(16, 16, 1)))
    checkpoint.write_architecture(tmp_path, Architecture(image_shape=(8, 8, 1), mult=(1, 2)))
    checkpoint.write_architecture(tmp_path, Architecture(image_shape=(16, 16, 1)))  # nothing saved
    with checkpoint.Checkpoints(tmp_path / "dpm") as checkpoints:
        checkpoints.save(0, {"dpm": {"kernel": np.zeros(3)}})
    checkpoint.write_architecture(tmp_path, Architecture(image_shape=(16, 16, 1), z_size=7))
    with pytest.raises(ValueError, match="belongs to another model: image_shape is"):
        checkpoint.write_architecture(tmp_path, Architecture(image_shape=(32, 32, 1)))


def test_name_map_covers_every_parameter_of_every_config():
    for name in CONFIGS:
        arch = Architecture(**command.load_config(str(ROOT / "configs" / f"{name}.py")).model)
        shapes = jax.eval_shape(lambda arch=arch: Networks(arch).init(jax.random.key(0)))
        paths = {tuple(k.key for k in path) for path, _ in jax.tree.leaves_with_path(shapes)}
        table = name_map.decoder(arch) | name_map.encoder(arch)
        assert {entry.path for entry in table.values()} == paths
