"""The layers that every network is made of: convolution, norm, residual block, attention."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Real

from pdae_jax.networks import flash_attention

Map = Float[Array, "B H W C"]  # a feature map
AnyMap = Float[Array, "B _H _W _C"]  # whose size is not the others'
Kernel = Float[Array, "h w C D"]
Padding = tuple[tuple[int, int], ...]  # of each axis, before and behind
Options = tuple[tuple[str, Any], ...]  # of a convolution, by name
# (scale, shift) of each channel, of every example or of all: h = (1 + scale) h + shift.
ScaleShift = tuple[Float[Array, "#B _width"], Float[Array, "#B _width"]]
Condition = ScaleShift | Float[Array, "#B _width"]  # or a shift alone, before the norm

# PyTorch's default, uniform in +-1/sqrt(fan_in): what the original networks were trained from.
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = nn.initializers.zeros


def convolution(
    x: Map,
    kernel: Kernel,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "B _H _W D"]:
    """`lax.conv_general_dilated`, whose gradient by the kernel is taken over a padded x.

    The same numbers; XLA's CPU computes that gradient 1.1 to 1.8 times as fast when the padding is
    an operation of its own, but the gradient by x more slowly, so that it keeps its own padding.
    """

    how = {"window_strides": tuple(strides), **options}
    return _padded(x, kernel, tuple(padding), tuple(how.items()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _padded(x: Map, kernel: Kernel, padding: Padding, how: Options) -> AnyMap:
    return jax.lax.conv_general_dilated(x, kernel, padding=padding, **dict(how))


def _padded_forward(
    x: Map, kernel: Kernel, padding: Padding, how: Options
) -> tuple[AnyMap, tuple[Map, Kernel]]:
    return _padded(x, kernel, padding, how), (x, kernel)


def _padded_backward(
    padding: Padding, how: Options, kept: tuple[Map, Kernel], g: AnyMap
) -> tuple[Map, Kernel]:
    x, kernel = kept
    conv = functools.partial(jax.lax.conv_general_dilated, **dict(how))
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    (dx,) = jax.linear_transpose(lambda x: conv(x, kernel, padding=padding), x)(g)
    (dkernel,) = jax.linear_transpose(lambda w: conv(wide, w, padding="VALID"), kernel)(g)
    return dx, dkernel


_padded.defvjp(_padded_forward, _padded_backward)


# Padding (1, 1) always: XLA's "SAME" would pad a stride-2 convolution by (0, 1).
Conv3x3 = functools.partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=((1, 1), (1, 1)),
    kernel_init=torch_init,
    conv_general_dilated=convolution,
)
Conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), kernel_init=torch_init)
Dense = functools.partial(nn.Dense, kernel_init=torch_init)


class Groups(NamedTuple):
    """How one network's group norms divide channels: into `most` groups of `least` or more."""

    most: int = 32
    least: int = 1
    eps: float = 1e-5  # added to the variance


