"""Batches of pictures: seeded, resumable by step number, the same for any number of processes.

The training stream is a sequence of elements n = 0, 1, 2, ...: epoch after epoch, each in its own
seeded order. Global batch k is elements k B .. (k+1) B - 1, and process p takes its p-th part. As
everything about element n follows from (source, seed, n), resuming needs the step number alone.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Self

import numpy as np

from pdae_jax.data.augmentation import Augmentation
from pdae_jax.data.source import Source
from pdae_jax.data.transforms import Crop, Size, prepare
from pdae_jax.data.workers import WorkerPool
from pdae_jax.formats.errors import DataError

logger = logging.getLogger(__name__)

_GIVE_UP = 100  # unreadable pictures in a row
_FEW = 10  # broken pictures before their share can stop a run
_NAMED = 5  # broken pictures that a pass logs


Batch = dict[str, np.ndarray]


class Loaded(NamedTuple):
    """A picture prepared, or why it is broken; outside: whether it has values out of the range."""

    image: np.ndarray | None
    label: np.ndarray | None
    outside: bool = False
    reason: str | None = None


class Loader:
    """Reads and prepares picture i."""

    def __init__(self, source: Source, size: Size, channels: int, crop: Crop | None):
        self.source = source
        self.how = size, channels, crop if crop is not None else source.crop, source.value_range

    def __call__(self, i: int) -> Loaded:
        try:
            picture, label = self.source.example(i)
            self.source.value_range.check_file(picture)
            image, outside = prepare(picture, *self.how)
            return Loaded(image, label, outside)
        except Exception as error:  # noqa: BLE001 - a broken file makes decoders raise anything
            return Loaded(None, None, reason=_one_line(error))

    def check(self) -> None:
        """Raises DataError unless one of the first pictures can be read, in the right channels."""
        tried = min(len(self.source), _GIVE_UP)
        reasons = []
        for i in range(tried):
            loaded = self(i)
            if loaded.image is not None:
                return
            reasons.append(f"{self.source.where(i)}: {loaded.reason}")
        if not tried:
            raise DataError(f"{self.source.name} holds no pictures")
        raise DataError(
            f"none of the first {tried} picture(s) of {self.source.name} can be used: {reasons[0]}"
        )


class Element(NamedTuple):
    """One row of a batch; `image` is None where nothing could be read."""

    image: np.ndarray | None
    label: np.ndarray | None
    picture: int  # its index in the source; -1 for none
    broken: list[tuple[int, str]]  # of the pictures that could not be read on the way, with reasons
    outside: bool = False  # of the range of values


class Batches:
    """An iterator of batches that counts what is broken.

    broken: `{path: reason}` of the pictures that could not be read so far; `len(it.broken)` is
        their number, for the progress line. outside: the paths of those with values out of the
        range, which were clipped. named: whether both are logged, broken ones a few of many.
    close(): ends threads and worker processes (garbage collection does it as well).

    `next()` raises DataError when, of at least 10 that failed, more than `max_broken` of the
    pictures seen were broken, or when 100 in a row were.
    """

    def __init__(
        self,
        elements: Any,
        collate: Callable[[list[Element]], Batch],
        source: Source,
        max_broken: float,
        pool: WorkerPool | None,
        named: bool,
    ):
        self.broken: dict[str, str] = {}
        self.outside: set[str] = set()
        self._elements, self._collate, self._source = elements, collate, source
        self._max_broken, self._pool, self._named = max_broken, pool, named
        self._seen = self._failed = self._in_a_row = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        elements = next(self._elements)
        for element in elements:
            self._count(element)
        return self._collate(elements)

    def _count(self, element: Element) -> None:
        for index, reason in element.broken:
            path = self._source.where(index)
            if path not in self.broken:
                self.broken[path] = reason
                if self._named and len(self.broken) <= _NAMED:
                    logger.warning("broken picture skipped: %s (%s)", path, reason)
        if element.outside:
            self.outside.add(self._source.where(element.picture))
        self._failed += len(element.broken)
        self._seen += len(element.broken) + (element.image is not None)
        self._in_a_row = 0 if element.image is not None else self._in_a_row + len(element.broken)
        many = self._failed >= _FEW and self._failed > self._max_broken * self._seen
        if many or self._in_a_row >= min(_GIVE_UP, len(self._source)):
            path, reason = next(iter(self.broken.items()))
            raise DataError(
                f"too many broken pictures in {self._source.name}: {self._failed} of "
                f"{self._seen} could not be read, the first is {path} ({reason}); "
                f"repair or remove them, or raise max_broken={self._max_broken}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops reading ahead."""
        if self._named and len(self.broken) > _NAMED:
            logger.warning("and %d more broken pictures", len(self.broken) - _NAMED)
        if self._named and self.outside:
            logger.warning("%s", words_of_outside(self.outside, self._source))
        self._named = False
        self._elements.close()
        if self._pool is not None:
            self._pool.close()


