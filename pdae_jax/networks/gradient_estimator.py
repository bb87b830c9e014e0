"""G(x_t, z, t), the gradient estimator: the UNet's way up with one more condition.

It reads eps_theta's own features and time embedding, frozen; one pass down serves both networks.
Its output head starts at zero, so that before training PDAE is the bare diffusion model.
"""

import flax.linen as nn
import jax.numpy as jnp

from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import Dense, Projection, split_conditions
from pdae_jax.networks.unet import Decoder, Features


class GradientEstimator(nn.Module):
    """Features of x_t and the projections of t and z -> G, float32 [B, H, W, C]."""

    arch: Architecture
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self):
        arch = self.arch
        self.widths = tuple(arch.up_conditions())
        self.z_embedding = Dense(arch.embedding, dtype=self.dtype)
        self.time_projection = Projection(self.widths, self.dtype)
        self.z_projection = Projection(self.widths, self.dtype)
        self.up = Decoder(arch, arch.image_shape[2], self.dtype, self.remat)

    def time(self, embedding):
        """eps_theta's time embedding [N, 4 base] -> projection [N, *]."""
        return self.time_projection(embedding)

    def code(self, z):
        """z [B, d] -> projection [B, *]."""
        return self.z_projection(self.z_embedding(z))

    def __call__(self, features: Features, time, code, deterministic: bool = True):
        pairs = zip(split_conditions(time, self.widths), split_conditions(code, self.widths))
        return self.up(features, list(pairs), deterministic)

    def everything(self, features, embedding, z):
        """All of it at once: for initialisation."""
        return self(features, self.time(embedding), self.code(z))
