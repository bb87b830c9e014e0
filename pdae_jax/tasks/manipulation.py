"""Attribute manipulation: z along a direction, decoded from the picture's own x_T (Figure 11)."""

import numpy as np

from pdae_jax import latent
from pdae_jax.runtime.progress import bar

STRENGTHS = (-0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5)


def manipulate(
    model, images, direction, strengths=STRENGTHS, *, steps: int = 100, invert_steps: int = 100
) -> np.ndarray:
    """images [B, H, W, C] edited with each strength -> float [-1, 1], [B, strengths, H, W, C].

    direction: a unit vector [d] in normalised z, such as `latent.direction`'s of an attribute.
    """
    z = model.encode(images)
    x_T = model.invert(images, z, steps=invert_steps)
    edited = (
        latent.edit(model.params["statistics"], z, direction, s) for s in bar("edit", strengths)
    )
    return np.stack([np.asarray(model.decode(one, x_T, steps=steps)) for one in edited], axis=1)
