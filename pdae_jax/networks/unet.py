"""eps_theta, the diffusion model: ADM's UNet (Dhariwal and Nichol 2021), in two halves.

The way down gives features, the way up (`Decoder`) turns features into a picture; the gradient
estimator is a second way up over the same features (`gradient_estimator`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from pdae_jax.arrays import Images, Times
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import (
    AnyMap,
    Attention,
    Condition,
    Conv3x3,
    EmbeddingMLP,
    GroupNorm,
    Map,
    Projection,
    RematBlock,
    ResBlock,
    from_patches,
    split_conditions,
    to_patches,
    zeros,
)


class Features(NamedTuple):
    """The way down's last map, and every block's map for the skip connections."""

    h: AnyMap
    skips: tuple[AnyMap, ...]


class Down(nn.Module):
    """The way down: x_t and a condition for each of its residual blocks -> Features."""

    arch: Architecture
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(
        self, x_t: Images, conditions: Sequence[Condition], deterministic: bool = True
    ) -> Features:
        arch, skips, following = self.arch, [], iter(conditions)
        block_type = RematBlock if self.remat else ResBlock
        dropout = 0.0 if deterministic else arch.dropout
        h = to_patches(jnp.asarray(x_t, self.dtype), arch.patch)
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
                )(h, next(following))
            if block.attention:
                h = Attention(
                    arch.heads_of(block.channels), self.dtype, arch.qkv_order, name=f"attention_{k}"
                )(h)
            skips.append(h)
        return Features(h, tuple(skips))


class Decoder(nn.Module):
    """Middle block, the way up and the output head: Features -> float32, `out_channels` of them.

    conditions: for each of its residual blocks those to apply, in turn.
    """

    arch: Architecture
    out_channels: int
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(
        self,
        features: Features,
        conditions: Sequence[Sequence[Condition]],
        deterministic: bool = True,
    ) -> Map:
        arch, skips, following = self.arch, list(features.skips), iter(conditions)
        block_type = RematBlock if self.remat else ResBlock
        dropout = 0.0 if deterministic else arch.dropout

        def res(h: AnyMap, name: str, channels: int, resample: str = "") -> AnyMap:
            return block_type(channels, self.dtype, resample, dropout, name=name)(
                h, *next(following)
            )

        def attend(h: Map, name: str) -> Map:
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
        channels = arch.patch**2 * self.out_channels
        h = Conv3x3(channels, dtype=self.dtype, kernel_init=zeros, name="out")(h)
        return from_patches(h.astype(jnp.float32), arch.patch)


class UNet(nn.Module):
    """eps_theta(x_t, t), and its parts for callers that need the features or project t once.

    N times are B, one an example, or 1 for all.
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        arch = self.arch
        self.time_embedding = EmbeddingMLP(arch.base, arch.embedding, self.dtype)
        self.widths = (*arch.down_conditions(), *arch.up_conditions())
        self.time_projection = Projection(self.widths, self.dtype)
        self.down = Down(arch, self.dtype, self.remat)
        self.up = Decoder(arch, arch.out_channels, self.dtype, self.remat)

    def time(
        self, t: Int[Array | np.ndarray, " N"]
    ) -> tuple[Float[Array, "N E"], Float[Array, "N width"]]:
        """t's embedding, and its projection for every residual block."""
        embedding = self.time_embedding(t)
        return embedding, self.time_projection(embedding)

    def features(
        self, x_t: Images, projection: Float[Array, "#B width"], deterministic: bool = True
    ) -> Features:
        conditions = split_conditions(projection, self.widths)
        return self.down(x_t, conditions[: len(self.arch.down_conditions())], deterministic)

    def output(
        self,
        features: Features,
        projection: Float[Array, "#B width"],
        deterministic: bool = True,
    ) -> Map:
        conditions = split_conditions(projection, self.widths)
        conditions = conditions[len(self.arch.down_conditions()) :]
        return self.up(features, [(pair,) for pair in conditions], deterministic)

    def __call__(
        self, x_t: Images, t: Times, deterministic: bool = True
    ) -> Float[Array, "B H W outputs"]:
        """eps, or [eps, v] where the variance is learned."""
        _, projection = self.time(t)
        features = self.features(x_t, projection, deterministic)
        return self.output(features, projection, deterministic)
