"""What sampling costs and gives: inversions by their error over evaluations; x_T's temperature."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax import samplers
from pdae_jax.arrays import Pictures
from pdae_jax.metrics.measure import Metrics
from pdae_jax.model import Model, OutCodes, OutImages, ReversibleNoise
from pdae_jax.protocol import ONLY_UP, PROTOCOLS, REVERSIBLE, SOLVERS, Sampling
from pdae_jax.reversible import EVALUATIONS
from pdae_jax.runtime.choices import nearest
from pdae_jax.tasks.interpolation import slerp

HALF = 0.5  # of the way to another picture's z
PAPERS = "the paper's"
KINDS = {name: Sampling(name) for name in (*SOLVERS, *ONLY_UP, *REVERSIBLE)} | {
    "ddim-clipped": Sampling("ddim", "uniform", threshold="static")  # the paper's, in fewer steps
}


class Trip(NamedTuple):
    """One way of inferring x_T and decoding it, over pictures; all are means over them.

    evaluations: of the noise, both ways. mse: of pixels in [0, 1]. std, kurtosis, neighbours: of
    x_T; of normal noise 1, 3 and 0 (the correlation of neighbouring pixels). edit, interpolation:
    the distance of a decoded picture's own code from the z that it was decoded from, in standard
    deviations of each number (see `code_error`).
    """

    label: str
    invert: Sampling
    decode: Sampling
    evaluations: int
    mse: float
    std: float
    kurtosis: float
    neighbours: float
    edit: float
    interpolation: float


def inversions(
    T: int, kinds: Sequence[str], steps: Sequence[int]
) -> list[tuple[str, Sampling, Sampling]]:
    """The inversions to compare, of T times: a label, up and down. The paper's is the first.

    kinds: of `KINDS`, each with each number of steps, or T where that is more.
    """
    paper = PROTOCOLS["paper"].at_most(T)
    found = [(PAPERS, paper.invert, paper.decode)]
    for kind in kinds:
        how = KINDS[nearest(kind, KINDS, "kind of inversion")]
        for n in steps:
            up = dataclasses.replace(how, steps=min(n, T))
            undone = up.solver in ONLY_UP
            found.append((kind, up, dataclasses.replace(up, solver="ddim") if undone else up))
    return list(dict.fromkeys(found))


def round_trip(
    model: Model, images: Pictures, label: str, invert: Sampling, decode: Sampling
) -> Trip:
    """Infers x_T of pictures in one way, decodes it, and edits and interpolates from it."""
    z, ways = model.encode(images), model.sampling_by(invert=invert, decode=decode)

    x_T = ways.invert(images, z)
    out = ways.decode(z, x_T)
    other = np.roll(np.arange(len(z)), 1)
    middle = np.asarray(samplers.lerp(z, z[other], HALF))
    edited = ways.decode(middle, x_T)
    between = ways.decode(middle, slerp(x_T, x_T[other], HALF))
    return Trip(
        label,
        invert,
        decode,
        evaluations(model, invert, up=True) + evaluations(model, decode, up=False),
        float(np.mean((images / 127.5 - 1 - out) ** 2)) / 4,
        *moments(x_T.x_T if isinstance(x_T, ReversibleNoise) else x_T),
        code_error(model, edited, middle, z),
        code_error(model, between, middle, z),
    )


def evaluations(model: Model, how: Sampling, up: bool) -> int:
    """How often a way up or down evaluates the noise."""
    steps = len(samplers.spaced_times(model.schedule, how.steps, how.spacing)) - 1
    if how.solver == "implicit":
        return EVALUATIONS * steps
    return steps - 1 if how.solver in REVERSIBLE and not up else steps


def moments(x_T: Float[np.ndarray, "B H W C"]) -> tuple[float, float, float]:
    """Standard deviation, kurtosis, and correlation of neighbouring pixels."""
    x = x_T - x_T.mean()
    variance = (x**2).mean()
    pairs = [(x[:, 1:], x[:, :-1]), (x[:, :, 1:], x[:, :, :-1])]
    neighbours = np.mean([(a * b).mean() for a, b in pairs]) / variance
    return float(variance**0.5), float((x**4).mean() / variance**2), float(neighbours)


def code_error(model: Model, out: OutImages, wanted: OutCodes, z: OutCodes) -> float:
    """RMS distance of pictures' own codes from those they were decoded with, in deviations of z."""
    deviation = np.maximum(z.std(0), 1e-6)
    return float(np.sqrt((((model.encode(out, (-1, 1)) - wanted) / deviation) ** 2).mean()))


class Warmth(NamedTuple):
    """Pictures from z alone at one temperature; all are means.

    mse, ssim: against the original. sharpness: mean size of the differences of neighbouring pixels,
    as a share of the originals'. diversity: deviation of a pixel over draws, in [0, 1]. code: how
    far a picture's own code is from its z (see `Trip`).
    """

    temperature: float
    mse: float
    ssim: float
    sharpness: float
    diversity: float
    code: float


def at_temperature(
    model: Model,
    images: Pictures,
    temperature: float,
    *,
    draws: int = 4,
    seed: int = 0,
) -> tuple[Warmth, Float[np.ndarray, "draws B H W C"]]:
    """Pictures from z alone with `draws` x_T of a temperature, and how they are."""
    z = model.encode(images)
    n = draws if temperature else 1
    out = np.stack([model.decode(z, rng=seed + k, temperature=temperature) for k in range(n)])
    scores = [Metrics().compare(images, one) for one in out]
    warmth = Warmth(
        temperature,
        float(np.mean([one["mse"].mean() for one in scores])),
        float(np.mean([one["ssim"].mean() for one in scores])),
        edges(out.reshape(-1, *out.shape[2:])) / edges(np.asarray(images) / 127.5 - 1),
        float(out.std(0).mean() / 2),
        float(np.mean([code_error(model, one, z, z) for one in out])),
    )
    return warmth, out


def edges(x: Float[np.ndarray, "B H W C"]) -> float:
    """Mean size of the differences of neighbouring pixels."""
    return float(np.abs(np.diff(x, axis=1)).mean() + np.abs(np.diff(x, axis=2)).mean()) / 2
