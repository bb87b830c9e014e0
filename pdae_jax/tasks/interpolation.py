"""Interpolation between two pictures, of z and of trajectories (Figures 8 to 10)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax import samplers
from pdae_jax.arrays import Pictures
from pdae_jax.model import Model
from pdae_jax.runtime.progress import bar


def interpolate(
    model: Model,
    images_1: Pictures,
    images_2: Pictures,
    weights: Sequence[float] | Float[np.ndarray, " weights"],
    *,
    steps: int = 100,
    invert_steps: int = 100,
) -> tuple[Float[np.ndarray, "B weights H W C"], Float[np.ndarray, "B weights H W C"]]:
    """Both kinds at each weight, from the slerp of the two inferred x_T.

    weights: from 0 (the first) to 1 (the second).
    -> interpolation of codes, lerp(z_1, z_2), and of trajectories, lerp(G_1, G_2).
    """
    images = jnp.concatenate([jnp.asarray(images_1), jnp.asarray(images_2)])
    z = model.encode(images)
    z_1, z_2 = jnp.split(z, 2)
    x_1, x_2 = jnp.split(model.invert(images, z, steps=invert_steps), 2)
    codes, trajectories = [], []
    for weight in bar("interpolate", weights):
        x_T = samplers.slerp(x_1, x_2, weight)
        z = samplers.lerp(z_1, z_2, weight)
        codes.append(np.asarray(model.decode(z, x_T, steps=steps)))
        trajectories.append(np.asarray(model.interpolate(z_1, z_2, x_T, weight, steps=steps)))
    return np.stack(codes, axis=1), np.stack(trajectories, axis=1)
