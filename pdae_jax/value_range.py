"""`ValueRange`: which values of pictures are black and white, the network's -1 and 1."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pdae_jax.formats.errors import DataError
from pdae_jax.formats.stack import Picture

FORMS = "auto, dtype, window, LO,HI, percentile:1,99 or percentile:1,99:picture"
EXPECTED = 5  # times as many pixels as a range of percentiles leaves out are still expected


class Asked(NamedTuple):
    """A setting `range`, read."""

    kind: str  # "", "auto", "dtype", "window", "fixed", "percentile" or "own percentile"
    low: tuple[float, ...] = ()  # of each channel, or one for all; percentiles
    high: tuple[float, ...] = ()


def parse(text: str) -> Asked:
    """Reads a setting; DataError where it is none of `FORMS`.

    LO,HI may be given for each channel, as LO,HI/LO,HI.
    """
    kind, _, rest = text.partition(":")
    if text in ("", "auto", "dtype", "window"):
        return Asked(text)
    numbers, _, whose = rest.partition(":")
    try:
        if kind == "percentile":
            low, high = (float(one) for one in numbers.split(","))
            if 0 <= low < high <= 100 and whose in ("", "dataset", "picture"):
                own = whose == "picture"
                return Asked("own percentile" if own else kind, (low,), (high,))
        else:
            pairs = [[float(one) for one in pair.split(",")] for pair in text.split("/")]
            lows, highs = zip(*pairs, strict=True)
            if all(len(pair) == 2 and pair[0] < pair[1] for pair in pairs):
                if all(map(math.isfinite, lows + highs)):
                    return Asked("fixed", lows, highs)
    except ValueError:
        pass
    raise DataError(f"range must be {FORMS}, with LO below HI, got {text!r}")


@dataclasses.dataclass(frozen=True)
class ValueRange:
    """How a picture's values become the network's [-1, 1], channel by channel.

    low, high: the values that become -1 and 1, of each channel or one for all. own: instead of
    them, each picture's own: "window", as its file says, or "percentile:P,Q". eight_bit: the
    pictures are 8-bit and stay so up to the network. beyond: the share of a picture's pixels that
    is expected outside. asked: the setting `range` it was found by. channels: their names; () where
    files tell none. numbers: what the files' values are, as `kind_of` says; "" where not known.
    """

    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (255.0,)
    own: str = ""
    eight_bit: bool = False
    beyond: float = 0.0
    asked: str = ""
    channels: tuple[str, ...] = ()
    numbers: str = ""

    def __post_init__(self) -> None:
        for name in ("low", "high", "channels"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        pairs = list(zip(self.low, self.high, strict=True))
        if not pairs or not all(low < high for low, high in pairs):
            raise ValueError(f"each low must be below its high, got {self.low} and {self.high}")

    def __str__(self) -> str:
        if self.own:
            return f"each picture's own {self.own}"
        pairs = dict.fromkeys(zip(self.low, self.high, strict=True))
        return ", ".join(f"{low:.7g} to {high:.7g}" for low, high in pairs)

    @property
    def is_the_same(self) -> bool:
        """Whether equal values of two pictures stay equal."""
        return not self.own

    def check_channels(self, channels: int) -> None:
        """Raises DataError where it is of another number of channels."""
        if len(self.low) not in (1, channels):
            raise DataError(
                f"range = {self.asked} is of {len(self.low)} channels, and the pictures have "
                f"{channels}: give one LO,HI for all, or {channels}"
            )

    def check_file(self, picture: Picture) -> None:
        """Raises DataError where a file's values are of another kind than those it was found in.

        Counts that were divided by something would be black in the range of counts.
        """
        kind = kind_of(picture.values.dtype)
        if self.numbers and kind != self.numbers and not self.own:
            raise DataError(
                f"{kind}, {spread(picture.values)}, where {self.numbers} from {self} are expected: "
                f"say with the option range which of them are black and white, such as "
                f"{suggested(picture.values)}"
            )

    def scale(self, picture: Picture) -> tuple[np.ndarray, bool]:
        """The picture [h, w, c] in [-1, 1], float32, or as it is where all is 8-bit.

        Beside it, whether it has values out of the range, which are clipped. Raises DataError where
        the range says nothing of its values, or some are not finite.
        """
        x = picture.values
        if self.eight_bit:
            if x.dtype == np.uint8:
                return x, False
            if x.dtype == bool:
                return x.astype(np.uint8) * 255, False
            raise DataError(
                f"{x.dtype} values {spread(x)}, where 8-bit pictures are expected: say with the "
                f"option range which of them are black and white, such as {suggested(x)}"
            )
        if x.dtype == np.uint8 and not self.own and max(self.high) > 255:
            raise DataError(
                f"an 8-bit picture, where values from {self} are expected: convert it, or say with "
                f"the option range that its own are 0,255"
            )
        wide = x.dtype.itemsize > 4 or x.dtype.kind in "iu" and x.dtype.itemsize == 4
        x = x.astype(np.float64 if wide else np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"{int((~np.isfinite(x)).sum()):,} values are NaN or infinite")
        low, high = (np.asarray(one, x.dtype) for one in self._of(picture))
        outside = ((x < low) | (x > high)).mean() > self.beyond
        scaled = (np.clip(x, low, high) - low) / (high - low) * 2 - 1
        return scaled.astype(np.float32), bool(outside)

    def _of(self, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
        """Black and white of a picture's channels."""
        if not self.own:
            self.check_channels(picture.values.shape[-1])
            return np.array(self.low), np.array(self.high)
        if self.own == "window":
            if picture.window is None:
                raise DataError("its file names no window: set the option range to LO,HI")
            low, high = (np.array([one]) for one in picture.window)
        else:
            asked = parse(self.own)
            low, high = np.percentile(picture.values, [*asked.low, *asked.high], axis=(0, 1))
            # A channel that is nearly all one value has no percentiles apart: then all it has, and
            # one that is the same everywhere is black.
            least, most = picture.values.min((0, 1)), picture.values.max((0, 1))
            flat = ~(low < high)
            low, high = np.where(flat, least, low), np.where(flat, most, high)
            high = np.where(low < high, high, low + 1)
        if not (low < high).all():
            raise DataError(f"a channel is {float(np.min(low)):g} everywhere: it has no range")
        return low, high

    def to_units(self, x: npt.ArrayLike) -> np.ndarray:
        """Pictures [..., C] in [-1, 1], or uint8, in the units of the files, float32.

        Raises ValueError where each picture was scaled by its own range.
        """
        if self.own:
            raise ValueError(
                f"the model's pictures were each scaled by their own {self.own}, so that no units "
                f"are left in what is decoded"
            )
        x = np.asarray(x)
        if x.dtype == np.uint8:
            if self.eight_bit:
                return x.astype(np.float32)
            x = x / 127.5 - 1
        low, high = (np.asarray(one, np.float64) for one in (self.low, self.high))
        if len(low) not in (1, x.shape[-1]):
            raise ValueError(f"pictures must have {len(low)} channels, got {list(x.shape)}")
        return ((x + 1.0) / 2 * (high - low) + low).astype(np.float32)


EIGHT_BIT = ValueRange(eight_bit=True)


def kind_of(dtype: np.dtype) -> str:
    """What numbers of a type are called: integers, floats, or yes and no."""
    return {"b": "yes and no", "f": "floats"}.get(dtype.kind, "integers")


def spread(values: np.ndarray) -> str:
    """The least and the largest value, in words."""
    finite = values[np.isfinite(values)]
    return f"{finite.min():.6g} to {finite.max():.6g}" if finite.size else "that are not finite"


def suggested(values: np.ndarray) -> str:
    """A setting that would fit values, as it is typed."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "0,1"
    return f"{min(0, finite.min()):.6g},{finite.max():.6g}"


def limits_of(picture: Picture) -> tuple[float, float] | None:
    """The least and the largest value that a picture's bits can hold; None of floats."""
    kind = picture.values.dtype
    if picture.limits is not None:
        return picture.limits
    if kind.kind in "iu":
        return float(np.iinfo(kind).min), float(np.iinfo(kind).max)
    return None
