"""Linear probes of z, or of any features: classification and regression of attributes.

A label of two or more classes is read by logistic regression, a number by ridge regression and by
ordinary least squares. All that is fitted, the penalty too, is fitted on the training side;
intervals and p-values are of the test side, by whole groups (such as patients) where there are
groups. Scores of a model are scikit-learn's; those of many resamples at once are computed here, to
the same numbers.
"""

import abc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pdae_jax.data.label_table import categories

C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of logistic regression
ALPHA = (0.1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5)  # of ridge regression
UNCHOSEN_C, UNCHOSEN_ALPHA = 0.1, 10.0  # where too few pictures are there to choose
# The penalty stands beside a sum over pictures, so that its best value hardly depends on their
# number, and is chosen on a few.
MOST_CHOOSING, CHOOSING_FOLDS = 1000, 3
MOST_FOLDED = 10_000
MOST_ORDINARY = 1024  # numbers a picture, of which least squares takes seconds
FEWEST = 10  # values of a number, on either side

ERRORS = ("mse", "rmse", "mae")  # less is better; in units of the number or their square
ORDINARY = "_ordinary"  # ends the names of the scores of ordinary least squares

Rows = Int[np.ndarray, " _"]
Groups = np.ndarray | None  # of str, [N] or, without groups, [0]


class Score(NamedTuple):
    """One number on held-out data, with a bootstrap interval (95 %).

    None where it is not determined, or has no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


class Probed(NamedTuple):
    """One attribute, read from one kind of features.

    kind: "class" (yes or no) and "classes" have ap, auroc and balanced_accuracy, of classes their
    means over each class against the rest; "number" has r2, r, mse, rmse and mae of ridge
    regression, and the same with ORDINARY of ordinary least squares.
    positives: the share of yes, the mean, or the share of the commonest class, in training.
    chance: what guessing would score. p: of the permutation test. penalty: the chosen one.
    rows: how many pictures of known label trained and tested. resampled: each score on every
    bootstrap resample; the same resamples for all features of the same pictures.
    """

    attribute: str
    kind: str
    positives: float
    scores: dict[str, Score]
    chance: dict[str, float] = {}
    p: float | None = None
    penalty: float | None = None
    classes: tuple[str, ...] = ()
    rows: tuple[int, int] = (0, 0)
    resampled: dict[str, np.ndarray] = {}


class Target(NamedTuple):
    """What one probe reads: y [N], NaN where not known; of "classes" the class's number."""

    name: str
    kind: str
    y: np.ndarray
    classes: tuple[str, ...] = ()


class Folded(NamedTuple):
    """A score over folds: the mean and standard deviation of those that have it."""

    mean: float
    std: float | None
    folds: int


# Labels.


def targets(attributes: Sequence[str], labels: Float[np.ndarray, "N A"]) -> list[Target]:
    """The labels as what probes read, in the order of their columns.

    Columns `attribute=class` of one attribute are one label of classes, known where one of them is
    1 and the others 0. Of the others, 0 and 1 alone make a class, other values a number.
    """
    grouped = categories(attributes)
    member = {k: name for name, columns in grouped.items() for k in columns}
    found = []
    for k, name in enumerate(attributes):
        y = labels[:, k].astype(np.float64)
        if k not in member:
            binary = set(np.unique(y[np.isfinite(y)])) <= {0.0, 1.0}
            found.append(Target(name, "class" if binary else "number", y))
        elif k == grouped[member[k]][0]:
            columns = grouped[member[k]]
            some = labels[:, columns]
            known = np.isin(some, (0, 1)).all(1) & (some.sum(1) == 1)
            y = np.where(known, some.argmax(1), np.nan)
            classes = tuple(attributes[c].partition("=")[2] for c in columns)
            found.append(Target(member[k], "classes", y, classes))
    return found


class _Side(NamedTuple):
    """The rows of a target that are known and of classes that both sides have."""

    rows: Rows
    y: np.ndarray


