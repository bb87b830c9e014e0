"""E(x_0), the encoder: stride-2 convolutions down to about 4 x 4 pixels, then one linear layer."""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike

from pdae_jax.arrays import Codes, Images
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import Attention, Conv3x3, Dense, GroupNorm


class Encoder(nn.Module):
    """x_0 in [-1, 1] -> z, in float32.

    Self-attention where the map is 16 pixels high or wide (or the first below 16, above 8).
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_0: Images) -> Codes:
        arch = self.arch
        h = x_0.astype(self.dtype)
        for k, width in enumerate(arch.encoder_widths):
            h = Conv3x3(width, strides=(2, 2), dtype=self.dtype, name=f"conv_{k}")(h)
            if arch.encoder_attends(*h.shape[1:3]):
                h = Attention(arch.encoder_heads, self.dtype, name="attention")(h)
            h = nn.silu(GroupNorm(self.dtype, name=f"norm_{k}")(h))
        h = Dense(arch.z_size, dtype=self.dtype, name="out")(rearrange(h, "B H W C -> B (H W C)"))
        return h.astype(jnp.float32)
