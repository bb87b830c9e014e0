"""Reconstruction: from z alone, and from z with the inferred x_T (Figures 5 to 7, Table 1)."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pdae_jax.arrays import Pictures
from pdae_jax.metrics.measure import Metrics
from pdae_jax.model import Model


class Reconstructions(NamedTuple):
    """Decoded from z with each of the drawn x_T, with the inferred x_T, and by DDPM; in [-1, 1]."""

    from_z: Float[np.ndarray, "draws B H W C"]
    inferred: Float[np.ndarray, "B H W C"]
    ddpm: Float[np.ndarray, "B H W C"] | None


def reconstruct(
    model: Model,
    images: Pictures,
    *,
    steps: int = 100,
    invert_steps: int = 100,
    draws: int = 3,
    ddpm: bool = True,
    seed: int = 0,
) -> Reconstructions:
    """Decodes from z with `draws` random x_T, with the inferred one and, if asked, by DDPM.

    steps: of DDIM decoding; invert_steps: of the inference of x_T (the paper: 100 and 1000).
    """
    z = model.encode(images)
    keys = jax.random.split(jax.random.key(seed), draws)
    from_z = np.stack([np.asarray(model.decode(z, steps=steps, rng=key)) for key in keys])
    x_T = model.invert(images, z, steps=invert_steps)
    inferred = np.asarray(model.decode(z, x_T, steps=steps))
    sampled = np.asarray(model.decode(z, method="ddpm", rng=seed)) if ddpm else None
    return Reconstructions(from_z, inferred, sampled)


def scores(images: Pictures, decoded: Pictures, metrics: Metrics | None = None) -> dict[str, float]:
    """Means of `Metrics.compare` of decoded against images."""
    found = (metrics or Metrics()).compare(images, decoded)
    return {name: float(values.mean()) for name, values in found.items()}
