"""The layers that every network is made of: convolution, norm, residual block, attention."""
import functools
import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

# PyTorch's default, uniform in +-1/sqrt(fan_in): what the original networks were trained from.
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nn.initializers.zeros

# Padding (1, 1) always: XLA's "SAME" would pad a stride-2 convolution by (0, 1).
Conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)),
                            kernel_init=torch_init)
Conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), kernel_init=torch_init)
Dense = functools.partial(nn.Dense, kernel_init=torch_init)


class GroupNorm(nn.Module):
    """Group norm over [B, H, W, C]: 32 groups, fewer where 32 does not divide C; eps 1e-5.

    Sums run over pixels, a channel at a time, and are folded into groups as tiny [B, C] arrays;
    the rest is one multiply and add. Flax's own reshapes the image into groups, which on a CPU
    costs twice as much. Statistics are float32 whatever `dtype` is.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        B, H, W, C = x.shape
        groups = math.gcd(32, C)
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", zeros, (C,))
        x = x.astype(jnp.float32)

        def mean_of_group(x):
            mean = x.mean((1, 2)).reshape(B, groups, C // groups).mean(-1)
            return jnp.repeat(mean, C // groups, axis=1)

        mean = mean_of_group(x)
        variance = jnp.maximum(mean_of_group(x * x) - mean * mean, 0)
        factor = jax.lax.rsqrt(variance + 1e-5) * scale
        offset = bias - mean * factor
        return (x * factor[:, None, None] + offset[:, None, None]).astype(self.dtype)


def timestep_embedding(t, dim: int):
    """[cos, sin] of t exp(-ln(10000) i / half), i < half = dim / 2: int [N] -> float32 [N, dim]."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angles = jnp.asarray(t, jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, Linear of a time embedding: the networks' common reading of t."""

    dim: int       # of the sinusoidal embedding
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, t):
        h = Dense(self.width, dtype=self.dtype, name="in")(timestep_embedding(t, self.dim))
        return Dense(self.width, dtype=self.dtype, name="out")(nn.silu(h))


class Projection(nn.Module):
    """Every residual block's Linear(SiLU(emb)) at once: one matmul, [N, E] -> [N, 2 sum widths].

    Block after block [scale, shift]; `split_conditions` cuts it. Depends on t (or z) alone, so a
    sampler computes it once and a block never sees an embedding.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, emb):
        return Dense(2 * sum(self.widths), dtype=self.dtype, name="linear")(nn.silu(emb))


def split_conditions(projected, widths) -> list:
    """[N, 2 sum widths] -> for each block (scale, shift), each [N, 1, 1, width]."""
    pairs, start = [], 0
    for width in widths:
        block = projected[:, None, None, start:start + 2 * width]
        pairs.append((block[..., :width], block[..., width:]))
        start += 2 * width
    return pairs


def average_pool(x):
    """Mean of every 2 x 2 pixels: [B, H, W, C] -> [B, H/2, W/2, C]."""
    return einops.reduce(x, "B (H h) (W w) C -> B H W C", "mean", h=2, w=2)


def repeat(x):
    """Every pixel twice along height and width (nearest): [B, H, W, C] -> [B, 2H, 2W, C]."""
    return einops.repeat(x, "B H W C -> B (H h) (W w) C", h=2, w=2)


RESAMPLE = {"": lambda x: x, "down": average_pool, "up": repeat}


class ResBlock(nn.Module):
    """ADM's residual block under any number of conditions, each a (scale, shift).

    h = (1 + scale) h + shift for every condition in turn, after the second norm: the time for
    the UNet, the time and then z for the gradient estimator (paper, Appendix B.1).
    """

    channels: int
    dtype: jnp.dtype
    resample: str = ""
    dropout: float = 0.0         # 0 in evaluation

    @nn.compact
    def __call__(self, x, *conditions):
        resample = RESAMPLE[self.resample]
        h = nn.silu(GroupNorm(self.dtype, name="norm_in")(x))
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(resample(h))
        h = GroupNorm(self.dtype, name="norm_out")(h)
        for scale, shift in conditions:
            h = h * (1 + scale) + shift
        h = nn.Dropout(self.dropout, deterministic=False)(nn.silu(h))
        h = Conv3x3(self.channels, dtype=self.dtype, kernel_init=zeros, name="conv_out")(h)
        x = resample(x)
        if x.shape[-1] != self.channels:
            x = Conv1x1(self.channels, dtype=self.dtype, name="skip")(x)
        return x + h


# The same block, of which the backward pass is given the inputs alone and computes the rest again.
RematBlock = nn.remat(ResBlock)

QKV_ORDERS = {"legacy": "B N (heads qkv c) -> qkv B N heads c",
              "new": "B N (qkv heads c) -> qkv B N heads c"}


class Attention(nn.Module):
    """Self-attention over all pixels of a map, added to it: [B, H, W, C] -> the same."""

    heads: int
    dtype: jnp.dtype
    qkv_order: str = "legacy"

    @nn.compact
    def __call__(self, x):
        B, H, W, C = x.shape
        h = GroupNorm(self.dtype, name="norm")(x).reshape(B, H * W, C)
        h = Dense(3 * C, dtype=self.dtype, name="qkv")(h)
        q, k, v = einops.rearrange(h, QKV_ORDERS[self.qkv_order], qkv=3, heads=self.heads)
        h = jax.nn.dot_product_attention(q, k, v).reshape(B, H * W, C)
        h = Dense(C, dtype=self.dtype, kernel_init=zeros, name="proj")(h)
        return x + h.reshape(B, H, W, C)
