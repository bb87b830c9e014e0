"""Few-shot classifiers on z: from n labelled pictures, or n positives among unlabelled ones."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression

from pdae_jax.arrays import Array
from pdae_jax.runtime.choices import nearest
from pdae_jax.workdir.code_table import Codes


def few_shot_classifier(
    z: Float[Array, "N d"],
    y: Float[Array, " N"],
    *,
    unlabelled: Float[Array, "M d"] | None = None,
) -> dict[str, Any]:
    """A linear classifier p(y|z) on normalised z -> {"kernel": [d], "bias": number}.

    y: 1 and 0. unlabelled: codes taken for negatives (PU); then all y must be 1. Each class weighs
    as much as the other, as oversampling the rarer would have it.
    """
    z, y = np.asarray(z), np.asarray(y).astype(int)
    if unlabelled is not None:
        if not y.all():
            raise ValueError("with unlabelled codes every labelled one must be positive")
        z, y = np.concatenate([z, unlabelled]), np.append(y, np.zeros(len(unlabelled), int))
    if len(np.unique(y)) < 2:
        raise ValueError(
            f"a classifier needs both classes, got {len(y)} labels that are all "
            f"{y[0] if len(y) else 'missing'}"
        )
    model = LogisticRegression(class_weight="balanced", max_iter=2000).fit(z, y)
    return {"kernel": model.coef_[0].astype(np.float32), "bias": float(model.intercept_[0])}


def choose_shots(
    labels: Float[np.ndarray, " N"], n_positive: int, n_negative: int = 0, *, seed: int = 0
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    """Random rows for a few-shot classifier from labels of one attribute: (chosen, the rest).

    The chosen are n positives, then n negatives. ValueError where there are too few.
    """
    rng = np.random.default_rng([seed, 4])
    rows = []
    for value, n, what in ((1, n_positive, "positive"), (0, n_negative, "negative")):
        there = np.flatnonzero(np.asarray(labels) == value)
        if len(there) < n:
            raise ValueError(f"{n} {what} examples are wanted and there are {len(there)}")
        rows.append(rng.permutation(there)[:n])
    chosen = np.concatenate(rows)
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def fit(
    labelled: Codes,
    unlabelled: Codes,
    attribute: str,
    n_positive: int,
    n_negative: int,
    n_unlabelled: int = 0,
    *,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The classifier of some positives and negatives or, with unlabelled codes, the PU one.

    labelled, unlabelled: normalised codes to choose from, perhaps the same table. n_positive,
    n_negative: 0 for all there are; n_unlabelled: taken for negatives, and then no labelled ones
    are. -> the classifier, and a record of its labels. Raises ValueError with the nearest names
    where there is no such attribute, and where there are too few labels.
    """
    if not labelled.attributes:
        raise ValueError("the pictures have no attributes: give a table of them, FILE.csv")
    name = nearest(attribute, labelled.attributes, "attribute")
    y = labelled.labels[:, labelled.attributes.index(name)]
    positives = n_positive or int((y == 1).sum())
    negatives = 0 if n_unlabelled else n_negative or int((y == 0).sum())
    chosen, rest = choose_shots(y, positives, negatives, seed=seed)
    more = None
    if n_unlabelled:
        if unlabelled is not labelled:
            rest = np.flatnonzero(~np.isin(unlabelled.where, labelled.where[chosen]))
        if len(rest) < n_unlabelled:
            raise ValueError(
                f"{n_unlabelled} unlabelled examples are wanted and there are {len(rest)}"
            )
        rows = np.random.default_rng([seed, 5]).permutation(rest)[:n_unlabelled]
        more = unlabelled.z[rows]
    classifier = few_shot_classifier(labelled.z[chosen], y[chosen], unlabelled=more)
    record = {
        "attribute": name,
        "labelled": len(chosen),
        "positives": int((y[chosen] == 1).sum()),
        "unlabelled": n_unlabelled,
        "seed": seed,
    }
    return classifier, record
