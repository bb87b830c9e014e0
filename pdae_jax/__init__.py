"""PDAE in JAX: a frozen, pre-trained diffusion model turned into an autoencoder.

    model = pdae_jax.load(path)
    images = pdae_jax.images.load("scans/*.png", model)
    z = model.encode(images)
    out = model.decode(z)

Importing the package imports nothing heavy: `pdae_jax.data`, whose worker processes must stay
free of JAX, relies on that.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {"load": "pdae_jax.model", "Model": "pdae_jax.model"}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "images":
        return importlib.import_module("pdae_jax.images")
    raise AttributeError(f"module 'pdae_jax' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY, "images"])
