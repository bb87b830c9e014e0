"""LPIPS (Zhang et al. 2018): a distance of two pictures by AlexNet's features, v0.1 heads."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pdae_jax.arrays import Array, Params, PerExample
from pdae_jax.metrics.inception import Map, max_pool

# AlexNet's convolutions: place in torchvision's list, out, in, kernel, stride, padding.
CONVOLUTIONS = (
    (0, 64, 3, 11, 4, 2),
    (3, 192, 64, 5, 1, 2),
    (6, 384, 192, 3, 1, 1),
    (8, 256, 384, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
POOLED = (3, 6)  # convolutions of a pooled map
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

Shapes = dict[str, tuple[int, ...]]
ColourImages = Float[Array, "B H W 3"]


def alexnet_shapes() -> Shapes:
    """Names and shapes of AlexNet's tensors in torchvision's file; its classifier is not needed."""
    return {
        f"features.{k}.{part}": shape
        for k, out, n, size, _, _ in CONVOLUTIONS
        for part, shape in (("weight", (out, n, size, size)), ("bias", (out,)))
    }


def head_shapes() -> Shapes:
    """Names and shapes of LPIPS's heads: one weight for each channel of the five maps."""
    return {f"lin{i}.model.1.weight": (1, out, 1, 1) for i, (_, out, *_) in enumerate(CONVOLUTIONS)}


def features(alexnet: Params, x: ColourImages) -> list[Map]:
    """The five ReLU maps of images in [-1, 1]."""
    h, maps = (jnp.asarray(x) - jnp.array(SHIFT)) / jnp.array(SCALE), []
    for k, _, _, _, stride, padding in CONVOLUTIONS:
        if k in POOLED:
            h = max_pool(h, 2)
        layer = alexnet["features"][str(k)]
        h = jax.lax.conv_general_dilated(
            h,
            layer["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        h = jax.nn.relu(h + layer["bias"])
        maps.append(h)
    return maps


def lpips(params: Params, a: ColourImages, b: ColourImages) -> PerExample:
    """LPIPS of images a and b in [-1, 1].

    params: groups "alexnet" and "lpips" of converted files.
    """

    def unit(h: Map) -> Map:
        return h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + 1e-10)

    total = jnp.zeros(len(a))
    for i, (f, g) in enumerate(zip(features(params["alexnet"], a), features(params["alexnet"], b))):
        head = params["lpips"][f"lin{i}"]["model"]["1"]["kernel"][0, 0, :, 0]
        total += ((unit(f) - unit(g)) ** 2 @ head).mean((1, 2))
    return total
