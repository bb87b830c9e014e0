"""The fields of a config and their defaults; what a file in `configs/` starts from.

A ConfigDict stops at the commands `train` and `compile`: there it becomes plain arguments.
"""

import dataclasses
import difflib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from pdae_jax.commands import fewshot, report
from pdae_jax.commands.train import STAGES
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime.choices import nearest
from pdae_jax.training.objectives import OBJECTIVES

EVERYTHING = (*OBJECTIVES, "report")
# A variant after the colon is one stage; none means the config's own stages.
VARIANTS = ("", *STAGES)


def base(
    variant: str,
    *,
    name: str,
    data: str,
    model: dict[str, Any],
    flip: bool = True,
    stages: tuple[str, ...] = ("pdae",),
) -> ConfigDict:
    """A config of `variant` for data set `name`; `stages` are those that no variant means.

    Fields: `stages` in turn (objectives, "fewshot", "report"); `model` (see `Architecture`),
    `data` (see `Data`), one group of `Settings` an objective; `pretrained` (directory of the
    frozen model), `precision`, `mesh.fsdp`, `seed`; `fewshot` (see `commands.fewshot.Labels`) and
    `report` (see `commands.report.Options`).
    """
    nearest(variant, VARIANTS, "variant of this config")
    config = ConfigDict()
    config.name = name
    config.stages = (variant,) if variant else stages
    config.pretrained = ""
    config.precision = "float32"
    config.seed = 0
    config.mesh = ConfigDict({"fsdp": 1})
    config.model = ConfigDict(defaults(Architecture) | model)
    config.data = ConfigDict(defaults(Data) | {"name": data, "flip": flip})
    for objective in OBJECTIVES.values():
        config[objective.name] = ConfigDict(dataclasses.asdict(objective.settings))
    config.fewshot = ConfigDict(defaults(fewshot.Labels))
    config.report = ConfigDict(defaults(report.Options) | {"n": 8})
    return config


def few_pictures(config: Any) -> None:
    """Sets what is trained on codes for a data set of about a thousand pictures: half a minute."""
    for stage in (config.latent, config.classifier):
        stage.update(
            batch_size=256,
            learning_rate=1e-3,
            decay="cosine",
            warmup=100,
            ema=0.998,
            log_every=500,
            health_every=0,
            save_every=5000,
        )
    config.latent.steps = 5000
    config.classifier.steps = 2000


def defaults(cls: type) -> dict[str, Any]:
    """The default of every field of a dataclass that has one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }


def images(config: Any, *, dpm: int, pdae: int) -> ConfigDict:
    """Sets how many images each objective sees, in millions, at its batch size."""
    config.dpm.steps = -(-dpm * 10**6 // config.dpm.batch_size)
    config.pdae.steps = -(-pdae * 10**6 // config.pdae.batch_size)
    return config


def load_config(path: str) -> ConfigDict:
    """get_config(variant) of "FILE:variant"; ValueError where there is no such file or variant."""
    file, _, variant = path.partition(":")
    return load_module(file).get_config(variant)


def load_module(file: str) -> ModuleType:
    """Imports a config file by its path; ValueError, with the nearest file, where there is none."""
    if not Path(file).is_file():
        folder = Path(file).parent if Path(file).parent.is_dir() else Path("configs")
        there = sorted(str(path) for path in folder.glob("*.py"))
        near = difflib.get_close_matches(file, there, 1, cutoff=0.0)
        raise ValueError(
            f"no config file {file!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"the config file {file!r} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of every field of a config."""
    names = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names
