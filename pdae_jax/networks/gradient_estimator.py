"""G(x_t, z, t), the gradient estimator: ADM's way up with one more condition.

It reads eps_theta's own features and time embedding, frozen; one pass down serves both networks.
Its output head starts at zero, so that before training PDAE is the bare diffusion model.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from pdae_jax.arrays import Codes, Images
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import Dense, Projection, split_conditions
from pdae_jax.networks.unet import Decoder, Features


class GradientEstimator(nn.Module):
    """Features of x_t and the projections of t and z -> G, in float32."""

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        arch = self.arch.estimator
        self.widths = tuple(arch.up_conditions())
        self.z_embedding = Dense(arch.embedding, dtype=self.dtype)
        self.time_projection = Projection(self.widths, self.dtype)
        self.z_projection = Projection(self.widths, self.dtype)
        self.up = Decoder(arch, arch.image_shape[2], self.dtype, self.remat)

    def time(self, embedding: Float[Array, "N E"]) -> Float[Array, "N width"]:
        """eps_theta's time embedding -> its projection for every residual block."""
        return self.time_projection(embedding)

    def code(self, z: Codes) -> Float[Array, "B width"]:
        """z -> its projection for every residual block."""
        return self.z_projection(self.z_embedding(z))

    def __call__(
        self,
        features: Features,
        time: Float[Array, "#B width"],
        code: Float[Array, "B width"],
        deterministic: bool = True,
    ) -> Images:
        pairs = zip(split_conditions(time, self.widths), split_conditions(code, self.widths))
        return self.up(features, list(pairs), deterministic)

    def everything(self, features: Features, embedding: Float[Array, "N E"], z: Codes) -> Images:
        """All of it at once: for initialisation."""
        return self(features, self.time(embedding), self.code(z))
