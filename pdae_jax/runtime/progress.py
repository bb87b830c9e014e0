"""The progress bar of work that lasts; silent where nobody looks."""

import sys


def bar(words: str, iterable=None, *, total: int | None = None):
    """A bar on the terminal that goes when it is done; nothing where stderr is no terminal."""
    from tqdm import tqdm  # not needed by what only computes

    return tqdm(
        iterable,
        desc=words,
        total=total,
        leave=False,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )
