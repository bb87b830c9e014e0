"""The progress of long work: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 30.0  # seconds between lines where there is no terminal


def bar(
    words: str, iterable: Iterable[Any] | None = None, *, total: int | None = None
) -> "tqdm[Any] | Lines":
    """A bar that disappears when finished; where stderr is no terminal, `Lines`."""
    from tqdm import tqdm  # not needed by what only computes

    if not sys.stderr.isatty():
        return Lines(words, iterable, total)
    return tqdm(iterable, desc=words, total=total, leave=False, dynamic_ncols=True)


class Lines:
    """What `tqdm` is to long work, for a log: a line every half a minute, none of short work."""

    def __init__(self, words: str, iterable: Iterable[Any] | None, total: int | None):
        self._words, self._iterable = words, iterable
        self._total = len(iterable) if isinstance(iterable, Sized) else total
        self._done, self._began = 0, time.monotonic()
        self._said = self._began

    def update(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._said < EVERY or self._done == self._total:
            return
        self._said, seconds = now, now - self._began
        of, left = "", ""
        if self._total:
            of = f"/{self._total}"
            left = f", {_clock(seconds * (self._total - self._done) / self._done)} left"
        words = f"{self._words}: {self._done}{of} after {_clock(seconds)}{left}"
        print(words, file=sys.stderr, flush=True)

    def __iter__(self) -> Iterator[Any]:
        for item in () if self._iterable is None else self._iterable:
            yield item
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
