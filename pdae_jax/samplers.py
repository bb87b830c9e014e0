"""Samplers: loops over a noise function `noise_fn(x_t, t) -> eps`.

A sampler sees a function of (x_t, t), never a network, its parameters or a code. The bare
diffusion model, PDAE at a given z, trajectory interpolation and the latent diffusion model are
all noise functions (see `pdae` and `latent`). Here are the paper's two samplers, and what others
share: the times visited, and thresholds of x_0. `multistep` has those of higher order, `reversible`
those that can be run backwards exactly.
"""

from collections.abc import Callable, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pdae_jax.arrays import Array, Rng, Rngs, State, Time, Times, Visited
from pdae_jax.runtime.choices import nearest
from pdae_jax.schedule import Schedule

NoiseFn = Callable[[State, Time], State]  # x_t, t -> eps
PosteriorFn = Callable[[State, Time], tuple[State, Float[Array, "..."]]]  # -> mean, log variance
Draw = Callable[[Time], State]  # t -> standard normal noise


def ddim_times(T: int, steps: int) -> Int[np.ndarray, " S"]:
    """The times of a DDIM run, ascending: the distinct int(linspace(0, T-1, steps + 1)).

    `steps` + 1 of them where they are distinct; asking for T gives T times, so T - 1 steps.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be from 1 to T = {T}, got {steps}")
    return np.unique(np.linspace(0, T - 1, steps + 1).astype(int))


# The numbers, growing with t, of which neighbouring times are equally far apart.
SPACINGS: dict[str, Callable[[Schedule], Float[np.ndarray, " T"]] | None] = {
    "uniform": None,  # t, rounded as the paper's code does
    "log-snr": lambda schedule: -schedule.log_snr,  # Lu et al. 2022
    "karras": lambda schedule: schedule.noise_level ** (1 / 7),  # Karras et al. 2022
    "quadratic": lambda schedule: np.sqrt(np.arange(schedule.T)),  # Song et al. 2021
}


def spaced_times(schedule: Schedule, steps: int, spacing: str = "uniform") -> Int[np.ndarray, " S"]:
    """The times of a run of `steps` steps, ascending from 0 to T-1, spaced as `SPACINGS` names.

    "uniform" are `ddim_times`. Of the others the whole times next to the equally spaced ones, all
    different: `steps` + 1 of them, or T where these are fewer.
    """
    measure = SPACINGS[nearest(spacing, SPACINGS, "spacing")]
    if measure is None:
        return ddim_times(schedule.T, steps)
    if not 1 <= steps <= schedule.T:
        raise ValueError(f"steps must be from 1 to T = {schedule.T}, got {steps}")
    if steps >= schedule.T - 1:
        return np.arange(schedule.T)
    at = measure(schedule)
    times = np.interp(np.linspace(at[0], at[-1], steps + 1), at, np.arange(schedule.T))
    least = np.arange(steps + 1)  # so many times lie before each, and the others after it
    times = np.maximum.accumulate(times.round().astype(int) - least) + least
    return np.minimum(times, schedule.T - 1 - least[::-1])


def _dynamic(x_0: State) -> State:
    """Saharia et al. 2022: all but 0.5 % of an example's numbers are brought into [-1, 1]."""
    size = jnp.quantile(jnp.abs(x_0), 0.995, tuple(range(1, x_0.ndim)), keepdims=True)
    size = jnp.maximum(size, 1.0)
    return jnp.clip(x_0, -size, size) / size


def one_way(times: Visited) -> Int[np.ndarray, " S"]:
    """The times as an array; ValueError where they neither ascend nor descend."""
    t = np.asarray(times)
    steps = np.diff(t)
    if not (len(steps) and ((steps > 0).all() or (steps < 0).all())):
        raise ValueError(f"times must ascend or descend, and be two or more, got {t.tolist()}")
    return t


# What is done to the x_0 that a step implies, before it is used.
THRESHOLDS: dict[str, Callable[[State], State] | None] = {
    "none": None,  # so that a step can be undone
    "static": lambda x_0: jnp.clip(x_0, -1.0, 1.0),  # so that pictures stay pictures
    "dynamic": _dynamic,
}


def predict(
    noise_fn: NoiseFn, x: State, t: Time | Times, schedule: Schedule, threshold: str
) -> tuple[State, State]:
    """The x_0 and eps that x_t implies, each following from the other, x_0 under a threshold."""
    limit = THRESHOLDS[nearest(threshold, THRESHOLDS, "threshold")]
    eps = noise_fn(x, t)
    x_0 = schedule.x_0(x, t, eps)
    if limit:
        x_0 = limit(x_0)
        eps = schedule.eps(x, t, x_0)
    return x_0, eps