def _sides(target: Target, n: int, fewest: int = FEWEST) -> tuple[_Side, _Side, tuple[str, ...]]:
    """The first n rows to train, the others to test, and the classes; ValueError says why not."""
    y, classes = target.y, target.classes
    of = [np.flatnonzero(np.isfinite(y[:n])), n + np.flatnonzero(np.isfinite(y[n:]))]
    if target.kind == "number":
        if min(map(len, of)) < fewest:
            raise ValueError(f"{len(of[0])} training and {len(of[1])} held-out values are known")
        if any(np.ptp(y[rows]) == 0 for rows in of):
            raise ValueError("it has one value alone, among the training or the held-out pictures")
    else:
        shared = np.intersect1d(y[of[0]], y[of[1]])
        if len(shared) < 2:
            raise ValueError("fewer than two classes have training and held-out pictures")
        of = [rows[np.isin(y[rows], shared)] for rows in of]
        if target.kind == "classes":
            classes = tuple(classes[int(k)] for k in shared)
            y = np.where(np.isfinite(y), np.searchsorted(shared, y), np.nan)
    train, test = (_Side(rows - start, y[rows]) for rows, start in zip(of, (0, n)))
    return train, test, classes


def left_out(
    train_labels: Float[np.ndarray, "train A"],
    test_labels: Float[np.ndarray, "test A"],
    attributes: Sequence[str],
) -> dict[str, str]:
    """Why an attribute cannot be probed, for those that cannot."""
    why = {}
    for target in targets(attributes, np.concatenate([train_labels, test_labels])):
        try:
            _sides(target, len(train_labels))
        except ValueError as error:
            why[target.name] = str(error)
    return why


# The probe.


def probe(
    train: Float[np.ndarray, "train d"],
    train_labels: Float[np.ndarray, "train A"],
    test: Float[np.ndarray, "test d"],
    test_labels: Float[np.ndarray, "test A"],
    attributes: Sequence[str],
    *,
    train_groups: Groups = None,
    test_groups: Groups = None,
    bootstrap: int = 1000,
    permutations: int = 1000,
    seed: int = 0,
) -> list[Probed]:
    """Fits a linear model of each attribute on train features and scores it on test features.

    labels: NaN where not known; `targets` says what is made of them. groups: such as the patient
    of each picture; whole groups are resampled, permuted, and divided to choose the penalty.
    Attributes with fewer than two classes (or ten values) on either side are left out, and so are
    classes that one side lacks.
    """
    n = len(train)
    x, x_test = _prepared(train, test)
    unit, test_unit = _units(train_groups, n), _units(test_groups, len(test))
    counts = _resampled(test_unit, bootstrap, np.random.default_rng(seed))
    found = []
    for target in targets(attributes, np.concatenate([train_labels, test_labels])):
        try:
            here, there, classes = _sides(target, n)
        except ValueError:
            continue
        model = _fit(target.kind, x[here.rows], here.y, unit[here.rows], seed)
        predicted = model.on(x_test[there.rows], there.y)
        units = test_unit[there.rows]
        pieces = [predicted.weighted(weights) for weights in _weights(counts, units)]
        values = predicted.scores()
        resampled = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        scores = {
            name: _score(value, resampled.get(name, np.zeros(0))) for name, value in values.items()
        }
        positives = here.y.mean()
        if target.kind == "classes":
            positives = np.bincount(here.y.astype(int)).max() / len(here.y)
        one = Probed(target.name, target.kind, float(positives), scores, classes=classes)
        found.append(
            one._replace(
                chance=predicted.chance(),
                p=_p_value(predicted, units, permutations, np.random.default_rng([seed, 1])),
                penalty=model.penalty,
                rows=(len(here.y), len(there.y)),
                resampled=resampled,
            )
        )
    return found


def mean_scores(found: list[Probed]) -> dict[str, float]:
    """The mean of each score over the attributes that have it; not of errors, which have units."""
    return {name: score.value for name, score in means(found).items() if score.value is not None}


def means(found: list[Probed]) -> dict[str, Score]:
    """As `mean_scores`, with bootstrap intervals: of the same resamples for all attributes."""
    result = {}
    for name in dict.fromkeys(name for one in found for name in one.scores):
        having = [one for one in found if name in one.scores]
        values = [v for one in having if (v := one.scores[name].value) is not None]
        if values and name.removesuffix(ORDINARY) not in ERRORS:
            samples = [one.resampled[name] for one in having if one.scores[name].value is not None]
            result[name] = _score(float(np.mean(values)), np.mean(samples, 0))
    return result


