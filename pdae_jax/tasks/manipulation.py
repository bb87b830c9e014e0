"""Attribute manipulation: z along a direction, decoded from the picture's own x_T (Figure 11)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pdae_jax.arrays import Pictures
from pdae_jax.latent import Direction
from pdae_jax.model import Model
from pdae_jax.runtime.progress import bar


def manipulate(
    model: Model,
    images: Pictures,
    direction: Direction,
    strengths: Sequence[float] | Float[np.ndarray, " strengths"],
) -> Float[np.ndarray, "B strengths H W C"]:
    """Edits images with each strength; the result is in [-1, 1].

    direction: a unit vector in normalised z, such as `Model.direction`'s of an attribute.
    """
    z = model.encode(images)
    x_T = model.invert(images, z)
    edited = (model.edit(z, direction, s) for s in bar("edit", strengths))
    return np.stack([model.decode(one, x_T) for one in edited], axis=1)