def ddim_step(
    noise_fn: NoiseFn,
    x: State,
    t: Time | Times,
    t_next: Time | Times,
    schedule: Schedule,
    threshold: str = "static",
) -> State:
    """One deterministic step from time t to t_next: earlier to sample, later to invert.

    DDIM (Song et al. 2021) with eta = 0. Times are one for all examples, or one for each.
    """
    x_0, eps = predict(noise_fn, x, t, schedule, threshold)
    return schedule.x_t(x_0, t_next, eps)


def ddim(
    noise_fn: NoiseFn, x: State, times: Visited, schedule: Schedule, threshold: str = "static"
) -> State:
    """Algorithm 3's loop: DDIM along `times`, the sequence of times visited, x given at the first.

    Descending times sample: `ddim(f, x_T, ddim_times(T, S)[::-1], schedule)` ends at time 0,
    whose alpha_bar is 0.9999: that is the image. Ascending times invert: from an image, taken as
    the state at time 0, to its x_T.
    """
    t = jnp.asarray(times)

    def step(x: State, pair: tuple[Time, Time]) -> tuple[State, None]:
        return ddim_step(noise_fn, x, *pair, schedule, threshold), None

    return jax.lax.scan(step, x, (t[:-1], t[1:]))[0]


def ddpm(posterior_fn: PosteriorFn, x: State, times: Visited, draw: Draw) -> State:
    """Algorithm 2's loop: ancestral sampling along descending consecutive `times`, ending at 0.

    posterior_fn(x_t, t) -> (mean, log variance) of x_{t-1}; draw(t) -> standard normal noise
    shaped like x, not used at t = 0.
    """

    def step(x: State, t: Time) -> tuple[State, None]:
        mean, log_variance = posterior_fn(x, t)
        return mean + jnp.where(t > 0, jnp.exp(0.5 * log_variance), 0.0) * draw(t), None

    return jax.lax.scan(step, x, jnp.asarray(times))[0]


def keys(rng: Rng | int | np.integer, indices: Sequence[int] | Int[np.ndarray, " B"]) -> Rngs:
    """One key an example, [B], of rng (a key or a seed) and the example's own number alone."""
    rng = jax.random.key(int(rng)) if isinstance(rng, int | np.integer) else rng
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.asarray(indices))


def draws(rngs: Rngs, shape: tuple[int, ...]) -> Draw:
    """Noise for `ddpm` from one key an example: the same whatever batch an example is in."""

    def draw(t: Time) -> State:
        return jax.vmap(lambda rng: jax.random.normal(jax.random.fold_in(rng, t), shape))(rngs)

    return draw


def tabulate(f: Callable[[Int[Array, " S"]], Any], times: Visited, T: int) -> Callable[[Time], Any]:
    """Computes f(times) once, f being of t alone; the result reads it back, one time a call.

    f maps an int array [S] to a pytree of arrays [S, ...]; the result maps a scalar t, which
    must be one of `times`, to rows [1, ...]. A sampler's loop then repeats no such projection.
    """
    visited = np.asarray(times)
    rows = f(jnp.asarray(visited))
    row_of = np.zeros(T, np.int32)
    row_of[visited] = np.arange(len(visited))
    row_of = jnp.asarray(row_of)
    return lambda t: jax.tree.map(lambda row: row[row_of[t]][None], rows)


def lerp(a: State, b: State, weight: ArrayLike) -> State:
    """(1 - weight) a + weight b; weight: one for all, or an array that a broadcasts with."""
    return a + weight * (b - a)


def slerp(a: State, b: State, weight: ArrayLike) -> State:
    """Spherical interpolation of two noises, each example as one vector (Shoemake 1985).

    Keeps the norm that Gaussian noise has, which a straight line would shrink. weight: scalar.
    """
    flat_a, flat_b = (einops.rearrange(x, "B ... -> B (...)") for x in (a, b))
    norms = jnp.linalg.norm(flat_a, axis=1) * jnp.linalg.norm(flat_b, axis=1)
    cosine = jnp.clip((flat_a * flat_b).sum(1) / norms, -1.0, 1.0)
    theta = jnp.arccos(cosine).reshape((-1,) + (1,) * (a.ndim - 1))
    mixed = (jnp.sin((1 - weight) * theta) * a + jnp.sin(weight * theta) * b) / jnp.sin(theta)
    return jnp.where(jnp.sin(theta) < 1e-4, lerp(a, b, weight), mixed)
