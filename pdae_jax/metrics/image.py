"""Picture against picture: MSE, PSNR and SSIM, on images in [0, 1], one number an example."""
import numpy as np
from scipy.ndimage import correlate1d


def mse(a, b) -> np.ndarray:
    """Mean squared difference of [B, H, W, C] in [0, 1] -> [B]."""
    return ((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).mean((1, 2, 3))


def psnr(mse) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of MSEs in [0, 1]: -10 log10(mse)."""
    return -10 * np.log10(np.maximum(mse, 1e-12))


def ssim(a, b) -> np.ndarray:
    """Structural similarity (Wang et al. 2004) of [B, H, W, C] in [0, 1] -> [B].

    11 x 11 Gaussian window of sigma 1.5, zero padding, C1 = 0.01^2, C2 = 0.03^2, mean over
    channels and pixels: the protocol of the paper.
    """
    x = np.arange(11) - 5
    window = np.exp(-x**2 / (2 * 1.5**2))
    window /= window.sum()

    def blur(image):
        for axis in (1, 2):
            image = correlate1d(image, window, axis=axis, mode="constant")
        return image

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    covariance = blur(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mu_a * mu_b + c1) * (2 * covariance + c2)
                  / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)))
    return similarity.mean((1, 2, 3))
