"""Samplers that can be run backwards exactly, and the inversion that undoes DDIM implicitly.

A reversible sampler computes the next state from the one before and from the noise at the one
between: x_{i+1} = a x_{i-1} + g(x_i). Backwards it evaluates the noise at the same x_i and takes
the same g off again. So two states must be kept to go on, a `Pair`.

In exact arithmetic that is all. In floating point a picture would come back with the rounding of
every step, multiplied by what the recurrence multiplies; from a bfloat16 network, which answers
the least change of its input by one of 1e-3, it would not come back at all. Hence states are whole
multiples of a unit, one for each time, and the units' ratio is a: in units the recurrence is
n_{i+1} = n_{i-1} + round(g(n_i)). float32 adds whole numbers exactly, the network sees the same
bits both ways, and g, whatever its precision, is the same.

Guaranteed: from the pair of a run the same sampler over the reversed times returns to the very
bits of the first state's whole multiple, at any steps, spacing and precision of the network, as
long as the noise function answers the same x_t with the same bits in both runs, and states stay
below 2^24 units, those of a pair below 2^22. Programs compiled for another batch size or device
may answer with other last bits. A float32 network then still comes back to an MSE of about 1e-10
to 1e-8, a bfloat16 one only as well as by any other solver: keep the batch size between both ways.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pdae_jax.arrays import State, Time, Visited
from pdae_jax.samplers import NoiseFn, one_way, predict
from pdae_jax.schedule import Schedule, at

UNIT = 2.0**-16  # of BDIA's states: pictures of 8 bits are 2^-7 apart, noise stays below 2^8
# O-BELM's units follow the steps' widths. Pictures have FIRST, or a finer one so that none is above
# COARSEST, a rounding that the network does not see; below FINEST no room for noise is left.
FIRST, COARSEST, FINEST = 2.0**-14, 2.0**-10, 2.0**-20
EVALUATIONS = 2  # of the noise a step, by which DDIM is undone


class Pair(NamedTuple):
    """The two states that must be kept, [B, ...] each, to run a reversible sampler backwards.

    x: the state at the last time visited; before: the state at the time visited before it. As the
    start of a run over the reversed times they are those at its first and at its second time.
    """

    x: State
    before: State


def bdia(
    noise_fn: NoiseFn,
    x: State | Pair,
    times: Visited,
    schedule: Schedule,
    threshold: str = "none",
) -> Pair:
    """BDIA with gamma = 1 (Zhang et al. 2023): DDIM's steps from x_i both ways, of second order.

    x_{i+1} = x_{i-1} + (alpha_{i+1} - alpha_{i-1}) x_0 + (sigma_{i+1} - sigma_{i-1}) eps, x_0 and
    eps at x_i. A state begins with a step of DDIM: S evaluations for S steps; a pair, whose states
    are those at times[0] and times[1], goes on without: S - 1. So, but for the rounding of x_0 to
    2^-16 (see above), bdia(f, bdia(f, x_0, up, schedule), up[::-1], schedule).x is x_0.
    """
    t = _ascending(times)
    alpha, sigma = np.sqrt(schedule.alpha_bar[t]), np.sqrt(1.0 - schedule.alpha_bar[t])
    leaps = np.stack([alpha[2:] - alpha[:-2], sigma[2:] - sigma[:-2]], axis=1) / UNIT
    return _leapfrog(noise_fn, x, times, schedule, threshold, np.full(len(t), UNIT), leaps)


def o_belm(
    noise_fn: NoiseFn,
    x: State | Pair,
    times: Visited,
    schedule: Schedule,
    threshold: str = "none",
) -> Pair:
    """O-BELM (Wang et al. 2024): the two-step recurrence of least local error, of second order.

    With y = x / alpha, h_i = rho_i - rho_{i-1} and q = (h_{i+1} / h_i)^2,

        y_{i+1} = q y_{i-1} + (1 - q) y_i + h_{i+1} (h_i + h_{i+1}) / h_i eps_i

    and the same solved for y_{i-1} the other way. Begins, goes on and comes back as `bdia`, exactly
    as well. But upwards the product of all q, (h_S / h_1)^2, about 1e5, multiplies the error of the
    first step: in few steps x_T may be far from normal noise, where BDIA's is not.

    Raises ValueError where its units, which follow q, differ by more than float32 holds.
    """
    t = _ascending(times)
    alpha, rho = np.sqrt(schedule.alpha_bar[t]), schedule.noise_level[t]
    h = np.diff(rho)
    q = (h[1:] / h[:-1]) ** 2
    # Units of y: two chains, each from one time to the next but one.
    of_y = np.append(1.0, h[1] / h[0] if len(q) else alpha[0] / alpha[1])
    for i in range(len(q)):
        of_y = np.append(of_y, of_y[i] * q[i])
    units = alpha * of_y
    spread = units.max() / units.min()
    scale = min(FIRST / units[0], COARSEST / units.max())
    if not scale * units.min() >= FINEST:
        raise ValueError(
            f"o-belm multiplies rounding by {spread:.2g} on these {len(h)} steps, and float32 "
            f"allows about {COARSEST / FINEST:.0f}: take other steps or spacing, or bdia"
        )
    of_y, units = of_y * scale, units * scale
    of_eps = (1 - q) * rho[1:-1] + h[1:] * (h[:-1] + h[1:]) / h[:-1]
    leaps = np.stack([1 - q, of_eps], axis=1) / of_y[2:, None]
    return _leapfrog(noise_fn, x, times, schedule, threshold, units, leaps)


def _ascending(times: Visited) -> Int[np.ndarray, " S"]:
    t = one_way(times)
    return t if t[-1] > t[0] else t[::-1]


def _leapfrog(
    noise_fn: NoiseFn,
    x: State | Pair,
    times: Visited,
    schedule: Schedule,
    threshold: str,
    units: Float[np.ndarray, " S"],
    leaps: Float[np.ndarray, "inner 2"],
) -> Pair:
    """n_{i+1} = n_{i-1} + round(leaps_i . (x_0, eps)), where x_i = n_i units_i.

    units: of ascending times; leaps: the factors, in units, at all but the first and last, upwards.
    """
    t = np.asarray(times)
    if t[-1] < t[0]:  # the same numbers with the other sign, which rounding treats alike
        units, leaps = units[::-1], -leaps[::-1]
    size = units.astype(np.float32)
    if isinstance(x, Pair):
        n, before = jnp.round(x.before / size[1]), jnp.round(x.x / size[0])
        begin = 1
    else:
        n, before, begin = jnp.round(x / size[0]), jnp.zeros_like(x), 0
    # The first step is DDIM's, from nothing before it: a row of the same table, so that the
    # network is compiled once, and in the same loop both ways.
    ddim = np.sqrt([schedule.alpha_bar[t[1]], 1.0 - schedule.alpha_bar[t[1]]]) / units[1]
    rows = np.concatenate([ddim[None], leaps]).astype(np.float32)
    keep = np.append(0, np.ones(len(leaps))).astype(np.float32)

    def step(carry: tuple[State, State], given: tuple) -> tuple[tuple[State, State], None]:
        n, before = carry
        t, size, keep, row = given
        x_0, eps = predict(noise_fn, n * size, t, schedule, threshold)
        return (keep * before + jnp.round(row[0] * x_0 + row[1] * eps), n), None

    tables = [jnp.asarray(table[begin:]) for table in (t[:-1], size[:-1], keep, rows)]
    n, before = jax.lax.scan(step, (n, before), tuple(tables))[0]
    return Pair(n * size[-1], before * size[-2])


def implicit(
    noise_fn: NoiseFn,
    x: State,
    times: Visited,
    schedule: Schedule,
    threshold: str = "none",
    *,
    evaluations: int = EVALUATIONS,
) -> State:
    """Inverts DDIM's own steps: at each, the x_t from which `ddim_step` leads to the given x_s.

    A fixed point of x + alpha_t / alpha_s (x_s - ddim_step(x)), from a start with the noise of the
    step before, by Anderson acceleration on the last two iterates, of each example by itself.
    evaluations: of the noise a step; more come closer. Raises ValueError where times do not ascend.
    """
    t = np.asarray(times)
    if _ascending(times)[0] != t[0]:
        raise ValueError(
            f"implicit infers x_T, and times descend from {t[0]} to {t[-1]}: decode with ddim"
        )
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, got {evaluations}")
    alpha = np.sqrt(schedule.alpha_bar)

    def step(carry: tuple[State, State], pair: tuple[Time, Time]) -> tuple[tuple, None]:
        x_s, eps = carry
        s, t = pair

        def improve(carry: tuple[State, State, State, State], first: jax.Array) -> tuple:
            x, last, last_off, _ = carry
            x_0, eps = predict(noise_fn, x, t, schedule, threshold)
            off = at(alpha, t, x) / at(alpha, s, x) * (x_s - schedule.x_t(x_0, s, eps))
            change = off - last_off
            axes = tuple(range(1, x.ndim))
            size = (change**2).sum(axes, keepdims=True)
            weight = (change * off).sum(axes, keepdims=True) / jnp.where(size > 0, size, 1.0)
            # Of iterates that hardly differ the weight says little; 1 is enough where it matters.
            weight = jnp.where(first, 0.0, jnp.clip(weight, -1.0, 1.0))
            return (x + off - weight * (x + off - last - last_off), x, off, eps), None

        start = schedule.x_t(schedule.x_0(x_s, s, eps), t, eps)
        first = jnp.arange(evaluations) == 0
        (x_t, _, _, eps), _ = jax.lax.scan(improve, (start, start, start, eps), first)
        return (x_t, eps), None

    return jax.lax.scan(step, (x, jnp.zeros_like(x)), (jnp.asarray(t[:-1]), jnp.asarray(t[1:])))[0][
        0
    ]
