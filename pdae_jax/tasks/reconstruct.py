"""Reconstruction: from z alone, and from z with the inferred x_T (Figures 5 to 7, Table 1)."""
from typing import NamedTuple

import jax
import numpy as np

from pdae_jax.metrics import image
from pdae_jax.tasks.pictures import to_unit


class Reconstructions(NamedTuple):
    """Float [-1, 1]: inferred, ddpm [B, H, W, C]; from_z [draws, B, H, W, C]; ddpm may be None."""

    from_z: np.ndarray
    inferred: np.ndarray
    ddpm: np.ndarray | None


def reconstruct(model, images, *, steps: int = 100, invert_steps: int = 100, draws: int = 3,
                ddpm: bool = True, seed: int = 0) -> Reconstructions:
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


def scores(images, decoded) -> dict[str, float]:
    """Mean SSIM, MSE (pixels in [0, 1]) and PSNR of decoded against images, both [B, H, W, C]."""
    a, b = to_unit(images), to_unit(decoded)
    mse = image.mse(a, b)
    return {"ssim": float(image.ssim(a, b).mean()), "mse": float(mse.mean()),
            "psnr": float(image.psnr(mse).mean())}
