"""Finds the range of a data set's values, as the setting `range` asks for it."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pdae_jax.data.source import Source
from pdae_jax.data.transforms import cut, to_channels
from pdae_jax.formats.errors import DataError
from pdae_jax.runtime.progress import bar
from pdae_jax.value_range import (
    EIGHT_BIT,
    EXPECTED,
    Asked,
    ValueRange,
    kind_of,
    limits_of,
    parse,
)

FEW = 16  # pictures that tell whether all are 8-bit
MOST = 10_000  # pictures that a range is found in
SMALL_PART = 0.5  # of what the number type holds: no sign of its limits being black and white
PIXELS, TOTAL = 4096, 2**24  # of each picture and of all, at most, for percentiles


class Seen(NamedTuple):
    """What is found in one picture."""

    dtype: np.dtype
    limits: tuple[float, float] | None
    low: np.ndarray  # [C]
    high: np.ndarray  # [C]
    some: np.ndarray  # [k, C], pixels drawn at random


def find(source: Source, setting: str, channels: int) -> tuple[ValueRange, str]:
    """The range that a setting asks for, of the pictures in a source, and words on it.

    setting: as of `value_range.parse`; "" is themselves for 8-bit pictures, 0 to 1 for floats
    within, and the limits of the number type for integers that make use of it. Raises DataError,
    with the range found and what to type, where "" would be a guess; and where a setting does not
    fit. channels: the network's.
    """
    asked = parse(setting)
    if asked.kind == "fixed":
        found = ValueRange(asked.low, asked.high, asked=setting)
        found.check_channels(channels)
        looked_at = seen(source, np.linspace(0, len(source) - 1, FEW).astype(int), channels)
        found = dataclasses.replace(found, numbers=numbers_of(looked_at))
        return named(found, source), f"values from {found}"
    if asked.kind in ("window", "own percentile"):
        own = "window" if asked.kind == "window" else setting.removesuffix(":picture")
        beyond = _beyond(asked) if asked.kind == "own percentile" else 1.0
        found = ValueRange(own=own, beyond=beyond, asked=setting)
        return named(found, source), f"values scaled by {found}"
    looked_at = seen(source, np.linspace(0, len(source) - 1, FEW).astype(int), channels)
    if {one.dtype.name for one in looked_at} <= {"uint8", "bool"} and asked.kind != "percentile":
        return named(EIGHT_BIT, source), "8-bit pictures"
    if len(source) > FEW:
        some = np.linspace(0, len(source) - 1, min(len(source), MOST)).astype(int)
        looked_at = seen(source, some, channels, "range of values")
    low, high = (
        getattr(np.array([getattr(one, name) for one in looked_at]), best)(0).astype(float)
        for name, best in (("low", "min"), ("high", "max"))
    )
    kinds = sorted({one.dtype.name for one in looked_at})
    there = f"{source.name}: {' and '.join(kinds)} values from {low.min():.7g} to {high.max():.7g}"
    whole = len(looked_at) == len(source)
    how = f"found in {'all' if whole else 'some'} {len(looked_at):,} pictures of {source.name}"
    if asked.kind == "percentile":
        pixels = np.concatenate([one.some for one in looked_at])
        low, high = np.percentile(pixels, [*asked.low, *asked.high], axis=0)
    elif asked.kind != "auto":
        low, high = _by_type(looked_at, asked, there, setting)
        how = f"what {kinds[0]} holds" if looked_at[0].limits else "floats from 0 to 1"
    if not (low < high).all():
        raise DataError(
            f"{there}: a channel is the same everywhere, and has no range: set "
            f"--config.data.range=LO,HI"
        )
    beyond = _beyond(asked) if asked.kind == "percentile" else 0.0
    low, high = tuple(map(float, low)), tuple(map(float, high))
    numbers = numbers_of(looked_at)
    found = ValueRange(low, high, beyond=beyond, asked=setting, numbers=numbers)
    return named(found, source), f"values from {found} ({how})"


def numbers_of(looked_at: Sequence[Seen]) -> str:
    """The kind of numbers of all pictures looked at; "" where they are of several."""
    kinds = {kind_of(one.dtype) for one in looked_at}
    return kinds.pop() if len(kinds) == 1 else ""


def _by_type(
    looked_at: Sequence[Seen], asked: Asked, there: str, setting: str
) -> tuple[np.ndarray, np.ndarray]:
    """The limits of the number type, where they are no guess."""
    low = min(float(one.low.min()) for one in looked_at)
    high = max(float(one.high.max()) for one in looked_at)
    to_type = f"--config.data.range={min(0.0, low):.7g},{high:.7g} (or auto, each channel its own)"
    limits = {one.limits for one in looked_at}
    (first, *others) = limits
    if others:
        raise DataError(
            f"{there}, of several number types: say which are black and white, {to_type}"
        )
    if first is None:
        if 0 <= low and high <= 1 and high - low > SMALL_PART and not asked.kind:
            return np.zeros(1), np.ones(1)
        raise DataError(f"{there} do not tell which are black and white: give {to_type}")
    if high - low <= SMALL_PART * (first[1] - first[0]) and not asked.kind:
        raise DataError(
            f"{there} use a small part of what the type holds, {first[0]:g} to {first[1]:g}: give "
            f"{to_type}, or dtype for all of it"
        )
    return np.array([first[0]]), np.array([first[1]])


def seen(source: Source, indices: np.ndarray, channels: int, words: str = "") -> list[Seen]:
    """What is found in some pictures, but for those that cannot be read."""
    indices = np.unique(indices)
    most = min(PIXELS, 1 + TOTAL // len(indices))

    def look(i: int) -> Seen | Exception:
        try:
            picture = source.read(i)
            values = to_channels(cut(picture.values, source.crop), channels)
            pixels = values.reshape(-1, channels)
            finite = np.isfinite(pixels).all()
            if not finite:
                raise DataError("values that are NaN or infinite")
            rng = np.random.default_rng([len(source), i])
            rows = rng.integers(0, len(pixels), min(most, len(pixels)))
            limits = limits_of(picture)
            return Seen(values.dtype, limits, pixels.min(0), pixels.max(0), pixels[rows])
        except Exception as error:  # noqa: BLE001 - training names broken pictures, and counts them
            return error

    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        found = pool.map(look, indices.tolist())
        results = list(bar(words, found, total=len(indices)) if words else found)
    good = [one for one in results if isinstance(one, Seen)]
    if not good:
        raise DataError(
            f"none of {len(results)} pictures of {source.name} can be read: "
            f"{source.where(int(indices[0]))}: {results[0]}"
        )
    return good


def named(found: ValueRange, source: Source) -> ValueRange:
    """A range with the names that the files have for the channels."""
    return dataclasses.replace(found, channels=source.channel_names)


def _beyond(asked: Asked) -> float:
    """The share of pixels outside a range of percentiles at which a picture is counted."""
    return min(1.0, EXPECTED * (1 - (asked.high[0] - asked.low[0]) / 100))
