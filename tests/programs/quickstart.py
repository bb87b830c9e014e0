"""The digits config, a smaller model and fewer steps: from nothing to the report, in WORKDIR."""

import sys

from helpers import DIGITS_ARCH

from pdae_jax.commands import train
from pdae_jax.config import load_config

config = load_config("configs/digits.py")
config.model.update(DIGITS_ARCH.to_dict())
for stage, steps in (("dpm", 500), ("pdae", 800), ("latent", 1000), ("classifier", 1000)):
    config[stage].update(steps=steps, warmup=20, ema=0.95)
for stage in ("dpm", "pdae"):
    config[stage].update(batch_size=64, pictures_every=0, health_every=0)
config.report.update(steps=10, invert_steps=10, latent_steps=20, scored=40, ddpm=False)
assert train.run(config, sys.argv[1], "the command")
