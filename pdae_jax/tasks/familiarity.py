"""Whether pictures are like those that a model was trained on: how far their codes lie out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax import latent
from pdae_jax.data.dataset import Data
from pdae_jax.latent import Statistics
from pdae_jax.tasks import encoding
from pdae_jax.workdir.code_table import Codes
from pdae_jax.workdir.workdir import Workdir

TAIL = 1.0  # percent of the training codes on either side that lie outside of their usual distances
MOST_OUTSIDE = 0.2  # of given codes; of pictures like the training's 2 % are expected
MOST_OF_HELD_OUT = 4.0  # the error from z alone over that of held-out pictures


class Familiarity(NamedTuple):
    """n codes, the share of them outside the usual distances, and their median distance.

    usual: lowest and highest usual distance. error, held_out: mean squared errors from z alone of
    the pictures, and of held-out pictures of the training's; None where they were not measured.
    """

    n: int
    outside: float
    median: float
    usual: tuple[float, float]
    error: float | None = None
    held_out: float | None = None


def distances(statistics: Statistics, z: Float[np.ndarray, "N d"]) -> Float[np.ndarray, " N"]:
    """Of codes from the training pictures' mean, in their standard deviations: root mean square."""
    normalised = np.asarray(latent.normalise(statistics, z), np.float64)
    return np.sqrt((normalised**2).mean(1))


def usual(statistics: Statistics, z: Float[np.ndarray, "N d"]) -> tuple[float, float]:
    """The distances between which nearly all of the training codes lie."""
    low, high = np.percentile(distances(statistics, z), [TAIL, 100 - TAIL])
    return float(low), float(high)


def keep_statistics(workdir: Workdir, codes: Codes, data: Data) -> None:
    """Keeps the statistics of the training pictures' codes in a workdir, and usual distances."""
    statistics = encoding.statistics(codes)
    workdir.write_statistics(statistics, data, usual(statistics, codes.without_broken().z))


def measure(
    statistics: Statistics, z: Float[np.ndarray, "N d"], usual: tuple[float, float]
) -> Familiarity:
    """How codes lie to those of the training."""
    found = distances(statistics, z)
    outside = (found < usual[0]) | (found > usual[1])
    return Familiarity(len(z), float(outside.mean()), float(np.median(found)), usual)


def warning(found: Familiarity) -> str:
    """A sentence on pictures that are unlike the training's, and what to do; "" of others."""
    signs = []
    if found.outside > MOST_OUTSIDE:
        low, high = found.usual
        who = f"{found.outside:.0%} of {found.n} codes lie" if found.n > 1 else "its code lies"
        signs.append(
            f"{who} where next to none of the training's do "
            f"(median distance from their mean {found.median:.2g} standard deviations, theirs "
            f"{low:.2g} to {high:.2g})"
        )
    if found.error is not None and found.held_out:
        times = found.error / found.held_out
        if times > MOST_OF_HELD_OUT:
            signs.append(
                f"from z alone their error is {found.error:.2g}, {times:.1f} times that of "
                f"held-out pictures"
            )
    if not signs:
        return ""
    return (
        f"These pictures are unlike the training's: {', and '.join(signs)}. Codes and edits of "
        f"them mean little: check their crop, colours and --range, or train on pictures like these."
    )
