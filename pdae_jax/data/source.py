"""`Source`, pictures by index with their labels: the base class of every source.

A source is picklable and cheap to pickle: worker processes open files and databases for themselves.
"""

import functools

import numpy as np

from pdae_jax.data.transforms import Crop
from pdae_jax.formats.stack import Picture
from pdae_jax.value_range import EIGHT_BIT, ValueRange


class Source:
    """Pictures by index, with their labels.

    A subclass gives `__len__` and `image`. Attributes:
      name:          its name in messages.
      attributes:    names of the labels, a tuple of A strings.
      labels:        float32 `[N, A]`; NaN where unknown, 0 and 1 for yes and no.
      crop:          `(top, bottom, left, right)` that the data set is known to need, or None.
      group:         str `[N]`, what each picture belongs to, such as a patient; `[0]` without.
      split_of:      str `[N]`, "train" or "test"; `[0]` where that is not known.
      value_range:   of the pictures' values.
      channel_names: as the files name them; () where they do not.
      words:         lines on how pictures, labels and groups were found, for a person.
    """

    name = "source"
    attributes: tuple[str, ...] = ()
    crop: Crop | None = None
    group: np.ndarray = np.zeros(0, str)
    split_of: np.ndarray = np.zeros(0, str)
    value_range: ValueRange = EIGHT_BIT
    channel_names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, i: int) -> np.ndarray:
        """Picture `i`, `[h, w, c]`, in the size, channels and number type it is stored in.

        Raises any exception where the picture cannot be read.
        """
        raise NotImplementedError

    def read(self, i: int) -> Picture:
        """Picture `i` with what its file says of its values."""
        return Picture(self.image(i))

    def check_channel_names(self, value_range: ValueRange) -> None:
        """Raises DataError where a file's channels are called otherwise than those of the range."""

    def where(self, i: int) -> str:
        """The path or key of picture `i`, for messages."""
        return f"{self.name}[{i}]"

    def path(self, i: int) -> str:
        """The same, relative to the data set's folder: what tables are joined by."""
        return self.where(i)

    def read_from(self) -> list[str]:
        """The files that pictures are read from, where a person may change them."""
        return []

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return np.zeros((len(self), 0), np.float32)

    def example(self, i: int) -> tuple[Picture, np.ndarray]:
        """Picture `i` and its labels, float32 `[A]`."""
        return self.read(i), self.labels[i]


def binary(labels: np.ndarray) -> list[int]:
    """The columns of labels `[N, A]` that are yes or no: 0 and 1 occur, and besides only NaN."""
    columns = (column[np.isfinite(column)] for column in labels.T)
    return [k for k, column in enumerate(columns) if set(np.unique(column)) == {0, 1}]
