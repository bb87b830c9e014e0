"""Pictures for training: sources of several kinds behind one name, and batches of them.

    source = open_source("folder:/my/pictures")
    for batch in train_batches(source, size=64, channels=3, batch_size=32, seed=0): ...

This package imports no JAX, so that worker processes can load pictures without starting it.
"""

from pdae_jax.data.builtin import Digits, Emoji, Twemoji
from pdae_jax.data.code_batches import code_batches
from pdae_jax.data.dataset import Data, open_source
from pdae_jax.data.lmdb_source import LMDB
from pdae_jax.data.picture_files import Folder, Manifest
from pdae_jax.data.pipeline import Batches, batches, first_pictures, train_batches
from pdae_jax.data.source import Source
from pdae_jax.data.tfds_source import TFDS
from pdae_jax.data.transforms import CELEBA_CROP, prepare
from pdae_jax.formats.errors import DataError
from pdae_jax.value_range import ValueRange

__all__ = [
    "CELEBA_CROP",
    "LMDB",
    "TFDS",
    "Batches",
    "Data",
    "DataError",
    "Digits",
    "Emoji",
    "Twemoji",
    "Folder",
    "Manifest",
    "Source",
    "ValueRange",
    "batches",
    "code_batches",
    "first_pictures",
    "open_source",
    "prepare",
    "train_batches",
]
