"""Shapes in signatures: checked in tests, and in tests alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run_program
from jaxtyping import TypeCheckError

from pdae_jax import latent, pdae, samplers
from pdae_jax.metrics import image
from pdae_jax.networks import layers
from pdae_jax.schedule import linear
from pdae_jax.tasks.linear_probe import probe

X, Z = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 5))


@pytest.mark.parametrize(
    "call",
    [
        lambda: linear().x_t(X, jnp.array([1, 2, 3]), X),  # three times, two pictures
        lambda: linear().x_t(X, jnp.array([0.1, 0.2]), X),  # t is a whole number
        lambda: samplers.lerp(X, X[:, :4], 0.5),
        lambda: pdae.Sigma(linear(), 3, Z),
        lambda: latent.edit({"mean": 0.0, "std": 1.0}, Z, jnp.zeros((5, 1)), 0.5),
        lambda: layers.timestep_embedding(jnp.array(3), 8),
        lambda: image.mse(X, X[..., :1]),
        lambda: probe(np.zeros((4, 5)), np.zeros((3, 1)), np.zeros((4, 5)), np.zeros((4, 1)), "a"),
    ],
)
def test_a_wrong_shape_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()


def test_what_is_right_of_both_libraries_passes():
    for x in (X, np.asarray(X), X.astype(jnp.bfloat16)):
        assert linear().x_t(x, 3, x).shape == linear().x_t(x, jnp.array([1, 2]), x).shape == X.shape
    jax.vmap(lambda t: linear().x_t(X, t, X))(jnp.arange(3))
    jax.eval_shape(lambda x: linear().x_t(x, 3, x), jax.ShapeDtypeStruct(X.shape, X.dtype))


def test_outside_of_tests_nothing_is_checked():
    run_program("shapes_unchecked")
