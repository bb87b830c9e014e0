"""Prints what importing the package brings in of what is heavy."""

import sys

import pdae_jax
import pdae_jax.data  # noqa: F401

heavy = ("jax", "flax", "tensorflow", "clu", "ml_collections")
print([name for name in heavy if name in sys.modules])
