"""Reconstruction: from z alone, and from z with the inferred x_T (Figures 5 to 7, Table 1)."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pdae_jax.arrays import Pictures
from pdae_jax.images import to_float
from pdae_jax.metrics.measure import Metrics
from pdae_jax.model import Model
from pdae_jax.value_range import ValueRange


class Reconstructions(NamedTuple):
    """Decoded from z at temperature 0, with each of the drawn x_T, with the inferred x_T, by DDPM.

    All in [-1, 1].
    """

    alone: Float[np.ndarray, "B H W C"]
    from_z: Float[np.ndarray, "draws B H W C"]
    inferred: Float[np.ndarray, "B H W C"]
    ddpm: Float[np.ndarray, "B H W C"] | None


def reconstruct(
    model: Model,
    images: Pictures,
    *,
    draws: int = 3,
    ddpm: bool = False,
    seed: int = 0,
) -> Reconstructions:
    """Decodes from z alone, with `draws` random x_T, with the inferred one; by DDPM if asked."""
    z = model.encode(images)
    keys = jax.random.split(jax.random.key(seed), draws)
    alone = model.decode(z, temperature=0.0)
    from_z = np.stack([model.decode(z, rng=key) for key in keys])
    inferred = model.decode(z, model.invert(images, z))
    sampled = model.decode(z, solver="ddpm", rng=seed) if ddpm else None
    return Reconstructions(alone, from_z, inferred, sampled)


def errors_in_units(
    value_range: ValueRange, images: Pictures, decoded: Pictures
) -> Float[np.ndarray, " C"]:
    """The root mean squared error of each channel, in the units of the files."""
    units = (value_range.to_units(np.asarray(x)) for x in (images, decoded))
    difference = np.subtract(*units)
    return np.sqrt((difference.astype(np.float64) ** 2).mean((0, 1, 2)))


def mean_squared_error(images: Pictures, decoded: Pictures) -> float:
    """Of pixels in [0, 1]; images: uint8 or in [-1, 1], decoded: in [-1, 1], or one for all."""
    difference = np.asarray(to_float(images), np.float64) - np.asarray(decoded)
    return float((difference**2).mean()) / 4


def scores(images: Pictures, decoded: Pictures, metrics: Metrics | None = None) -> dict[str, float]:
    """Means of `Metrics.compare` of decoded against images."""
    found = (metrics or Metrics()).compare(images, decoded)
    return {name: float(values.mean()) for name, values in found.items()}
