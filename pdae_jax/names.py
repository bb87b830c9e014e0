"""Choices by name, refused with the nearest valid one."""
import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str], what: str) -> str:
    """Returns `name` where it is valid; else raises ValueError with the nearest valid name."""
    valid = list(valid)
    if name in valid:
        return name
    near = difflib.get_close_matches(str(name), valid, 1, cutoff=0.0)
    raise ValueError(f"no {what} {name!r}; did you mean {near[0]!r}? (one of "
                     f"{', '.join(filter(None, sorted(valid)))})")
