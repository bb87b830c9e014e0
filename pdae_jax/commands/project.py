"""z in two dimensions, each picture a point: principal components and UMAP."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, say_once
from pdae_jax.commands.options import Labelled, Page, Precision, Seed, option
from pdae_jax.data.source import Source, binary
from pdae_jax.pages.page import Part, Scatter, Section, Text
from pdae_jax.pages.scatter import COLOURED, Colouring, Plane

with epy.lazy_imports():  # --help needs neither JAX nor scikit-learn
    from pdae_jax import latent
    from pdae_jax.tasks import encoding, projection
    from pdae_jax.workdir import code_files, code_table

THUMBNAIL = 32  # pixels, at most
SAID = 6  # labels beside a picture
NO_UMAP = "There is no UMAP, which needs umap-learn: `pip install 'pdae_jax[umap]'` brings it."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Labelled, Seed):
    n: int = option(1000, "points at most, taken evenly from all", at_least=3, at_most=5000)


def run(context: Context[Options]) -> Result:
    """Points of the run's held-out pictures, or of given ones, coloured by each of their labels.

    A picture is shown beside its point. z is normalised first.
    """
    options, source = context.options, context.source()
    taken = projection.take(context.model, context.data(), source, options.n, THUMBNAIL)
    if not projection.umap_is_there():
        say_once(NO_UMAP.replace("`", ""))
    found = map_of(context, source, taken, options.seed)
    context.output.write_csv("project", found.table)
    headline = {
        "pictures": found.numbers["pictures"],
        "share of variance in 2 components": sum(found.numbers["variance"].values()),
    }
    return Result([Section("z in two dimensions", found.parts)], found.numbers, headline=headline)


class Map(NamedTuple):
    """The parts of a page, a row for each point, and numbers."""

    parts: list[Part]
    table: list[dict[str, Any]]
    numbers: dict[str, Any]


def map_of(context: Context[Any], source: Source, taken: "projection.Taken", seed: int = 0) -> Map:
    """Taken pictures as points of z, in principal components and UMAP where it is installed."""
    statistics, by = statistics_of(context, taken.z)
    z = np.asarray(latent.normalise(statistics, taken.z))
    planes, shares = planes_of(z, seed)
    columns = {
        f"{plane.name.lower()}_{k + 1}": plane.points[:, k] for plane in planes for k in range(2)
    }
    without = ""
    if len(z) < projection.LEAST_OF_UMAP:
        without = f"There is no UMAP of fewer than {projection.LEAST_OF_UMAP} pictures."
    elif len(planes) == 1:
        without = NO_UMAP
    colourings, words = described(source, taken.places)
    scatter = Scatter(
        planes,
        colourings or [one_colour(len(z))],
        words,
        taken.thumbnails,
        f"Each point is a picture: {len(z):,} of {len(source):,}, "
        f"{'all that can be read' if taken.all else 'taken evenly'}. A point under "
        f"the pointer, tapped or reached by Tab and the arrow keys shows its picture. {by}",
    )
    text = (
        "PCA is a straight view of z, in the two directions in which it varies most; "
        "distances in it are true to those directions, and blind to all others."
    )
    if len(planes) > 1:
        text += (
            " UMAP keeps who is near to whom, in all directions; how far groups stand apart, how "
            "large they are, and its axes mean nothing."
        )
    parts: list[Part] = [Text(text), scatter]
    parts += [Text(without)] if without else []
    numbers = {
        "pictures": len(z),
        "of": len(source),
        "variance": {"1": float(shares[0]), "2": float(shares[1])},
        "umap": len(planes) > 1,
        "coloured_by": [one.name for one in colourings],
    }
    return Map(parts, table_of([path for path, _ in words], columns), numbers)


def planes_of(z: np.ndarray, seed: int = 0) -> tuple[list[Plane], np.ndarray]:
    """Principal components of normalised z, and UMAP where it can be; the components' shares."""
    points, shares = projection.principal(z)
    axes = [f"component {k + 1}, {share:.1%} of the variance" for k, share in enumerate(shares)]
    planes = [Plane("PCA", points, *axes)]
    if len(z) >= projection.LEAST_OF_UMAP and projection.umap_is_there():
        planes.append(Plane("UMAP", projection.umap(z, seed), "UMAP 1", "UMAP 2"))
    return planes, shares


