"""Interpolation between two pictures, of z and of trajectories (Figures 8 to 10)."""

import jax.numpy as jnp
import numpy as np

from pdae_jax import samplers
from pdae_jax.runtime.progress import bar


def interpolate(
    model, images_1, images_2, weights, *, steps: int = 100, invert_steps: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Both kinds at each weight, from the slerp of the two inferred x_T.

    images_1, images_2: [B, H, W, C]; weights: numbers from 0 (the first) to 1 (the second).
    -> of codes, lerp(z_1, z_2), and of trajectories, lerp(G_1, G_2): each [B, weights, H, W, C].
    """
    images = jnp.concatenate([jnp.asarray(images_1), jnp.asarray(images_2)])
    z = model.encode(images)
    z_1, z_2 = jnp.split(z, 2)
    x_1, x_2 = jnp.split(model.invert(images, z, steps=invert_steps), 2)
    codes, trajectories = [], []
    for weight in bar("interpolate", weights):
        x_T = samplers.slerp(x_1, x_2, weight)
        codes.append(model.decode(samplers.lerp(z_1, z_2, weight), x_T, steps=steps))
        trajectories.append(model.interpolate(z_1, z_2, x_T, weight, steps=steps))
    return np.stack(codes, axis=1), np.stack(trajectories, axis=1)
