"""Splits of pictures: a seeded share held out, by picture or by whole groups; split columns."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pdae_jax.formats.errors import DataError

SPLITS = ("train", "test", "all")

# What people write in a column of splits, lower case.
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "fit"),
    "test": ("test", "testing", "held-out", "held_out", "held out"),
    "valid": ("valid", "val", "validation", "dev"),
}
_PART_OF = {word: part for part, words in PARTS.items() for word in words}


def check_split(split: str, splits: Iterable[str] = SPLITS) -> None:
    """Raises DataError unless `split` is one of `splits`."""
    if split not in splits:
        raise DataError(f"no split {split!r} here: choose one of {', '.join(splits)}")


def check_fraction(fraction: float) -> None:
    """Raises DataError unless a share can be held out."""
    if not 0 <= fraction < 1:
        raise DataError(f"test_fraction is {fraction}: must be at least 0 and below 1")


def held_out(size: int, split: str, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of a split of `size` pictures, a seeded random `fraction` being the test set.

    The same seed gives the same division: "train" and "test" share nothing and make up "all".
    Raises DataError where the split is empty.
    """
    check_split(split)
    if split == "all":
        return np.arange(size)
    check_fraction(fraction)
    order = np.random.default_rng(seed).permutation(size)
    tests = min(max(round(size * fraction), 1 if fraction else 0), size - 1)
    chosen = order[:tests] if split == "test" else order[tests:]
    if not len(chosen):
        raise DataError(
            f"the test split of {size} picture(s) is empty with "
            f"test_fraction={fraction}: raise it, or add pictures"
        )
    return np.sort(chosen)


def held_out_groups(group: np.ndarray, split: str, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of a split by whole groups, about a `fraction` of the pictures being tests.

    group: str `[N]`, such as each picture's patient. Groups are drawn at random by the seed until
    another would lead away from the fraction; which ones depends on the groups' names and sizes
    alone, not on the order of the pictures. Where fraction > 0 each side has at least one group.
    "train" and "test" share no group and make up "all".

    Raises DataError where a picture has no group, where there are fewer than two, or where the
    split is empty.
    """
    check_split(split)
    group = np.asarray(group, str)
    if absent := int((group == "").sum()):
        raise DataError(
            f"{absent:,} of {len(group):,} pictures have no group, such as picture "
            f"{int(np.argmax(group == ''))} (from 0): name the group of each, or remove them"
        )
    if split == "all":
        return np.arange(len(group))
    check_fraction(fraction)
    names, of_picture, sizes = np.unique(group, return_inverse=True, return_counts=True)
    if fraction and len(names) < 2:
        raise DataError(
            f"a split by group needs two groups, and all {len(group):,} pictures are of "
            f"{str(names[0])!r}: choose another column, or test_fraction=0"
            if len(names)
            else "a split by group of no pictures"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    wanted, drawn, tests = len(group) * fraction, 0, []
    for k in order.tolist() if fraction else []:
        nearer = abs(drawn + sizes[k] - wanted) <= abs(drawn - wanted)
        if nearer and len(tests) < len(names) - 1:
            tests.append(k)
            drawn += int(sizes[k])
    if fraction and not tests:  # each alone is more than twice what is wanted
        tests = [min(order.tolist(), key=lambda k: sizes[k])]
    is_test = np.isin(of_picture, np.array(tests, int))
    assert not set(group[is_test]) & set(group[~is_test])
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    if not len(chosen):
        raise DataError(
            f"the test split of {len(names)} group(s) is empty with "
            f"test_fraction={fraction}: raise it"
        )
    return chosen


def words_of_groups(group: np.ndarray, tests: np.ndarray) -> str:
    """A line on a split by group. group: str `[N]`; tests: the indices that are held out."""
    group = np.asarray(group, str)
    is_test = np.zeros(len(group), bool)
    is_test[np.asarray(tests, int)] = True
    sides = [group[~is_test], group[is_test]]
    both = set(sides[0]) & set(sides[1])
    train, test = (
        f"{_counted(len(side), 'picture')} of {_counted(len(set(side)), 'group')}" for side in sides
    )
    shared = f"{len(both):,} of them" if both else "no group"
    return f"split by group: {train} to train, {test} held out, {shared} on both sides"


def _counted(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' if n != 1 else ''}"


def split_names(
    values: Sequence[str] | np.ndarray,
    lines: Sequence[int] | np.ndarray | None = None,
    name: str = "the table",
    column: str = "split",
) -> np.ndarray:
    """Each picture's part, "train", "test" or "valid", str `[N]`, of a manifest's column of splits.

    values: the cells as people write them (`PARTS`), in any case. lines: the line of each in the
    file `name`, for messages.

    Raises DataError for an empty cell, a fold's number, or any other word.
    """
    parts = []
    for k, value in enumerate(values):
        word = str(value).strip()
        part = _PART_OF.get(word.lower())
        if part is None:
            where = f"{name}, line {lines[k] if lines is not None else k + 1}"
            remedy = f"write one of {', '.join(PARTS)}"
            if not word:
                raise DataError(f"{where}: no split under {column!r}: {remedy}")
            if re.fullmatch(r"\d+(\.0)?|(fold|cv)[ _-]?\d+", word.lower()):
                raise DataError(
                    f"{where}: {word!r} under {column!r} is a fold or a code, and no split: "
                    f"{remedy} (such as test for one fold and train for the others)"
                )
            raise DataError(f"{where}: {word!r} under {column!r} is no split: {remedy}")
        parts.append(part)
    return np.array(parts, str)


def split_column(
    values: Sequence[str] | np.ndarray,
    lines: Sequence[int] | np.ndarray | None = None,
    name: str = "the table",
    column: str = "split",
) -> dict[str, np.ndarray]:
    """The pictures of each part that occurs: sorted indices under "train", "test" and "valid".

    Arguments and errors as of `split_names`.
    """
    names = split_names(values, lines, name, column)
    return {part: np.flatnonzero(names == part) for part in PARTS if (names == part).any()}


def check_disjoint(group: np.ndarray, split: np.ndarray) -> None:
    """Raises DataError where a group lies in more than one part of a given split.

    group, split: str `[N]`. A picture without a group, "", is of none.
    """
    parts: dict[str, dict[str, int]] = {}
    for one, part in zip(np.asarray(group, str).tolist(), np.asarray(split, str).tolist()):
        if one:
            counts = parts.setdefault(one, {})
            counts[part] = counts.get(part, 0) + 1
    both = [one for one, counts in parts.items() if len(counts) > 1]
    if both:
        counts = [f"{n:,} in {part}" for part, n in sorted(parts[both[0]].items())]
        more = f", and so do {len(both) - 1:,} more" if len(both) > 1 else ""
        raise DataError(
            f"group {both[0]!r} lies on both sides of the split, {' and '.join(counts)}{more}: "
            "put all pictures of a group into one part, or remove the column of splits"
        )
