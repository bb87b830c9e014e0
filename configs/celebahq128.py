"""CelebA-HQ: PDAE at 128 px, as in the paper.

    python -m pdae_jax.main --config=configs/celebahq128.py --workdir=DIR \
        --config.pretrained=DPM --config.data.name=lmdb:datasets/celebahq256.lmdb

DPM: a converted "celebahq128 DPM of PDAE", or none: configs/celebahq128.py:dpm trains one
    in the same workdir.
Data: Diff-AE's LMDB of 30,000 pictures; any folder:PATH or tfds:celeb_a_hq/128 will do.
Hardware: one accelerator or more; --config.pdae.accumulate=N cuts the memory. The paper's
    speed on one A100, float32, batch 32, is 81.57 images/s: 25M images are 3.5 days there.
Score to expect, the paper's: none is published for this model; Figures 4, 5, 8, 11 and 13
    are made with it.
"""

from ml_collections import ConfigDict

from pdae_jax import config as config_lib
from pdae_jax.networks.architecture import ADM_128


def get_config(variant: str = "") -> ConfigDict:
    config = config_lib.base(
        variant, name="celebahq128", data="lmdb:datasets/celebahq256.lmdb", model=ADM_128
    )
    return config_lib.images(config, dpm=52, pdae=25)
