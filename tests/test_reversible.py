"""Inversions that are exact, and the one that undoes DDIM: round trips, orders, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH
from test_pdae import randomised
from test_solvers import Gaussian, equations, fine, parity_noise, ways

from pdae_jax import multistep, pdae, reversible, samplers
from pdae_jax.networks.groups import Networks
from pdae_jax.protocol import REVERSIBLE, Sampling
from pdae_jax.reversible import Pair
from pdae_jax.schedule import cosine, linear

SCHEDULE = linear()
SAMPLERS = {"bdia": reversible.bdia, "o-belm": reversible.o_belm}
GATE = 1e-9  # MSE of pixels in [0, 1]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def network(request):
    """A real diffusion model of random weights."""
    net = Networks(DIGITS_ARCH, jnp.dtype(request.param))
    params = jax.jit(lambda: net.init(jax.random.key(0), ("dpm",)))()
    return net, randomised(params, jax.random.key(1))


def run(network, sampler, x, times):
    """Its pictures, or its noise, along times: each a program of its own."""
    net, params = network

    def program(params, x):
        eps = pdae.noise_fn(net, params, SCHEDULE, None, times)
        return sampler(eps, x, times, SCHEDULE)

    return jax.tree.map(np.asarray, jax.jit(program)(params, x))


@pytest.mark.parametrize(
    "steps, spacing", [(5, "uniform"), (10, "log-snr"), (20, "uniform"), (50, "log-snr")]
)
@pytest.mark.parametrize("name", REVERSIBLE)
def test_round_trips_pass_the_gate(network, name, steps, spacing):
    """Through arrays of the user's, in two programs; and the picture itself, once rounded."""
    pictures = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 1))
    x_0 = (pictures / 127.5 - 1).astype(np.float32)
    times = samplers.spaced_times(SCHEDULE, steps, spacing)
    found = run(network, SAMPLERS[name], x_0, times)
    assert np.isfinite(found.x).all() and np.abs(found.x - x_0).max() > 0.5
    back = run(network, SAMPLERS[name], found, times[::-1]).x
    assert np.mean((back - x_0) ** 2) / 4 < GATE
    np.testing.assert_array_equal(np.rint((back + 1) * 127.5), pictures)


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
@pytest.mark.parametrize("name", REVERSIBLE)
def test_any_noise_and_threshold_is_undone_to_the_bit(name, threshold):
    """Down and up again returns both states, also where the noise jumps and x_0 is clipped."""

    def noise(x, t):
        return jnp.sign(jnp.sin(40 * x + t)) + 0.5 * x

    x_T = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    times = samplers.spaced_times(SCHEDULE, 12, "karras")
    how = Sampling(name, threshold=threshold)
    down = multistep.solve(how, noise, x_T, times[::-1], SCHEDULE)
    up = multistep.solve(how, noise, down, times, SCHEDULE)
    assert isinstance(up, Pair) and np.abs(up.x - x_T).max() < 2e-3  # the units of x_T
    again = multistep.solve(how, noise, up, times[::-1], SCHEDULE)
    assert isinstance(down, Pair) and isinstance(again, Pair)
    np.testing.assert_array_equal(again.x, down.x)
    np.testing.assert_array_equal(again.before, down.before)


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("spacing", ["uniform", "log-snr", "karras"])
@pytest.mark.parametrize("name", REVERSIBLE)
def test_order_2(name, spacing, way):
    data = Gaussian(fine())

    def solver(*args):
        return SAMPLERS[name](*args).x

    few, many = (data.error(solver, ways(data.schedule, steps, spacing)[way]) for steps in (16, 32))
    assert np.log2(few / many) > 1.8  # of more steps the units show
    assert many < data.error(samplers.ddim, ways(data.schedule, 32, spacing)[way])


