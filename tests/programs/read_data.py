"""Reads a picture of each kind of data, TFDS's from FOLDER, with neither JAX nor TensorFlow."""

import sys

from pdae_jax.data import open_source

open_source("tfds:pdae_tiny", data_dir=sys.argv[1]).image(0)
open_source("digits").image(0)
open_source("emoji").image(0)
found = [name for name in ("jax", "jaxlib", "flax", "tensorflow", "grain") if name in sys.modules]
# The parts of runtime that know no JAX are in use.
light = ("pdae_jax.data", "pdae_jax.formats", "pdae_jax.runtime", "pdae_jax.value_range")
ours = [name for name in sys.modules if name.startswith("pdae_jax.")]
found += [name for name in ours if not name.startswith(light)]
assert not found, found
