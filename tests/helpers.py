"""What tests share that is no fixture: golden numbers, tiny sizes of everything real, programs."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pdae_jax.networks.architecture import Architecture

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
PROGRAMS = TESTS / "programs"

sys.path.insert(0, str(GOLDEN))
from weights import fill  # noqa: E402

TINY = Architecture(
    image_shape=(16, 16, 3),
    base=32,
    mult=(1, 2),
    blocks=1,
    attention=(8,),
    heads=2,
    dropout=0.0,
    z_size=16,
    latent_layers=4,
    latent_hidden=64,
    latent_time=8,
)
CELEBA64 = Architecture(image_shape=(64, 64, 3), base=64, mult=(1, 2, 4, 8), heads=4)
FACES128 = Architecture(image_shape=(128, 128, 3))

# The smallest of everything, for what has to be trained: 8 x 8 digits.
DIGITS_ARCH = Architecture(
    image_shape=(8, 8, 1),
    base=32,
    mult=(1,),
    blocks=1,
    attention=(),
    heads=1,
    dropout=0.0,
    z_size=8,
    encoder_widths=(32,),
    latent_layers=3,
    latent_hidden=32,
    latent_time=8,
)


def golden(name: str):
    return np.load(GOLDEN / f"{name}.npz")


def manifest(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.manifest.json").read_text())


def stand_in(name: str, seed: int) -> dict:
    """Stand-in weights by the rule of golden/weights.py, as a state dict."""
    weights = fill(manifest(name), seed)
    for key in weights:  # a latent model's files hold each of these twice
        if "linear_emb" in key:
            weights[key] = weights[key.replace("linear_emb", "cond_layers.1")]
    return weights


def nhwc(x):
    return np.moveaxis(np.asarray(x), 1, -1)


def assert_close(actual, expected, tolerance: float):
    """Largest difference relative to the largest expected number."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"relative error {error:.3g} > {tolerance}"


def program(name: str, *args) -> list[str]:
    """The command line of tests/programs/NAME.py."""
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, args)]


def environment(devices: int | None = None, **more: str) -> dict[str, str]:
    """This process's, with as many CPU devices, and the tree and the helpers importable."""
    paths = os.pathsep.join(map(str, (ROOT, TESTS)))
    flags = [os.environ.get("XLA_FLAGS", "")]
    if devices:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    return {**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": " ".join(flags), **more}


def by_day(names, *kept: str) -> list:
    """Parameters of a test, of which those that are not kept are the night's."""
    night = pytest.mark.nightly
    return [name if name in kept else pytest.param(name, marks=night) for name in names]


# Of a process whose programs run for longer than optimising them takes (conftest.py): LLVM's first
# level takes the least time in all.
OPTIMISED = {
    "XLA_FLAGS": "--xla_backend_optimization_level=1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
}


def run_program(
    name: str, *args, devices: int | None = None, check: bool = True, **env: str
) -> subprocess.CompletedProcess:
    """Runs tests/programs/NAME.py to its end; with `check`, its failure is the test's."""
    done = subprocess.run(
        program(name, *args),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(devices, **env),
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def start_processes(name: str, n: int, *args, devices: int = 8) -> list[subprocess.Popen]:
    """n processes that share `devices` CPU devices, each running tests/programs/NAME.py.

    Its arguments: the coordinator's address, n, the process's index, then args.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            program(name, coordinator, n, i, *args),
            env=environment(devices // n),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(n)
    ]


def run_command(*args) -> int:
    """Runs the command in this process, with the tests' cache; its exit status."""
    from pdae_jax.main import main

    cache = [] if "--mode=compile" in args else ["--compilation_cache="]
    return main(["pdae_jax", *map(str, args), *cache])


class Call:
    """Pickles as a call of function(*args)."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@contextlib.contextmanager
def importable(module: str, **contents):
    """Classes and functions of a module that can be imported here only, while files are saved."""
    parts = module.split(".")
    names = [".".join(parts[: k + 1]) for k in range(len(parts))]
    made = {name: types.ModuleType(name) for name in names}
    for name, value in contents.items():
        value.__module__, value.__qualname__ = module, name
        setattr(made[module], name, value)
    sys.modules |= made
    try:
        yield made[module]
    finally:
        for name in names:
            del sys.modules[name]


def rezip(path: Path, change, compression=zipfile.ZIP_STORED) -> Path:
    """The same archive with entries changed: change(name, data) -> (name, data)."""
    with zipfile.ZipFile(path) as old:
        entries = [change(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in entries:
            new.writestr(name, data)
    return path


def persistent(class_name: str, source: str, module, **init_kwargs):
    """A module that pickles as NVIDIA's torch_utils.persistence makes it do."""
    name = "torch_utils.persistence"
    reconstruct = sys.modules[name]._reconstruct_persistent_obj
    state = module.__dict__ | {"_init_args": (), "_init_kwargs": init_kwargs}
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name}
    return Call(reconstruct, meta | {"state": state})
