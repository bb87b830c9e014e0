"""What one step knows: the posterior-mean gap (Figure 4), one-step x_0 (Figures 1-3), G (13)."""

from typing import NamedTuple

import numpy as np

from pdae_jax.runtime.progress import bar


class Gap(NamedTuple):
    """times [S]; the mean of |mu~ - mu_theta|^2 over pictures at each, without and with G: [S]."""

    times: np.ndarray
    bare: np.ndarray
    shifted: np.ndarray

    @property
    def closed(self) -> float:
        """The share of the gap, summed over times, that the shift closes."""
        return float(1 - self.shifted.sum() / self.bare.sum())


def gap(model, images, times, *, seed: int = 0, uniform: bool = False) -> Gap:
    """The posterior-mean gap of images [B, H, W, C] at each of the times.

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
    """Rows over times: x_t, the one-step x_0 without and with G, and G: [S, B, H, W, C] each."""

    x_t: np.ndarray
    bare: np.ndarray
    shifted: np.ndarray
    gradient: np.ndarray


def denoise(model, images, times, *, seed: int = 0) -> Denoised:
    """images [B, H, W, C] noised to each of the times and denoised in one step."""
    z = model.encode(images)
    steps = [model.denoise(images, int(t), z, rng=seed) for t in bar("denoise", times)]
    return Denoised(*(np.stack([np.asarray(step[k]) for step in steps]) for k in range(4)))
