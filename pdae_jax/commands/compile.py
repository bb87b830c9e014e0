"""A forecast of what a step would cost on --topology, without running it."""

import dataclasses
from typing import Any

from etils import epy

from pdae_jax.commands.options import Options as Base
from pdae_jax.commands.options import option
from pdae_jax.networks.architecture import Architecture
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.cost import forecast

SECTIONS = ("stages", "model", "precision", "mesh")  # of a config that are read, beside the stage's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Base):
    topology: str = option("cpu", "devices to compile for: v5e:4x8, h100, h100x8, a100, cpu")


def run(config: Any, options: Options) -> None:
    """Prints the forecast of the last stage on pictures of a config, a ConfigDict."""
    stages = [stage for stage in config.stages if stage in OBJECTIVES]
    stages = [stage for stage in stages if OBJECTIVES[stage].sees_pictures]
    if not stages:
        raise ValueError(
            f"the stages {', '.join(config.stages)} train on no pictures; forecast a config of dpm "
            f"or pdae"
        )
    forecast.forecast(
        stages[-1],
        Architecture(**config.model),
        Settings(**config[stages[-1]]),
        options.topology,
        precision=config.precision,
        fsdp=config.mesh.fsdp,
    )
