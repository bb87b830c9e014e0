"""What can be trained: a table. An objective names the groups it trains, those it needs frozen,
and its loss; gradients, Adam's moments and the EMA exist for the trained groups alone.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pdae_jax import latent, pdae
from pdae_jax.schedule import Schedule


def draw_image(rng, batch, T: int) -> dict:
    """x_0 in [-1, 1] of the batch's images, t uniform and eps normal: [B, ...] each."""
    return _noised("x_0", to_float(batch["image"]), rng, T)


def draw_code(rng, batch, T: int) -> dict:
    """The batch's codes z, t uniform and eps normal."""
    return _noised("z", batch["z"], rng, T)


def _noised(name: str, x_0, rng, T: int) -> dict:
    rng_t, rng_eps = jax.random.split(rng)
    return {
        name: x_0,
        "t": jax.random.randint(rng_t, (len(x_0),), 0, T),
        "eps": jax.random.normal(rng_eps, x_0.shape),
    }


@dataclasses.dataclass(frozen=True)
class Objective:
    """One row of `OBJECTIVES`.

    trains, needs: parameter groups with gradients; groups that stay frozen.
    rests_on: groups that must be there as they are: those needed, or whose codes are its data.
    loss: (net, schedule, params, drawn, gamma, dropout) -> [B], each example's loss.
    health: (net, schedule, params, drawn, gamma) -> scalars worth watching, or None.
    reads: what of a batch it is given: "image" alone, or of the table of codes "z" and "label".
    draw: (rng, batch, T) -> drawn: all randomness of a step but dropout's.
    schedule: its own noise schedule, where it is not the diffusion model's.
    """

    trains: tuple[str, ...]
    needs: tuple[str, ...]
    rests_on: tuple[str, ...]
    loss: Callable
    health: Callable | None = None
    reads: tuple[str, ...] = ("image",)
    draw: Callable = draw_image
    schedule: Callable[[], Schedule] | None = None


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
    return {
        "loss_own_z": own / len(z),
        "loss_shuffled_z": shuffled / len(z),
        "shuffled_over_own": shuffled / own,
        "dloss_dz_norm": jnp.linalg.norm(gradient, axis=-1).mean(),
    }


def _latent_loss(net, schedule, params, drawn, gamma, dropout):
    z = latent.normalise(params["statistics"], drawn["z"])
    return latent.training_loss(net, params, schedule, z, drawn["t"], drawn["eps"])


def _classifier_loss(net, schedule, params, drawn, gamma, dropout):
    z = latent.normalise(params["statistics"], drawn["z"])
    return latent.classifier_loss(params["classifier"], z, drawn["label"])


PDAE = ("dpm", "encoder", "gradient")

OBJECTIVES = {
    "dpm": Objective(trains=("dpm",), needs=(), rests_on=(), loss=_dpm_loss),
    "pdae": Objective(
        trains=("encoder", "gradient"),
        needs=("dpm",),
        rests_on=("dpm",),
        loss=_pdae_loss,
        health=_pdae_health,
    ),
    "latent": Objective(
        trains=("latent",),
        needs=("statistics",),
        rests_on=PDAE,
        loss=_latent_loss,
        reads=("z",),
        draw=draw_code,
        schedule=latent.SCHEDULE,
    ),
    "classifier": Objective(
        trains=("classifier",),
        needs=("statistics",),
        rests_on=PDAE,
        loss=_classifier_loss,
        reads=("z", "label"),
        draw=lambda rng, batch, T: dict(batch),
    ),
}
