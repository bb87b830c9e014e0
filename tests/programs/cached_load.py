"""Loads a workdir in Python, and prints where compiled programs are kept."""

import os
import sys

del os.environ["JAX_COMPILATION_CACHE_DIR"]
import jax

import pdae_jax

pdae_jax.load(sys.argv[1])
print(jax.config.jax_compilation_cache_dir)
