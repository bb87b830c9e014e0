"""Few-shot classifiers on z: from n labelled pictures, or n positives among unlabelled ones."""

import numpy as np
from sklearn.linear_model import LogisticRegression


def few_shot_classifier(z, y, *, unlabelled=None) -> dict:
    """A linear classifier p(y|z) on normalised z -> {"kernel": [d], "bias": number}.

    z: [N, d] with y [N], 1 and 0. unlabelled: [M, d] taken for negatives (PU); then y must be all 1.
    Each class weighs as much as the other, as oversampling the rarer would have it.
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
    labels, n_positive: int, n_negative: int = 0, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Seeded rows for a few-shot classifier from labels [N] of one attribute: (chosen, the rest).

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
