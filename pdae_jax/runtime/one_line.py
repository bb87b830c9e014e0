"""What a command says beside its result: warnings and logged words, each one line of stderr."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

from pdae_jax.runtime.choices import printable


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say(text: object) -> None:
    """A line on stderr, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(f"pdae_jax: {printable(' '.join(str(text).split()))}", file=sys.stderr)


@contextlib.contextmanager
def one_line_each() -> Iterator[None]:
    """Warnings, and what this package logs, appear as lines while the block runs."""
    logger, handler = logging.getLogger("pdae_jax"), _Lines(logging.WARNING)
    before = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)  # whatever others have made the root's
    logger.propagate = False
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **more: say(message)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]