def train_batches(
    source: Source,
    *,
    size: Size,
    channels: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: Augmentation = Augmentation(),
    crop: Crop | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    max_broken: float = 0.1,
) -> Batches:
    """Makes an endless iterator of shuffled training batches.

    size: an integer or `(H, W)`. batch_size: over all processes; each gets
    `b = batch_size / process_count` rows. start_step: the number of the first batch, for resuming.
    augmentation: random changes of each picture. crop: before resizing; None takes the source's
    own. workers: processes that load, 0 for threads (decoding and resizing run outside Python's
    lock, so threads are enough for most). max_broken: the share of unreadable pictures that stops
    the run; up to there each is replaced by the next readable one.

    Batches are dicts: `image` `[b, H, W, C]`, uint8 or, where the source's range of values is not
    8-bit, float32 in [-1, 1]; `label` float32 `[b, A]`; `index` int64 `[b]` (which picture). Raises
    DataError at once for a source without readable pictures or with other channels, and ValueError
    for bad arguments.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} does not divide into {process_count} process(es)"
        )
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed {seed} and start_step {start_step} must not be negative")
    augmentation.check_channels(channels)
    import grain

    loader = Loader(source, size, channels, crop)
    loader.check()
    pool, load = _pool(loader, workers)
    rows = batch_size // process_count
    order_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    order: Any = grain.MapDataset.range(len(source)).shuffle(order_seed).repeat()

    def element(j: int) -> Element:
        step, row = divmod(j, rows)
        n = step * batch_size + process_index * rows + row
        i = int(order[n])
        broken: list[tuple[int, str]] = []
        while True:
            image, label, outside, reason = load(i)
            if reason is None:
                break
            broken.append((i, reason))
            if len(broken) >= min(_GIVE_UP, len(source)):
                break
            i = (i + 1) % len(source)
        if image is not None:
            image = augmentation(image, np.random.default_rng([seed, 1, n]))
        return Element(image, label, i, broken, outside)

    stream = grain.MapDataset.range(start_step * rows, 2**62).map(element)
    elements = _iterate(grain, stream, rows, workers)
    return Batches(elements, _collate, source, max_broken, pool, named=False)  # training's log does


def batches(
    source: Source,
    *,
    size: Size,
    channels: int,
    batch_size: int,
    crop: Crop | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    max_broken: float = 0.1,
) -> Batches:
    """Makes one pass over a source in order (or over `indices`), for encoding and measuring.

    Batches are dicts as of `train_batches`, with B = batch_size rows each and `mask` bool `[B]`:
    False, with a black image, on rows that fill up the last batch (index -1) and on broken
    pictures. Labels there are NaN.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: must be at least 1")
    import grain

    loader = Loader(source, size, channels, crop)
    loader.check()
    pool, load = _pool(loader, workers)
    rows = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    height, width = (size, size) if isinstance(size, int) else size
    eight_bit = source.value_range.eight_bit
    blank = np.full((height, width, channels), *((0, np.uint8) if eight_bit else (-1, np.float32)))
    unknown = np.full(len(source.attributes), np.nan, np.float32)

    def element(j: int) -> Element:
        i = int(rows[j])
        image, label, outside, reason = load(i)
        return Element(image, label, i, [] if reason is None else [(i, reason)], outside)

    def collate(elements: list[Element]) -> Batch:
        filler = Element(None, None, -1, [])
        elements = [*elements, *[filler] * (batch_size - len(elements))]
        mask = np.array([e.image is not None for e in elements])
        whole = [
            e if e.image is not None else e._replace(image=blank, label=unknown) for e in elements
        ]
        return {**_collate(whole), "mask": mask}

    stream = grain.MapDataset.range(len(rows)).map(element)
    elements = _iterate(grain, stream, batch_size, workers)
    return Batches(elements, collate, source, max_broken, pool, named=True)


def first_pictures(
    source: Source,
    image_shape: tuple[int, int, int],
    n: int,
    max_broken: float = 0.1,
    every: int = 1,
) -> np.ndarray:
    """The first n pictures of a source (fewer where it has fewer), [n, H, W, C] as in batches.

    image_shape: (H, W, C). every: takes each so many-th picture. Raises DataError where none can
    be read, or of other channels.
    """
    height, width, channels = image_shape
    with batches(
        source,
        size=(height, width),
        channels=channels,
        batch_size=min(n, -(-len(source) // every)),
        indices=range(0, len(source), every),
        max_broken=max_broken,
    ) as some:
        batch = next(some)
    return batch["image"][batch["mask"]]


def words_of_outside(paths: Iterable[str], source: Source) -> str:
    """A line on pictures with values out of the range."""
    paths = sorted(paths)
    return (
        f"{len(paths)} picture(s) of {source.name} have values out of the range "
        f"{source.value_range}, clipped to it: {', '.join(paths[:3])}{', ...' * (len(paths) > 3)}"
    )


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
    return kind + (text[0] if text else "no message")


def _pool(loader: Loader, workers: int) -> tuple[WorkerPool | None, Callable[[int], Loaded]]:
    pool = WorkerPool(loader, workers) if workers else None
    return pool, pool or loader


def _iterate(grain: ModuleType, stream: Any, rows: int, workers: int) -> Any:
    """Lists of `rows` elements, read ahead by threads (which wait for the workers, if any)."""
    threads = workers or min(16, 2 * (os.cpu_count() or 1))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * rows, threads))
    return iter(stream.to_iter_dataset(options).batch(rows, batch_fn=list))


def _collate(elements: list[Element]) -> Batch:
    images, labels = [], []
    for element in elements:
        assert element.image is not None and element.label is not None  # else `Batches` raised
        images.append(element.image)
        labels.append(element.label)
    return {
        "image": np.stack(images),
        "label": np.stack(labels).astype(np.float32),
        "index": np.array([e.picture for e in elements], np.int64),
    }
