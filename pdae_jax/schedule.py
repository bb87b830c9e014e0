"""The noise schedule: beta, alpha_bar and every constant that follows from them.

Arrays over t = 0..T-1 (the paper's 1..T), kept in float64 and cast to float32 once, where they
meet an image. Networks and codes are not known here.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.arrays import Images, State, Time, Times
from pdae_jax.loss_weight import PAPER, WEIGHTINGS, Table
from pdae_jax.runtime.choices import nearest

Factor = Float[jax.Array, ""] | Float[jax.Array, "B *ones"]  # of all examples, or of each


class Scalings(NamedTuple):
    """eps = out F(into x_t) + skip x_t, of a network F: tables over t, or factors at one."""

    into: Any
    out: Any
    skip: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The constants of a diffusion process, from its betas: float64 arrays of shape [T]."""

    beta: Table

    def __post_init__(self) -> None:
        beta = np.asarray(self.beta, np.float64)
        if beta.ndim != 1 or not len(beta):
            raise ValueError(f"beta must be a vector of T numbers, got shape {beta.shape}")
        if not ((beta > 0) & (beta < 1)).all():
            raise ValueError(
                f"each beta must be in (0, 1), got {beta.min():.4g} to "
                f"{beta.max():.4g} with T = {len(beta)}"
            )
        object.__setattr__(self, "beta", beta)

    @property
    def T(self) -> int:
        return len(self.beta)

    @functools.cached_property
    def alpha(self) -> Table:
        return 1.0 - self.beta

    @functools.cached_property
    def alpha_bar(self) -> Table:
        return np.cumprod(self.alpha)

    @functools.cached_property
    def alpha_bar_prev(self) -> Table:
        """alpha_bar_{t-1}, with alpha_bar_{-1} = 1."""
        return np.append(1.0, self.alpha_bar[:-1])

    @functools.cached_property
    def posterior_variance(self) -> Table:
        """sigma_t^2 = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t); 0 at t = 0."""
        return self.beta * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)

    @functools.cached_property
    def posterior_log_variance(self) -> Table:
        """log sigma_t^2, clipped: index 0, where sigma is 0, takes the value of index 1."""
        if self.T == 1:
            return np.log(self.beta)
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @functools.cached_property
    def mean_shift(self) -> Table:
        """k_t / Sigma_t = sqrt(alpha_t) sqrt(1 - alpha_bar_t) / beta_t.

        Algorithm 1 and DDPM: times Sigma_t it turns G into a change of eps. DDIM uses
        `score_shift`, a different coefficient, on purpose.
        """
        return np.sqrt(self.alpha) * np.sqrt(1.0 - self.alpha_bar) / self.beta

    @functools.cached_property
    def score_shift(self) -> Table:
        """sqrt(1 - alpha_bar_t): turns G, as a score, into a change of eps (Algorithm 3)."""
        return np.sqrt(1.0 - self.alpha_bar)

    @functools.cached_property
    def log_snr(self) -> Table:
        """lambda_t = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)): half the log of the SNR."""
        return 0.5 * np.log(self.alpha_bar / (1.0 - self.alpha_bar))

    @functools.cached_property
    def noise_level(self) -> Table:
        """rho_t = sqrt(1 - alpha_bar) / sqrt(alpha_bar): the noise in x_t / sqrt(alpha_bar)."""
        return np.sqrt(1.0 / self.alpha_bar - 1.0)

    def scalings(self, predicts: str) -> Scalings | None:
        """How a network that predicts something else gives eps; None for one that predicts eps.

        predicts: "x_0"; "v" (Salimans and Ho 2022); "edm", x_0 as D(x_t / sqrt(alpha_bar); sigma)
        by the scalings of Karras et al. 2022 (Table 1, sigma_data 0.5); "consistency", by those of
        Song et al. 2023 (Appendix C), which are the identity at sigma = 0.002.
        """
        signal, noise = np.sqrt(self.alpha_bar), np.sqrt(1.0 - self.alpha_bar)
        if predicts == "eps":
            return None
        if predicts == "v":
            return Scalings(np.ones(self.T), signal, noise)
        if predicts == "x_0":
            return Scalings(np.ones(self.T), -signal / noise, 1.0 / noise)
        sigma, data = self.noise_level, 0.5
        least = {"edm": 0.0, "consistency": 0.002}[predicts]
        total = np.sqrt(sigma**2 + data**2)
        forgotten = (sigma - least) ** 2 / ((sigma - least) ** 2 + data**2)  # 1 - c_skip
        out = (sigma - least) * data / total
        return Scalings(1.0 / (total * signal), -signal * out / noise, forgotten / noise)

    def given_to(self, reads: str) -> Table | None:
        """What a network is given for each t, as `Architecture.reads` has it; None for t itself."""
        with np.errstate(divide="ignore"):
            log_sigma = np.log(self.noise_level)
        return {
            "t": None,
            "t_of_1000": np.arange(self.T) * (1000.0 / self.T),
            "quarter_log_sigma": log_sigma / 4,
            "250_log_sigma": 250 * log_sigma,
        }[reads]

    def loss_weight(self, gamma: float = PAPER, weighting: str = "gamma") -> Table:
        """lambda_t, the weight of the eps-loss: SNR^gamma / (1 + SNR), or another by its name.

        weighting: of `loss_weight.WEIGHTINGS`. Raises ValueError where float32 cannot hold it.
        """
        snr = self.alpha_bar / (1.0 - self.alpha_bar)
        with np.errstate(over="ignore"):
            weight = WEIGHTINGS[nearest(weighting, WEIGHTINGS, "weighting")](snr, gamma)
        if not weight.max() < np.finfo(np.float32).max:
            raise ValueError(
                f"gamma = {gamma:g} makes weights beyond float32 for SNR from {snr.min():.2g} to "
                f"{snr.max():.2g}; take one nearer to 0"
            )
        return weight

    def x_t(self, x_0: State, t: Time | Times, eps: State) -> State:
        """Noises x_0 to time t: sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps."""
        return (
            at(np.sqrt(self.alpha_bar), t, x_0) * x_0
            + at(np.sqrt(1.0 - self.alpha_bar), t, x_0) * eps
        )

    def x_0(self, x_t: State, t: Time | Times, eps: State) -> State:
        """The x_0 that eps implies: (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)."""
        return (
            at(np.sqrt(1.0 / self.alpha_bar), t, x_t) * x_t
            - at(np.sqrt(1.0 / self.alpha_bar - 1.0), t, x_t) * eps
        )

    def eps(self, x_t: State, t: Time | Times, x_0: State) -> State:
        """The eps that x_0 implies; the inverse of `x_0`."""
        return (at(np.sqrt(1.0 / self.alpha_bar), t, x_t) * x_t - x_0) / at(
            np.sqrt(1.0 / self.alpha_bar - 1.0), t, x_t
        )

    def posterior_mean(self, x_t: Images, t: Time | Times, eps: Images) -> Images:
        """mu_theta = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t)."""
        return at(1.0 / np.sqrt(self.alpha), t, x_t) * (
            x_t - at(self.beta / np.sqrt(1.0 - self.alpha_bar), t, x_t) * eps
        )

    def true_posterior_mean(self, x_0: Images, x_t: Images, t: Time | Times) -> Images:
        """mu~(x_t, x_0), the mean of q(x_{t-1} | x_t, x_0), which mu_theta approximates."""
        c_0 = np.sqrt(self.alpha_bar_prev) * self.beta / (1.0 - self.alpha_bar)
        c_t = np.sqrt(self.alpha) * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)
        return at(c_0, t, x_t) * x_0 + at(c_t, t, x_t) * x_t


