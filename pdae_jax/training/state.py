"""All that changes while training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pdae_jax.networks.groups import Params


class TrainState(NamedTuple):
    """All that changes while training; params, ema and opt_state of the trained groups alone."""

    step: jax.Array
    params: Params
    ema: Params
    opt_state: Any
    skipped: jax.Array  # steps whose loss or gradient was not finite
    skipped_in_a_row: jax.Array

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> "TrainState":
        # Three counters, not one thrice: a donated buffer may appear only once.
        step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
        ema = jax.tree.map(jnp.copy, params)
        return cls(step, params, ema, optimizer.init(params), skipped, in_a_row)
