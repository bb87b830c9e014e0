"""The functions of each objective, found by its name (see `objectives.Objective`).

`drawn` is all that a step draws: x_0 (or z), t and eps, [B, ...] each. A loss is [B], each
example's own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax import distillation, latent, pdae
from pdae_jax.images import to_float
from pdae_jax.networks.groups import Networks, Params
from pdae_jax.schedule import Schedule, Table

Drawn = dict[str, Any]


class Given(NamedTuple):
    """All that a loss depends on beside its draws.

    weight: PDAE's lambda over t, None for the paper's; dropout: a key or None.
    """

    net: Networks
    schedule: Schedule
    params: Params
    weight: Table | None = None
    dropout: jax.Array | None = None


def dpm_draw(rng: jax.Array, batch: Drawn, T: int) -> Drawn:
    """x_0 in [-1, 1] of the batch's images, t uniform and eps normal."""
    return _noised("x_0", to_float(batch["image"]), rng, T)


def latent_draw(rng: jax.Array, batch: Drawn, T: int) -> Drawn:
    """The batch's codes z, t uniform and eps normal."""
    return _noised("z", batch["z"], rng, T)


def classifier_draw(rng: jax.Array, batch: Drawn, T: int) -> Drawn:
    """The batch's codes z and labels: nothing is drawn."""
    return dict(batch)


pdae_draw = dpm_draw


distill_draw = dpm_draw


def fewstep_draw(rng: jax.Array, batch: Drawn, T: int) -> Drawn:
    """`dpm_draw` at the times from which few steps go on, and with less noise in half the examples.

    Theirs is times a temperature, uniform in [0, 1], for an x_T of any.
    """
    rng, rng_cold, rng_size = jax.random.split(rng, 3)
    drawn, times = dpm_draw(rng, batch, T), jnp.asarray(distillation.few_times(T))
    shape = (len(drawn["t"]), 1, 1, 1)
    cold = jax.random.bernoulli(rng_cold, 0.5, shape)
    size = jnp.where(cold, jax.random.uniform(rng_size, shape), 1.0)
    return drawn | {"eps": drawn["eps"] * size, "t": times[drawn["t"] * len(times) // T]}


def _noised(name: str, x_0: jax.Array, rng: jax.Array, T: int) -> Drawn:
    rng_t, rng_eps = jax.random.split(rng)
    t = jax.random.randint(rng_t, (len(x_0),), 0, T)
    return {name: x_0, "t": t, "eps": jax.random.normal(rng_eps, x_0.shape)}


def dpm_loss(given: Given, drawn: Drawn) -> jax.Array:
    net, schedule, params, _, dropout = given
    return pdae.dpm_loss(net, params, schedule, **drawn, dropout=dropout)


def pdae_loss(given: Given, drawn: Drawn) -> jax.Array:
    net, schedule, params, weight, dropout = given
    return pdae.training_loss(net, params, schedule, **drawn, weight=weight, dropout=dropout)


def pdae_health(given: Given, drawn: Drawn) -> dict[str, jax.Array]:
    """Is z used? The loss with the neighbour's z against its own, and |dL/dz| of an example."""
    net, schedule, params, weight, _ = given
    z = net.encode(params, drawn["x_0"])

    def loss(z: jax.Array) -> jax.Array:
        return pdae.code_loss(net, params, schedule, **drawn, z=z, weight=weight).sum()

    own, gradient = jax.value_and_grad(loss)(z)
    shuffled = loss(jnp.roll(z, 1, axis=0))
    return {
        "loss_own_z": own / len(z),
        "loss_shuffled_z": shuffled / len(z),
        "shuffled_over_own": shuffled / own,
        "dloss_dz_norm": jnp.linalg.norm(gradient, axis=-1).mean(),
    }


def distill_init(net: Networks, weights: Params) -> Params:
    return {"shifted": net.student(weights)}


def distill_loss(given: Given, drawn: Drawn) -> jax.Array:
    return distillation.shifted_loss(given.net, given.params, given.schedule, **drawn)


def fewstep_init(net: Networks, weights: Params) -> Params:
    return {"fewstep": net.student(weights)}


def fewstep_loss(given: Given, drawn: Drawn) -> jax.Array:
    return distillation.endpoint_loss(given.net, given.params, given.schedule, **drawn)


latent_schedule = latent.SCHEDULE


def latent_loss(given: Given, drawn: Drawn) -> jax.Array:
    net, schedule, params, *_ = given
    z = latent.normalise(params["statistics"], drawn["z"])
    return latent.training_loss(net, params, schedule, z, drawn["t"], drawn["eps"])


def classifier_loss(given: Given, drawn: Drawn) -> jax.Array:
    z = latent.normalise(given.params["statistics"], drawn["z"])
    return latent.classifier_loss(given.params["classifier"], z, drawn["label"])
