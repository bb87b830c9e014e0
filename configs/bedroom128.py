"""LSUN Bedroom: PDAE at 128 px, as in the paper.

    python -m pdae_jax.main --config=configs/bedroom128.py --workdir=DIR \
        --config.pretrained=DPM --config.data.name=lmdb:datasets/bedroom256.lmdb

DPM: a converted "bedroom128 DDPM of Diff-AE", or none: configs/bedroom128.py:dpm trains one
    in the same workdir.
Data: Diff-AE's LMDB of 3,033,042 pictures; any folder:PATH or tfds:lsun/bedroom will do.
Hardware: one accelerator or more; --config.pdae.accumulate=N cuts the memory. The paper's
    speed on one A100, float32, batch 32, is 81.57 images/s: 70M images are 9.9 days there.
Score to expect, the paper's: FID 5.47 with T = 100, 10.05 with T = 10.
"""

from ml_collections import ConfigDict

from pdae_jax import config as config_lib
from pdae_jax.networks.architecture import ADM_128


def get_config(variant: str = "") -> ConfigDict:
    config = config_lib.base(
        variant, name="bedroom128", data="lmdb:datasets/bedroom256.lmdb", model=ADM_128
    )
    return config_lib.images(config, dpm=120, pdae=70)
