"""Your own pictures: a folder in, a diffusion autoencoder and a report out.

    python -m pdae_jax.main --config=configs/folder.py --workdir=DIR \\
        --config.data.name=folder:PATH

Trains a diffusion model on the pictures, then PDAE on it, then writes DIR/report/index.html.
Pictures of any size and format are cut to squares of 64 pixels; for others set
--config.model.image_shape="(128,128,3)", for grey ones "(64,64,1)"; .npy arrays may have more
channels. Attributes: --config.data.attributes=table.csv.
Hardware: an accelerator. Time, estimated: 15 hours at 39 TFLOP/s, what the paper's A100 does at
128 px, for both stages of 100,000 steps; a pre-trained model (--config.pretrained=DIR) and the
:pdae variant save half. With the sizes of configs/emoji.py two CPU cores show something in hours.
Score: depends on the pictures.
"""

from typing import Any

from ml_collections import ConfigDict

from pdae_jax import config as config_lib
from pdae_jax.networks.architecture import ADM_64


def get_config(variant: str = "") -> ConfigDict:
    config: Any = config_lib.base(
        variant,
        name="folder",
        data="folder:pictures",
        stages=("dpm", "pdae", "report"),
        model=ADM_64,
    )
    for stage in (config.dpm, config.pdae):
        stage.update(ema=0.9995, save_every=2000, pictures_every=2000, steps=100_000)
    return config
