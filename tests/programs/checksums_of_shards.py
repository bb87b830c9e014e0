"""Prints the checksums of one array that lies over 8 devices, in two ways that must agree."""

import jax
import numpy as np

from pdae_jax.runtime import sharding
from pdae_jax.workdir.checksums import checksums

tree = {"a": np.random.default_rng(0).standard_normal((64, 40, 24)).astype(np.float32)}
for fsdp in (8, 2):
    mesh = sharding.make_mesh(fsdp)
    placed = jax.device_put(tree, sharding.over_fsdp(mesh, tree))
    assert not placed["a"].is_fully_replicated
    assert checksums(placed) == checksums(tree)
print(checksums(tree))
