"""Generation: codes from the latent diffusion model, then pictures (Figure 12's base)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pdae_jax import samplers
from pdae_jax.latent import Classifier, normalise
from pdae_jax.model import Model


class Generated(NamedTuple):
    """Images in [-1, 1] and their codes."""

    images: Float[np.ndarray, "n H W C"]
    z: Float[np.ndarray, "n d"]


def generate(
    model: Model,
    numbers: Sequence[int] | Int[np.ndarray, " n"],
    *,
    steps: int = 100,
    latent_steps: int = 100,
    stop: float = 0.3,
    clamp: bool = True,
    clip: bool = False,
    seed: int = 0,
) -> Generated:
    """Pictures from nothing: z from the latent model, x_T at random, DDIM.

    numbers: which, such as range(100): the i-th picture depends on (seed, i) alone. stop: the last
    share of the steps, which go without z (the original: 0.3); clamp, clip: see
    `Model.generate_codes`.
    """
    rngs = samplers.keys(seed, numbers)
    z = model.generate_codes(len(rngs), steps=latent_steps, rng=rngs, clamp=clamp, clip=clip)
    return Generated(np.asarray(model.decode(z, steps=steps, rng=rngs, stop=stop)), np.asarray(z))


class Accepted(NamedTuple):
    """Codes accepted as the class, how many were drawn for them, and their p(y|z)."""

    z: Float[np.ndarray, "n d"]
    drawn: int
    probability: Float[np.ndarray, " n"]

    @property
    def rate(self) -> float:
        """The share of the draws that was accepted."""
        return len(self.z) / self.drawn if self.drawn else 0.0


def generate_codes_of_class(
    model: Model,
    classifier: Classifier,
    n: int,
    *,
    latent_steps: int = 100,
    seed: int = 0,
    clamp: bool = True,
    clip: bool = False,
    most: int = 100,
) -> Accepted:
    """Rejection sampling: z from the latent model, none with p(y|z) < 0.5, others with p(y|z).

    classifier: {"kernel": [d], "bias": number} on normalised z. Gives up after `most` times n
    draws: then there are fewer than n codes, perhaps none.
    """
    rng, taken, kept, drawn = np.random.default_rng([seed, 3]), [], [], 0
    while sum(map(len, taken)) < n and drawn < most * n:
        batch = min(max(n, model.batch_size), most * n - drawn)
        z = np.asarray(
            model.generate_codes(
                batch,
                latent_steps,
                clamp=clamp,
                clip=clip,
                rng=samplers.keys(seed, range(drawn, drawn + batch)),
            )
        )
        logit = (
            np.asarray(normalise(model.params["statistics"], z)) @ classifier["kernel"]
            + classifier["bias"]
        )
        p = 1 / (1 + np.exp(-logit))
        good = (p >= 0.5) & (rng.random(batch) < p)
        taken.append(z[good])
        kept.append(p[good])
        drawn += batch
    return Accepted(np.concatenate(taken)[:n], drawn, np.concatenate(kept)[:n])
