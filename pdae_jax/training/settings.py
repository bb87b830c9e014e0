"""How to train: the settings of one objective."""

import dataclasses

from etils import epy

from pdae_jax import loss_weight
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.fields import described

with epy.lazy_imports():  # a config, which reads the defaults, needs no JAX
    import optax

    from pdae_jax.schedule import Schedule, Table


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the paper's (Appendix B.2). ValueError where one is wrong."""

    steps: int = described(550_000, "steps of the optimiser")
    batch_size: int = described(128, "examples a step, on all devices together")
    accumulate: int = described(1, "micro-batches that a step's batch is cut into")
    remat: bool = described(False, "whether the backward pass recomputes what it would keep")
    learning_rate: float = described(1e-4, "learning rate of Adam")
    b1: float = described(0.9, "decay of Adam's first moment")
    b2: float = described(0.999, "decay of Adam's second moment")
    warmup: int = described(0, "steps of a linear rise to the learning rate")
    decay: str = described("constant", "learning rate after the warm-up: constant, or cosine to 0")
    clip: float = described(0.0, "largest norm of the gradient; 0: any")
    ema: float | None = described(
        None, "decay a step of the average of the weights; else as the steps allow, to 0.9999"
    )
    weighting: str = described(
        "gamma", f"weight of PDAE's loss over t: {', '.join(loss_weight.WEIGHTINGS)}"
    )
    gamma: float = described(loss_weight.PAPER, "exponent of the weightings gamma and p2")
    max_skipped: int = described(20, "non-finite steps in a row that end the run")
    log_every: int | None = described(
        None, "steps between log lines; else as many as make 20 lines, to 100"
    )
    health_every: int = described(1000, "steps between health lines; 0: none")
    pictures_every: int = described(10_000, "steps between picture grids; 0: none")
    save_every: int = described(10_000, "steps between checkpoints")
    keep: int = described(2, "number of last checkpoints that stay")

    def __post_init__(self) -> None:
        at_least_one = "steps batch_size accumulate max_skipped save_every keep".split()
        at_least_one += ["log_every"] if self.log_every is not None else []
        not_negative = "learning_rate b1 b2 clip warmup health_every pictures_every".split()
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in not_negative:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("b1", "b2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must be from 0 to below 1, got {self.ema}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}"
            )
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f'decay must be "constant" or "cosine", got {self.decay!r}')
        nearest(self.weighting, loss_weight.WEIGHTINGS, "weighting")
        loss_weight.check(self.weighting, self.gamma)

    @property
    def average(self) -> float:
        """The decay of the average: as set, or so that the first weights count 1 % at the end.

        The paper's 0.9999 from 50,000 steps on.
        """
        if self.ema is not None:
            return self.ema
        return round(min(0.9999, max(0.5, 1 - 5 / self.steps)), 6)

    @property
    def steps_a_line(self) -> int:
        """Steps between log lines: as set, or so that a short run has a curve too."""
        if self.log_every is not None:
            return self.log_every
        return min(100, max(1, self.steps // 20))

    def loss_weight(self, schedule: "Schedule") -> "Table":
        """lambda_t of PDAE's loss; ValueError where float32 cannot hold it."""
        return schedule.loss_weight(self.gamma, self.weighting)

    def optimizer(self) -> "optax.GradientTransformation":
        """Adam without weight decay, behind an optional clip of the gradient's norm.

        Its state has one structure whatever the settings, so that a run can resume with others.
        """
        if self.decay == "cosine":
            end = max(self.steps, self.warmup + 1)
            rate = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, self.warmup, end)
        elif self.warmup:
            rate = optax.linear_schedule(0.0, self.learning_rate, self.warmup)
        else:
            rate = optax.constant_schedule(self.learning_rate)
        clip = optax.clip_by_global_norm(self.clip) if self.clip else optax.identity()
        return optax.chain(clip, optax.adam(rate, self.b1, self.b2, eps=1e-8))
