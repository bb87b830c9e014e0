"""Attributes by linear models from z, from pixels and from principal components."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result
from pdae_jax.commands.options import Seed
from pdae_jax.data.pipeline import batches
from pdae_jax.pages.page import Section, Table

with epy.lazy_imports():  # --help needs neither JAX nor scikit-learn
    from sklearn import decomposition

    from pdae_jax.tasks import linear_probe

MOST_PIXELS = 2 * 10**8  # of a split, held in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Seed):
    pass


def run(context: Context[Options]) -> Result:
    """Probes fitted on the run's training pictures and scored on its held-out ones."""
    data = context.run_data
    if data and not data.open("train").attributes:
        raise ValueError(
            "the data has no attributes to probe: give a table of them when training, "
            "--config.data.attributes=FILE.csv"
        )
    train, test = context.codes("train"), context.codes("test")
    features = {"z": (train.z, test.z)}
    pixels = [pixels_of(context, split) for split in ("train", "test")]
    if pixels[0] is not None and pixels[1] is not None:
        most = min(train.z.shape[1], *pixels[0].shape)
        pca = decomposition.PCA(most, random_state=0).fit(pixels[0])
        features["pixels"] = (pixels[0], pixels[1])
        features["principal components"] = (pca.transform(pixels[0]), pca.transform(pixels[1]))
    found = {
        name: linear_probe.probe(
            a, train.labels, b, test.labels, train.attributes, seed=context.options.seed
        )
        for name, (a, b) in features.items()
    }
    means = {name: linear_probe.mean_scores(one) for name, one in found.items()}
    names = list(dict.fromkeys(key for mean in means.values() for key in mean))
    table = Table(
        ["features", *names],
        [[name, *(mean.get(n, float("nan")) for n in names)] for name, mean in means.items()],
        caption=f"Linear models fitted on {len(train.z):,} training pictures, scored on "
        f"{len(test.z):,} held-out ones; means over attributes.",
    )
    rows = [
        [one.attribute, f"{one.positives:.3g}", *(interval(one.scores.get(n)) for n in names)]
        for one in found["z"]
    ]
    by_attribute = Table(
        ["attribute", "share", *names], rows, caption="From z, with 95 % bootstrap intervals."
    )
    scores = {one.attribute: {n: s._asdict() for n, s in one.scores.items()} for one in found["z"]}
    numbers = {"means": means, "attributes": scores}
    return Result([Section("Probes", [table, by_attribute])], numbers)


def interval(score: "linear_probe.Score | None") -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" if score else ""


def pixels_of(context: Context[Options], split: str) -> np.ndarray | None:
    """A split's pictures as rows of pixels, [N, H W C]; None where that is too much memory."""
    data, shape = context.run_data, context.model.arch.image_shape
    if data is None:
        return None
    source = data.open(split)
    if len(source) * int(np.prod(shape)) > MOST_PIXELS:
        return None
    with batches(
        source, size=shape[:2], channels=shape[2], batch_size=256, max_broken=data.max_broken
    ) as some:
        rows = [batch["image"][batch["mask"]].reshape(batch["mask"].sum(), -1) for batch in some]
    return np.concatenate(rows).astype(np.float32) / 255