class GroupNorm(nn.Module):
    """Group norm; fewer groups where they do not divide C.

    conditions: (scale, shift) pairs; h = (1 + scale) h + shift for each in turn. Sums run over
    pixels, a channel at a time; groups and conditions are folded into one factor and one offset,
    tiny [B, C] arrays, so that a pixel costs one multiply and add. Flax's own reshapes the image
    into groups, which on a CPU costs twice as much. Statistics are float32 whatever `dtype` is.
    """

    dtype: DTypeLike
    groups: Groups = Groups()

    @nn.compact
    def __call__(self, x: Map, *conditions: ScaleShift) -> Map:
        C = x.shape[-1]
        groups = math.gcd(max(min(self.groups.most, C // self.groups.least), 1), C)
        scale = self.param("scale", nn.initializers.ones, (C,))
        bias = self.param("bias", zeros, (C,))
        x = x.astype(jnp.float32)
        mean = means_of_groups(x, groups)
        variance = jnp.maximum(means_of_groups(x * x, groups) - mean * mean, 0)
        for factor, offset in conditions:
            scale, bias = (1 + factor) * scale, (1 + factor) * bias + offset
        # Divided last: what ends in a division XLA's CPU keeps, what does not it computes anew for
        # every pixel.
        std = jnp.sqrt(variance + self.groups.eps)
        factor, offset = scale / std, (bias * std - mean * scale) / std
        return (x * factor[:, None, None] + offset[:, None, None]).astype(self.dtype)


def means_of_groups(x: Map, groups: int) -> Float[Array, "B C"]:
    """For each channel the mean over its group's channels and all pixels."""
    size = x.shape[-1] // groups
    mean = x.mean((1, 2)).reshape(-1, groups, size)
    mean = jax.lax.platform_dependent(
        mean, cpu=last_mean, tpu=last_mean, default=last_mean_by_slices
    )
    return jnp.repeat(mean, size, axis=1)


def last_mean(x: Float[Array, "B groups size"]) -> Float[Array, "B groups"]:
    return x.mean(-1)


def last_mean_by_slices(x: Float[Array, "B groups size"]) -> Float[Array, "B groups"]:
    """The same as a sum of slices, which a GPU computes within what reads it.

    A reduction would be a kernel of its own, twice a norm. On a CPU it takes longer to compile, and
    of many slices anywhere.
    """
    size = x.shape[-1]
    if size > 64:
        return last_mean(x)
    return functools.reduce(jnp.add, [x[..., k] for k in range(size)]) / size


def timestep_embedding(
    t: Real[Array | np.ndarray, " N"], dim: int, shift: float = 0.0
) -> Float[Array, "N {dim}"]:
    """[cos, sin] of t exp(-ln(10000) i / (half - shift)), i < half = dim / 2."""
    half = dim // 2
    # At t = 999 a frequency's last bit is 6e-5 of an angle, so it is the one of the original, whose
    # exponent is a float32 and whose exp is right to its last bit.
    exponent = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32)
    exponent /= np.float32(half - shift)
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angles = jnp.asarray(t, jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, Linear of a time embedding: the networks' common reading of t.

    shift, order: of the embedding's frequencies, and of its halves, "cos_sin" or "sin_cos".
    """

    dim: int  # of the sinusoidal embedding
    width: int
    dtype: DTypeLike
    shift: float = 0.0
    order: str = "cos_sin"

    @nn.compact
    def __call__(self, t: Real[Array | np.ndarray, " N"]) -> Float[Array, "N {self.width}"]:
        h = timestep_embedding(t, self.dim, self.shift)
        if self.order == "sin_cos":
            h = jnp.roll(h, self.dim // 2, axis=-1)
        h = Dense(self.width, dtype=self.dtype, name="in")(h)
        return Dense(self.width, dtype=self.dtype, name="out")(nn.silu(h))


class Projection(nn.Module):
    """Every residual block's Linear(SiLU(emb)) at once: one matmul, parts sum(widths) wide.

    Block after block [scale, shift], or of one part the shift alone; `split_conditions` cuts it.
    Depends on t (or z) alone, so a sampler computes it once and a block never sees an embedding.
    """

    widths: tuple[int, ...]
    dtype: DTypeLike
    parts: int = 2

    @nn.compact
    def __call__(
        self, emb: Float[Array, "N E"]
    ) -> Float[Array, "N {self.parts}*{sum(self.widths)}"]:
        dense = Dense(self.parts * sum(self.widths), dtype=self.dtype, name="linear")
        return dense(nn.silu(emb))


def split_conditions(
    projected: Float[Array, "N total"], widths: Sequence[int], parts: int = 2
) -> list[Any]:
    """Cuts a `Projection` into each residual block's condition, of its width."""
    ends = np.cumsum(np.repeat(widths, parts))
    cut = jnp.split(projected, ends[:-1], axis=-1)
    return cut if parts == 1 else list(zip(cut[::2], cut[1::2]))


def average_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """Mean of every 2 x 2 pixels."""
    return nn.avg_pool(x.astype(jnp.float32), (2, 2), (2, 2)).astype(x.dtype)


def to_patches(x: Map, patch: int) -> AnyMap:
    """Every patch x patch pixels as one of more channels: [B, H, W, C] -> [B, H/p, W/p, p p C]."""
    return rearrange(x, "B (h p) (w q) C -> B h w (p q C)", p=patch, q=patch)


def from_patches(x: Map, patch: int) -> AnyMap:
    """The inverse of `to_patches`: [B, h, w, p p C] -> [B, h p, w p, C]."""
    return rearrange(x, "B h w (p q C) -> B (h p) (w q) C", p=patch, q=patch)


def repeat(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Every pixel twice along height and width (nearest)."""
    return jax.lax.platform_dependent(x, tpu=repeat_by_sums, default=repeat_by_copies)


def repeat_by_copies(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def repeat_by_sums(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """The same as sums of a pixel and zeros, which a TPU computes without changing layouts."""
    return jax.lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        jax.lax.add,
        window_dimensions=(1, 2, 2, 1),
        window_strides=(1, 1, 1, 1),
        padding=((0, 0), (1, 1), (1, 1), (0, 0)),
        base_dilation=(1, 2, 2, 1),
    )


class Dropout(nn.Module):
    """Zeroes a share `rate` of h and scales up the rest, by a mask drawn once a step.

    Two pixels share a word of random bits, which halves what drawing costs; 16 bits tell the rate
    to 1e-5. The mask is kept apart by a barrier: XLA would draw it anew within every convolution
    that reads h, on the way there and twice on the way back, which costs a TPU more than the
    convolutions themselves.
    """

    rate: float  # 0 in evaluation

    @nn.compact
    def __call__(self, h: Map) -> Map:
        if not self.rate:
            return h
        B, H, *rest = h.shape
        words = jax.random.bits(self.make_rng("dropout"), (B, -(-H // 2), *rest), jnp.uint32)
        bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=1)[:, :H]
        keep = bits >= round(self.rate * 2**16)
        return jnp.where(jax.lax.optimization_barrier(keep), h / (1 - self.rate), 0)


class UpConv3x3(nn.Module):
    """`Conv3x3` of `repeat(x)`, computed on x.

    Of the nine pixels under the kernel only four differ, so that taps on the same one are summed
    first: 16 multiplications where there were 36, and nothing repeated is written. The parameters
    are `Conv3x3`'s, or of what is not trained its bias and, instead of its kernel, `taps`: the sums
    (`shared_taps`), computed once and not at every step.
    """

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W {self.features}"]:
        if self.has_variable("params", "taps"):
            taps = jnp.asarray(self.get_variable("params", "taps"), self.dtype)
        else:
            kernel = self.param("kernel", torch_init, (3, 3, x.shape[-1], self.features))
            taps = shared_taps(jnp.asarray(kernel, self.dtype))
        bias = self.param("bias", zeros, (self.features,)).astype(self.dtype)
        return (
            jax.lax.platform_dependent(
                x.astype(self.dtype), taps, cpu=up_by_parts, default=up_by_gradient
            )
            + bias
        )


def shared_taps(kernel: Float[Array | np.ndarray, "3 3 C D"]) -> Float[Array, "4 4 C D"]:
    """The kernel on a map of which every pixel stands twice, turned by half a turn.

    Along each axis [a, b, c] -> [c, b + c, a + b, a]: by a product, whose gradient XLA's CPU does
    not compute anew in each loop of the optimiser.
    """
    shared = np.eye(4, 3, dtype=np.float32) + np.eye(4, 3, -1, dtype=np.float32)
    by_float32 = jnp.einsum(
        "pqhw,hwio->pqio",
        np.einsum("ph,qw->pqhw", shared[::-1], shared[::-1]),
        kernel.astype(jnp.float32),
        precision="highest",
    )
    return by_float32.astype(kernel.dtype)


def up_by_gradient(
    x: Float[Array, "B H W C"], taps: Float[Array, "4 4 C D"]
) -> Float[Array, "B 2*H 2*W D"]:
    """`UpConv3x3` as the gradient by its map of a convolution of stride 2, which cuDNN has.

    It leaves out the zeros between x's pixels. XLA finds it by the turn of its kernel, which must
    not cancel another: `shared_taps` are turned.
    """
    B, H, W, _ = x.shape

    def down(y: Map) -> AnyMap:
        return jax.lax.conv_general_dilated(
            y, taps, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWOI", "NHWC")
        )

    y = jax.ShapeDtypeStruct((B, 2 * H, 2 * W, taps.shape[-1]), x.dtype)
    (found,) = jax.linear_transpose(down, y)(x)
    return found


def up_by_parts(
    x: Float[Array, "B H W C"], taps: Float[Array, "4 4 C D"]
) -> Float[Array, "B 2*H 2*W D"]:
    """The same where zeros would be multiplied: even and odd rows and columns apart.

    Each is a convolution by every other tap; the four stand side by side as channels of one.
    """
    _, H, W, _ = x.shape
    kernel = rearrange(taps[::-1, ::-1], "(h p) (w q) C D -> h w C (p q D)", p=2, q=2)
    h = convolution(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = rearrange(h, "B H W (p q D) -> B H W p q D", p=2, q=2)
    rows = [jnp.stack([h[:, p : p + H, q : q + W, p, q] for q in (0, 1)], axis=3) for p in (0, 1)]
    return rearrange(jnp.stack(rows, axis=2), "B H p W q D -> B (H p) (W q) D")


RESAMPLE: dict[str, Callable[[AnyMap], AnyMap]] = {
    "": lambda x: x,
    "down": average_pool,
    "up": repeat,
}


class ResBlock(nn.Module):
    """The residual block: ADM's under any number of conditions, each a (scale, shift).

    h = (1 + scale) h + shift for every condition in turn, after the second norm: the time for
    the UNet, the time and then z for the gradient estimator (paper, Appendix B.1). A condition
    that is a shift alone is added before that norm, as in DDPM's. The sum is divided by `divisor`.
    """

    channels: int
    dtype: DTypeLike
    resample: str = ""
    dropout: float = 0.0  # 0 in evaluation
    groups: Groups = Groups()
    divisor: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B _H _W C"], *conditions: Condition
    ) -> Float[Array, "B H W {self.channels}"]:
        resample = RESAMPLE[self.resample]
        h = nn.silu(GroupNorm(self.dtype, self.groups, name="norm_in")(x))
        if self.resample == "up":
            h = UpConv3x3(self.channels, self.dtype, name="conv_in")(h)
        else:
            h = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(resample(h))
        pairs = [one for one in conditions if isinstance(one, tuple)]
        for shift in (one for one in conditions if not isinstance(one, tuple)):
            h = h + shift[:, None, None]
        h = GroupNorm(self.dtype, self.groups, name="norm_out")(h, *pairs)
        h = Dropout(self.dropout)(nn.silu(h))
        h = Conv3x3(self.channels, dtype=self.dtype, kernel_init=zeros, name="conv_out")(h)
        x = resample(x)
        if x.shape[-1] != self.channels:
            x = Conv1x1(self.channels, dtype=self.dtype, name="skip")(x)
        return divided(x + h, self.divisor)


# The same block, of which the backward pass is given the inputs alone and computes the rest again.
RematBlock = nn.remat(ResBlock)


class Attention(nn.Module):
    """Self-attention over all pixels of a map, added to it; the sum is divided by `divisor`.

    groups: None leaves out the norm.
    """

    heads: int
    dtype: DTypeLike
    qkv_order: str = "legacy"
    groups: Groups | None = Groups()
    divisor: float = 1.0

    @nn.compact
    def __call__(self, x: Map) -> Map:
        _, H, _, C = x.shape
        h = x if self.groups is None else GroupNorm(self.dtype, self.groups, name="norm")(x)
        h = rearrange(h, "B H W C -> B (H W) C")
        h = Dense(3 * C, dtype=self.dtype, name="qkv")(h)
        # Each by a slice of the channels: moved to the front, all three would be copied.
        order = {"legacy": "(head qkv c)", "new": "(qkv head c)"}[self.qkv_order]
        h = rearrange(h, f"B n {order} -> B n {order.strip('()')}", qkv=3, head=self.heads)
        axis = 3 if self.qkv_order == "legacy" else 2
        q, k, v = (jax.lax.index_in_dim(h, i, axis, keepdims=False) for i in range(3))
        h = rearrange(flash_attention.attend(q, k, v), "B n head c -> B n (head c)")
        h = Dense(C, dtype=self.dtype, kernel_init=zeros, name="proj")(h)
        return divided(x + rearrange(h, "B (H W) C -> B H W C", H=H), self.divisor)


def divided(x: Map, divisor: float) -> Map:
    return x if divisor == 1 else x / divisor
