"""The fields of a config and their defaults; what a file in `configs/` starts from.

A ConfigDict is read in `main` and nowhere below: there it becomes plain arguments.
"""
import dataclasses

from ml_collections import ConfigDict

from pdae_jax.models.architecture import Architecture
from pdae_jax.names import nearest
from pdae_jax.training.run import Data
from pdae_jax.training.state import Settings

# What a variant after the colon trains: each a list of stages, done in turn.
VARIANTS = {"": ("pdae",), "pdae": ("pdae",), "dpm": ("dpm",)}


def base(variant: str, *, name: str, data: str, model: dict, flip: bool = True) -> ConfigDict:
    """A config of `variant` for data set `name`.

    Fields: `stages` in turn (objectives, "report"); `model` (see `Architecture`), `data` (see
    `Data`), one group of `Settings` an objective; `pretrained` (directory of the frozen model),
    `precision`, `mesh.fsdp`, `seed`; `report` (pictures and DDIM steps).
    """
    config = ConfigDict()
    config.name = name
    config.stages = VARIANTS[nearest(variant, VARIANTS, "variant of this config")]
    config.pretrained = ""
    config.precision = "float32"
    config.seed = 0
    config.mesh = ConfigDict({"fsdp": 1})
    config.model = ConfigDict(defaults(Architecture) | model)
    config.data = ConfigDict(defaults(Data) | {"name": data, "flip": flip})
    config.dpm = ConfigDict(defaults(Settings))
    config.pdae = ConfigDict(defaults(Settings))
    config.report = ConfigDict({"pictures": 8, "scored": 500, "steps": 100, "invert_steps": 100,
                                "ddpm": True})
    return config


def defaults(cls) -> dict:
    """The default of every field of a dataclass that has one."""
    return {field.name: field.default for field in dataclasses.fields(cls)
            if field.default is not dataclasses.MISSING}
