"""CelebA: PDAE at 64 px, as in the paper.

    python -m pdae_jax.main --config=configs/celeba64.py --workdir=DIR \
        --config.pretrained=DPM --config.data.name=lmdb:datasets/celeba.lmdb

DPM: a converted "celeba64 DPM of PDAE", or none: configs/celeba64.py:dpm trains one
    in the same workdir.
Data: Diff-AE's LMDB of 202,599 pictures; any folder:PATH or tfds:celeb_a will do.
Hardware: one accelerator or more. No time of the paper is known for this size. An image's
    training step is 91 GFLOP, 5.3 times less than at 128 px: at the speed in FLOP/s that the
    paper's A100 has there, 38M images are an estimated 1 day, the :dpm's 72M 1.6 days.
Score to expect, the paper's: FID 5.19 with T = 100, 11.84 with T = 10; probe AP 0.602.
"""

from ml_collections import ConfigDict

from pdae_jax import config as config_lib
from pdae_jax.networks.architecture import ADM_64


def get_config(variant: str = "") -> ConfigDict:
    config = config_lib.base(
        variant, name="celeba64", data="lmdb:datasets/celeba.lmdb", model=ADM_64
    )
    return config_lib.images(config, dpm=72, pdae=38)