def at(values: Table, t: Time | Times, like: State) -> Factor:
    """values[t] in float32, shaped to multiply `like`: a scalar, or [B, 1, ...] for t [B]."""
    t = jnp.asarray(t)
    chosen = jnp.asarray(values, jnp.float32)[t]
    return chosen.reshape(t.shape + (1,) * (jnp.ndim(like) - t.ndim)) if t.ndim else chosen


def linear(T: int = 1000, *ends: float) -> Schedule:
    """beta from 1e-4 to 0.02 for T = 1000 (Ho et al. 2020); other T keep the same total noise.

    ends: the first and the last beta, which are then taken for any T. Raises ValueError without
    them for T of 20 or less, whose last beta would be 1 or more.
    """
    if ends:
        first, last = ends
        return Schedule(np.linspace(first, last, T))
    if T <= 20:
        raise ValueError(f"the linear schedule needs T above 20, got {T}: its last beta is 20 / T")
    return Schedule(np.linspace(1e-4, 0.02, T) * (1000 / T))


def scaled_linear(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """The root of beta is linear ("quadratic" of DDIM, "scaled_linear" of latent diffusion)."""
    return Schedule(np.linspace(first**0.5, last**0.5, T) ** 2)


def cosine(T: int = 1000) -> Schedule:
    """alpha_bar(u) = cos^2((u + 0.008) / 1.008 * pi / 2), beta capped at 0.999 (Nichol 2021)."""
    alpha_bar = np.cos((np.linspace(0, 1, T + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return Schedule(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def sigmoid(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """beta along a sigmoid over [-6, 6] (GeoDiff, Xu et al. 2022), as diffusers and MONAI have."""
    return Schedule((last - first) / (1 + np.exp(-np.linspace(-6, 6, T))) + first)


def constant(T: int = 1000, beta: float = 0.008) -> Schedule:
    """One beta throughout: the latent diffusion model's (paper, Table 2)."""
    return Schedule(np.full(T, beta))


def karras(T: int = 1000, first: float = 0.002, last: float = 80.0) -> Schedule:
    """sigma = sqrt(1 / alpha_bar - 1) from first to last, sigma^(1/7) linear (Karras et al. 2022).

    The noise levels that EDM's and consistency models are trained on.
    """
    sigma = np.linspace(first ** (1 / 7), last ** (1 / 7), T) ** 7
    alpha_bar = np.append(1.0, 1 / (1 + sigma**2))
    return Schedule(1.0 - alpha_bar[1:] / alpha_bar[:-1])


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "constant": constant,
    "karras": karras,
}
GIVEN = "given"
NUMBERS = {"linear": (0, 2), "cosine": (0,), "constant": (0, 1)}  # that follow a name; else 0 or 2


def named(name: str, T: int = 1000, betas: Sequence[float] = ()) -> Schedule:
    """A schedule by its name: of `SCHEDULES`, or "given" with betas.

    Numbers may follow, such as "linear:0.0001,0.02", its first and last beta. Raises ValueError
    where there is none such.
    """
    if betas or name == GIVEN:
        return Schedule(np.asarray(betas, np.float64))
    word, _, rest = name.partition(":")
    make = SCHEDULES[nearest(word, SCHEDULES, "schedule")]
    try:
        numbers = [float(number) for number in rest.split(",")] if rest else []
    except ValueError:
        numbers = [math.nan]
    counts = NUMBERS.get(word, (0, 2))
    if len(numbers) not in counts or not np.isfinite(numbers).all():
        raise ValueError(
            f"schedule {name!r}: {word} takes {' or '.join(map(str, counts))} numbers after a "
            f"colon, such as linear:0.0001,0.02"
        )
    return make(T, *numbers)
