"""Trains on the pictures of FOLDER into WORKDIR where four libraries are not installed."""

import sys


class Hiding:
    """A finder that does not find them."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "clu", "ml_collections", "tensorboard"):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Hiding, sys.meta_path)

import numpy as np

import pdae_jax
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train

folder, workdir = sys.argv[1:]
arch = Architecture(
    image_shape=(8, 8, 3),
    base=32,
    mult=(1,),
    blocks=1,
    attention=(),
    z_size=4,
    encoder_widths=(32,),
)
quick = Settings(steps=2, batch_size=4, log_every=1, pictures_every=0)
for objective in ("dpm", "pdae"):
    assert train(workdir, objective, arch=arch, data=Data(f"folder:{folder}"), settings=quick)
model = pdae_jax.load(workdir)
print(model.encode(np.zeros((3, 8, 8, 3), np.uint8)).shape)
