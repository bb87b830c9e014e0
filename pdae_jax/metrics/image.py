"""MSE, PSNR and SSIM of one picture against another, both in [0, 1]: one number an example."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.arrays import Array, Images, PerExample


def mse(a: Images, b: Images) -> Float[Array, " B"]:
    """Mean squared difference."""
    return ((a - b) ** 2).mean((1, 2, 3))


def psnr(mse: Float[Array, " B"]) -> PerExample:
    """Peak signal-to-noise ratio in dB of MSEs in [0, 1]: -10 log10(mse)."""
    return -10 * jnp.log10(jnp.maximum(mse, 1e-12))


def ssim(a: Images, b: Images) -> PerExample:
    """Structural similarity (Wang et al. 2004).

    11 x 11 Gaussian window of sigma 1.5, zero padding, C1 = 0.01^2, C2 = 0.03^2, mean over
    channels and pixels: the protocol of the paper.
    """
    _, H, W, _ = a.shape

    def blur(x: Images) -> Images:
        x = jnp.einsum("hH,BHWC->BhWC", _window(H), x, precision="highest")
        return jnp.einsum("wW,BhWC->BhwC", _window(W), x, precision="highest")

    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    covariance = blur(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (
        (2 * mu_a * mu_b + c1)
        * (2 * covariance + c2)
        / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    )
    return similarity.mean((1, 2, 3))


def _window(n: int) -> Float[np.ndarray, "{n} {n}"]:
    """The blur along one axis of n pixels as a band matrix."""
    at = np.arange(11) - 5
    weights = np.exp(-(at**2) / (2 * 1.5**2))
    weights /= weights.sum()
    bands = [w * np.eye(n, k=int(k)) for w, k in zip(weights, at)]
    return np.sum(bands, axis=0).astype(np.float32)
