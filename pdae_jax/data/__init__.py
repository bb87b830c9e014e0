"""Pictures for training: four kinds of source behind one name, and batches of them.

    source = open_source("folder:/my/pictures")
    for batch in train_batches(source, size=64, channels=3, batch_size=32, seed=0): ...

This package imports neither JAX nor any other part of `pdae_jax`, so that worker processes can load
pictures without starting JAX.
"""

from pdae_jax.data.builtin import Digits, Emoji
from pdae_jax.data.code_batches import code_batches
from pdae_jax.data.dataset import Data, open_source
from pdae_jax.data.pipeline import Batches, batches, first_pictures, train_batches
from pdae_jax.data.sources import LMDB, TFDS, Folder, Source
from pdae_jax.data.transforms import CELEBA_CROP, decode, prepare
from pdae_jax.formats.errors import DataError

__all__ = [
    "CELEBA_CROP",
    "LMDB",
    "TFDS",
    "Batches",
    "Data",
    "DataError",
    "Digits",
    "Emoji",
    "Folder",
    "Source",
    "batches",
    "code_batches",
    "decode",
    "first_pictures",
    "open_source",
    "prepare",
    "train_batches",
]
