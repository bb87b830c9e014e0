"""eps_theta, the diffusion model: ADM's UNet (Dhariwal and Nichol 2021), in two halves.

The way down gives features, the way up (`Decoder`) turns features into a picture; the gradient
estimator is a second way up over the same features (`gradient_estimator`).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import (
    Attention,
    Conv3x3,
    EmbeddingMLP,
    GroupNorm,
    Projection,
    RematBlock,
    ResBlock,
    split_conditions,
    zeros,
)


class Features(NamedTuple):
    """What the way down leaves: its last map [B, h, w, c] and every block's map, for the skips."""

    h: jax.Array
    skips: tuple[jax.Array, ...]


class Down(nn.Module):
    """The way down: x_t [B, H, W, C] and its blocks' conditions -> Features."""

    arch: Architecture
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, x, conditions, deterministic: bool = True) -> Features:
        arch, conditions, skips = self.arch, iter(conditions), []
        block_type = RematBlock if self.remat else ResBlock
        dropout = 0.0 if deterministic else arch.dropout
        h = x.astype(self.dtype)
        for k, block in enumerate(arch.down_path()):
            if block.kind == "conv":
                h = Conv3x3(block.channels, dtype=self.dtype, name=f"block_{k}")(h)
            else:
                h = block_type(
                    block.channels,
                    self.dtype,
                    "down" if block.kind == "down" else "",
                    dropout,
                    name=f"block_{k}",
                )(h, next(conditions))
            if block.attention:
                h = Attention(
                    arch.heads_of(block.channels), self.dtype, arch.qkv_order, name=f"attention_{k}"
                )(h)
            skips.append(h)
        return Features(h, tuple(skips))


class Decoder(nn.Module):
    """Middle block, the way up and the output head: Features -> float32 [B, H, W, out_channels].

    conditions: for each of its residual blocks the (scale, shift) pairs to apply.
    """

    arch: Architecture
    out_channels: int
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, features: Features, conditions, deterministic: bool = True):
        arch, conditions, skips = self.arch, iter(conditions), list(features.skips)
        block_type = RematBlock if self.remat else ResBlock
        dropout = 0.0 if deterministic else arch.dropout

        def res(h, name, channels, resample=""):
            return block_type(channels, self.dtype, resample, dropout, name=name)(
                h, *next(conditions)
            )

        def attend(h, name):
            return Attention(arch.heads_of(h.shape[-1]), self.dtype, arch.qkv_order, name=name)(h)

        h = features.h
        h = res(h, "middle_0", h.shape[-1])
        h = attend(h, "middle_attention")
        h = res(h, "middle_1", h.shape[-1])
        for k, block in enumerate(arch.up_path()):
            h = res(jnp.concatenate([h, skips.pop()], axis=-1), f"block_{k}", block.channels)
            if block.attention:
                h = attend(h, f"attention_{k}")
            if block.upsample:
                h = res(h, f"upsample_{k}", block.channels, "up")
        h = nn.silu(GroupNorm(self.dtype, name="norm")(h))
        h = Conv3x3(self.out_channels, dtype=self.dtype, kernel_init=zeros, name="out")(h)
        return h.astype(jnp.float32)


class UNet(nn.Module):
    """eps_theta(x_t, t), and its parts for those who need the features or compute t's share once.

    t's share, `time(t)`, is (embedding [N, 4 base], projection [N, *]); N is B, or 1 for all.
    """

    arch: Architecture
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self):
        arch = self.arch
        self.time_embedding = EmbeddingMLP(arch.base, arch.embedding, self.dtype)
        self.widths = (*arch.down_conditions(), *arch.up_conditions())
        self.time_projection = Projection(self.widths, self.dtype)
        self.down = Down(arch, self.dtype, self.remat)
        self.up = Decoder(arch, arch.out_channels, self.dtype, self.remat)

    def time(self, t):
        embedding = self.time_embedding(t)
        return embedding, self.time_projection(embedding)

    def features(self, x_t, projection, deterministic: bool = True) -> Features:
        conditions = split_conditions(projection, self.widths)
        return self.down(x_t, conditions[: len(self.arch.down_conditions())], deterministic)

    def output(self, features: Features, projection, deterministic: bool = True):
        conditions = split_conditions(projection, self.widths)
        conditions = conditions[len(self.arch.down_conditions()) :]
        return self.up(features, [(pair,) for pair in conditions], deterministic)

    def __call__(self, x_t, t, deterministic: bool = True):
        """x_t [B, H, W, C], t int [B] -> [B, H, W, C], or 2 C channels [eps, v] (learned)."""
        _, projection = self.time(t)
        features = self.features(x_t, projection, deterministic)
        return self.output(features, projection, deterministic)
