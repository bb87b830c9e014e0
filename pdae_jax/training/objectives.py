"""What can be trained: a table. An objective names the groups it trains, those it needs frozen,
and its loss; gradients, Adam's moments and the EMA exist for the trained groups alone.
"""
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pdae_jax import pdae


@dataclasses.dataclass(frozen=True)
class Objective:
    """One row of `OBJECTIVES`.

    trains, needs: parameter groups with gradients; groups that stay frozen.
    loss: (net, schedule, params, drawn, gamma, dropout) -> [B], each example's loss.
    health: (net, schedule, params, drawn, gamma) -> scalars worth watching, or None.
    """

    trains: tuple[str, ...]
    needs: tuple[str, ...]
    loss: Callable
    health: Callable | None = None

    def draw(self, rng, images, T: int) -> dict:
        """All randomness of a step but dropout's: x_0 in [-1, 1], t uniform, eps normal, [B, ...].

        images: uint8, or float in [-1, 1].
        """
        rng_t, rng_eps = jax.random.split(rng)
        x_0 = to_float(images)
        return {"x_0": x_0,
                "t": jax.random.randint(rng_t, (len(x_0),), 0, T),
                "eps": jax.random.normal(rng_eps, x_0.shape)}


def to_float(images):
    """uint8 [0, 255] -> float32 [-1, 1]; floats, taken to be in [-1, 1], stay as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images.astype(jnp.float32)


def _dpm_loss(net, schedule, params, drawn, gamma, dropout):
    return pdae.dpm_loss(net, params, schedule, **drawn, dropout=dropout)


def _pdae_loss(net, schedule, params, drawn, gamma, dropout):
    return pdae.training_loss(net, params, schedule, **drawn, gamma=gamma, dropout=dropout)


def _pdae_health(net, schedule, params, drawn, gamma):
    """Is z used? The loss with the neighbour's z against its own, and |dL/dz| of an example."""
    z = net.encode(params, drawn["x_0"])

    def loss(z):
        return pdae.code_loss(net, params, schedule, **drawn, z=z, gamma=gamma).sum()

    own, gradient = jax.value_and_grad(loss)(z)
    shuffled = loss(jnp.roll(z, 1, axis=0))
    return {"loss_own_z": own / len(z), "loss_shuffled_z": shuffled / len(z),
            "shuffled_over_own": shuffled / own,
            "dloss_dz_norm": jnp.linalg.norm(gradient, axis=-1).mean()}


OBJECTIVES = {
    "dpm": Objective(trains=("dpm",), needs=(), loss=_dpm_loss),
    "pdae": Objective(trains=("encoder", "gradient"), needs=("dpm",), loss=_pdae_loss,
                      health=_pdae_health),
}
