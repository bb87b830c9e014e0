"""Prints the bytes told for each of eight devices, the bytes on the first, and those of all."""

import jax
from helpers import DIGITS_ARCH as ARCH

from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import sharding
from pdae_jax.training import memory
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState

mesh, net = sharding.make_mesh(4), Networks(ARCH)


def make():
    params = net.init(jax.random.key(0), ("encoder", "gradient"))
    return TrainState.create(params, Settings().optimizer())


shapes = sharding.shapes(mesh, jax.eval_shape(make))
state = jax.device_put(make(), jax.tree.map(lambda a: a.sharding, shapes))
first = jax.devices()[0]
there = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(state)
    for shard in leaf.addressable_shards
    if shard.device == first
)
print(memory.per_device(shapes), there, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
