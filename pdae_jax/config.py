"""The fields of a config and their defaults; what a file in `configs/` starts from.

A ConfigDict is read in `main` and nowhere below: there it becomes plain arguments.
"""

import dataclasses
import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from pdae_jax.commands import Options
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime.choices import nearest
from pdae_jax.training.state import Settings

# What a variant after the colon trains: each a list of stages, done in turn.
VARIANTS = {
    "": (),
    "pdae": ("pdae",),
    "dpm": ("dpm",),
    "latent": ("latent",),
    "classifier": ("classifier",),
    "fewshot": ("fewshot",),
    "report": ("report",),
}

EVERYTHING = ("dpm", "pdae", "latent", "classifier", "report")

# What of `modes.Options` says which labels a few-shot classifier sees.
FEW_SHOT = ("attribute", "images", "labels", "positives", "negatives", "unlabelled", "seed")


def base(
    variant: str,
    *,
    name: str,
    data: str,
    model: dict,
    flip: bool = True,
    stages: tuple[str, ...] = ("pdae",),
) -> ConfigDict:
    """A config of `variant` for data set `name`; `stages` are what no variant means.

    Fields: `stages` in turn (objectives, "report"); `model` (see `Architecture`), `data` (see
    `Data`), one group of `Settings` an objective; `pretrained` (directory of the frozen model),
    `precision`, `mesh.fsdp`, `seed`; `fewshot` and `report` (see
    `modes.Options`).
    """
    config = ConfigDict()
    config.name = name
    nearest(variant, VARIANTS, "variant of this config")
    config.stages = VARIANTS[variant] if variant else stages
    config.pretrained = ""
    config.precision = "float32"
    config.seed = 0
    config.mesh = ConfigDict({"fsdp": 1})
    config.model = ConfigDict(defaults(Architecture) | model)
    config.data = ConfigDict(defaults(Data) | {"name": data, "flip": flip})
    config.dpm = ConfigDict(defaults(Settings))
    config.pdae = ConfigDict(defaults(Settings))
    # Both see codes alone: a step costs next to nothing.
    config.latent = ConfigDict(defaults(Settings) | {"batch_size": 512, "steps": 100_000})
    config.classifier = ConfigDict(
        defaults(Settings)
        | {"batch_size": 512, "steps": 10_000, "learning_rate": 1e-3, "ema": 0.999}
    )
    options = defaults(Options)
    config.fewshot = ConfigDict({name: options[name] for name in FEW_SHOT})
    config.report = ConfigDict(options | {"n": 8})
    return config


def few_pictures(config: ConfigDict) -> None:
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


def defaults(cls) -> dict:
    """The default of every field of a dataclass that has one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }


def images(config: ConfigDict, *, dpm: int, pdae: int) -> ConfigDict:
    """Sets how many images each objective sees, in millions, at its batch size."""
    config.dpm.steps = -(-dpm * 10**6 // config.dpm.batch_size)
    config.pdae.steps = -(-pdae * 10**6 // config.pdae.batch_size)
    return config


def load_config(path: str) -> ConfigDict:
    """get_config(variant) of "FILE:variant"; ValueError where there is no such file or variant."""
    file, _, variant = path.partition(":")
    return load_module(file).get_config(variant)


def load_module(file: str) -> ModuleType:
    """Imports a config file by its path; ValueError, with the nearest file, where it is not there."""
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
