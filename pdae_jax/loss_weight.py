"""The weight of the eps-loss over t: named choices, functions of the signal-to-noise ratio.

SNR = alpha_bar / (1 - alpha_bar) over t = 0..T-1, [T] in float64. A weight w_t of the eps-loss is
w_t SNR of the loss of x_0, as |eps - eps'|^2 = SNR |x_0 - x_0'|^2. JAX is not known here.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Table = Float[np.ndarray, "T"]  # a number for each t

PAPER = 0.1  # gamma, in all of the paper's experiments
MOST = 5.0  # the largest SNR that min-SNR counts, as its authors recommend


def power(snr: Table, gamma: float) -> Table:
    """SNR^gamma / (1 + SNR): PDAE's (Zhang et al. 2022, Section 3.3); gamma = 1 is alpha_bar."""
    return snr**gamma / (1.0 + snr)


def constant(snr: Table, gamma: float) -> Table:
    """1: the diffusion model's own loss, L_simple (Ho et al. 2020, Equation 14)."""
    return np.ones_like(snr)


def min_snr(snr: Table, gamma: float) -> Table:
    """min(SNR, 5) / SNR: min-SNR-5 of a network that predicts eps (Hang et al. 2023)."""
    return np.minimum(snr, MOST) / snr


def p2(snr: Table, gamma: float) -> Table:
    """1 / (k + SNR)^gamma with k = 1: P2 (Choi et al. 2022); they take gamma = 1 or 0.5.

    At gamma = 1 it is `power` at 0.
    """
    return (1.0 + snr) ** -gamma


def log_snr(snr: Table, gamma: float) -> Table:
    """|d log SNR / dt| over its mean: uniform t counts as uniform in log SNR.

    A sum over t is then the trapezoidal rule over log SNR, in units of its range over T: each t
    has half of the way to either neighbour (Kingma et al. 2021: the loss is an integral over SNR).
    """
    if len(snr) == 1:
        return np.ones_like(snr)
    log = np.log(snr)
    middles = (log[:-1] + log[1:]) / 2
    cells = -np.diff(np.concatenate([log[:1], middles, log[-1:]]))
    return cells / cells.mean()


WEIGHTINGS: dict[str, Callable[[Table, float], Table]] = {
    "gamma": power,
    "constant": constant,
    "min-snr": min_snr,
    "p2": p2,
    "log-snr": log_snr,
}
WITH_EXPONENT = ("gamma", "p2")


def check(weighting: str, gamma: float) -> None:
    """Raises ValueError where `gamma` is no exponent, or not one of a known `weighting`."""
    if not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number, got {gamma}")
    if weighting not in WITH_EXPONENT and gamma != PAPER:
        raise ValueError(
            f"gamma = {gamma:g} would have no effect: weighting = {weighting!r} has no exponent; "
            f"leave gamma at {PAPER}, or choose {' or '.join(map(repr, WITH_EXPONENT))}"
        )
    if weighting == "p2" and gamma == PAPER:
        raise ValueError(
            f"weighting = 'p2' needs a gamma of its own: its authors take 1 or 0.5, and {PAPER}, "
            f"the default, is PDAE's; set gamma"
        )
