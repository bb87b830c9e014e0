"""The model as a user holds it, and the picture metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, assert_close, golden, nhwc

from pdae_jax import images as pictures
from pdae_jax import pdae, samplers
from pdae_jax.metrics import image
from pdae_jax.model import Model
from pdae_jax.networks.groups import Networks
from pdae_jax.tasks.interpolation import interpolate
from pdae_jax.tasks.reconstruction import reconstruct, scores

ARCH = dataclasses.replace(DIGITS_ARCH, z_size=6, T=40)


@pytest.fixture(scope="module")
def model():
    params = jax.jit(lambda: Networks(ARCH).init(jax.random.key(0)))()
    params = jax.tree.map(
        lambda p: p + 0.05 * np.random.default_rng(p.size).standard_normal(p.shape), params
    )
    return Model(ARCH, params, batch_size=4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)


def test_shapes_ranges_and_batches_of_any_size(model, images):
    """Six pictures in batches of four: the second, padded, gives what it would alone."""
    z = model.encode(images)
    assert z.shape == (6, 6) and z.dtype == jnp.float32
    np.testing.assert_allclose(z[4:], model.encode(images[4:]), atol=1e-5)
    out = model.decode(z, steps=3)
    assert out.shape == images.shape and float(jnp.abs(out).max()) <= 1
    np.testing.assert_allclose(out[:2], model.decode(z[:2], steps=3), atol=1e-4)
    eps, gradient = model.predict(out, 3, z)
    assert eps.shape == gradient.shape == images.shape


def test_uint8_and_floats_are_the_same_picture(model, images):
    np.testing.assert_allclose(model.encode(images), model.encode(images / 127.5 - 1), atol=1e-5)
    with pytest.raises(ValueError, match=r"float in \[-1, 1\], got floats up to 25"):
        model.encode(images.astype(np.float32))


def test_x_T_drawn_or_given(model, images):
    z = model.encode(images)
    same, other = model.decode(z, steps=3, rng=0), model.decode(z, steps=3, rng=1)
    np.testing.assert_array_equal(same, model.decode(z, steps=3))
    assert float(jnp.abs(same - other).max()) > 1e-3
    x_T = model.invert(images, steps=5)
    np.testing.assert_allclose(x_T, model.invert(images, z, steps=5), atol=1e-5)
    assert x_T.shape == images.shape


def test_decode_is_the_pure_functions(model, images):
    z, times = model.encode(images), samplers.ddim_times(40, 3)
    x_T = jax.random.normal(jax.random.key(5), images.shape)
    eps = pdae.noise_fn(model.net, model.params, model.schedule, z, times)
    expected = samplers.ddim(eps, x_T, times[::-1], model.schedule)
    assert_close(model.decode(z, x_T, steps=3), jnp.clip(expected, -1, 1), 1e-4)


def test_ddpm_draws_by_example(model, images):
    z = model.encode(images)
    out = model.decode(z, method="ddpm", rng=7)
    np.testing.assert_allclose(out[:1], model.decode(z[:1], method="ddpm", rng=7), atol=1e-3)


def test_bad_arguments_are_one_line(model, images, shapes_unchecked):
    z = model.encode(images)
    for call, message in [
        (lambda: model.encode(images[0]), r"images must be \[B, 8, 8, 1\], got \[8, 8, 1\]"),
        (lambda: model.decode(z[:, :3]), r"z must be \[6, 6\], got \[6, 3\]"),
        (lambda: model.decode(z, steps=0), "steps must be from 1 to T = 40, got 0"),
        (lambda: model.decode(z, method="ddmp"), "did you mean 'ddpm'"),
        (lambda: model.predict(images, 40, z), "t must be from 0 to 39"),
        (lambda: model.decode(None), "decode needs z or x_T"),
        (lambda: Model(ARCH, {"dpm": model.params["dpm"]}).encode(images), "no 'encoder'"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_tasks(model, images):
    parts = reconstruct(model, images, steps=3, invert_steps=3, draws=2, ddpm=False)
    assert parts.from_z.shape == (2, *images.shape) and parts.inferred.shape == images.shape
    assert set(scores(images, parts.inferred)) == {"ssim", "mse", "psnr"}
    codes, trajectories = interpolate(
        model, images[:2], images[2:4], (0.0, 0.5, 1.0), steps=3, invert_steps=3
    )
    assert codes.shape == trajectories.shape == (2, 3, 8, 8, 1)
    np.testing.assert_allclose(codes[:, 0], trajectories[:, 0], atol=1e-3)  # they meet at the ends


def test_in_bfloat16_kernels_are_kept_so_and_no_number_changes(model, images):
    low = Model(ARCH, model.params, precision="bfloat16")
    for leaf in jax.tree.leaves(low.params):
        assert leaf.dtype == (jnp.bfloat16 if leaf.ndim > 1 else jnp.float32)
    z = low.encode(images)
    np.testing.assert_array_equal(z, jax.jit(low.net.encode)(model.params, low._images(images)))
    with_means = Model(
        ARCH, model.params | {"classifier": {"kernel": jnp.zeros((6, 2))}}, precision="bfloat16"
    )
    assert with_means.params["classifier"]["kernel"].dtype == jnp.float32


def test_pictures():
    x = np.array([-1.0, 0.0, 1.0, 2.0], np.float32)
    np.testing.assert_array_equal(pictures.to_uint8(x), [0, 128, 255, 255])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(pictures.to_uint8(every / 127.5 - 1), every)
    rows = [np.zeros((3, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 1), np.uint8)]
    assert pictures.grid(rows).shape == (10, 16, 1)


def test_image_metrics_golden():
    data = golden("image_metrics")
    a, b = nhwc(data["a"]), nhwc(data["b"])
    np.testing.assert_allclose(image.ssim(a, b), data["ssim"], rtol=1e-5)
    np.testing.assert_allclose(image.mse(a, b), data["mse"], rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(image.psnr(np.array([1e-2, 1e-3])), [20, 30])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_legacy_key_is_the_typed_one(model, n):
    """However many examples there are: two have as many as the key has words."""
    z = jnp.ones((n, 6))
    typed = model.decode(z, steps=2, rng=jax.random.key(5))
    np.testing.assert_array_equal(model.decode(z, steps=2, rng=jax.random.PRNGKey(5)), typed)
    each = samplers.keys(5, range(n))
    np.testing.assert_array_equal(model.decode(z, steps=2, rng=each), typed)
    np.testing.assert_array_equal(model.decode(z, steps=2, rng=jax.random.key_data(each)), typed)
