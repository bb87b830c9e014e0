"""Trains what test_training.py's `trained` has into WORKDIR, over all devices, two of them fsdp."""

import sys

from test_training import ARCH, DIGITS, QUICK

from pdae_jax.training.trainer import train

for objective in ("dpm", "pdae"):
    train(sys.argv[1], objective, arch=ARCH, data=DIGITS, settings=QUICK, fsdp=2)