@pytest.mark.parametrize("name", REVERSIBLE)
def test_a_pair_saves_an_evaluation(name):
    times = samplers.spaced_times(SCHEDULE, 7)
    x = jnp.zeros((2, 3))

    def lengths(x, times):
        run = jax.make_jaxpr(lambda x: SAMPLERS[name](lambda x, t: jnp.sin(x), x, times, SCHEDULE))
        found = list(equations(run(x).jaxpr))
        assert [eqn.primitive.name for eqn in found].count("sin") == 1
        return [eqn.params["length"] for eqn in found if eqn.primitive.name == "scan"]

    assert lengths(x, times) == [7]
    assert lengths(Pair(x, x), times[::-1]) == [6]


@pytest.mark.parametrize("name", REVERSIBLE)
def test_one_step_is_ddim_and_its_way_back_needs_no_network(name):
    x_0 = jax.random.uniform(jax.random.key(0), (2, 5), minval=-1)
    up = SAMPLERS[name](parity_noise, x_0, [0, 999], SCHEDULE)
    ddim = samplers.ddim(parity_noise, x_0, [0, 999], SCHEDULE, "none")
    np.testing.assert_allclose(up.x, ddim, atol=5e-3)  # the coarsest unit
    back = SAMPLERS[name](lambda x, t: x / 0, up, [999, 0], SCHEDULE)
    np.testing.assert_array_equal(back.x, up.before)
    np.testing.assert_allclose(back.x, x_0, atol=4e-5)


def test_o_belm_refuses_units_too_far_apart():
    times = samplers.spaced_times(cosine(), 10)
    x = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="multiplies rounding by 1.9e\\+04 on these 10.*or bdia"):
        reversible.o_belm(parity_noise, x, times, cosine())
    assert np.isfinite(reversible.bdia(parity_noise, x, times, cosine()).x).all()
    for steps in (5, 10, 20, 50):
        for spacing in samplers.SPACINGS:
            times = samplers.spaced_times(SCHEDULE, steps, spacing)
            reversible.o_belm(parity_noise, x, times, SCHEDULE)


@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), reversible.implicit])
@pytest.mark.parametrize("times", [[5], [5, 5], [5, 7, 6]])
def test_times_have_one_direction(sampler, times):
    with pytest.raises(ValueError, match="times must ascend or descend"):
        sampler(parity_noise, jnp.zeros((1, 2)), times, SCHEDULE)


# Implicit.


def test_implicit_undoes_ddim_better_with_more_evaluations():
    """Where DDIM's own inversion is far off: the noise depends on x_t as a trained model's does."""
    data = Gaussian(SCHEDULE)
    x_0 = jnp.linspace(-1, 1, 12).reshape(2, 6)
    times = samplers.spaced_times(SCHEDULE, 10, "log-snr")

    def noise(x, t):
        return data.noise(x, t) + 0.05 * jnp.sin(3 * x)

    def error(x_T):
        out = samplers.ddim(noise, x_T, times[::-1], SCHEDULE, "none")
        return float(((out - x_0) ** 2).mean())

    plain = error(samplers.ddim(noise, x_0, times, SCHEDULE, "none"))
    errors = [
        error(reversible.implicit(noise, x_0, times, SCHEDULE, evaluations=n)) for n in (1, 2, 4, 8)
    ]
    assert errors[1] < plain / 20
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-8


def test_implicit_takes_so_many_evaluations():
    times = samplers.spaced_times(SCHEDULE, 7)
    for n in (1, 2, 5):
        jaxpr = jax.make_jaxpr(
            lambda x: reversible.implicit(
                lambda x, t: jnp.sin(x), x, times, SCHEDULE, evaluations=n
            )
        )(jnp.zeros((2, 3)))
        found = list(equations(jaxpr.jaxpr))
        lengths = [eqn.params["length"] for eqn in found if eqn.primitive.name == "scan"]
        assert lengths == [7, n]
        assert [eqn.primitive.name for eqn in found].count("sin") == 1


def test_implicit_refuses_to_sample():
    x = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="times descend from 999 to 0: decode with ddim"):
        reversible.implicit(parity_noise, x, [999, 0], SCHEDULE)
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        reversible.implicit(parity_noise, x, [0, 999], SCHEDULE, evaluations=0)
