"""z in two dimensions, to look at: principal components, and UMAP where umap-learn is installed."""

import importlib.util
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.decomposition import PCA

from pdae_jax.data.dataset import Data
from pdae_jax.data.source import Source
from pdae_jax.formats.errors import require
from pdae_jax.model import Model
from pdae_jax.tasks.encoding import batches_for, thumbnails_of

LEAST = 3  # pictures of a projection
LEAST_OF_UMAP = 16
NEIGHBOURS = 15  # of UMAP, its own default

Points = Float[np.ndarray, "N 2"]
Places = Int[np.ndarray, "N"]


class Taken(NamedTuple):
    """Pictures of a source: their places in it, z, thumbnails; whether all that can be read."""

    places: Places
    z: Float[np.ndarray, "N d"]
    thumbnails: UInt8[np.ndarray, "N h w C"]
    all: bool


def take(
    model: Model, data: Data, source: Source, n: int, thumbnail: int, batch_size: int = 64
) -> Taken:
    """At most n pictures, evenly over the source, without the broken ones.

    thumbnail: its largest height or width in pixels. Raises ValueError where fewer than `LEAST`
    are left.
    """
    whole = len(source)
    indices = evenly(n, whole)
    places, z, thumbnails = [], [], []
    with batches_for(model, data, source, indices, batch_size) as some:
        for batch in some:
            mask = batch["mask"]
            places.append(batch["index"][mask])
            z.append(np.asarray(model.encode(batch["image"]))[mask])
            thumbnails.append(thumbnails_of(batch["image"][mask], thumbnail))
    taken = Taken(np.concatenate(places), np.concatenate(z), np.concatenate(thumbnails), whole <= n)
    if len(taken.z) < LEAST:
        raise ValueError(
            f"{source.name} has {len(taken.z)} picture(s) that can be read: a projection needs at "
            f"least {LEAST}"
        )
    return taken


def evenly(n: int, whole: int) -> Places:
    """At most n places of so many, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, whole - 1, min(n, whole)).round().astype(int))


def principal(z: Float[np.ndarray, "N d"]) -> tuple[Points, Float[np.ndarray, "2"]]:
    """The two directions in which z varies most: z along them, and their shares of its variance.

    Where z varies in one direction alone, the second is 0; where in none, both.
    """
    points, shares = np.zeros((len(z), 2)), np.zeros(2)
    if (z != z[0]).any():
        directions, found = components(z, 2)
        points[:, : len(found)] = (z - z.mean(0, dtype=np.float64)) @ directions.T
        shares[: len(found)] = found
    return points, shares


def components(
    z: Float[np.ndarray, "N d"], most: int
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    """At most so many directions in which z varies most, unit vectors, and their shares of it."""
    n, d = z.shape
    found = PCA(min(most, n - 1, d), svd_solver="full").fit(np.asarray(z, np.float64))
    return np.asarray(found.components_), np.asarray(found.explained_variance_ratio_)


def umap_is_there() -> bool:
    """Whether umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None


def umap(z: Float[np.ndarray, "N d"], seed: int = 0) -> Points:
    """UMAP (McInnes et al. 2018): points whose neighbours are those of z, the same for a seed.

    Raises ValueError where there are fewer than `LEAST_OF_UMAP`, and where it is not installed.
    """
    if len(z) < LEAST_OF_UMAP:
        raise ValueError(f"UMAP needs at least {LEAST_OF_UMAP} pictures, got {len(z)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it finds no TensorFlow; that a seed takes one core
        module = require("umap", "umap")
        found = module.UMAP(n_neighbors=NEIGHBOURS, random_state=seed, n_jobs=1)
        return np.asarray(found.fit_transform(z), np.float64)
