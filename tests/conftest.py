"""Shared by the tests: the golden files, and tiny sizes of everything real."""

import json
import os
import sys
from pathlib import Path

# Tests that compare one device with several start processes of their own; here there is one.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pdae_jax.runtime import cpu

if not cpu.accelerator():
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu, for forecasts, would look for a TPU

import jax
import numpy as np
import pytest

from pdae_jax.networks.architecture import Architecture

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from weights import fill  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")  # TPUs and GPUs round otherwise
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("PDAE_JAX_TEST_CACHE", os.path.expanduser("~/.cache/pdae_jax/test")),
)

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


@pytest.fixture(scope="session")
def rng():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A workdir with every objective trained for a few steps, on digits."""
    from pdae_jax.training.state import Settings
    from pdae_jax.training.trainer import Data, train

    path, data = tmp_path_factory.mktemp("digits"), Data("digits", flip=False)
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
    return path
