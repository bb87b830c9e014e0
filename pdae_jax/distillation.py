"""Distillation: PDAE's noise by one way up instead of two, and pictures in one, two or four steps.

A student is a way up over the frozen way down's features, under t and z, in place of both eps_theta
and G. Two of them:

    "shifted"   puts out Algorithm 3's noise by itself, eps_theta - sqrt(1 - alpha_bar_t) G
    "fewstep"   puts out the velocity that the end of the path through x_t implies, for the times of
                DDIM in `protocol.FEW` steps

The velocity (Salimans and Ho 2022) is v = (eps - sqrt(1 - alpha_bar_t) x_t) / sqrt(alpha_bar_t).
Near t = T, from which few steps go far, eps is all but x_t, while v still tells x_0 =
sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from pdae_jax import pdae, samplers
from pdae_jax.arrays import Array, Codes, Images, Params, PerExample, Time, Times, Visited
from pdae_jax.protocol import FEW
from pdae_jax.samplers import NoiseFn
from pdae_jax.schedule import Schedule, at

TEACHER_STEPS = 8  # of PDAE, to where each of the student's x_0 lies


@runtime_checkable
class Distilled(pdae.Autoencoder, Protocol):
    """PDAE's networks, with students beside them."""

    def time(self, params: Params, t: Int[Array, " N"], up: str = "gradient") -> Any: ...

    def code(self, params: Params, z: Codes, up: str = "gradient") -> Any: ...

    def distilled(
        self, params: Params, x_t: Images, time: Any, code: Any, up: str = "shifted"
    ) -> Images:
        """What a student puts out, by one pass down and one up; time and code are of its `up`."""
        ...


def noise_fn(
    net: Distilled,
    params: Params,
    schedule: Schedule,
    z: Codes,
    times: Visited,
    *,
    stop: float = 0.0,
    up: str = "shifted",
) -> NoiseFn:
    """`pdae.noise_fn` by a student: a step costs one pass down and one up."""
    time = samplers.tabulate(lambda t: net.time(params, t, up), times, schedule.T)
    code = net.code(params, z, up)

    def shifted(x_t: Images, t: Time) -> Images:
        out = net.distilled(params, x_t, time(t), code, up)
        return noise_of_velocity(schedule, x_t, t, out) if up == "fewstep" else out

    def bare(x_t: Images, t: Time) -> Images:
        return net.predict(params, x_t, time(t)).eps

    return pdae.until(schedule, stop, shifted, bare)


def trajectory_noise_fn(
    net: Distilled,
    params: Params,
    schedule: Schedule,
    z_1: Codes,
    z_2: Codes,
    weight: ArrayLike,
    times: Visited,
    *,
    up: str = "shifted",
) -> NoiseFn:
    """`pdae.trajectory_noise_fn` by a student: the noise is linear in G."""
    eps_1, eps_2 = (noise_fn(net, params, schedule, z, times, up=up) for z in (z_1, z_2))

    def eps(x_t: Images, t: Time) -> Images:
        return samplers.lerp(eps_1(x_t, t), eps_2(x_t, t), weight)

    return eps


def noise_of_velocity(schedule: Schedule, x_t: Images, t: Time | Times, v: Images) -> Images:
    """eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t."""
    signal, noise = np.sqrt(schedule.alpha_bar), np.sqrt(1.0 - schedule.alpha_bar)
    return at(signal, t, x_t) * v + at(noise, t, x_t) * x_t


def shifted_loss(
    net: Distilled, params: Params, schedule: Schedule, x_0: Images, t: Times, eps: Images
) -> PerExample:
    """(eps of the student - eps of the teacher)^2, averaged over an image.

    The teacher is PDAE at z = E(x_0); both see one pass down.
    """
    z, x_t = net.encode(params, x_0), schedule.x_t(x_0, t, eps)
    wanted = teacher(net, params, schedule, z)(x_t, t)
    got = student(net, params, x_t, t, z, "shifted")
    return ((got - wanted) ** 2).mean((1, 2, 3))


def endpoint_loss(
    net: Distilled, params: Params, schedule: Schedule, x_0: Images, t: Times, eps: Images
) -> PerExample:
    """(x_0 of the student - x_0 of the teacher)^2: where the teacher's DDIM from x_t on ends.

    So the student knows of each x_t the end of its path: one step from x_T is there, and those
    after it go on from the state that this end implies. eps: times a temperature, so that it knows
    the paths of an x_T smaller than noise.
    """
    z, x_t = net.encode(params, x_0), schedule.x_t(x_0, t, eps)
    eps_of = teacher(net, params, schedule, z)

    def step(x: Images, left: jax.Array) -> tuple[Images, None]:
        now, then = (t * k // TEACHER_STEPS for k in (left, left - 1))
        return samplers.ddim_step(eps_of, x, now, then, schedule), None

    wanted = jax.lax.scan(step, x_t, jnp.arange(TEACHER_STEPS, 0, -1))[0]
    v = student(net, params, x_t, t, z, "fewstep")
    got = schedule.x_0(x_t, t, noise_of_velocity(schedule, x_t, t, v))
    return ((got - wanted) ** 2).mean((1, 2, 3))


def teacher(
    net: Distilled, params: Params, schedule: Schedule, z: Codes
) -> Callable[[Images, Any], Images]:
    """Algorithm 3's noise, as a function of x_t and t, those of each example its own."""
    code = net.code(params, z)

    def eps(x_t: Images, t: Any) -> Images:
        out = net.predict(params, x_t, net.time(params, t), code)
        return out.eps - at(schedule.score_shift, t, x_t) * out.gradient

    return eps


def student(net: Distilled, params: Params, x_t: Images, t: Times, z: Codes, up: str) -> Images:
    """What a student puts out, of each example at its own time."""
    return net.distilled(params, x_t, net.time(params, t, up), net.code(params, z, up), up)


def few_times(T: int) -> Int[np.ndarray, " n"]:
    """The times from which DDIM in `FEW` steps goes on."""
    return np.unique(np.concatenate([samplers.ddim_times(T, steps)[1:] for steps in FEW]))
