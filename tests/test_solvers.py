"""Solvers of higher order, their times and thresholds: orders of convergence, identities, parity.

`DIFFUSERS` was computed with diffusers 0.42.1 in float64: for t, its `timesteps` set to `PARITY`
without the last and its `sigmas` to the noise levels of all, x = scheduler.step(parity_noise(x, t),
t, x).prev_sample, of DPMSolverMultistepScheduler ("dpmsolver++" and "sde-dpmsolver++", with
final_sigmas_type="sigma_min") and UniPCMultistepScheduler, all with lower_order_final=False.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax.extend.core import jaxprs_in_params

from pdae_jax import multistep, protocol, samplers
from pdae_jax.multistep import SOLVERS
from pdae_jax.protocol import Sampling
from pdae_jax.samplers import SPACINGS, THRESHOLDS
from pdae_jax.schedule import Schedule, at, constant, cosine, linear

SCHEDULE = linear()
ORDER = {"ddim": 1, "dpm++2m": 2, "deis2": 2, "deis3": 3, "unipc2": 2, "unipc3": 3}


def fine() -> Schedule:
    """So many times that their rounding does not show, from one on where float32's does not."""
    whole, first = linear(50_000), 400
    return Schedule(np.append(1 - whole.alpha_bar[first], whole.beta[first + 1 :]))


class Gaussian:
    """Data N(mean, std^2) of one number, under a schedule; all is known in closed form."""

    def __init__(self, schedule: Schedule, mean: float = 0.3, std: float = 0.5):
        self.schedule = schedule
        self.mean = np.sqrt(schedule.alpha_bar) * mean
        self.var = schedule.alpha_bar * std**2 + 1 - schedule.alpha_bar

    def noise(self, x, t):
        slope = np.sqrt(1 - self.schedule.alpha_bar) / self.var
        return at(slope, t, x) * (x - at(self.mean, t, x))

    def at(self, t: int, u):
        """x_t of u, its distance from the mean in deviations, constant along the ODE."""
        return (self.mean[t] + np.sqrt(self.var[t]) * u).astype(np.float32)

    def error(self, solver, times) -> float:
        u = np.linspace(-2, 2, 5)[None]
        out = solver(self.noise, jnp.asarray(self.at(times[0], u)), times, self.schedule, "none")
        return float(np.abs(out - self.at(times[-1], u)).max())


def ways(schedule, steps, spacing):
    times = samplers.spaced_times(schedule, steps, spacing)
    return {"down": times[::-1], "up": times}


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name, spacing, way):
    """On Gaussian data, by the error of 32 and of 128 steps."""
    data = Gaussian(fine())
    few, many = (
        data.error(SOLVERS[name], ways(data.schedule, steps, spacing)[way]) for steps in (32, 128)
    )
    slope = np.log(few / many) / np.log(4)
    # Upwards on times equal in t the first step is much the widest in log-SNR. It is of order 1,
    # whatever the solver, so that its error is of order 2; elsewhere it does not show.
    late = (spacing, way) == ("uniform", "up")
    if late and name == "deis3":
        assert slope > 1.9
    else:
        assert slope > ORDER[name] - (0.5 if late else 0.35)
    if name != "ddim":
        assert many < data.error(samplers.ddim, ways(data.schedule, 128, spacing)[way]) / 3


def test_the_sde_reaches_the_marginal():
    data = Gaussian(SCHEDULE)
    times = samplers.spaced_times(SCHEDULE, 60, "log-snr")[::-1]
    rngs = samplers.keys(0, range(20_000))
    start = jax.vmap(lambda rng: jax.random.normal(rng, (1,)))(rngs)
    draw = samplers.draws(rngs, (1,))
    out = multistep.dpmpp_2m_sde(data.noise, start, times, SCHEDULE, draw)
    assert_close(out.mean(), data.mean[0], 0.015)  # of 20,000: 0.004
    assert_close(out.std(), np.sqrt(data.var[0]), 0.02)
    # The noise is new: the ODE would have kept the order of starts.
    assert np.corrcoef(start[:, 0], out[:, 0])[0, 1] < 0.1