def differences(found: list[Probed], others: list[Probed]) -> list[Probed]:
    """Scores minus those of the same attributes from other features of the same pictures.

    Their intervals are paired: each resample is of the same pictures for both.
    """
    by_name, result = {other.attribute: other for other in others}, []
    for one in found:
        if one.attribute not in by_name:
            continue
        other, scores, resampled = by_name[one.attribute], {}, {}
        for name in one.scores:
            a, b = one.scores[name].value, other.scores[name].value
            if a is not None and b is not None:
                resampled[name] = one.resampled[name] - other.resampled[name]
                scores[name] = _score(a - b, resampled[name])
        result.append(one._replace(scores=scores, resampled=resampled, chance={}, p=None))
    return result


def adjusted(found: list[Probed]) -> dict[str, float]:
    """Each attribute's p-value adjusted for their number (Benjamini and Hochberg): its q-value."""
    known = {one.attribute: one.p for one in found if one.p is not None}
    return dict(zip(known, map(float, false_discovery_control(list(known.values())))))


# Cross-validation.


def divisions(
    labels: Float[np.ndarray, "N A"],
    attributes: Sequence[str],
    *,
    groups: Groups = None,
    folds: int = 5,
    seed: int = 0,
) -> list[tuple[Rows, Rows]]:
    """Rows to train and to test, for each fold: no group is on both sides.

    One division serves all attributes and features. It is stratified by all the classes of a
    picture at once, those of fewer pictures than folds taken together. Of more than MOST_FOLDED
    pictures a random sample, of whole groups, is divided. Fewer groups make fewer folds.
    """
    unit = _units(groups, len(labels))
    rows = _sample(unit, MOST_FOLDED, np.random.default_rng(seed))
    of = [t.y[rows] for t in targets(attributes, labels) if t.kind != "number"]
    strata = np.zeros(len(rows), int)
    if of:
        _, strata, counts = np.unique(
            np.nan_to_num(np.stack(of, 1), nan=-1), axis=0, return_inverse=True, return_counts=True
        )
        strata = strata.ravel()
        strata = np.where(counts[strata] < folds, -1, strata)
    return [(rows[a], rows[b]) for a, b in _splits(strata, unit[rows], folds, seed)]


def cross_validate(
    features: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    labels: Float[np.ndarray, "N A"],
    attributes: Sequence[str],
    folds: Sequence[tuple[Rows, Rows]],
    *,
    groups: Groups = None,
    seed: int = 0,
) -> dict[str, dict[str, Folded]]:
    """Scores over folds, {attribute: {score: over folds}}.

    features(rows to train, rows to test): both sides' features, so that whatever is fitted to make
    them sees the training side alone. Classes of fewer groups than folds are left out, if two
    others remain. A fold has no score of a label of which it lacks a class on one side, or has
    fewer than ten values to train or three to test.
    """
    unit = _units(groups, len(labels))
    chosen = targets(attributes, labels)
    classes = {t.name: _foldable(t.y, unit, len(folds)) for t in chosen if t.kind != "number"}
    values: dict[str, dict[str, list[float]]] = {}
    for train, test in folds:
        if np.intersect1d(unit[train], unit[test]).size:
            raise ValueError("a group is on both sides of a fold")
        x, x_test = _prepared(*features(train, test))
        for target in chosen:
            y, y_test = target.y[train], target.y[test]
            here, there = np.isfinite(y), np.isfinite(y_test)
            if target.kind == "number":
                lacks = here.sum() < FEWEST or there.sum() < 3 or np.ptp(y_test[there]) == 0
            else:
                of = classes[target.name]
                here, there = np.isin(y, of), np.isin(y_test, of)
                y, y_test = (np.searchsorted(of, side).astype(float) for side in (y, y_test))
                some = min(len(np.unique(y[here])), len(np.unique(y_test[there])))
                lacks = some < max(2, len(of))
            if lacks:
                continue
            model = _fit(target.kind, x[here], y[here], unit[train][here], seed)
            scores = model.on(x_test[there], y_test[there]).scores()
            for name, value in scores.items():
                if value is not None:
                    values.setdefault(target.name, {}).setdefault(name, []).append(value)
    return {
        attribute: {name: _folded(list_of) for name, list_of in scores.items()}
        for attribute, scores in values.items()
    }


