"""One denoising step: the posterior-mean gap (Figure 4), one-step x_0 (Figures 1-3), G (13)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.arrays import Pictures
from pdae_jax.model import Model
from pdae_jax.runtime.progress import bar


class Gap(NamedTuple):
    """Mean of |mu~ - mu_theta|^2 over pictures at each of S times, without and with G."""

    times: Int[np.ndarray, " S"]
    bare: Float[np.ndarray, " S"]
    shifted: Float[np.ndarray, " S"]

    @property
    def closed(self) -> float:
        """The share of the gap, summed over times, that the shift closes."""
        return float(1 - self.shifted.sum() / self.bare.sum())


def gap(
    model: Model,
    images: Pictures,
    times: Sequence[int] | Int[np.ndarray, " S"],
    *,
    seed: int = 0,
    uniform: bool = False,
) -> Gap:
    """The posterior-mean gap of images at each of the times.

    uniform: see `Model.posterior_gap`; else Gaussian noise.
    """
    z = model.encode(images)
    means = []
    for t in bar("gap", times):
        both = model.posterior_gap(images, int(t), z, rng=seed * 100_003 + int(t), uniform=uniform)
        means.append([float(np.asarray(one, np.float64).mean()) for one in both])
    bare, shifted = np.array(means).T
    return Gap(np.asarray(times), bare, shifted)


class Denoised(NamedTuple):
    """Rows over S times: x_t, the one-step x_0 without and with G, and G."""

    x_t: Float[np.ndarray, "S B H W C"]
    bare: Float[np.ndarray, "S B H W C"]
    shifted: Float[np.ndarray, "S B H W C"]
    gradient: Float[np.ndarray, "S B H W C"]


def denoise(
    model: Model,
    images: Pictures,
    times: Sequence[int] | Int[np.ndarray, " S"],
    *,
    seed: int = 0,
) -> Denoised:
    """Noises images to each of the times and denoises them in one step."""
    z = model.encode(images)
    steps = [model.denoise(images, int(t), z, rng=seed) for t in bar("denoise", times)]
    return Denoised(*(np.stack([np.asarray(step[k]) for step in steps]) for k in range(4)))
