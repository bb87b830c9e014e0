"""Each layer that is computed otherwise than it is written down, against its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from pdae_jax.networks import layers

DIMENSIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def normal(seed: int, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("strides, size", [((1, 1), (6, 5)), ((2, 2), (6, 4)), ((2, 2), (5, 7))])
def test_convolution_has_the_gradients_of_the_plain_one(strides, size):
    x, kernel = normal(0, 2, *size, 3), normal(1, 3, 3, 3, 4)

    def gradients(convolution):
        def loss(x, kernel):
            return (convolution(x, kernel, strides, ((1, 1), (1, 1)), **DIMENSIONS) ** 2).sum()

        return jax.value_and_grad(loss, (0, 1))(x, kernel)

    for ours, plain in zip(
        jax.tree.leaves(gradients(layers.convolution)),
        jax.tree.leaves(gradients(jax.lax.conv_general_dilated)),
    ):
        assert_close(ours, plain, 1e-5)


def test_up_sampling_convolution_is_that_of_the_repeated_map():
    x, up = normal(0, 2, 4, 5, 3), layers.UpConv3x3(6, jnp.float32)
    params = up.init(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf + normal(2, *leaf.shape), params)

    def loss(params, layer, x):
        out = layer.apply(params, x)
        return (out**2).sum(), out

    wide = layers.Conv3x3(6)
    (_, ours), grads = jax.value_and_grad(loss, has_aux=True)(params, up, x)
    (_, plain), expected = jax.value_and_grad(loss, has_aux=True)(params, wide, layers.repeat(x))
    assert_close(ours, plain, 1e-5)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), grads, expected)


def test_both_ways_of_up_sampling_agree():
    """What TPUs and GPUs do, and what a CPU does: numbers and both gradients."""
    ways = layers.up_by_gradient, layers.up_by_parts

    def loss(x, taps, way):
        out = way(x, taps)
        return (out * normal(2, *out.shape)).sum()

    given = normal(0, 2, 4, 5, 3), normal(1, 4, 4, 3, 6)
    both = [jax.grad(loss, (0, 1))(*given, way) for way in ways]
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), *both)
    assert_close(*(way(*given) for way in ways), 1e-5)


def test_both_ways_of_a_groups_mean_agree():
    x = normal(0, 2, 32, 6)
    assert_close(layers.last_mean_by_slices(x), layers.last_mean(x), 1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_ways_of_repeating_are_equal(dtype):
    """What a TPU does and what all others do, to the bit; and gradients."""
    x = normal(0, 2, 3, 5, 4).astype(dtype)
    by_sums, by_copies = layers.repeat_by_sums, layers.repeat_by_copies
    assert jnp.array_equal(by_sums(x), by_copies(x)) and by_sums(x).dtype == dtype
    g = normal(1, 2, 6, 10, 4).astype(dtype)
    found, expected = (jax.vjp(way, x)[1](g)[0] for way in (by_sums, by_copies))
    assert_close(found.astype(jnp.float32), expected.astype(jnp.float32), 1e-2)


def test_group_norm_is_flaxs():
    x, norm = 3 + 2 * normal(0, 2, 4, 5, 64), layers.GroupNorm(jnp.float32)
    params = jax.tree.map(
        lambda leaf: leaf + normal(1, *leaf.shape), norm.init(jax.random.key(0), x)
    )
    expected = nn.GroupNorm(32, epsilon=1e-5).apply(params, x)
    assert_close(norm.apply(params, x), expected, 1e-5)
    scale, shift = normal(2, 2, 64), normal(3, 1, 64)
    assert_close(
        norm.apply(params, x, (scale, shift), (shift, scale)),
        (
            (expected * (1 + scale[:, None, None]) + shift[:, None, None])
            * (1 + shift[:, None, None])
            + scale[:, None, None]
        ),
        1e-5,
    )


def test_patches_are_neighbouring_pixels_and_go_back():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = layers.to_patches(x, 2)
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(layers.from_patches(patches, 2), x)
    np.testing.assert_array_equal(layers.to_patches(x, 1), x)


def test_pooling_is_the_mean_of_four():
    x = normal(0, 2, 4, 6, 3)
    assert_close(layers.average_pool(x), np.asarray(x).reshape(2, 2, 2, 3, 2, 3).mean((2, 4)), 1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout(rate):
    h, dropout = jnp.ones((4, 63, 40, 10)), layers.Dropout(rate)  # an odd height
    first, again, other = (
        np.asarray(dropout.apply({}, h, rngs={"dropout": jax.random.key(key)})) for key in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    zeros, others = first == 0, other == 0
    np.testing.assert_allclose(first[~zeros], 1 / (1 - rate), rtol=1e-6)
    spread = 4 * np.sqrt(rate * (1 - rate) / h.size)
    assert abs(zeros.mean() - rate) < spread
    for together in (
        zeros & others,
        zeros[:, :31] & zeros[:, 32:],
        zeros[..., :-1] & zeros[..., 1:],
    ):
        assert abs(together.mean() - rate**2) < 2 * spread  # independent, also two of one word
    assert layers.Dropout(0.0).apply({}, h) is h
