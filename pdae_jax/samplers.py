"""Samplers: loops over a noise function `noise_fn(x_t, t) -> eps`.

A sampler sees a function of (x_t, t), never a network, its parameters or a code. The bare
diffusion model, PDAE at a given z, trajectory interpolation and the latent diffusion model are
all noise functions (see `pdae` and `latent`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pdae_jax.arrays import Array, Rng, Rngs, State, Time, Visited
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


def ddim_step(
    noise_fn: NoiseFn, x: State, t: Time, t_next: Time, schedule: Schedule, clip: bool = True
) -> State:
    """One deterministic step from time t to t_next: earlier to sample, later to invert.

    DDIM (Song et al. 2021) with eta = 0; `clip` holds the implied x_0 in [-1, 1] and recomputes
    eps from it, so that the two stay consistent.
    """
    eps = noise_fn(x, t)
    x_0 = schedule.x_0(x, t, eps)
    if clip:
        x_0 = jnp.clip(x_0, -1.0, 1.0)
        eps = schedule.eps(x, t, x_0)
    return schedule.x_t(x_0, t_next, eps)


def ddim(
    noise_fn: NoiseFn, x: State, times: Visited, schedule: Schedule, clip: bool = True
) -> State:
    """Algorithm 3's loop: DDIM along `times`, the sequence of times visited, x given at the first.

    Descending times sample: `ddim(f, x_T, ddim_times(T, S)[::-1], schedule)` ends at time 0,
    whose alpha_bar is 0.9999: that is the image. Ascending times invert: from an image, taken as
    the state at time 0, to its x_T.
    """
    t = jnp.asarray(times)

    def step(x: State, pair: tuple[Time, Time]) -> tuple[State, None]:
        return ddim_step(noise_fn, x, *pair, schedule, clip), None

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