def _foldable(y: np.ndarray, unit: np.ndarray, folds: int) -> np.ndarray:
    """The classes of at least as many groups as folds; all, where fewer than two are."""
    classes = np.unique(y[np.isfinite(y)])
    many = [len(np.unique(unit[y == one])) >= folds for one in classes]
    return classes[many] if sum(many) > 1 else classes


def _folded(values: list[float]) -> Folded:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Folded(float(np.mean(values)), std, len(values))


def _splits(
    strata: Int[np.ndarray, " n"], unit: Int[np.ndarray, " n"], folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train and test for each fold: by group where there are groups, else by picture."""
    units = len(np.unique(unit))
    several = len(np.unique(strata)) > 1
    folds = min(folds, units, np.unique(strata, return_counts=True)[1].max(initial=0))
    if folds < 2:
        return []
    grouped = units < len(unit)
    kind = {
        (True, True): StratifiedGroupKFold,
        (True, False): StratifiedKFold,
        (False, True): GroupKFold,
        (False, False): KFold,
    }[several, grouped]
    with warnings.catch_warnings(action="ignore"):  # of classes of fewer pictures than folds
        splits = kind(folds, shuffle=True, random_state=seed).split(unit, strata, unit)
        return [(a, b) for a, b in splits if len(a) and len(b)]


# Models.


def _prepared(
    train: Float[np.ndarray, "train d"], test: Float[np.ndarray, "test d"]
) -> tuple[Float[np.ndarray, "train k"], Float[np.ndarray, "test k"]]:
    """Features of mean 0 and standard deviation 1 over the training side, in few numbers."""
    scaler = StandardScaler().fit(train)
    x, x_test = _shortened(*(np.asarray(scaler.transform(side)) for side in (train, test)))
    return x, x_test


def _shortened(
    x: Float[np.ndarray, "n d"], *others: Float[np.ndarray, "_ d"]
) -> tuple[np.ndarray, ...]:
    """Features of many more numbers than pictures, rotated into the n dimensions x spans.

    A linear model with a penalty |w|² has w in that span: it is the same model.
    """
    if x.shape[1] <= 2 * len(x):
        return (x, *others)
    basis = np.linalg.qr(x.T)[0]
    return tuple(side @ basis for side in (x, *others))


class _Model(NamedTuple):
    """A fitted model; penalty: the chosen one. on: its predictions from features, beside y."""

    penalty: float
    on: Callable[[np.ndarray, np.ndarray], "_Predicted"]


@threadpool_limits.wrap(limits=1)  # a second thread waits more than it works on so little
def _fit(
    kind: str,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    unit: Int[np.ndarray, " n"],
    seed: int,
) -> _Model:
    """A model of y, its penalty chosen by cross-validation of x and y."""
    if kind == "number":
        return _fit_number(x.astype(np.float64), y, unit, seed)
    labels = y.astype(int)
    penalty = _chosen(LogisticRegression(max_iter=2000), x, labels, unit, seed)
    model = LogisticRegression(C=penalty, max_iter=2000).fit(x, labels)
    shares = np.bincount(labels) / len(labels)

    def on(x: np.ndarray, y: np.ndarray) -> _Predicted:
        # The class called is the one made most likelier than its share: at the share itself as the
        # threshold, rare classes are called too.
        x = x.astype(np.float64)
        if kind == "class":
            odds = model.decision_function(x)
            called = odds > np.log(shares[1] / shares[0])
            return _PredictedClasses(y, odds[:, None], called.astype(int), (1,))
        p = model.predict_proba(x)
        return _PredictedClasses(y, p, (p / shares).argmax(1), tuple(range(len(shares))))

    return _Model(penalty, on)


def _fit_number(x: np.ndarray, y: np.ndarray, unit: np.ndarray, seed: int) -> _Model:
    penalty = _chosen(Ridge(), x, y, unit, seed)
    ridge = Ridge(penalty).fit(x, y)
    # With d + 1 unknowns, as many pictures are fitted exactly, whatever their labels.
    determined = x.shape[1] + 1 < len(x) and x.shape[1] <= MOST_ORDINARY
    ordinary = LinearRegression().fit(x, y) if determined else None
    return _Model(
        penalty,
        lambda x, y: _PredictedNumber(y, ridge.predict(x), ordinary and ordinary.predict(x)),
    )


def _chosen(
    model: LogisticRegression | Ridge, x: np.ndarray, y: np.ndarray, unit: np.ndarray, seed: int
) -> float:
    """The penalty of the least loss in cross-validation of at most MOST_CHOOSING rows."""
    rows = _sample(unit, MOST_CHOOSING, np.random.default_rng(seed))
    (x,), y, unit = _shortened(x[rows]), y[rows], unit[rows]
    if isinstance(model, LogisticRegression):
        grid, scoring, otherwise = {"C": C}, log_likelihood, UNCHOSEN_C
        splits = [
            (a, b)
            for a, b in _splits(y, unit, CHOOSING_FOLDS, seed)
            if len(np.unique(y[a])) == len(np.unique(y[b])) == len(np.unique(y))
        ]
    else:
        grid, scoring, otherwise = {"alpha": ALPHA}, "neg_mean_squared_error", UNCHOSEN_ALPHA
        splits = _splits(np.zeros(len(y), int), unit, CHOOSING_FOLDS, seed)
    if not splits:
        return otherwise
    search = GridSearchCV(model, grid, scoring=scoring, cv=splits, refit=False).fit(x, y)
    return float(next(iter(search.best_params_.values())))


def log_likelihood(
    model: LogisticRegression, x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"]
) -> float:
    """Of a picture's class, the mean: scikit-learn's "neg_log_loss", in a tenth of its time.

    y: the classes' numbers, of classes that the model was fitted on.
    """
    p = model.predict_proba(x)[np.arange(len(y)), y]
    eps = np.finfo(p.dtype).eps
    return float(np.log(np.clip(p, eps, 1 - eps)).mean())


# Predictions and their scores.


class _Predicted(abc.ABC):
    """Predictions beside the truth."""

    @abc.abstractmethod
    def scores(self) -> Mapping[str, float | None]:
        """Each score; None where it is not determined."""

    @abc.abstractmethod
    def weighted(self, weights: np.ndarray) -> Mapping[str, np.ndarray]:
        """Each score under every row of weights [b, n]; NaN where it lacks a class."""

    @abc.abstractmethod
    def permuted(self, order: np.ndarray) -> np.ndarray:
        """The permutation test's statistic for labels y[order], order [b, n]: [b]."""

    def chance(self) -> dict[str, float]:
        """What guessing scores, where that is a number."""
        return {}


class _PredictedClasses(_Predicted):
    """ranks [n, k]: how likely each picture is of each of the classes `columns`; called [n]."""

    def __init__(
        self, y: np.ndarray, ranks: np.ndarray, called: np.ndarray, columns: tuple[int, ...]
    ):
        self.y, self.ranks, self.called = y.astype(int), ranks, called
        self.columns = columns
        self.hot = self.y[:, None] == np.array(columns)

    def scores(self) -> dict[str, float | None]:
        pairs = list(zip(self.hot.T, self.ranks.T))
        return {
            "ap": float(np.mean([average_precision_score(a, b) for a, b in pairs])),
            "auroc": float(np.mean([roc_auc_score(a, b) for a, b in pairs])),
            "balanced_accuracy": float(balanced_accuracy_score(self.y, self.called)),
        }

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        each = [
            ranked(weights * is_it, weights * ~is_it, ranks)
            for is_it, ranks in zip(self.hot.T, self.ranks.T)
        ]
        with np.errstate(invalid="ignore"):
            recalls = [
                weights @ ((self.y == k) & (self.called == k)) / (weights @ (self.y == k))
                for k in range(self.y.max() + 1)
            ]
        ap, auroc = np.mean(each, 0)
        return {"ap": ap, "auroc": auroc, "balanced_accuracy": np.mean(recalls, 0)}

    def permuted(self, order: np.ndarray) -> np.ndarray:
        y = self.y[order]
        return np.mean(
            [ranked(y == k, y != k, ranks)[1] for k, ranks in zip(self.columns, self.ranks.T)], 0
        )

    def chance(self) -> dict[str, float]:
        share, classes = float(self.hot.mean()), len(np.unique(self.y))
        return {"ap": share, "auroc": 0.5, "balanced_accuracy": 1 / classes}


class _PredictedNumber(_Predicted):
    """ridge, ordinary: predictions [n]; ordinary is None where it is not determined."""

    def __init__(self, y: np.ndarray, ridge: np.ndarray, ordinary: np.ndarray | None):
        self.y, self.ridge = y, ridge
        self.by_name = {"": ridge, ORDINARY: ordinary}

    def scores(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for end, predicted in self.by_name.items():
            if predicted is None:
                found |= {f"{name}{end}": None for name in ("r2", "r", *ERRORS)}
                continue
            mse = float(mean_squared_error(self.y, predicted))
            varies = np.ptp(predicted) > 0
            found |= {
                f"r2{end}": float(r2_score(self.y, predicted)),
                f"r{end}": float(np.corrcoef(self.y, predicted)[0, 1]) if varies else None,
                f"mse{end}": mse,
                f"rmse{end}": mse**0.5,
                f"mae{end}": float(mean_absolute_error(self.y, predicted)),
            }
        return found

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for end, predicted in self.by_name.items():
            if predicted is not None:
                scores = regression_scores(self.y, predicted, weights)
                found |= {f"{name}{end}": values for name, values in scores.items()}
        return found

    def permuted(self, order: np.ndarray) -> np.ndarray:
        y, predicted = self.y - self.y.mean(), self.ridge - self.ridge.mean()
        y = y[order]
        y -= y.mean(1, keepdims=True)  # groups of other sizes have other means
        with np.errstate(invalid="ignore"):
            return y @ predicted / (np.linalg.norm(y, axis=1) * np.linalg.norm(predicted))


def ranked(
    positive: Float[np.ndarray, "b n"] | Bool[np.ndarray, "b n"],
    negative: Float[np.ndarray, "b n"] | Bool[np.ndarray, "b n"],
    ranks: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Average precision and AUROC of ranks, under every row of weights of either class.

    scikit-learn's own, with `sample_weight`; NaN where a class has no weight.
    """
    order = np.argsort(-ranks, kind="stable")
    last = np.append(np.diff(ranks[order]) != 0, True)  # of equal ranks
    hits, misses = (
        np.cumsum(side[:, order], axis=1, dtype=np.float64)[:, last]
        for side in (positive, negative)
    )
    all_hits, all_misses = hits[:, -1], misses[:, -1]
    new_hits, new_misses = (np.diff(side, axis=1, prepend=0.0) for side in (hits, misses))
    precision = hits / np.maximum(hits + misses, np.finfo(float).tiny)
    with np.errstate(invalid="ignore", divide="ignore"):
        ap = (new_hits * precision).sum(1) / all_hits
        auroc = (new_misses * (hits - new_hits / 2)).sum(1) / (all_hits * all_misses)
    return np.where(all_misses > 0, ap, np.nan), auroc


def regression_scores(
    y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], weights: np.ndarray
) -> dict[str, Float[np.ndarray, " b"]]:
    """Scores of a number under every row of weights [b, n]; NaN where all of its values are one."""
    error = predicted - y
    y, predicted = y - y.mean(), predicted - y.mean()
    total = weights.sum(1)
    mean_y, mean_p = weights @ y / total, weights @ predicted / total
    var_y = weights @ y**2 / total - mean_y**2
    var_p = weights @ predicted**2 / total - mean_p**2
    covariance = weights @ (y * predicted) / total - mean_y * mean_p
    mse = weights @ error**2 / total
    varies = var_y > 1e-12 * np.maximum(y.var(), np.finfo(float).tiny)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariance / np.sqrt(var_y * var_p)
        r2 = 1 - mse / var_y
    return {
        "r2": np.where(varies, r2, np.nan),
        "r": np.where(varies & (var_p > 0), r, np.nan),
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": weights @ np.abs(error) / total,
    }


# Resampling, by whole groups.


def _units(groups: Groups, n: int) -> Int[np.ndarray, " n"]:
    """The number of each picture's group; a picture without a group is one of its own."""
    if groups is None or not len(groups):
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups of {n} pictures")
    names, unit = np.unique(groups, return_inverse=True)
    alone = np.isin(groups, [""])
    return np.unique(np.where(alone, len(names) + np.arange(n), unit), return_inverse=True)[1]


def count_groups(groups: Groups, n: int) -> int:
    """How many are resampled: groups, or pictures where they have none."""
    return len(np.unique(_units(groups, n)))


def _sample(unit: Int[np.ndarray, " n"], most: int, rng: np.random.Generator) -> Rows:
    """Rows of random whole groups, at most `most` (or one group), in their order."""
    if len(unit) <= most:
        return np.arange(len(unit))
    _, unit = np.unique(unit, return_inverse=True)
    sizes = np.bincount(unit)
    order = rng.permutation(len(sizes))
    taken = order[np.cumsum(sizes[order]) <= most]
    return np.flatnonzero(np.isin(unit, taken if len(taken) else order[:1]))


def _resampled(
    unit: Int[np.ndarray, " n"], bootstrap: int, rng: np.random.Generator
) -> Int[np.ndarray, "B units"]:
    """How often each group is drawn, in every resample."""
    units = int(unit.max(initial=-1)) + 1
    return rng.multinomial(units, np.full(units, 1 / units), size=bootstrap)


def _weights(
    counts: Int[np.ndarray, "B units"], unit: Int[np.ndarray, " n"]
) -> Iterator[Float[np.ndarray, "b n"]]:
    """How often each picture is drawn, a few resamples at a time; at least once, if of none."""
    some = _at_a_time(len(unit))
    for start in range(0, max(len(counts), 1), some):
        yield counts[start : start + some, unit].astype(np.float64)


def _orders(
    unit: Int[np.ndarray, " n"], permutations: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "b n"]]:
    """Permutations, a few at a time, that hand whole groups' labels to other groups.

    Each group receives the labels of another, in a random order, from the start again where that
    one is smaller. Without groups, or where a group has one label, that is a permutation of
    pictures, or of groups.
    """
    _, unit = np.unique(unit, return_inverse=True)
    sizes = np.bincount(unit)
    starts = np.cumsum(sizes) - sizes
    shuffled = rng.permutation(len(unit))
    by_group = shuffled[np.argsort(unit[shuffled], kind="stable")]
    place = np.empty(len(unit), int)
    place[by_group] = np.arange(len(unit)) - starts[unit[by_group]]
    some = _at_a_time(len(unit))
    for start in range(0, permutations, some):
        b = min(some, permutations - start)
        of = rng.permuted(np.tile(np.arange(len(sizes)), (b, 1)), axis=1)[:, unit]
        turn = rng.integers(0, len(unit), (b, len(sizes)))[:, unit]
        yield by_group[starts[of] + (place + turn) % sizes[of]]


def _p_value(
    predicted: _Predicted, unit: np.ndarray, permutations: int, rng: np.random.Generator
) -> float | None:
    """The share of permutations, the one at hand among them, that do as well (Phipson and Smyth
    2010); None without permutations, or where the statistic is not determined."""
    at_hand = predicted.permuted(np.arange(len(unit))[None])[0]
    if not permutations or not np.isfinite(at_hand):
        return None
    as_good = sum(
        int((predicted.permuted(order) >= at_hand - 1e-12).sum())
        for order in _orders(unit, permutations, rng)
    )
    return (1 + as_good) / (1 + permutations)


def _at_a_time(n: int) -> int:
    return max(1, 2_000_000 // max(n, 1))


def _score(value: float | None, samples: np.ndarray) -> Score:
    """A value with the middle 95 % of its resamples; those without a score do not count.

    Where they are more than half, there is no interval.
    """
    if value is None or not np.isfinite(value):
        return Score(None)
    finite: Any = samples[np.isfinite(samples)]
    if not len(finite) or 2 * len(finite) < len(samples):
        return Score(float(value))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Score(float(value), float(low), float(high))
