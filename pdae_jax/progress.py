"""The progress bar of work that lasts; silent where nobody looks."""
import sys

from tqdm import tqdm


def bar(words: str, iterable=None, *, total: int | None = None) -> tqdm:
    """A bar on the terminal that goes when it is done; nothing where stderr is no terminal."""
    return tqdm(iterable, desc=words, total=total, leave=False, dynamic_ncols=True,
                disable=not sys.stderr.isatty())
