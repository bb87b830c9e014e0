"""LPIPS and FID on stand-in weights: the original's numbers, and what must hold of any."""

import jax
import numpy as np
import pytest
from helpers import golden, nhwc, stand_in

from pdae_jax.convert import name_map
from pdae_jax.metrics import frechet, inception, lpips


@pytest.fixture(scope="module")
def lpips_params():
    data = golden("image_metrics")
    heads = {f"lin{i}.model.1.weight": data[f"lpips_head_{i}"] for i in range(5)}
    alexnet = stand_in("lpips_alexnet", int(data["alexnet_seed"]))
    return name_map.to_params(
        name_map.plain("alexnet", lpips.alexnet_shapes()), alexnet
    ) | name_map.to_params(name_map.plain("lpips", lpips.head_shapes()), heads)


def test_lpips(lpips_params):
    data = golden("image_metrics")
    a, b = (2 * nhwc(data[name]) - 1 for name in "ab")
    found = jax.jit(lpips.lpips)(lpips_params, a, b)
    np.testing.assert_allclose(found, data["lpips_alex"], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(lpips.lpips(lpips_params, b, a), found, rtol=1e-5, atol=1e-9)


def test_inception_features():
    data = golden("fid_inception")
    state = stand_in("fid_inception", int(data["seed"]))
    params = name_map.to_params(name_map.plain("inception", inception.shapes()), state)
    found = jax.jit(inception.features)(params["inception"], nhwc(data["images"]))
    error = np.abs(found - data["features_2048"]).max() / np.abs(data["features_2048"]).max()
    assert error <= 1e-4


def clouds():
    g = np.random.Generator(np.random.PCG64(int(golden("fid_inception")["cloud_seed"])))
    return g.standard_normal((300, 16)), 1.3 * g.standard_normal((300, 16)) + 0.5


def distance(a, b):
    return frechet.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def test_frechet_distance():
    a, b = map(frechet.Moments.of, clouds())
    np.testing.assert_allclose(
        distance(a, b), golden("fid_inception")["frechet_distance"], rtol=1e-4
    )
    np.testing.assert_allclose(distance(b, a), distance(a, b), rtol=1e-9)
    assert abs(distance(a, a)) < 1e-9


def test_frechet_distance_in_closed_form():
    """Of two Gaussians with diagonal covariance: |step|^2 + sum (s_1 - s_2)^2; singular too."""
    mean_1, mean_2 = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 2.0])
    s_1, s_2 = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 0.0])
    found = frechet.frechet_distance(mean_1, np.diag(s_1**2), mean_2, np.diag(s_2**2))
    np.testing.assert_allclose(found, 5 + ((s_1 - s_2) ** 2).sum(), rtol=1e-9)


def test_moments_grow_by_batches():
    x = clouds()[0].astype(np.float32) + 1000
    parts = frechet.Moments.of(x[:1]) + frechet.Moments.of(x[1:120]) + frechet.Moments.of(x[120:])
    np.testing.assert_allclose(parts.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, np.cov(x.T.astype(np.float64)), atol=1e-9)
    with pytest.raises(ValueError, match="two pictures or more, got 1"):
        frechet.Moments.of(x[:1]).covariance  # noqa: B018
