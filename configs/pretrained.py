"""A diffusion model that you have, and your pictures: an autoencoder and a report out.

    python tools/convert_torch_weights.py SOURCE --output=DIR
    python -m pdae_jax.main --config=configs/pretrained.py --config.pretrained=DIR \\
        --config.data.name=folder:PATH

Trains PDAE over the model in DIR, which stays as it is, and a latent model on the codes, then
writes the report. Networks, size, channels and schedule are the model's: nothing is said twice.
The encoder, the batch and the steps are chosen as in folder.py, so that all of it ends in
--config.hours=3 and fits into memory. Variants and fields are folder.py's.
Hardware: whatever there is, for up to 3 hours; a model of 256 px needs an accelerator.
Score: depends on the model and the pictures.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pdae_jax import config as config_lib

folder = config_lib.load_module(str(Path(__file__).with_name("folder.py")))
Fields, to_choose = folder.Fields, folder.to_choose


def get_config(variant: str = "") -> ConfigDict:
    config = folder.get_config(variant)
    config.name = "pretrained"
    return config


def choose(
    config: ConfigDict, given: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> dict[str, Any]:
    """As folder.py's; ValueError where no model is given."""
    if not config.pretrained:
        raise ValueError(
            "give the diffusion model, --config.pretrained=DIR: a directory that "
            "tools/convert_torch_weights.py wrote, or a run's workdir"
        )
    return folder.choose(config, given, workdir)
