"""Your own pictures: a folder in, a diffusion autoencoder and a report out.

    python -m pdae_jax.main --config=configs/folder.py --workdir=DIR \\
        --config.data.name=folder:PATH

Trains a diffusion model on the pictures, PDAE on it and a latent model on its codes, then writes
DIR/report/index.html. Attributes that are yes or no (--config.data.attributes=table.csv) bring the
classifier. The networks' sizes, the batch and the steps are chosen by the pictures and the machine
when it starts, so that all of it ends in --config.hours=3 and fits into memory; a resumed run keeps
them. It says what it chose and how long that will take. Any field can be set, and the others are
chosen to suit it: --config.model.image_shape="(128,128,3)", --config.dpm.steps=20000.
Variants: :small, what a CPU gets; :paper, the paper's sizes at 64 px and 100,000 steps a stage,
however long they take; a stage alone, :dpm, :small:pdae and so on.
Hardware: whatever there is; two CPU cores train at 32 px for up to 3 hours.
Score: depends on the pictures.
"""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pdae_jax import config as config_lib
from pdae_jax.commands import choosing
from pdae_jax.cost import sizing
from pdae_jax.networks.architecture import ADM_64
from pdae_jax.runtime.choices import nearest

VARIANTS = [f"{size}:{stage}".strip(":") for size in sizing.SIZES for stage in config_lib.VARIANTS]
Fields = sizing.Wishes  # those that no other config has


def get_config(variant: str = "") -> ConfigDict:
    nearest(variant, VARIANTS, "variant of this config")
    size, _, stage = (
        variant.partition(":") if variant.startswith(sizing.SIZES[1:]) else ("", "", variant)
    )
    config: Any = config_lib.base(
        stage,
        name="folder",
        data="folder:pictures",
        stages=config_lib.EVERYTHING,
        model=ADM_64,
    )
    config.update(config_lib.defaults(Fields))
    config.sizes = size
    if size != "paper":
        config_lib.few_pictures(config)
    for objective in (config.dpm, config.pdae):
        objective.update(save_every=2000, pictures_every=2000, steps=100_000)
    return config


def to_choose() -> tuple[str, ...]:
    """The fields that `choose` sets where nothing is trained yet."""
    networks = {f"model.{name}" for name in sizing.NETWORK}
    return tuple(f for f in sizing.FIELDS if f in networks or not f.startswith("model."))


def choose(
    config: ConfigDict, given: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> dict[str, Any]:
    """The fields that no flag has set, by the pictures, the machine and what the workdir has."""
    return choosing.choose(config, given, workdir)
