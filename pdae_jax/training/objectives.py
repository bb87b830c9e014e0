"""The objectives of training: one table, from which the loop, configs and reports read.

An objective names the groups of parameters that it trains and those that it needs frozen;
gradients, Adam's moments and the EMA exist for the trained groups alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epy

from pdae_jax.networks.architecture import group_of
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # a config, which reads the table, needs no JAX
    from pdae_jax.schedule import Schedule
    from pdae_jax.training import losses


@dataclasses.dataclass(frozen=True)
class Objective:
    """One row of `OBJECTIVES`; its functions are those of `losses` that begin with its name.

    name: of the config's variant and section, and of the folder in a workdir. title: for people.
    trains: the groups that get gradients. needs: those that the loss reads frozen.
    prerequisites: the groups that must be trained and must not change afterwards: those needed,
    or those whose codes are the data. reads: what of a batch the loss is given: "image", or of a
    table of codes "z" and "label". settings: the defaults.
    """

    name: str
    title: str
    trains: tuple[str, ...]
    needs: tuple[str, ...] = ()
    prerequisites: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("image",)
    settings: Settings = Settings()

    @property
    def loss(self) -> Callable[..., Any]:
        """(losses.Given, drawn) -> [B], each example's loss."""
        return getattr(losses, f"{self.name}_loss")

    @property
    def draw(self) -> Callable[..., dict[str, Any]]:
        """(rng, batch, T) -> drawn: all randomness of a step but dropout's."""
        return getattr(losses, f"{self.name}_draw")

    @property
    def init(self) -> Callable[..., dict[str, Any]] | None:
        """(net, the prerequisites' weights) -> what is trained, to begin from; None: at random."""
        return getattr(losses, f"{self.name}_init", None)

    @property
    def health(self) -> Callable[..., dict[str, Any]] | None:
        """(losses.Given, drawn) -> scalars worth watching; None without any."""
        return getattr(losses, f"{self.name}_health", None)

    @property
    def schedule(self) -> "Callable[[], Schedule] | None":
        """Its own noise schedule; None where it is the diffusion model's."""
        return getattr(losses, f"{self.name}_schedule", None)

    @property
    def sees_pictures(self) -> bool:
        """Whether its data are pictures; else it reads a table of codes."""
        return "image" in self.reads

    @property
    def derived(self) -> bool:
        """Whether what it trains is made again once what gives codes has changed."""
        return all(group_of(group).derived for group in self.trains)


PDAE = ("dpm", "encoder", "gradient")

OBJECTIVES = {
    row.name: row
    for row in (
        Objective("dpm", "the diffusion model", trains=("dpm",)),
        Objective(
            "pdae", "PDAE", trains=("encoder", "gradient"), needs=("dpm",), prerequisites=("dpm",)
        ),
        # From weights at hand: a fraction of what PDAE takes.
        Objective(
            "distill",
            "the distilled network",
            trains=("shifted",),
            needs=PDAE,
            prerequisites=PDAE,
            settings=Settings(steps=100_000),
        ),
        Objective(
            "fewstep",
            "the few-step network",
            trains=("fewstep",),
            needs=PDAE,
            prerequisites=PDAE,
            settings=Settings(steps=100_000),
        ),
        # The last two see codes alone: a step costs next to nothing.
        Objective(
            "latent",
            "the latent model",
            trains=("latent",),
            needs=("statistics",),
            prerequisites=PDAE,
            reads=("z",),
            settings=Settings(batch_size=512, steps=100_000),
        ),
        Objective(
            "classifier",
            "the classifier",
            trains=("classifier",),
            needs=("statistics",),
            prerequisites=PDAE,
            reads=("z", "label"),
            settings=Settings(batch_size=512, steps=10_000, learning_rate=1e-3, ema=0.999),
        ),
    )
}
