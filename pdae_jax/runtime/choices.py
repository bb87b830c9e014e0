"""Choices by name, refused with the nearest valid one."""

import difflib
from collections.abc import Iterable

FEW = 16  # so many are all named
NEAR = 0.5  # the share of letters in common (difflib's ratio) from which a name is near


def nearest(name: str, valid: Iterable[str], what: str) -> str:
    """Returns `name` where it is valid; else raises ValueError with the names that are near."""
    valid = list(valid)
    if name in valid:
        return name
    near = difflib.get_close_matches(str(name), valid, 3, cutoff=NEAR)
    if not near:
        raise ValueError(f"no {what} {name!r}; there is {listed(filter(None, valid), FEW)}")
    more = sorted(filter(None, valid)) if len(valid) <= FEW else [*near[1:], "..."]
    raise ValueError(f"no {what} {name!r}; did you mean {near[0]!r}? ({', '.join(more)})")


def listed(names: Iterable[object], most: int = 6) -> str:
    """Some of the names, for a message: cut where they are long, and nothing a terminal obeys."""
    texts = [str(name) for name in names]
    shown = [
        text if text.isprintable() and len(text) < 80 else f"{text[:60]!r}..."
        for text in texts[:most]
    ]
    return ", ".join(shown) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def printable(text: object) -> str:
    """A text with nothing in it that a terminal would obey: escapes in place of control characters.

    Line ends stay.
    """
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in str(text))
