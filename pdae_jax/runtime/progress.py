"""The progress bar of long work; silent where stderr is no terminal."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(
    words: str, iterable: Iterable[Any] | None = None, *, total: int | None = None
) -> "tqdm[Any]":
    """A bar on the terminal that disappears when finished; nothing where there is no terminal."""
    from tqdm import tqdm  # not needed by what only computes

    return tqdm(
        iterable,
        desc=words,
        total=total,
        leave=False,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )
