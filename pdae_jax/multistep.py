"""Solvers of higher order: the probability flow ODE in fewer, better steps than DDIM's.

All are linear multistep methods: a step evaluates the noise once, and combines x with the last few
evaluations, of x_0 or of eps, by factors that follow from the times alone. So one scan serves all,
and a solver is its table of factors. Times that descend sample; times that ascend infer x_T, by the
same function.

With alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(alpha / sigma) and
rho = sigma / alpha, the ODE from time t to s is

    x_s / sigma_s = x_t / sigma_t + integral of e^lambda x_0 over lambda
    x_s / alpha_s = x_t / alpha_t + integral of eps over rho

exactly; solvers differ in how they continue x_0 or eps from the times where they know it. DDIM
keeps it constant.
"""

import functools
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax import reversible
from pdae_jax.arrays import Array, State, Visited
from pdae_jax.protocol import Sampling
from pdae_jax.reversible import Pair
from pdae_jax.samplers import Draw, NoiseFn, ddim, one_way, predict
from pdae_jax.schedule import Schedule

Rows = Float[np.ndarray, "S n"]  # of each step: the factor of x, and of evaluations, newest first


class Factors(NamedTuple):
    """A solver's steps, i = 0..S-1, in float64.

    of: the evaluations m_i are of "x_0" or "eps" at x_i. step: x_{i+1} from x_i, m_i, m_{i-1}, ...
    correct: x_i anew, before the step, from x_{i-1}, m_i, m_{i-1}, ...; noise: the size of what is
    drawn and added.
    """

    of: str
    step: Rows
    correct: Rows | None = None
    noise: Float[np.ndarray, " S"] | None = None


class Solver(Protocol):
    """A deterministic sampler of one noise evaluation a step: `ddim` and all in `SOLVERS`."""

    def __call__(
        self,
        noise_fn: NoiseFn,
        x: State,
        times: Visited,
        schedule: Schedule,
        threshold: str = ...,
    ) -> State: ...


def multistep(
    noise_fn: NoiseFn,
    x: State,
    times: Visited,
    schedule: Schedule,
    factors: Factors,
    threshold: str = "none",
    draw: Draw | None = None,
) -> State:
    """The loop: x, given at the first of `times`, by a table of factors to the last of them."""
    wide = factors.step if factors.correct is None else factors.correct
    seen = (jnp.zeros_like(x),) * (wide.shape[1] - 1)

    def combined(row: Float[Array, " n"], x: State, seen: tuple[State, ...]) -> State:
        return sum((row[1 + k] * m for k, m in enumerate(seen[: len(row) - 1])), row[0] * x)

    def step(carry: tuple[State, State, tuple[State, ...]], given: tuple) -> tuple[tuple, None]:
        x, before, seen = carry
        t, onwards, again, size = given
        x_0, eps = predict(noise_fn, x, t, schedule, threshold)
        seen = (x_0 if factors.of == "x_0" else eps, *seen[:-1])
        if again is not None:
            x = combined(again, before, seen)
        after = combined(onwards, x, seen)
        if size is not None and draw is not None:
            after = after + size * draw(t)
        return (after, x, seen), None

    tables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tuple(factors[1:]))
    return jax.lax.scan(step, (x, x, seen), (jnp.asarray(times)[:-1], *tables))[0][0]


def dpmpp_2m(
    noise_fn: NoiseFn, x: State, times: Visited, schedule: Schedule, threshold: str = "none"
) -> State:
    """DPM-Solver++(2M): second order on x_0 (Lu et al. 2022b, Algorithm 2)."""
    return multistep(noise_fn, x, times, schedule, dpmpp_factors(schedule, times), threshold)


def dpmpp_2m_sde(
    noise_fn: NoiseFn,
    x: State,
    times: Visited,
    schedule: Schedule,
    draw: Draw,
    threshold: str = "none",
) -> State:
    """SDE-DPM-Solver++(2M): the same on the reverse SDE (Lu et al. 2022b, Appendix), down only.

    draw(t) -> standard normal noise shaped like x. Raises ValueError where times ascend: noise
    that was drawn cannot be inferred.
    """
    if np.any(np.diff(np.asarray(times)) > 0):
        raise ValueError("dpm++2m-sde only samples: to infer x_T take a deterministic solver")
    factors = dpmpp_factors(schedule, times, noisy=True)
    return multistep(noise_fn, x, times, schedule, factors, threshold, draw)


def deis(
    noise_fn: NoiseFn,
    x: State,
    times: Visited,
    schedule: Schedule,
    threshold: str = "none",
    *,
    order: int = 2,
) -> State:
    """rhoAB-DEIS: eps as a polynomial in rho, of `order` points (Zhang and Chen 2023)."""
    return multistep(noise_fn, x, times, schedule, deis_factors(schedule, times, order), threshold)


def unipc(
    noise_fn: NoiseFn,
    x: State,
    times: Visited,
    schedule: Schedule,
    threshold: str = "none",
    *,
    order: int = 2,
) -> State:
    """UniPC on x_0 with B(h) = e^h - 1: UniP-`order` corrected by UniC (Zhao et al. 2023).

    The corrector takes the evaluation that the next step needs anyway; the last step has none.
    """
    return multistep(noise_fn, x, times, schedule, unipc_factors(schedule, times, order), threshold)


SOLVERS: dict[str, Solver] = {
    "ddim": ddim,
    "dpm++2m": dpmpp_2m,
    "deis2": functools.partial(deis, order=2),
    "deis3": functools.partial(deis, order=3),
    "unipc2": functools.partial(unipc, order=2),
    "unipc3": functools.partial(unipc, order=3),
}


def solve(
    how: Sampling,
    noise_fn: NoiseFn,
    x: State | Pair,
    times: Visited,
    schedule: Schedule,
    draw: Draw | None = None,
) -> State | Pair:
    """x along `times` by the solver and threshold that `how` names; a pair by a reversible one."""
    if how.solver == "dpm++2m-sde":
        if draw is None:
            raise ValueError("dpm++2m-sde draws noise at every step: take dpm++2m")
        start = x.x if isinstance(x, Pair) else x
        return dpmpp_2m_sde(noise_fn, start, times, schedule, draw, how.threshold)
    named: dict[str, Any] = {
        **SOLVERS,
        "implicit": reversible.implicit,
        "bdia": reversible.bdia,
        "o-belm": reversible.o_belm,
    }
    return named[how.solver](noise_fn, x, times, schedule, how.threshold)


class _Path(NamedTuple):
    """The schedule along the times visited, [S + 1] each."""

    alpha: Float[np.ndarray, " n"]
    sigma: Float[np.ndarray, " n"]
    lamda: Float[np.ndarray, " n"]
    rho: Float[np.ndarray, " n"]


def _along(schedule: Schedule, times: Visited) -> _Path:
    t = one_way(times)
    alpha, sigma = np.sqrt(schedule.alpha_bar[t]), np.sqrt(1.0 - schedule.alpha_bar[t])
    return _Path(alpha, sigma, schedule.log_snr[t], schedule.noise_level[t])


def dpmpp_factors(schedule: Schedule, times: Visited, noisy: bool = False) -> Factors:
    """D = m_i + (m_i - m_{i-1}) / 2r, r = h_{i-1} / h_i, takes the place of x_0 in DDIM's step."""
    alpha, sigma, lamda, _ = _along(schedule, times)
    h = np.diff(lamda)
    slope = np.append(0.0, h[1:] / h[:-1] / 2)  # the first step has no m_{i-1}
    decay = 2 if noisy else 1
    of_x = sigma[1:] / sigma[:-1] * (np.exp(-h) if noisy else 1.0)
    of_x_0 = -alpha[1:] * np.expm1(-decay * h)
    step = np.stack([of_x, of_x_0 * (1 + slope), -of_x_0 * slope], axis=1)
    noise = sigma[1:] * np.sqrt(-np.expm1(-2 * h)) if noisy else None
    return Factors("x_0", step, noise=noise)


def deis_factors(schedule: Schedule, times: Visited, order: int) -> Factors:
    """The integrals over rho, from rho_i to rho_{i+1}, of Lagrange's polynomials at the m's."""
    alpha, _, _, rho = _along(schedule, times)
    step = np.zeros((len(rho) - 1, 1 + order))
    for i in range(len(rho) - 1):
        n = min(order, i + 1)
        width = rho[i + 1] - rho[i]
        at = (rho[i - n + 1 : i + 1][::-1] - rho[i]) / width  # newest first; the step is 0 to 1
        powers = np.arange(n)
        # Weights that integrate 1, u, u^2, ... exactly are the integrals of those polynomials.
        weights = np.linalg.solve(at[None, :] ** powers[:, None], 1 / (powers + 1))
        step[i, 0] = alpha[i + 1] / alpha[i]
        step[i, 1 : 1 + n] = alpha[i + 1] * width * weights
    return Factors("eps", step)


def unipc_factors(schedule: Schedule, times: Visited, order: int) -> Factors:
    """UniP's step, and UniC's correction of it once x_0 at its end is known."""
    path = _along(schedule, times)
    S = len(path.lamda) - 1
    step, correct = np.zeros((S, 1 + order)), np.zeros((S, 2 + order))
    correct[0, 0] = 1.0  # the given x stays
    for i in range(S):
        n = min(order, i + 1)
        step[i, : 1 + n] = _unified(path, i, n, corrected=False)
        if i + 1 < S:
            correct[i + 1, : 2 + n] = _unified(path, i, n, corrected=True)
    return Factors("x_0", step, correct)


def _unified(path: _Path, i: int, n: int, corrected: bool) -> Float[np.ndarray, " factors"]:
    """The factors of x_i and of m: [m_{i+1},] m_i, ..., m_{i-n+1}, that give x_{i+1}.

    x_{i+1} = sigma_{i+1} / sigma_i x_i - alpha_{i+1} (e^-h - 1) (m_i + sum_k a_k D_k), with
    D_k = (m_{i-k} - m_i) / r_k, r_k = (lambda_{i-k} - lambda_i) / h, and r = 1 of m_{i+1}. The a_k
    match the first terms of the integral's Taylor series in h (Zhao et al. 2023, Theorem 3.1).
    """
    alpha, sigma, lamda, _ = path
    h = lamda[i + 1] - lamda[i]
    r = np.append((lamda[i - n + 1 : i] - lamda[i]) / h, [1.0] * corrected)  # oldest first
    q = len(r)
    a = np.full(1, 0.5)  # of one difference: as the authors have it, the limit for small h
    if q > 1:
        phi = [np.expm1(-h) / -h]  # phi_1(-h), phi_2, ...: phi_{k+1}(u) = (phi_k(u) - 1 / k!) / u
        for k in range(1, q + 1):
            phi.append((phi[-1] - 1 / math.factorial(k)) / -h)
        powers = np.arange(q)
        b = np.array([phi[k + 1] * math.factorial(k + 1) for k in range(q)]) * -h / np.expm1(-h)
        a = np.linalg.solve(r[None, :] ** powers[:, None], b)
    whole = -alpha[i + 1] * np.expm1(-h)
    of_m = np.zeros(n + 1)  # m_{i+1}, m_i, ..., m_{i-n+1}
    of_m[1] = whole
    if q:
        places = [*range(n, 1, -1), *([0] * corrected)]
        for place, difference in zip(places, whole * a / r):
            of_m[place] += difference
            of_m[1] -= difference
    return np.append(sigma[i + 1] / sigma[i], of_m if corrected else of_m[1:])
