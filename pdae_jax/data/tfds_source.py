"""`TFDS`: data sets of TensorFlow Datasets, read without TensorFlow."""

import functools
import io
import os
from typing import Any

import numpy as np

from pdae_jax.data.source import Source
from pdae_jax.data.splits import check_split, held_out
from pdae_jax.data.transforms import CELEBA_CROP
from pdae_jax.formats.errors import DataError
from pdae_jax.formats.pillow_file import decode
from pdae_jax.formats.stack import Picture


class TFDS(Source):
    """A TensorFlow Datasets name, read through its random-access data source without TensorFlow.

    name: such as "celeb_a" or "lsun/bedroom", prepared beforehand as array_record files.
    split: "train"; "test" (the data set's "test", else its "validation", else a seeded share
        `test_fraction` of "train" held out; a data set without "train" is split so as a whole);
        "valid" where there is one; "all".
    data_dir: where it was prepared; None is TFDS's own default.

    Labels are the scalar features (numbers, bools, class indices) and the dict `attributes`; they
    are read in one pass over the records, without decoding pictures, when first asked for.
    celeb_a carries `crop = CELEBA_CROP`. Raises DataError with the command that prepares the data.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        *,
        data_dir: str | os.PathLike[str] | None = None,
        test_fraction: float = 0.01,
        seed: int = 0,
    ):
        check_split(split, ("train", "valid", "test", "all"))
        self.name, self._data_dir = f"tfds:{name}", data_dir
        try:
            builder = self._builder()
            splits = builder.info.splits
        except Exception as error:  # TFDS has a class for each way of not finding a name
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"TFDS does not know {name!r}: {_first_line(error)} "
                "(see tensorflow.org/datasets/catalog)"
            ) from error
        if not splits or not any(s.num_examples for s in splits.values()):
            raise self._unprepared()
        own = {"train": ("train",), "valid": ("validation",), "test": ("test", "validation")}
        part = next((s for s in own.get(split, ()) if s in splits), None)
        has_train = "train" in splits
        if split == "valid" and not (part and has_train):
            raise DataError(
                f"{name} has no validation split beside a train split: it has {', '.join(splits)}"
            )
        if split == "all" or not has_train:
            self._split = "+".join(splits)
        else:
            self._split = part or "train"
        shared = split in ("train", "test") and not (
            has_train and any(s in splits for s in own["test"])
        )
        size = len(self._records)
        self.indices = held_out(size, split, test_fraction, seed) if shared else np.arange(size)
        features = dict(builder.info.features.items())
        images = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
        if not images:
            raise DataError(f"{name} has no picture among its features: {', '.join(features)}")
        self._image = images[0]
        self._scalars: list[tuple[str, ...]] = [
            (key,) for key, feature in features.items() if _is_number(feature)
        ]
        nested = features.get("attributes", {})
        self._scalars += [("attributes", key) for key in nested if _is_number(nested[key])]
        self.attributes = tuple(path[-1] for path in self._scalars)
        self.crop = CELEBA_CROP if name.split("/")[0].split(":")[0] == "celeb_a" else None

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder(self.name.removeprefix("tfds:"), data_dir=self._data_dir)

    def _unprepared(self) -> DataError:
        place = f" --data_dir={self._data_dir}" if self._data_dir else ""
        return DataError(
            f"{self.name} is not prepared for random access; run once: pip install "
            f"tensorflow && tfds build {self.name.removeprefix('tfds:')} "
            f"--file_format=array_record{place}"
        )

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        builder = self._builder()
        skip = {
            key: tfds.decode.SkipDecoding()
            for key, feature in builder.info.features.items()
            if type(feature).__name__ == "Image"
        }
        try:
            return builder.as_data_source(split=self._split, decoders=skip)
        except NotImplementedError as error:  # prepared, but as tfrecord
            raise self._unprepared() from error

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay here: a worker process opens its own.
        return {key: value for key, value in self.__dict__.items() if key != "_records"}

    def __len__(self) -> int:
        return len(self.indices)

    def _record(self, i: int) -> dict[str, Any]:
        return self._records[int(self.indices[i])]

    def _label(self, record: dict[str, Any]) -> np.ndarray:
        values = [
            functools.reduce(lambda tree, key: tree[key], path, record) for path in self._scalars
        ]
        return np.array(values, np.float32)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        rows = [self._label(self._record(i)) for i in range(len(self))]
        return np.stack(rows).reshape(len(self), len(self.attributes))

    def image(self, i: int) -> np.ndarray:
        return self.read(i).values

    def read(self, i: int) -> Picture:
        return self.example(i)[0]

    def example(self, i: int) -> tuple[Picture, np.ndarray]:
        record = self._record(i)
        return Picture(decode(io.BytesIO(record[self._image]))), self._label(record)


def _is_number(feature: Any) -> bool:
    dtype = getattr(feature, "np_dtype", None) or getattr(feature, "dtype", None)
    return getattr(feature, "shape", None) == () and np.dtype(dtype).kind in "biuf"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
