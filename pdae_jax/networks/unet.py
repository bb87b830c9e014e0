"""eps_theta, the diffusion model: ADM's UNet (Dhariwal and Nichol 2021), in two halves.

Other projects' UNets are the same path through other blocks: fields of `Architecture` say which.

The way down gives features, the way up (`Decoder`) turns features into a picture; the gradient
estimator is a second way up over the same features (`gradient_estimator`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Real

from pdae_jax.arrays import Images, Times
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import (
    AnyMap,
    Attention,
    Condition,
    Conv3x3,
    EmbeddingMLP,
    GroupNorm,
    Groups,
    Map,
    Projection,
    RematBlock,
    ResBlock,
    UpConv3x3,
    from_patches,
    split_conditions,
    to_patches,
    zeros,
)


class Features(NamedTuple):
    """The way down's last map, and every block's map for the skip connections."""

    h: AnyMap
    skips: tuple[AnyMap, ...]


# Down-sampling by a convolution; padded on all sides, or right and below only.
STRIDED: dict[str, Any] = {
    "conv": {"strides": (2, 2)},
    "conv_right": {"strides": (2, 2), "padding": ((0, 1), (0, 1))},
}


def groups_of(arch: Architecture) -> Groups:
    """How the norms of a network divide its channels."""
    return Groups(arch.norm_groups, arch.group_channels, arch.norm_eps)


class Down(nn.Module):
    """The way down: x_t and a condition for each of its residual blocks -> Features."""

    arch: Architecture
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(
        self, x_t: Images, conditions: Sequence[Condition], deterministic: bool = True
    ) -> Features:
        arch, skips, following, groups = self.arch, [], iter(conditions), groups_of(self.arch)
        block_type = RematBlock if self.remat else ResBlock
        dropout = 0.0 if deterministic else arch.dropout
        h = to_patches(jnp.asarray(x_t, self.dtype), arch.patch)
        for k, block in enumerate(arch.down_path()):
            if block.conditioned:
                h = block_type(
                    block.channels,
                    self.dtype,
                    "down" if block.kind == "down" else "",
                    dropout,
                    groups,
                    name=f"block_{k}",
                )(h, next(following))
            else:
                how = STRIDED.get(block.resample, {})
                h = Conv3x3(block.channels, dtype=self.dtype, **how, name=f"block_{k}")(h)
            if block.attention:
                h = Attention(
                    arch.heads_of(block.channels),
                    self.dtype,
                    arch.qkv_order,
                    groups,
                    name=f"attention_{k}",
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
        middle: dict[str, Any] = {"divisor": arch.middle_scale}
        groups = groups_of(arch)
        block_type = RematBlock if self.remat else ResBlock
        dropout = 0.0 if deterministic else arch.dropout

        def res(h: AnyMap, name: str, channels: int, resample: str = "", **more: Any) -> AnyMap:
            return block_type(channels, self.dtype, resample, dropout, groups, name=name, **more)(
                h, *next(following)
            )

        def attend(
            h: Map, name: str, up: bool = True, groups: Groups | None = groups, **more: Any
        ) -> Map:
            heads = arch.heads_of(h.shape[-1], up)
            return Attention(heads, self.dtype, arch.qkv_order, groups, name=name, **more)(h)

        h = features.h
        h = res(h, "middle_0", h.shape[-1], **middle)
        if arch.middle != "plain":
            normed = groups if arch.middle == "attention" else None
            h = attend(h, "middle_attention", False, normed, **middle)
        h = res(h, "middle_1", h.shape[-1], **middle)
        for k, block in enumerate(arch.up_path()):
            h = res(jnp.concatenate([h, skips.pop()], axis=-1), f"block_{k}", block.channels)
            if block.attention:
                h = attend(h, f"attention_{k}")
            if block.resample == "residual":
                h = res(h, f"upsample_{k}", block.channels, "up")
            elif block.resample:
                h = UpConv3x3(block.channels, self.dtype, name=f"upsample_{k}")(h)
        h = nn.silu(GroupNorm(self.dtype, groups, name="norm")(h))
        channels = arch.patch**2 * self.out_channels
        h = Conv3x3(channels, dtype=self.dtype, kernel_init=zeros, name="out")(h)
        return from_patches(h.astype(jnp.float32), arch.patch)


def is_up_convolution(names: Sequence[str]) -> bool:
    """Whether the layer under these names, from the outermost, is an `UpConv3x3`."""
    *above, name = names
    return name.startswith("upsample_") or (
        name == "conv_in" and bool(above) and above[-1].startswith("upsample_")
    )


class UNet(nn.Module):
    """eps_theta(x_t, t), and its parts for callers that need the features or project t once.

    N times are B, one an example, or 1 for all.
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        arch = self.arch
        self.time_embedding = EmbeddingMLP(
            arch.base, arch.embedding, self.dtype, arch.frequency_shift, arch.frequencies
        )
        self.widths = (*arch.down_conditions(), *arch.up_conditions())
        self.parts = 2 if arch.condition == "scale_shift" else 1
        self.time_projection = Projection(self.widths, self.dtype, self.parts)
        self.down = Down(arch, self.dtype, self.remat)
        self.up = Decoder(arch, arch.out_channels, self.dtype, self.remat)

    def time(
        self, t: Real[Array | np.ndarray, " N"]
    ) -> tuple[Float[Array, "N E"], Float[Array, "N width"]]:
        """The embedding of t, as `Architecture.reads` it, and its projection for every block."""
        embedding = self.time_embedding(t)
        return embedding, self.time_projection(embedding)

    def features(
        self, x_t: Images, projection: Float[Array, "#B width"], deterministic: bool = True
    ) -> Features:
        conditions = split_conditions(projection, self.widths, self.parts)
        return self.down(x_t, conditions[: len(self.arch.down_conditions())], deterministic)

    def output(
        self,
        features: Features,
        projection: Float[Array, "#B width"],
        deterministic: bool = True,
    ) -> Map:
        conditions = split_conditions(projection, self.widths, self.parts)
        conditions = conditions[len(self.arch.down_conditions()) :]
        return self.up(features, [(one,) for one in conditions], deterministic)

    def __call__(
        self, x_t: Images, t: Times, deterministic: bool = True
    ) -> Float[Array, "B H W outputs"]:
        """eps, or [eps, v] where the variance is learned."""
        _, projection = self.time(t)
        features = self.features(x_t, projection, deterministic)
        return self.output(features, projection, deterministic)
