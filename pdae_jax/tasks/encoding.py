"""Encoding a whole data set: a table of codes, and their statistics."""

from typing import Any

import numpy as np

from pdae_jax import latent
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import batches
from pdae_jax.model import Model
from pdae_jax.workdir.chunk_cache import Advance, Arrays
from pdae_jax.workdir.code_table import Codes, CodeTable

SMALLEST_STD = 1e-6  # of a dimension that does not vary


def encode(
    model: Model,
    data: Data,
    split: str,
    table: CodeTable,
    cache_key: dict[str, Any],
    *,
    batch_size: int = 64,
    keep_broken: bool = False,
) -> Codes:
    """z of every picture of a split, in its order, kept in `table`.

    keep_broken: rows of NaN for the pictures that cannot be read; else they have none, and are
    listed alone.

    A table computed from the same `cache_key` (checkpoints, data) is read, another replaced.
    Interrupted, it resumes with the same result.
    """
    if table.is_current(cache_key):
        return table.read()
    with table.lock():
        return _compute(model, data, split, table, cache_key, batch_size, keep_broken)


def _compute(
    model: Model,
    data: Data,
    split: str,
    table: CodeTable,
    cache_key: dict[str, Any],
    batch_size: int,
    keep_broken: bool,
) -> Codes:
    """The table, computed and written."""
    source = data.open(split, model.value_range)
    chunks = table.chunks(cache_key)

    def encode_rows(rows: range, advance: Advance) -> Arrays:
        pieces, why = [], []
        with batches(
            source,
            size=model.arch.image_shape[:2],
            channels=model.arch.image_shape[2],
            batch_size=batch_size,
            indices=rows,
            workers=data.workers,
            max_broken=data.max_broken,
        ) as some:
            for batch in some:
                z = np.array(model.encode(batch["image"]))
                z[~batch["mask"]] = np.nan
                real = batch["index"] >= 0  # the last batch is filled up
                pieces.append(z[real])
                advance(int(real.sum()))
            why = [some.broken.get(source.where(i), "") for i in rows]
        return {"z": np.concatenate(pieces), "why": np.array(why, str)}

    found = chunks.joined(len(source), encode_rows, f"encode {source.name}")
    where = np.array([source.where(i) for i in range(len(source))])
    labels = np.asarray(source.labels, np.float32)
    bad = found["why"] != ""
    broken = np.stack([where[bad].astype(str), found["why"][bad]], axis=1)
    path = np.array([source.path(i) for i in range(len(source))])
    codes = Codes(
        found["z"],
        labels,
        tuple(source.attributes),
        where,
        broken,
        path,
        source.group,
        source.split_of,
    )
    codes = codes if keep_broken else codes.without_broken()
    table.write(codes, cache_key)
    chunks.remove()
    return codes


def statistics(codes: Codes) -> dict[str, np.ndarray]:
    """Mean and standard deviation of z, by which it is normalised: {"mean": [d], "std": [d]}."""
    mean, std = latent.statistics(codes.without_broken().z)
    return {"mean": mean, "std": np.maximum(std, SMALLEST_STD)}
