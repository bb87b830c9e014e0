"""Protocols: how x_T is inferred and pictures are decoded. Names and numbers alone.

"paper" is the paper's: 1000 DDIM steps to infer x_T and 100 to decode, x_0 clipped at every step,
x_T drawn where there is none. "fast" is the default, chosen by what docs/fast.md measures.
"distilled" is the same by one network instead of two; "fewstep" draws pictures from z in so few
steps that another is trained for them (docs/distillation.md).
"""

import dataclasses
import numbers

from pdae_jax.runtime.choices import nearest

SOLVERS = ("ddim", "dpm++2m", "deis2", "deis3", "unipc2", "unipc3")  # deterministic
SPACINGS = ("uniform", "log-snr", "karras", "quadratic")
THRESHOLDS = ("none", "static", "dynamic")
# Beside those: from noise alone, and from pictures alone.
ONLY_DOWN = ("ddpm", "dpm++2m-sde")
ONLY_UP = ("implicit",)  # undoes DDIM
REVERSIBLE = ("bdia", "o-belm")  # x_T is a pair of states
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


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a model samples.

    invert: from a picture to its x_T. decode: from that x_T to a picture. draw: to a picture from
    z without an x_T of its own. temperature: the size of the x_T that is drawn; 1 the paper's, 0
    the one picture of z. latent_steps: of the latent model's DDIM.
    """

    invert: Sampling = Sampling()
    decode: Sampling = Sampling()
    draw: Sampling = Sampling(steps=10, threshold="static")
    temperature: float = 0.0
    latent_steps: int = 100

    def at_most(self, T: int) -> "Protocol":
        """The same in no more steps than a schedule of T times allows."""

        def few(how: Sampling) -> Sampling:
            return dataclasses.replace(how, steps=min(how.steps, T))

        return dataclasses.replace(
            self, invert=few(self.invert), decode=few(self.decode), draw=few(self.draw)
        )


PAPER = Sampling("ddim", "uniform", 100, "static")
DISTILLED = Sampling(network="shifted")
PROTOCOLS = {
    "fast": Protocol(),
    "paper": Protocol(dataclasses.replace(PAPER, steps=1000), PAPER, PAPER, 1.0),
    "distilled": Protocol(
        DISTILLED, DISTILLED, Sampling(steps=10, threshold="static", network="shifted")
    ),
    "fewstep": Protocol(draw=Sampling("ddim", "uniform", 2, "static", "fewstep")),
}
