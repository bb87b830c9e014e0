"""Attribute manipulation: z moved along a direction, and decoded (Figure 11)."""

from collections.abc import Sequence
from typing import Any

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
    *,
    inferred: bool = True,
) -> Float[np.ndarray, "B strengths H W C"]:
    """Edits images with each strength; the result is in [-1, 1].

    direction: a unit vector in normalised z, such as `Model.direction`'s of an attribute. inferred:
    decode from each picture's own x_T, which keeps its detail, and holds against strong edits; else
    from z alone (x_T = 0).
    """
    z = model.encode(images)
    noise: dict[str, Any] = {"x_T": model.invert(images, z)} if inferred else {"temperature": 0.0}
    edited = (model.edit(z, direction, s) for s in bar("edit", strengths))
    return np.stack([model.decode(one, **noise) for one in edited], axis=1)
