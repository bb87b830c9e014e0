"""The paper's protocols over many pictures: reconstruction (Table 3) and FID (Table 4).

Both resume where they stopped, with the same result: a picture's noise depends on the seed and on
the picture's own number alone.
"""

import functools
import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pdae_jax import samplers
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import batches
from pdae_jax.data.source import Source
from pdae_jax.images import to_float, to_uint8
from pdae_jax.metrics.frechet import Moments, frechet_distance
from pdae_jax.metrics.measure import Metrics
from pdae_jax.model import Model
from pdae_jax.workdir.chunk_cache import Advance, Arrays, ChunkCache

CHUNK_ROWS = 512
BATCH_SIZE = 64
Reference = tuple[np.ndarray, np.ndarray]  # [2048] and [2048, 2048]

ALONE, INFERRED, NO_CODE = "z alone", "z, inferred x_T", "no code: the mean picture"


class Reconstruction(NamedTuple):
    """n pictures scored, without the broken ones; means: decoded from -> metric -> mean."""

    n: int
    broken: int
    means: dict[str, dict[str, float]]


def reconstruction(
    model: Model,
    data: Data,
    source: Source,
    metrics: Metrics,
    chunks: ChunkCache,
    *,
    n: int,
    seed: int = 0,
) -> Reconstruction:
    """The first n pictures of a source, decoded from z alone and with the inferred x_T, scored.

    By the model's protocol, its temperature included.

    chunks: a cache whose key tells all that the result depends on.
    """
    total = min(n, len(source))
    few = min(CHUNK_ROWS, total)
    first = next(_pictures(model, data, source, range(few), batch_size=few))
    mean = to_float(first["image"][first["mask"]]).mean(0, keepdims=True)

    def score(rows: range, advance: Advance) -> Arrays:
        found = []
        for batch in _pictures(model, data, source, rows):
            images, index = batch["image"], batch["index"]
            z = model.encode(images)
            temperature = model.protocol.temperature
            rngs = samplers.keys(seed, np.maximum(index, 0))
            decoded = {
                ALONE: model.decode(z, rng=rngs, temperature=temperature),
                INFERRED: model.decode(z, model.invert(images, z)),
                NO_CODE: np.broadcast_to(mean, images.shape),
            }
            real = index >= 0  # the last batch is filled up
            found.append(
                {"good": batch["mask"][real]}
                | {
                    f"{name}/{metric}": values[real]
                    for name, x in decoded.items()
                    for metric, values in metrics.compare(images, x).items()
                }
            )
            advance(int(real.sum()))
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    scores = chunks.joined(total, score, "evaluate reconstruction")
    good = scores.pop("good")
    means: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        decoded, metric = name.split("/")
        means.setdefault(decoded, {})[metric] = float(values[good].astype(np.float64).mean())
    return Reconstruction(int(good.sum()), int((~good).sum()), means)


def generation(
    model: Model,
    metrics: Metrics,
    chunks: ChunkCache,
    *,
    n: int,
    reference: Reference,
    stop: float = 0.3,
    temperature: float | None = None,
    seed: int = 0,
) -> float:
    """FID of n generated pictures against a reference's mean and covariance of features."""

    def features(rows: range, advance: Advance) -> Arrays:
        made = model.generate(
            len(rows), rng=samplers.keys(seed, rows), stop=stop, temperature=temperature
        )
        advance(len(rows))
        return {"features": metrics.features(to_uint8(made))}

    seen = _moments(chunk["features"] for chunk in chunks.run(n, features, "evaluate generation"))
    return frechet_distance(seen.mean, seen.covariance, *reference)


def data_reference(
    model: Model, data: Data, source: Source, metrics: Metrics, chunks: ChunkCache, *, n: int
) -> Reference:
    """Mean and covariance of the features of a source's first n pictures, at the model's size."""

    def features(rows: range, advance: Advance) -> Arrays:
        found = []
        for batch in _pictures(model, data, source, rows):
            found.append(metrics.features(batch["image"])[batch["mask"]])
            advance(int((batch["index"] >= 0).sum()))
        return {"features": np.concatenate(found)}

    run = chunks.run(min(n, len(source)), features, f"features of {source.name}")
    seen = _moments(chunk["features"] for chunk in run)
    return seen.mean, seen.covariance


def pictures_reference(pictures: Iterable[np.ndarray], metrics: Metrics) -> Reference:
    """Mean and covariance of the features of pictures, batches of uint8 [B, H, W, C]."""
    seen = _moments(metrics.features(images) for images in pictures)
    return seen.mean, seen.covariance


def _moments(features: Iterable[np.ndarray]) -> Moments:
    return functools.reduce(operator.add, map(Moments.of, features))


def _pictures(
    model: Model, data: Data, source: Source, rows: range, batch_size: int = BATCH_SIZE
) -> Iterator[dict[str, np.ndarray]]:
    height, width, channels = model.arch.image_shape
    with batches(
        source,
        size=(height, width),
        channels=channels,
        batch_size=min(batch_size, len(rows)),
        indices=rows,
        workers=data.workers,
        max_broken=data.max_broken,
    ) as some:
        yield from some
