"""Samplers that can be run backwards exactly, and the inversion that undoes DDIM implicitly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.arrays import Array, State, Time, Visited
from pdae_jax.samplers import NoiseFn, ddim_step, predict
from pdae_jax.schedule import Schedule, at

UNIT = 2.0**-16  # of the grid of BDIA's states


class Pair(NamedTuple):
    x: State
    before: State


def bdia(noise_fn, x, times, schedule, threshold="none"):
    t = _ascending(times)
    alpha, sigma = np.sqrt(schedule.alpha_bar[t]), np.sqrt(1.0 - schedule.alpha_bar[t])
    leaps = np.stack([alpha[2:] - alpha[:-2], sigma[2:] - sigma[:-2]], axis=1) / UNIT
    return _leapfrog(noise_fn, x, times, schedule, threshold, np.full(len(t), UNIT), leaps)


def o_belm(noise_fn, x, times, schedule, threshold="none", unit=2.0**-20):
    t = _ascending(times)
    alpha, rho = np.sqrt(schedule.alpha_bar[t]), schedule.noise_level[t]
    h = np.diff(rho)
    c = np.ones(len(t))
    if len(h) > 1:
        c[1] = h[1] / h[0]
    for i in range(1, len(h)):
        c[i + 1] = c[i - 1] * (h[i] / h[i - 1]) ** 2
    grid = alpha * c
    grid *= unit / grid.min()
    c = grid / alpha
    q = (h[1:] / h[:-1]) ** 2
    of_eps = (1 - q) * rho[1:-1] + h[1:] * (h[1:] + h[:-1]) / h[:-1]
    leaps = np.stack([1 - q, of_eps], axis=1) / c[2:, None]
    return _leapfrog(noise_fn, x, times, schedule, threshold, grid, leaps)


def _ascending(times):
    t = np.asarray(times)
    return t if t[-1] > t[0] else t[::-1]


def _leapfrog(noise_fn, x, times, schedule, threshold, grid, leaps):
    t = np.asarray(times)
    if t[-1] < t[0]:
        grid, leaps = grid[::-1], -leaps[::-1]
    last = schedule.alpha_bar[t[1]]
    first = np.sqrt([last, 1 - last]) / grid[1]
    rows = np.concatenate([first[None], leaps])
    keep = np.append(0.0, np.ones(len(leaps)))
    if isinstance(x, Pair):
        n, before = jnp.round(x.before / grid[1].astype(np.float32)), jnp.round(
            x.x / grid[0].astype(np.float32)
        )
        begin = 1
    else:
        n, before, begin = jnp.round(x / grid[0].astype(np.float32)), jnp.zeros_like(x), 0

    def step(carry, given):
        n, before = carry
        t, size, keep, row = given
        x_0, eps = predict(noise_fn, n * size, t, schedule, threshold)
        after = keep * before + jnp.round(row[0] * x_0 + row[1] * eps)
        return (after, n), None

    f = lambda a: jnp.asarray(a[begin:], jnp.float32)
    tables = jnp.asarray(t[:-1][begin:]), f(grid[:-1]), f(keep), f(rows)
    n, before = jax.lax.scan(step, (n, before), tables)[0]
    return Pair(n * np.float32(grid[-1]), before * np.float32(grid[-2]))


def implicit(noise_fn, x, times, schedule, threshold="none", *, evaluations=2):
    t = np.asarray(times)

    def step(carry, given):
        y, eps = carry
        s, t = given
        ratio = at(np.sqrt(schedule.alpha_bar), t, y) / at(np.sqrt(schedule.alpha_bar), s, y)

        def evaluate(carry, first):
            x, last, last_f, _ = carry
            x_0, eps = predict(noise_fn, x, t, schedule, threshold)
            f = ratio * (y - schedule.x_t(x_0, s, eps))
            axes = tuple(range(1, x.ndim))
            d = f - last_f
            size = (d * d).sum(axes, keepdims=True)
            w = (d * f).sum(axes, keepdims=True) / jnp.where(size > 0, size, 1.0)
            w = jnp.where(first, 0.0, w)
            new = x + f - w * (x + f - last - last_f)
            return (new, x, f, eps), None

        x = schedule.x_t(schedule.x_0(y, s, eps), t, eps)
        first = jnp.arange(evaluations) == 0
        (x, _, _, eps), _ = jax.lax.scan(evaluate, (x, x, x, eps), first)
        return (x, eps), None

    return jax.lax.scan(step, (x, jnp.zeros_like(x)), (jnp.asarray(t[:-1]), jnp.asarray(t[1:])))[0][0]
