"""Class-conditional generation: codes of the latent diffusion model, by rejection (Figure 12)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from pdae_jax import samplers
from pdae_jax.latent import Classifier, normalise
from pdae_jax.model import Model


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
                clamp=clamp,
                clip=clip,
                rng=samplers.keys(seed, range(drawn, drawn + batch)),
            )
        )
        logit = (
            np.asarray(normalise(model.params["statistics"], z)) @ classifier["kernel"]
            + classifier["bias"]
        )
        p = expit(logit)
        good = (p >= 0.5) & (rng.random(batch) < p)
        taken.append(z[good])
        kept.append(p[good])
        drawn += batch
    return Accepted(np.concatenate(taken)[:n], drawn, np.concatenate(kept)[:n])
