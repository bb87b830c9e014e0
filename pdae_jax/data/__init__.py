"""Pictures for training: four kinds of source behind one name, and batches of them.

    source = open_source("folder:/my/pictures")
    for batch in train_batches(source, size=64, channels=3, batch_size=32, seed=0): ...

This package imports neither JAX nor any other part of `pdae_jax`, so that worker processes can load
pictures without starting JAX.
"""

import difflib
import os

from pdae_jax.data.builtin import Digits, Emoji
from pdae_jax.data.code_batches import code_batches
from pdae_jax.data.errors import DataError
from pdae_jax.data.pipeline import Batches, batches, train_batches
from pdae_jax.data.sources import LMDB, TFDS, Folder, Source
from pdae_jax.data.transforms import CELEBA_CROP, decode, prepare

__all__ = [
    "CELEBA_CROP",
    "LMDB",
    "TFDS",
    "Batches",
    "DataError",
    "Digits",
    "Emoji",
    "Folder",
    "Source",
    "batches",
    "code_batches",
    "decode",
    "open_source",
    "prepare",
    "train_batches",
]

_BUILT_IN = {"digits": Digits, "emoji": Emoji}
_KINDS = {"folder": Folder, "lmdb": LMDB, "tfds": TFDS}


def open_source(name, split="train", *, seed=0, attributes=None, test_fraction=None, data_dir=None):
    """Opens a source of pictures by name.

    name: "digits", "emoji", "folder:PATH" (or the path of an existing folder), "lmdb:PATH" or
        "tfds:NAME".
    split: "train", "test" or "all" (and "valid" where the data set has one).
    seed, test_fraction: of the held-out share, where the data set has no split of its own; None is
        0.2 for digits, 0.1 for emoji and folders, 0.01 for LMDB and TFDS. Use the same for train
        and test.
    attributes: path of a CSV or CelebA text table of attributes (folder and LMDB).
    data_dir: where TFDS data was prepared (tfds).

    Returns a `Source`. Raises DataError (a ValueError) for an unknown name, with the nearest valid
    ones, and for data that is missing, empty or cannot be read.
    """
    kind, _, rest = str(name).partition(":")
    if kind in _KINDS and rest:
        opener, arguments = _KINDS[kind], (rest,)
    elif name in _BUILT_IN:
        opener, arguments = _BUILT_IN[name], ()
    elif os.path.isdir(os.path.expanduser(name)):
        kind, opener, arguments = "folder", Folder, (name,)
    else:
        valid = [*_BUILT_IN, *(f"{kind}:" for kind in _KINDS)]
        near = difflib.get_close_matches(str(name), valid, n=2) or valid
        raise DataError(
            f"no data called {str(name)!r} and no such folder: did you mean "
            f"{' or '.join(near)}? (valid: digits, emoji, folder:PATH, lmdb:PATH, "
            "tfds:NAME)"
        )
    options = {"attributes": attributes, "test_fraction": test_fraction, "data_dir": data_dir}
    options = {key: value for key, value in options.items() if value is not None}
    if "attributes" in options and kind not in ("folder", "lmdb"):
        raise DataError(f"{name} brings its own attributes: leave out attributes={attributes!r}")
    if "data_dir" in options and kind != "tfds":
        raise DataError(f"data_dir={data_dir!r} is for tfds: names alone, not for {name}")
    return opener(*arguments, split, seed=seed, **options)
