"""Set-up of every test, and the fixtures that test files share."""

import fcntl
import os
import shutil
from importlib.metadata import version

# Tests that compare one device with several start processes of their own; here there is one.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiling would be most of the work. With these, and nothing optimised (below), it takes a quarter
# of the time, and programs run at half the speed; jaxlib 0.11 and newer do not know the first.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith("0.10.")
    else ""
)

import jaxtyping

# Every call's arrays are checked against its annotations, before anything of these is imported.
NETWORKS = "encoder flash_attention gradient_estimator groups latent_mlp layers unet".split()
SHAPED = ["schedule", "samplers", "multistep", "reversible", "pdae", "latent", "model", "metrics"]
SHAPED += ["tasks", *(f"networks.{name}" for name in NETWORKS)]
jaxtyping.install_import_hook([f"pdae_jax.{name}" for name in SHAPED], "beartype.beartype")

from pdae_jax.runtime import cpu  # noqa: E402

if not cpu.accelerator():
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu, for forecasts, would look for a TPU

import jax  # noqa: E402
import pytest  # noqa: E402

# Also for the processes that tests start. Not on a CPU, products would round otherwise.
SETTINGS = {
    "jax_default_matmul_precision": "highest",
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": os.environ.get(
        "PDAE_JAX_TEST_CACHE", os.path.expanduser("~/.cache/pdae_jax/test")
    ),
    # Small programs too: there are thousands, the same in many files and processes.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}
for name, value in SETTINGS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


# Of several processes each takes a file at a time: the longest first, so that none is left with one
# at the end. pytest-xdist itself would begin with those of the most tests, which are short.
LONGEST = (
    "projects convert quickstart lab processes training faults commands sizing tasks candidates"
)


def pytest_collection_modifyitems(items):
    order = {f"test_{name}": k for k, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture
def shapes_unchecked():
    """As outside of tests, for those of the errors that a user meets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten():
    """A file's compiled programs go with it: those of all files are 9 GB in one process."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimised():
    """Programs are optimised, for what is compared to the last bits."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def rng():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A workdir with every objective trained for a few steps, on digits: this process's copy.

    Of several processes of pytest-xdist, which share a folder, the first to need it trains it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "digits").exists():
            train_digits(shared / "digits.partial")
            (shared / "digits.partial").rename(shared / "digits")
    path = tmp_path_factory.mktemp("copy") / "digits"
    shutil.copytree(shared / "digits", path)
    return path


def train_digits(path):
    from helpers import DIGITS_ARCH

    from pdae_jax.data.dataset import Data
    from pdae_jax.training.settings import Settings
    from pdae_jax.training.trainer import train

    data = Data("digits", flip=False)
    settings = Settings(steps=2, batch_size=16, pictures_every=0, health_every=0, ema=0.5)
    for objective in ("dpm", "pdae"):
        assert train(path, objective, arch=DIGITS_ARCH, data=data, settings=settings)
    settings = Settings(
        steps=40,
        batch_size=64,
        pictures_every=0,
        health_every=0,
        ema=0.5,
        learning_rate=1e-2,
        log_every=20,
    )
    for objective in ("latent", "classifier"):
        assert train(path, objective, arch=DIGITS_ARCH, data=data, settings=settings)
