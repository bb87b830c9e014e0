"""The paper's protocols over many pictures: reconstruction (Table 3) and FID (Table 4).

Both go on where they stopped, with the same result: a picture's noise depends on the seed and on the
picture's own number alone.
"""

import functools
import operator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pdae_jax import data as data_lib
from pdae_jax import samplers
from pdae_jax.images import to_uint8
from pdae_jax.metrics.frechet import Moments, frechet_distance
from pdae_jax.metrics.measure import Metrics
from pdae_jax.model import Model
from pdae_jax.tasks.generation import generate
from pdae_jax.workdir import samples_npz as sample_file
from pdae_jax.workdir.chunk_cache import Parts

PART_ROWS = 512
ALONE, INFERRED, NO_CODE = "z alone", "z, inferred x_T", "no code: the mean picture"


class Reconstruction(NamedTuple):
    """n pictures scored, of which broken ones were left out; means: decoded from -> metric -> mean."""

    n: int
    broken: int
    means: dict[str, dict[str, float]]


def reconstruction(
    model: Model,
    source,
    folder: Path,
    metrics: Metrics,
    *,
    n: int,
    made_from: dict,
    steps: int = 100,
    invert_steps: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    max_broken: float = 0.1,
) -> Reconstruction:
    """The first n pictures of a source, decoded from z alone and with the inferred x_T, scored.

    folder: where what is done is kept. made_from: what else the result depends on.
    """
    parts = Parts(
        folder,
        made_from
        | {
            "steps": steps,
            "invert_steps": invert_steps,
            "seed": seed,
            "metrics": sorted(metrics.params),
        },
        size=PART_ROWS,
    )

    arch = model.arch
    with data_lib.batches(
        source,
        size=arch.image_shape[:2],
        channels=arch.image_shape[2],
        batch_size=min(PART_ROWS, n, len(source)),
        max_broken=max_broken,
    ) as some:
        batch = next(some)
    mean = batch["image"][batch["mask"]].mean(0, keepdims=True).round().astype(np.uint8)

    def score(rows, advance):
        found = []
        for batch in _pictures(model, source, rows, batch_size, workers, max_broken):
            images, index = batch["image"], batch["index"]
            z = model.encode(images)
            x_T = model.invert(images, z, steps=invert_steps)
            rngs = samplers.keys(seed, np.maximum(index, 0))
            decoded = {
                ALONE: model.decode(z, steps=steps, rng=rngs),
                INFERRED: model.decode(z, x_T, steps=steps),
                NO_CODE: np.broadcast_to(mean, images.shape),
            }
            real = index >= 0  # the last batch is filled up
            scores = {
                f"{name}/{metric}": np.where(batch["mask"], values, np.nan)[real]
                for name, x in decoded.items()
                for metric, values in metrics.compare(images, x).items()
            }
            found.append(scores)
            advance(int(real.sum()))
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    scores = parts.whole(min(n, len(source)), score, "evaluate reconstruction")
    means: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        decoded, metric = name.split("/")
        means.setdefault(decoded, {})[metric] = float(np.nanmean(values.astype(np.float64)))
    broken = int(np.isnan(values).sum())
    return Reconstruction(len(values) - broken, broken, means)


def generation(
    model: Model,
    folder: Path,
    metrics: Metrics,
    *,
    n: int,
    made_from: dict,
    reference: tuple[np.ndarray, np.ndarray],
    steps: int = 100,
    latent_steps: int = 100,
    stop: float = 0.3,
    seed: int = 0,
) -> float:
    """FID of n generated pictures against a reference's mean and covariance of features."""
    parts = Parts(
        folder,
        made_from | {"steps": steps, "latent_steps": latent_steps, "stop": stop, "seed": seed},
        size=PART_ROWS,
    )

    def features(rows, advance):
        made = generate(model, rows, steps=steps, latent_steps=latent_steps, stop=stop, seed=seed)
        advance(len(rows))
        return {"features": metrics.features(to_uint8(made.images))}

    seen = _moments(parts.run(n, features, "evaluate generation"))
    return frechet_distance(seen.mean, seen.covariance, *reference)


def data_reference(
    model: Model,
    source,
    folder: Path,
    metrics: Metrics,
    *,
    n: int,
    made_from: dict,
    batch_size: int = 64,
    workers: int = 0,
    max_broken: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the features of a source's first n pictures, at the model's size."""
    parts = Parts(folder, made_from, size=PART_ROWS)

    def features(rows, advance):
        found = []
        for batch in _pictures(model, source, rows, batch_size, workers, max_broken):
            found.append(metrics.features(batch["image"])[batch["mask"]])
            advance(int((batch["index"] >= 0).sum()))
        return {"features": np.concatenate(found)}

    seen = _moments(parts.run(min(n, len(source)), features, f"features of {source.name}"))
    return seen.mean, seen.covariance


def reference(path: Path, metrics: Metrics) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the features of ADM's reference file."""
    return sample_file.reference(path, metrics.features)


def _moments(parts) -> Moments:
    return functools.reduce(operator.add, (Moments.of(part["features"]) for part in parts))


def _pictures(model, source, rows, batch_size, workers, max_broken):
    size, channels = model.arch.image_shape[:2], model.arch.image_shape[2]
    with data_lib.batches(
        source,
        size=size,
        channels=channels,
        batch_size=batch_size,
        indices=rows,
        workers=workers,
        max_broken=max_broken,
    ) as batches:
        yield from batches
