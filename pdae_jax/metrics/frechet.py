"""The Frechet distance of two sets of features, from moments accumulated over batches."""

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Float

from pdae_jax.arrays import Array


@dataclasses.dataclass
class Moments:
    """Mean and covariance (ddof = 1) of features seen so far, in float64 and bounded memory."""

    n: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]  # sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: Float[Array, "n d"]) -> "Moments":
        """The moments of one batch."""
        x = np.asarray(features, np.float64)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets joined (Chan, Golub and LeVeque 1979)."""
        n, step = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        if self.n < 2:
            raise ValueError(f"a covariance needs two pictures or more, got {self.n}")
        return self.scatter / (self.n - 1)


def frechet_distance(
    mean_1: Float[np.ndarray, " d"],
    covariance_1: Float[np.ndarray, "d d"],
    mean_2: Float[np.ndarray, " d"],
    covariance_2: Float[np.ndarray, "d d"],
) -> float:
    """|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)); FID where x are Inception features."""
    # The roots of C_1 C_2's eigenvalues, which are those of the symmetric C_1^(1/2) C_2 C_1^(1/2):
    # real and not negative even where fewer pictures than features make it singular.
    values, vectors = scipy.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    eigenvalues = scipy.linalg.eigvalsh(root @ covariance_2 @ root)
    trace = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    step = mean_1 - mean_2
    return float(step @ step + np.trace(covariance_1) + np.trace(covariance_2) - 2 * trace)