def test_the_sde_only_samples():
    times = np.array([0, 500, 999])
    with pytest.raises(ValueError, match="dpm\\+\\+2m-sde only samples.*deterministic"):
        multistep.dpmpp_2m_sde(
            lambda x, t: x, jnp.zeros((1, 2)), times, SCHEDULE, lambda t: jnp.zeros((1, 2))
        )
    with pytest.raises(ValueError, match=r"dpm\+\+2m-sde .*noise"):
        how = Sampling("dpm++2m-sde")
        multistep.solve(how, lambda x, t: x, jnp.zeros((1, 2)), times[::-1], SCHEDULE)


PARITY = [999, 850, 700, 500, 300, 150, 50, 10, 0]
DIFFUSERS = {
    "dpm++2m": [-1.60729, -0.32, 0.23053, 0.96882, 1.35876],
    "dpm++2m-sde": [-0.02861, 0.61098, 0.6291, 0.74352, -0.45284],
    "unipc2": [-2.4166, -0.89728, 0.48947, 1.02698, 2.42815],
    "unipc3": [-3.82431, -2.08579, 1.00687, -0.1287, 2.28284],
}


def parity_noise(x, t):
    return 0.8 * x + 0.2 * jnp.sin(3 * x + t / 200)


@pytest.mark.parametrize("name", DIFFUSERS)
def test_parity_with_diffusers(name):
    x = jnp.linspace(-1.5, 1.5, 5)[None]
    how = Sampling(name)
    out = multistep.solve(
        how, parity_noise, x, PARITY, SCHEDULE, lambda t: jnp.cos(t + jnp.arange(5.0))[None]
    )
    assert_close(out[0], DIFFUSERS[name], 2e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_evaluation_a_step_in_one_scan(name):
    """The program has one loop of as many turns as steps, and the noise in it once."""
    times = samplers.spaced_times(SCHEDULE, 7)[::-1]
    jaxpr = jax.make_jaxpr(
        lambda x: SOLVERS[name](lambda x, t: jnp.sin(x), x, times, SCHEDULE, "none")
    )(jnp.zeros((2, 3)))
    found = list(equations(jaxpr.jaxpr))
    assert [eqn.params["length"] for eqn in found if eqn.primitive.name == "scan"] == [7]
    assert [eqn.primitive.name for eqn in found].count("sin") == 1


def equations(jaxpr):
    """All equations of a program, also of its inner ones."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def test_deis_of_order_1_is_ddim():
    times = samplers.spaced_times(SCHEDULE, 10)
    x = jax.random.normal(jax.random.key(0), (2, 5))
    for path in (times, times[::-1]):
        ours = multistep.deis(parity_noise, x, path, SCHEDULE, order=1)
        theirs = samplers.ddim(parity_noise, x, path, SCHEDULE, "none")
        assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_step_of_any_solver_is_ddim(name):
    """With one evaluation known there is one way to continue it."""
    x = jax.random.normal(jax.random.key(0), (2, 5))
    for times in ([999, 300], [300, 999]):
        out = SOLVERS[name](parity_noise, x, times, SCHEDULE, "none")
        assert_close(out, samplers.ddim(parity_noise, x, times, SCHEDULE, "none"), 1e-5)


@pytest.mark.parametrize("times", [[5], [5, 5], [5, 7, 6], [5, 7, 7]])
def test_times_have_one_direction(times):
    with pytest.raises(ValueError, match="times must ascend or descend"):
        multistep.dpmpp_2m(parity_noise, jnp.zeros((1, 2)), times, SCHEDULE)


# Thresholds.


def test_static_is_the_papers_clip():
    x = 2 * jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    t = jnp.asarray(500)
    x_0, eps = samplers.predict(parity_noise, x, t, SCHEDULE, "static")
    whole = np.clip(SCHEDULE.x_0(x, t, parity_noise(x, t)), -1, 1)
    assert np.abs(whole).max() == 1
    np.testing.assert_array_equal(x_0, whole)
    assert_close(SCHEDULE.x_t(x_0, t, eps), x, 1e-5)


def test_dynamic_keeps_what_is_small_and_shrinks_what_is_not():
    dynamic = THRESHOLDS["dynamic"] or pytest.fail()
    x_0 = np.array(jax.random.uniform(jax.random.key(0), (3, 20, 20, 1), minval=-1))
    x_0[1] *= 5  # one example alone
    x_0[2, 0, 0] = 9.0  # one of 400 numbers: less than 0.5 %
    out = np.asarray(dynamic(jnp.asarray(x_0)))
    np.testing.assert_array_equal(out[0], x_0[0])
    assert np.abs(out).max() <= 1
    inner = np.abs(x_0[1]) < 4.9
    ratio = out[1][inner] / x_0[1][inner]
    assert np.ptp(ratio) < 1e-6 and 0.2 <= ratio[0] < 0.21
    np.testing.assert_array_equal(out[2], np.minimum(x_0[2], 1))


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_thresholds_keep_pictures_in_range(name, threshold):
    """From a noise that says too much, in few steps, all end finite; under a threshold, small."""
    times = samplers.spaced_times(SCHEDULE, 5, "log-snr")[::-1]
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 1))
    out = SOLVERS[name](lambda x, t: 0.5 * x, x, times, SCHEDULE, threshold)
    assert np.isfinite(out).all()
    assert (np.abs(out).max() < 2) == (threshold != "none")


# Times.


@pytest.mark.parametrize("T", [2, 10, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("schedule", [linear, cosine, constant])
def test_spaced_times(schedule, spacing, T):
    if schedule is linear and T <= 20:
        schedule = functools.partial(constant, beta=0.2)
    schedule = schedule(T)
    for steps in {1, 2, 3, 7, T // 2, T - 1, T} & set(range(1, T + 1)):
        times = samplers.spaced_times(schedule, steps, spacing)
        assert times[0] == 0 and times[-1] == T - 1 and (np.diff(times) > 0).all()
        assert len(times) == min(steps + 1, T)
    for steps in (0, T + 1):
        with pytest.raises(ValueError, match=f"steps must be from 1 to T = {T}, got {steps}"):
            samplers.spaced_times(schedule, steps, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spaced_times_are_equally_far_apart(spacing):
    """In their measure, up to the rounding of t: half a time on either side."""
    measure = SPACINGS[spacing]
    along = np.arange(1000.0) if measure is None else measure(SCHEDULE)
    times = samplers.spaced_times(SCHEDULE, 5, spacing)
    rounding = np.maximum(np.diff(along, append=along[-1]), np.diff(along, prepend=along[0]))
    ideal = np.linspace(along[0], along[-1], 6)
    assert (np.abs(along[times] - ideal) <= rounding[times] + 1e-9).all()


def test_uniform_times_are_the_papers():
    for steps in (1, 7, 100, 1000):
        np.testing.assert_array_equal(
            samplers.spaced_times(SCHEDULE, steps), samplers.ddim_times(1000, steps)
        )


def test_a_misspelt_spacing_or_threshold_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="log-snr"):
        samplers.spaced_times(SCHEDULE, 5, "logsnr")
    with pytest.raises(ValueError, match="static"):
        samplers.ddim(parity_noise, jnp.zeros((1, 2)), [5, 0], SCHEDULE, "statik")


def test_the_protocol_names_what_there_is():
    """It names them without JAX; the tables are here."""
    assert protocol.SOLVERS == tuple(SOLVERS)
    assert protocol.SPACINGS == tuple(SPACINGS)
    assert protocol.THRESHOLDS == tuple(THRESHOLDS)
