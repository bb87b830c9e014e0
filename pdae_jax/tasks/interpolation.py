"""Interpolation between two pictures, of z and of trajectories (Figures 8 to 10)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pdae_jax import samplers
from pdae_jax.arrays import Pictures
from pdae_jax.model import Model, Noise, OutImages, ReversibleNoise
from pdae_jax.runtime.progress import bar


def interpolate(
    model: Model,
    images_1: Pictures,
    images_2: Pictures,
    weights: Sequence[float] | Float[np.ndarray, " weights"],
) -> tuple[Float[np.ndarray, "B weights H W C"], Float[np.ndarray, "B weights H W C"]]:
    """Both kinds at each weight, from the slerp of the two inferred x_T.

    weights: from 0 (the first) to 1 (the second).
    -> interpolation of codes, lerp(z_1, z_2), and of trajectories, lerp(G_1, G_2).
    """
    images = np.concatenate([images_1, images_2])
    n, z = len(images_1), model.encode(images)
    z_1, z_2, x_T = z[:n], z[n:], model.invert(images, z)
    codes, trajectories = [], []
    for weight in bar("interpolate", weights):
        mixed = slerp(x_T[:n], x_T[n:], weight)
        codes.append(model.decode(samplers.lerp(z_1, z_2, weight), mixed))
        trajectories.append(model.interpolate(z_1, z_2, mixed, weight))
    return np.stack(codes, axis=1), np.stack(trajectories, axis=1)


def slerp(a: Noise, b: Noise, weight: float) -> Noise:
    """Spherical interpolation of inferred x_T; of the reversible, of both their states."""

    def states(a: OutImages, b: OutImages) -> OutImages:
        return np.asarray(samplers.slerp(a, b, weight))

    if isinstance(a, ReversibleNoise) and isinstance(b, ReversibleNoise):
        return ReversibleNoise(states(a.x_T, b.x_T), states(a.before, b.before), a.sampling)
    return states(np.asarray(a), np.asarray(b))
