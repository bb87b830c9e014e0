"""Samplers: loops over a noise function `noise_fn(x_t, t) -> eps`.

A sampler sees a function of (x_t, t), never a network, its parameters or a code. The bare
diffusion model, PDAE at a given z, trajectory interpolation and the latent diffusion model are
all noise functions (see `pdae` and `latent`).
"""

import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax.schedule import Schedule

NoiseFn = Callable[[jax.Array, jax.Array], jax.Array]


def ddim_times(T: int, steps: int) -> np.ndarray:
    """The times of a DDIM run, ascending: the distinct int(linspace(0, T-1, steps + 1)).

    `steps` + 1 of them where they are distinct; asking for T gives T times, so T - 1 steps.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be from 1 to T = {T}, got {steps}")
    return np.unique(np.linspace(0, T - 1, steps + 1).astype(int))


def ddim_step(noise_fn: NoiseFn, x, t, t_next, schedule: Schedule, clip: bool = True):
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


def ddim(noise_fn: NoiseFn, x, times, schedule: Schedule, clip: bool = True):
    """Algorithm 3's loop: DDIM along `times`, the sequence of times visited, x given at the first.

    Descending times sample: `ddim(f, x_T, ddim_times(T, S)[::-1], schedule)` ends at time 0,
    whose alpha_bar is 0.9999: that is the image. Ascending times invert: from an image, taken as
    the state at time 0, to its x_T.
    """
    times = jnp.asarray(times)

    def step(x, pair):
        return ddim_step(noise_fn, x, *pair, schedule, clip), None

    return jax.lax.scan(step, x, (times[:-1], times[1:]))[0]


def ddpm(posterior_fn: Callable, x, times, draw: Callable):
    """Algorithm 2's loop: ancestral sampling along descending consecutive `times`, ending at 0.

    posterior_fn(x_t, t) -> (mean, log variance) of x_{t-1}; draw(t) -> standard normal noise
    shaped like x, not used at t = 0.
    """

    def step(x, t):
        mean, log_variance = posterior_fn(x, t)
        return mean + jnp.where(t > 0, jnp.exp(0.5 * log_variance), 0.0) * draw(t), None

    return jax.lax.scan(step, x, jnp.asarray(times))[0]


def keys(rng, indices):
    """One key an example, [n], of rng (a key or an int) and the example's own number alone."""
    rng = jax.random.key(int(rng)) if isinstance(rng, numbers.Integral) else rng
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.asarray(indices))


def draws(rngs, shape: tuple[int, ...]) -> Callable:
    """Noise for `ddpm` from one key an example: the same whatever batch an example is in."""

    def draw(t):
        return jax.vmap(lambda rng: jax.random.normal(jax.random.fold_in(rng, t), shape))(rngs)

    return draw


def tabulate(f: Callable, times, T: int) -> Callable:
    """f(times) computed once, read back one time at a go: what depends on t alone.

    f maps an int array [S] to a pytree of arrays [S, ...]; the result maps a scalar t, which
    must be one of `times`, to rows [1, ...]. A sampler's loop then repeats no such projection.
    """
    times = np.asarray(times)
    rows = f(jnp.asarray(times))
    row_of = np.zeros(T, np.int32)
    row_of[times] = np.arange(len(times))
    row_of = jnp.asarray(row_of)
    return lambda t: jax.tree.map(lambda row: row[row_of[t]][None], rows)


def lerp(a, b, weight):
    """(1 - weight) a + weight b."""
    return a + weight * (b - a)


def slerp(a, b, weight):
    """Spherical interpolation of two noises, each example as one vector (Shoemake 1985).

    Keeps the norm that Gaussian noise has, which a straight line would shrink. weight: scalar.
    """
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = jnp.linalg.norm(flat_a, axis=1) * jnp.linalg.norm(flat_b, axis=1)
    cosine = jnp.clip((flat_a * flat_b).sum(1) / norms, -1.0, 1.0)
    theta = jnp.arccos(cosine).reshape((-1,) + (1,) * (a.ndim - 1))
    mixed = (jnp.sin((1 - weight) * theta) * a + jnp.sin(weight * theta) * b) / jnp.sin(theta)
    return jnp.where(jnp.sin(theta) < 1e-4, lerp(a, b, weight), mixed)
