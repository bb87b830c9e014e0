"""How to train: the settings of one objective."""

import dataclasses

from etils import epy

with epy.lazy_imports():  # a config, which reads the defaults, needs no JAX
    import optax


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the paper's (Appendix B.2).

    steps: of the optimiser. batch_size: global. accumulate: micro-batches that one step's batch
    is cut into. remat: keep less for the backward pass and recompute it (see `Networks`).
    learning_rate with betas (b1, b2) is Adam's; warmup steps rise to it linearly;
    decay "constant" or "cosine" (to 0 at `steps`). clip: largest gradient norm, 0 for none.
    ema: decay a step. gamma: of lambda_t. max_skipped: non-finite steps in a row that end it.
    *_every: steps between log lines, health lines, picture grids (0: none) and checkpoints; the
    last `keep` checkpoints stay.
    """

    steps: int = 550_000
    batch_size: int = 128
    accumulate: int = 1
    remat: bool = False
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    warmup: int = 0
    decay: str = "constant"
    clip: float = 0.0
    ema: float = 0.9999
    gamma: float = 0.1
    max_skipped: int = 20
    log_every: int = 100
    health_every: int = 1000
    pictures_every: int = 10_000
    save_every: int = 10_000
    keep: int = 2

    def __post_init__(self) -> None:
        at_least_one = "steps batch_size accumulate max_skipped log_every save_every keep".split()
        not_negative = (
            "learning_rate b1 b2 ema clip gamma warmup health_every pictures_every".split()
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in not_negative:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("b1", "b2", "ema"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}"
            )
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f'decay must be "constant" or "cosine", got {self.decay!r}')

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
