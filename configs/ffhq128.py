"""FFHQ: PDAE at 128 px, as in the paper.

    python -m pdae_jax.main --config=configs/ffhq128.py --workdir=DIR \
        --config.pretrained=DPM --config.data.name=lmdb:datasets/ffhq256.lmdb

DPM: a converted "ffhq128 DDPM of Diff-AE", or none: configs/ffhq128.py:dpm trains one
    in the same workdir.
Data: Diff-AE's LMDB of 70,000 pictures; any folder:PATH will do.
Hardware: one accelerator or more; --config.pdae.accumulate=N cuts the memory. The paper's
    speed on one A100, float32, batch 32, is 81.57 images/s: 64M images are 9.1 days there.
Score to expect, the paper's: SSIM 0.696 from z alone, 0.993 with inferred x_T
    (on CelebA-HQ, T = 100); FID 10.31 with T = 100.
"""

from ml_collections import ConfigDict

from pdae_jax import config as config_lib
from pdae_jax.networks.architecture import ADM_128


def get_config(variant: str = "") -> ConfigDict:
    config = config_lib.base(
        variant, name="ffhq128", data="lmdb:datasets/ffhq256.lmdb", model=ADM_128
    )
    return config_lib.images(config, dpm=130, pdae=64)
