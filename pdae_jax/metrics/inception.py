"""FID's Inception v3 (the network of 2015-12-05): a table of layers, and its pooled features.

A list of layers runs in order; a list within it is branches, whose outputs are joined. Tensor names
are those of PyTorch's port of the file, which `convert` reads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from pdae_jax.arrays import Array, Images, Params

Map = Float[jax.Array, "B _H _W _C"]

SIZE = 299
FEATURES = 2048


class Conv(NamedTuple):
    """Convolution, batch norm (eps 0.001) and ReLU; padding keeps the size unless `valid`."""

    name: str
    channels: int
    height: int = 1
    width: int = 0  # 0: the height
    stride: int = 1
    valid: bool = False

    @property
    def kernel(self) -> tuple[int, int]:
        return self.height, self.width or self.height


def _block(name: str, *branches: list[Any]) -> list[Any]:
    """Branches of (branch name, channels, height, width, stride, valid), pools and splits."""

    def convs(layers: list[Any]) -> list[Any]:
        return [
            [convs(branch) for branch in layer]
            if isinstance(layer, list)
            else layer
            if isinstance(layer, str)
            else Conv(f"Mixed_{name}.branch{layer[0]}", *layer[1:])
            for layer in layers
        ]

    return [convs(branch) for branch in branches]


def _network() -> list[Any]:
    layers: list[Any] = [
        Conv("Conv2d_1a_3x3", 32, 3, 3, 2, True),
        Conv("Conv2d_2a_3x3", 32, 3, 3, 1, True),
        Conv("Conv2d_2b_3x3", 64, 3),
        "max/2",
        Conv("Conv2d_3b_1x1", 80, 1, 1, 1, True),
        Conv("Conv2d_4a_3x3", 192, 3, 3, 1, True),
        "max/2",
    ]
    for name, pool in (("5b", 32), ("5c", 64), ("5d", 64)):
        layers.append(
            _block(
                name,
                [("1x1", 64)],
                [("5x5_1", 48), ("5x5_2", 64, 5)],
                [("3x3dbl_1", 64), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)],
                ["mean", ("_pool", pool)],
            )
        )
    layers.append(
        _block(
            "6a",
            [("3x3", 384, 3, 3, 2, True)],
            [("3x3dbl_1", 64), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3, 3, 2, True)],
            ["max/2"],
        )
    )
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        layers.append(
            _block(
                name,
                [("1x1", 192)],
                [("7x7_1", c), ("7x7_2", c, 1, 7), ("7x7_3", 192, 7, 1)],
                [
                    ("7x7dbl_1", c),
                    ("7x7dbl_2", c, 7, 1),
                    ("7x7dbl_3", c, 1, 7),
                    ("7x7dbl_4", c, 7, 1),
                    ("7x7dbl_5", 192, 1, 7),
                ],
                ["mean", ("_pool", 192)],
            )
        )
    layers.append(
        _block(
            "7a",
            [("3x3_1", 192), ("3x3_2", 320, 3, 3, 2, True)],
            [
                ("7x7x3_1", 192),
                ("7x7x3_2", 192, 1, 7),
                ("7x7x3_3", 192, 7, 1),
                ("7x7x3_4", 192, 3, 3, 2, True),
            ],
            ["max/2"],
        )
    )
    for name, pool in (("7b", "mean"), ("7c", "max")):  # the last block's pool is FID's own
        layers.append(
            _block(
                name,
                [("1x1", 320)],
                [("3x3_1", 384), [[("3x3_2a", 384, 1, 3)], [("3x3_2b", 384, 3, 1)]]],
                [
                    ("3x3dbl_1", 448),
                    ("3x3dbl_2", 384, 3),
                    [[("3x3dbl_3a", 384, 1, 3)], [("3x3dbl_3b", 384, 3, 1)]],
                ],
                [pool, ("_pool", 192)],
            )
        )
    return layers


NETWORK = _network()


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes, [out, in, height, width], of the tensors in the weights' file."""
    found: dict[str, tuple[int, ...]] = {}

    def channels(layers: list[Any], n: int) -> int:
        for layer in layers:
            if isinstance(layer, Conv):
                found[f"{layer.name}.conv.weight"] = (layer.channels, n, *layer.kernel)
                for part in ("weight", "bias", "running_mean", "running_var"):
                    found[f"{layer.name}.bn.{part}"] = (layer.channels,)
                n = layer.channels
            elif isinstance(layer, list):
                n = sum(channels(branch, n) for branch in layer)
        return n

    assert channels(NETWORK, 3) == FEATURES
    return found | {"fc.weight": (1008, FEATURES), "fc.bias": (1008,)}


def features(
    params: Params, images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]
) -> Float[jax.Array, "B 2048"]:
    """The pooled features of images with values 0 to 255, of any size.

    params: group "inception" of a converted file. Images are resized as TensorFlow 1 did, then
    (x - 128) / 128.
    """
    x = resize(jnp.asarray(images, jnp.float32), SIZE)
    return _run(NETWORK, params, (x - 128) / 128).mean((1, 2))


def resize(x: Images, size: int) -> Float[jax.Array, "B {size} {size} C"]:
    """TensorFlow 1's bilinear: corners at pixel i * (old / new), not antialiased."""

    def weights(old: int) -> Float[np.ndarray, "new {old}"]:
        at = np.arange(size) * (old / size)
        low = at.astype(int)
        rows = np.zeros((size, old), np.float64)
        rows[np.arange(size), low] += 1 - (at - low)
        rows[np.arange(size), np.minimum(low + 1, old - 1)] += at - low
        return rows.astype(np.float32)

    _, H, W, _ = x.shape
    x = jnp.einsum("hH,BHWC->BhWC", weights(H), x, precision="highest")
    return jnp.einsum("wW,BhWC->BhwC", weights(W), x, precision="highest")


def _run(layers: list[Any], params: Params, x: Map) -> Map:
    for layer in layers:
        if isinstance(layer, Conv):
            x = _conv(layer, params, x)
        elif isinstance(layer, list):
            x = jnp.concatenate([_run(branch, params, x) for branch in layer], axis=-1)
        else:
            x = POOLS[layer](x)
    return x


def _conv(layer: Conv, params: Params, x: Map) -> Map:
    for part in layer.name.split("."):
        params = params[part]
    padding = [(0, 0) if layer.valid else (k // 2, k // 2) for k in layer.kernel]
    x = jax.lax.conv_general_dilated(
        x,
        params["conv"]["kernel"],
        (layer.stride,) * 2,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    norm = params["bn"]
    factor = norm["scale"] * jax.lax.rsqrt(norm["variance"] + 1e-3)
    return jax.nn.relu(x * factor + (norm["bias"] - norm["mean"] * factor))


def max_pool(x: Map, stride: int, padding: int = 0) -> Map:
    """Largest of 3 x 3 pixels."""
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, 3, 3, 1),
        (1, stride, stride, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )


def _mean_pool(x: Map) -> Map:
    """Mean of 3 x 3 pixels, of those within the picture alone, as FID has it."""

    def total(x: Map) -> Map:
        return jax.lax.reduce_window(
            x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )

    return total(x) / total(jnp.ones_like(x[:1, :, :, :1]))


POOLS = {"max/2": lambda x: max_pool(x, 2), "max": lambda x: max_pool(x, 1, 1), "mean": _mean_pool}
