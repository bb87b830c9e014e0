"""Protocols: how x_T is inferred and pictures are decoded. Names and numbers alone.

"paper" is the paper's: 1000 DDIM steps to infer x_T and 100 to decode, x_0 clipped at every step,
x_T drawn where there is none. "fast" is the default, chosen by what docs/fast.md measures.
"distilled" is the same by one network instead of two; "fewstep" draws pictures from z in so few
steps that another is trained for them (docs/distillation.md).
"""

import dataclasses
import math
import numbers

from pdae_jax.runtime.choices import nearest

SOLVERS = ("ddim", "dpm++2m", "deis2", "deis3", "unipc2", "unipc3")  # deterministic
SPACINGS = ("uniform", "log-snr", "karras", "quadratic")
THRESHOLDS = ("none", "static", "dynamic")
# Beside those: from noise alone, and from pictures alone.
ONLY_DOWN = ("ddpm", "dpm++2m-sde")
ONLY_UP = ("implicit",)  # undoes DDIM
REVERSIBLE = ("bdia", "o-belm")  # x_T is a pair of states
# What comparisons of inversions take; the last is the paper's way in fewer steps.
INVERSIONS = (*SOLVERS, *ONLY_UP, *REVERSIBLE, "ddim-clipped")
NETWORKS = ("pdae", "shifted", "fewstep")  # that tell the noise under z: the latter are distilled
FEW = (1, 2, 4)  # DDIM steps that "fewstep" is trained for


@dataclasses.dataclass(frozen=True)
class Sampling:
    """One way through the times, up or down; ValueError where a name or number is wrong.

    solver: a name; spacing: of the times; steps: of the solver; threshold: what is done to the x_0
    that a step implies ("none" where it is to be undone); network: that tells the noise under z.
    """

    solver: str = "dpm++2m"
    spacing: str = "log-snr"
    steps: int = 20
    threshold: str = "none"
    network: str = "pdae"

    def __post_init__(self) -> None:
        nearest(self.solver, (*SOLVERS, *ONLY_DOWN, *ONLY_UP, *REVERSIBLE), "solver")
        nearest(self.spacing, SPACINGS, "spacing")
        nearest(self.threshold, THRESHOLDS, "threshold")
        whole = isinstance(self.steps, numbers.Integral) and not isinstance(self.steps, bool)
        if not whole or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        nearest(self.network, NETWORKS, "network")
        if self.network != "pdae" and self.solver == "ddpm":
            raise ValueError(
                f"solver = 'ddpm' shifts a mean, which network = {self.network!r} does not tell: "
                f"take network = 'pdae', or another solver"
            )
        way = (self.solver, self.spacing)
        if self.network == "fewstep" and (way != ("ddim", "uniform") or self.steps not in FEW):
            raise ValueError(
                f"network = 'fewstep' was trained for solver = 'ddim', spacing = 'uniform' and "
                f"steps = {', '.join(map(str, FEW))}, got {', '.join(way)} and {self.steps}"
            )

    def __str__(self) -> str:
        limit = "" if self.threshold == "none" else f", {self.threshold} threshold"
        network = "" if self.network == "pdae" else f", {self.network}"
        return f"{self.steps} steps of {self.solver} ({self.spacing}{limit}{network})"


WAYS = ("invert", "decode", "draw", "stopped")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a model samples.

    invert: from a picture to its x_T. decode: from that x_T to a picture. draw: to a picture from
    z without an x_T of its own, or without z. stopped: as draw, where the small times go without z:
    in steps that stop where they are told. temperature: the size of the x_T that is drawn; 1 the
    paper's, 0 the one picture of z (where an rng is given, 1). latent_steps: of the latent model's
    DDIM. Raises ValueError where a way cannot go so.
    """

    invert: Sampling = Sampling()
    decode: Sampling = Sampling()
    draw: Sampling = Sampling(steps=10, threshold="static")
    stopped: Sampling = Sampling("ddim", "uniform", 20, "static")
    temperature: float = 0.0
    latent_steps: int = 100

    def __post_init__(self) -> None:
        for way, wrong, remedy in (
            ("invert", ONLY_DOWN, "dpm++2m or bdia"),
            ("decode", ONLY_UP, "ddim"),
            ("draw", ONLY_UP, "ddim"),
            ("stopped", (*ONLY_UP, "ddpm"), "ddim"),
        ):
            how = getattr(self, way)
            if how.solver in wrong:
                raise ValueError(f"{way} cannot go by solver = {how.solver!r}: take {remedy}")
        if self.invert.network == "fewstep":
            raise ValueError("invert cannot go by network = 'fewstep', which knows the way down")
        if self.invert.solver in REVERSIBLE and self.decode != self.invert:
            raise ValueError(
                f"what {self.invert.solver} infers is decoded in the same way: decode must be "
                f"{self.invert}, got {self.decode}"
            )
        temperature = self.temperature
        if not (isinstance(temperature, numbers.Real) and 0 <= temperature < math.inf):
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        if not (isinstance(self.latent_steps, numbers.Integral) and self.latent_steps >= 1):
            raise ValueError(f"latent_steps must be at least 1, got {self.latent_steps!r}")

    def at_most(self, T: int) -> "Protocol":
        """The same in no more steps than a schedule of T times allows."""

        def few(how: Sampling) -> Sampling:
            return dataclasses.replace(how, steps=min(how.steps, T))

        return dataclasses.replace(self, **{way: few(getattr(self, way)) for way in WAYS})


PAPER = Sampling("ddim", "uniform", 100, "static")
DISTILLED = Sampling(network="shifted")
PROTOCOLS = {
    "fast": Protocol(),
    "paper": Protocol(dataclasses.replace(PAPER, steps=1000), PAPER, PAPER, PAPER, 1.0),
    "distilled": Protocol(
        DISTILLED,
        DISTILLED,
        Sampling(steps=10, threshold="static", network="shifted"),
        Sampling("ddim", "uniform", 20, "static", "shifted"),
    ),
    "fewstep": Protocol(draw=Sampling("ddim", "uniform", 2, "static", "fewstep")),
}


def protocol_of(name: str | Protocol, T: int) -> Protocol:
    """The protocol of a name, in at most T steps, or the given one as it is."""
    if isinstance(name, Protocol):
        return name
    return PROTOCOLS[nearest(name, PROTOCOLS, "protocol")].at_most(T)
