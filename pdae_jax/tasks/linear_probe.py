"""Linear probes of z, or of any features: classification and regression of attributes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


class Score(NamedTuple):
    """One number on held-out data, with a bootstrap interval (95 %)."""

    value: float
    low: float
    high: float


class Probed(NamedTuple):
    """One attribute: kind "class" has ap and auroc, "number" has r and mse."""

    attribute: str
    kind: str
    positives: float  # share, or the mean
    scores: dict[str, Score]


def probe(
    train: Float[np.ndarray, "train d"],
    train_labels: Float[np.ndarray, "train A"],
    test: Float[np.ndarray, "test d"],
    test_labels: Float[np.ndarray, "test A"],
    attributes: Sequence[str],
    *,
    bootstrap: int = 200,
    seed: int = 0,
) -> list[Probed]:
    """Fits a linear model of each attribute on train features and scores it on test features.

    labels: NaN where not known; 0 and 1 alone make a classification, other numbers a
    regression. Attributes with fewer than two classes (or ten values) on either side are left out.
    """
    found = []
    for k, name in enumerate(attributes):
        sides = [
            (x[np.isfinite(y[:, k])], y[np.isfinite(y[:, k]), k])
            for x, y in ((train, train_labels), (test, test_labels))
        ]
        (x, y), (x_test, y_test) = sides
        binary = set(np.unique(np.concatenate([y, y_test]))) <= {0.0, 1.0}
        if binary and all(len(np.unique(side)) == 2 for side in (y, y_test)):
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            predicted = model.fit(x, y).decision_function(x_test)
            measures = {"ap": average_precision_score, "auroc": roc_auc_score}
        elif not binary and min(len(y), len(y_test)) >= 10:
            predicted = make_pipeline(StandardScaler(), Ridge()).fit(x, y).predict(x_test)
            measures = {
                "r": lambda a, b: np.corrcoef(a, b)[0, 1],
                "mse": lambda a, b: np.mean((a - b) ** 2),
            }
        else:
            continue
        scores = {
            name: _interval(measure, y_test, predicted, bootstrap, seed)
            for name, measure in measures.items()
        }
        found.append(Probed(name, "class" if binary else "number", float(y.mean()), scores))
    return found


def _interval(
    measure: Callable[[np.ndarray, np.ndarray], float],
    y: Float[np.ndarray, " test"],
    predicted: Float[np.ndarray, " test"],
    bootstrap: int,
    seed: int,
) -> Score:
    rng, values = np.random.default_rng(seed), []
    for _ in range(bootstrap):
        rows = rng.integers(0, len(y), len(y))
        if len(np.unique(y[rows])) > 1:
            values.append(measure(y[rows], predicted[rows]))
    low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    return Score(float(measure(y, predicted)), float(low), float(high))


def mean_scores(found: list[Probed]) -> dict[str, float]:
    """The mean of each score over attributes."""
    names = dict.fromkeys(name for one in found for name in one.scores)
    return {
        name: float(np.mean([one.scores[name].value for one in found if name in one.scores]))
        for name in names
    }
