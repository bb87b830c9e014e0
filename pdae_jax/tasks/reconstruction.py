"""Reconstruction: from z alone, and from z with the inferred x_T (Figures 5 to 7, Table 1)."""

from typing import NamedTuple

import jax
import numpy as np

from pdae_jax.metrics.measure import Metrics


class Reconstructions(NamedTuple):
    """Float [-1, 1]: inferred, ddpm [B, H, W, C]; from_z [draws, B, H, W, C]; ddpm may be None."""

    from_z: np.ndarray
    inferred: np.ndarray
    ddpm: np.ndarray | None


def reconstruct(
    model,
    images,
    *,
    steps: int = 100,
    invert_steps: int = 100,
    draws: int = 3,
    ddpm: bool = True,
    seed: int = 0,
) -> Reconstructions:
    """images [B, H, W, C] -> decoded from z with `draws` random x_T, with the inferred one, DDPM.

    steps: of DDIM decoding; invert_steps: of the inference of x_T (the paper: 100 and 1000).
    """
    z = model.encode(images)
    keys = jax.random.split(jax.random.key(seed), draws)
    from_z = np.stack([model.decode(z, steps=steps, rng=key) for key in keys])
    x_T = model.invert(images, z, steps=invert_steps)
    inferred = np.asarray(model.decode(z, x_T, steps=steps))
    sampled = np.asarray(model.decode(z, method="ddpm", rng=seed)) if ddpm else None
    return Reconstructions(from_z, inferred, sampled)


def scores(images, decoded, metrics: Metrics | None = None) -> dict[str, float]:
    """Means of `Metrics.compare` of decoded against images, both [B, H, W, C]."""
    found = (metrics or Metrics()).compare(images, decoded)
    return {name: float(values.mean()) for name, values in found.items()}
