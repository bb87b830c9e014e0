"""The fields of a config and their defaults; what a file in `configs/` starts from.

A ConfigDict stops at the commands `train` and `compile`: there it becomes plain arguments.
"""

import dataclasses
import difflib
import importlib.util
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from etils import epy
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pdae_jax.commands import fewshot, report
from pdae_jax.commands.train import STAGES
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.fields import REQUIRED, described
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.runtime import processes

# Without what makes decoding faster, but no other picture.
EVERYTHING = (*(name for name in OBJECTIVES if name not in ("distill", "fewstep")), "report")
# A variant after the colon is one stage; none means the config's own stages.
VARIANTS = ("", *STAGES)


@dataclasses.dataclass(frozen=True)
class Run:
    """The fields of a config that are in no section."""

    name: str = described(REQUIRED, "name of the run: its workdir is runs/NAME")
    stages: tuple[str, ...] = described(("pdae",), f"what is done in turn: {', '.join(STAGES)}")
    pretrained: str = described("", "directory of the model whose frozen networks are taken")
    precision: str = described("float32", "precision of the networks: float32 or bfloat16")
    seed: int = described(0, "random seed of the weights and of training")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How the devices share a run."""

    fsdp: int = described(1, "devices that share one copy of the parameters")


SECTIONS: dict[str, type] = {
    "": Run,
    "model": Architecture,
    "data": Data,
    "mesh": Mesh,
    **{name: Settings for name in OBJECTIVES},
    "fewshot": fewshot.Labels,
    "report": report.Options,
}


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

    Its fields are those of `SECTIONS`: of `Run`, and of a section for each of the others.
    """
    nearest(variant, VARIANTS, "variant of this config")
    config = ConfigDict(defaults(Run) | {"name": name})
    config.stages = (variant,) if variant else stages
    config.mesh = ConfigDict(defaults(Mesh))
    config.model = ConfigDict(defaults(Architecture) | model)
    config.data = ConfigDict(defaults(Data) | {"name": data, "flip": flip})
    for objective in OBJECTIVES.values():
        fields = dataclasses.asdict(objective.settings).items()
        own = {name: value for name, value in fields if value is not None}
        config[objective.name] = ConfigDict(defaults(Settings) | own)
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


def distilled(config: Any) -> None:
    """Sets what is distilled as PDAE is trained, in half the steps: it begins from its weights.

    The average of the weights looks back over half as many.
    """
    half, ema = -(-config.pdae.steps // 2), config.pdae.ema
    for stage in (config.distill, config.fewstep):
        stage.update(dict(config.pdae.items()))
        stage.update(steps=half, ema=ema and ema**2)


def defaults(cls: type) -> dict[str, Any]:
    """The default of every field of a dataclass that has one; None as a place for its type."""
    kinds = typing.get_type_hints(cls)
    return {
        field.name: placeholder(typing.get_args(kinds[field.name])[0])
        if field.default is None
        else field.default
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


def complete(
    module: ModuleType, config: ConfigDict, given: Mapping[str, Any], workdir: str | os.PathLike
) -> None:
    """Sets the fields that a config file chooses by the data and the machine, if it does so.

    Its function `choose(config, given, workdir)` returns them, {dotted name: value}, of those that
    are not in `given`, the fields that a person set. Of several processes the first one chooses.
    """
    choose = getattr(module, "choose", None)
    if choose is None:
        return
    text = processes.of_first(lambda: json.dumps(choose(config, given, workdir)))
    chosen = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(text).items()
    }
    config.update_from_flattened_dict(chosen)


def description(name: str, module: ModuleType) -> str:
    """What --help says of a field, by its dotted name.

    module: the config's file; its `Fields` is a dataclass of fields that no other config has.
    """
    section, _, field = name.rpartition(".")
    own = [module.Fields] if not section and hasattr(module, "Fields") else []
    for cls in (SECTIONS[section], *own):
        for known in dataclasses.fields(cls):
            if known.name == field:
                return known.metadata["help"]
    raise ValueError(f"nothing describes the field {name} of this config")


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of every field of a config."""
    names = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names