def one_colour(n: int) -> Colouring:
    """Of points of which nothing is known."""
    return Colouring("none", np.zeros(n, int), ["pictures"])


def described(source: Source, places: np.ndarray) -> tuple[list[Colouring], list[tuple[str, str]]]:
    """What pictures of a source are coloured by, and of each its path and what is known of it."""
    labels = np.asarray(source.labels, np.float32)[places]
    paths = [source.path(int(place)) for place in places]
    words = list(zip(paths, words_of(source.attributes, labels)))
    return colourings_of(source, labels, places), words


def statistics_of(context: Context[Any], z: np.ndarray) -> "tuple[latent.Statistics, str]":
    """By which z is normalised, and that in words: the training pictures', or its own."""
    if context.workdir.trained_on or "statistics" in context.model.params:
        statistics = context.statistics()
        words = "z is normalised by the training pictures' mean and standard deviation."
    else:
        own = code_table.Codes(z, z[:, :0], (), np.zeros(len(z), str))
        statistics = encoding.statistics(own)
        words = (
            "z is normalised by these pictures' own mean and standard deviation, as the model was "
            "imported without its training pictures'."
        )
    return statistics, words


def colourings_of(source: Source, labels: np.ndarray, index: np.ndarray) -> list[Colouring]:
    """What the points are coloured by: labels of several classes, of two, numbers; split, groups.

    Labels without a value here, or of one value alone, and more than `COLOURED` groups are left
    out.
    """
    attributes = list(source.attributes)
    found = [
        Colouring(column, which, values)
        for column, (values, which) in code_files.classes(attributes, labels).items()
    ]
    grouped = {f"{one.name}={name}" for one in found for name in one.names}
    two = binary(labels)
    alone = [k for k in two if attributes[k] not in grouped]
    if len(alone) > 2 and (labels[:, alone].sum(1) == 1).all():  # such as the ten digits
        which = labels[:, alone].argmax(1)
        found.append(Colouring("label", which, [attributes[k] for k in alone]))
    for k, name in enumerate(attributes):
        values = labels[:, k]
        if name in grouped or len(np.unique(values[np.isfinite(values)])) < 2:
            continue
        if k in two:
            which = np.where(np.isfinite(values), values, -1).astype(int)
            found.append(Colouring(name, which, ["no", "yes"]))
        else:
            found.append(Colouring(name, values))
    for name, of_each in (("split", source.split_of), ("group", source.group)):
        if len(of_each):
            names, which = np.unique(of_each[index], return_inverse=True)
            if 1 < len(names) <= COLOURED:
                found.append(Colouring(name, which, names.tolist()))
    return found


def words_of(attributes: Sequence[str], labels: np.ndarray) -> list[str]:
    """What is known of each picture: its classes, the labels that it has, and numbers."""
    found: list[list[str]] = [[] for _ in labels]
    classes = code_files.classes(attributes, labels)
    grouped = {f"{column}={name}" for column, (names, _) in classes.items() for name in names}
    for column, (names, which) in classes.items():
        for words, k in zip(found, which):
            words += [f"{column} {names[k]}"] if k >= 0 else []
    two = binary(labels)
    for k, name in enumerate(attributes):
        if name not in grouped:
            for words, value in zip(found, labels[:, k]):
                if k in two:
                    words += [name] if value == 1 else []
                elif np.isfinite(value):
                    words.append(f"{name} {value:.4g}")
    return [", ".join(words[:SAID]) + ", ..." * (len(words) > SAID) for words in found]


def table_of(paths: Sequence[str], columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row for each point, for the CSV file."""
    rows = zip(*(values.tolist() for values in columns.values()))
    return [{"path": path} | dict(zip(columns, row)) for path, row in zip(paths, rows)]
