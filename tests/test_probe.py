"""Probes: data of known answers, scikit-learn's own numbers, and the tables that they become."""

import io
import re

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    get_scorer,
    roc_auc_score,
)
from sklearn.preprocessing import StandardScaler

from pdae_jax.commands import probe as command
from pdae_jax.tasks import linear_probe
from pdae_jax.tasks.linear_probe import cross_validate, divisions, probe, ranked, targets
from pdae_jax.workdir.code_table import Codes
from pdae_jax.workdir.output import Output


def made(n=300, d=6, seed=0):
    return np.random.default_rng(seed), np.random.default_rng(seed).standard_normal((n, d))


# Labels.


def test_columns_of_one_name_are_one_label_of_classes():
    attributes = ("age", "diagnosis=AD", "smiling", "diagnosis=CN", "diagnosis=MCI", "site=A")
    nan = np.nan
    labels = np.array(
        [
            [70, 1, 0, 0, 0, 1],
            [61.5, 0, 1, 0, 1, 0],
            [nan, nan, nan, nan, nan, nan],
            [80, 0, 0, 1, 0, 1],
            [80, 0, 0, 0, 0, 1],  # none of the classes: not known
            [80, 1, 0, 1, 0, 1],  # two of them
        ]
    )
    age, diagnosis, smiling, site = targets(attributes, labels)
    assert (age.name, age.kind) == ("age", "number")
    assert (diagnosis.name, diagnosis.kind) == ("diagnosis", "classes")
    assert diagnosis.classes == ("AD", "CN", "MCI")
    np.testing.assert_array_equal(diagnosis.y, [0, 2, nan, 1, nan, nan])
    assert smiling.kind == "class" and (site.name, site.kind) == ("site=A", "class")


# Scores.


def test_scores_of_many_resamples_are_those_of_scikit_learn():
    rng, _ = made()
    y, ranks = rng.random(80) < 0.3, rng.integers(0, 25, 80) / 7  # with ties
    weights = rng.integers(0, 4, (5, 80)).astype(float)
    ap, auroc = ranked(weights * y, weights * ~y, ranks)
    for row, a, b in zip(weights, ap, auroc):
        assert a == pytest.approx(average_precision_score(y, ranks, sample_weight=row))
        assert b == pytest.approx(roc_auc_score(y, ranks, sample_weight=row))
    one_class = ranked(weights * y, 0 * weights, ranks)
    assert np.isnan(one_class).all()


@pytest.mark.parametrize("kind", ["class", "classes", "number"])
def test_a_resample_scores_as_if_its_pictures_were_all_there_are(kind):
    rng, x = made(200)
    y = {"class": x[:, 0] > 0.5, "classes": np.digitize(x[:, 0], [-0.7, 0.7]), "number": x[:, 0]}
    y, x = y[kind].astype(float), x + rng.standard_normal(x.shape)
    model = linear_probe._fit(kind, x[:100], y[:100], np.arange(100), 0)
    draw = rng.integers(100, 200, 100)
    weights = np.bincount(draw, minlength=200)[None, 100:].astype(float)
    resampled = model.on(x[100:], y[100:]).weighted(weights)
    again = model.on(x[draw], y[draw]).scores()
    assert resampled.keys() == again.keys()
    for name, value in again.items():
        assert resampled[name][0] == pytest.approx(value), name


def test_a_penalty_is_chosen_by_scikit_learns_log_loss():
    rng, x = made(300, 5)
    y = np.digitize(x[:, 0] + rng.standard_normal(300), [-1, 0.5])
    for penalty in (1e-3, 1e3):
        model = LogisticRegression(C=penalty, max_iter=2000).fit(x[:200], y[:200])
        wanted = get_scorer("neg_log_loss")(model, x[200:], y[200:])
        assert linear_probe.log_likelihood(model, x[200:], y[200:]) == pytest.approx(wanted, 1e-6)


def test_classes_are_scored_as_scikit_learn_scores_them():
    rng, x = made(600, 5)
    y = np.digitize(x[:, 0] + 0.7 * rng.standard_normal(600), [-1, 0.5])
    labels = np.eye(3)[y]
    found = probe(x[:400], labels[:400], x[400:], labels[400:], ("k=a", "k=b", "k=c"))
    (one,) = found
    assert (one.attribute, one.kind, one.classes) == ("k", "classes", ("a", "b", "c"))
    scaler = StandardScaler().fit(x[:400])
    model = LogisticRegression(C=one.penalty, max_iter=2000)
    model.fit(scaler.transform(x[:400]), y[:400])
    p, truth = model.predict_proba(scaler.transform(x[400:])), y[400:]
    expected = {
        "ap": average_precision_score(labels[400:], p, average="macro"),
        "auroc": roc_auc_score(truth, p, multi_class="ovr"),
        "balanced_accuracy": balanced_accuracy_score(truth, (p / np.bincount(y[:400])).argmax(1)),
    }
    for name, value in expected.items():
        score = one.scores[name]
        assert score.value == pytest.approx(value, abs=1e-6)
        assert score.low < score.value < score.high
    assert one.chance == pytest.approx({"ap": 1 / 3, "auroc": 0.5, "balanced_accuracy": 1 / 3})
    assert one.rows == (400, 200) and one.p == 1 / 1001


def test_a_class_that_one_side_lacks_is_left_out():
    rng, x = made(120)
    y = np.digitize(x[:, 0], [-0.5, 0.5])
    y[:5] = 3  # among the training pictures alone
    names = ("k=a", "k=b", "k=c", "k=rare")
    labels = np.eye(4)[y]
    (one,) = probe(x[:80], labels[:80], x[80:], labels[80:], names)
    assert one.classes == ("a", "b", "c") and one.rows == (75, 40)
    assert probe(x[:5], labels[:5], x[80:], labels[80:], names) == []
    (why,) = linear_probe.left_out(labels[:5], labels[80:], names).values()
    assert "fewer than two classes" in why


def test_balanced_accuracy_calls_rare_classes_too():
    """Of one class in twenty and weak features, the likelier class is always the common one."""
    rng = np.random.default_rng(0)
    y = rng.random(4000) < 0.05
    x = rng.standard_normal((4000, 3)) + y[:, None]
    (one,) = probe(x[:2000], y[:2000, None] * 1.0, x[2000:], y[2000:, None] * 1.0, ("rare",))
    assert one.scores["balanced_accuracy"].value > 0.75


# Numbers.


def test_linear_numbers_are_read_exactly():
    _, x = made(300, 6)
    y = (3 * x[:, 0] - x[:, 3] + 70)[:, None]
    (one,) = probe(x[:200], y[:200], x[200:], y[200:], ("age",))
    assert one.kind == "number" and one.p == 1 / 1001
    scores = {name: score.value for name, score in one.scores.items()}
    assert scores["r2"] > 0.9999 and scores["r"] > 0.9999
    assert scores["r2_ordinary"] == pytest.approx(1) and scores["mae_ordinary"] < 1e-9
    assert scores["rmse"] == pytest.approx(scores["mse"] ** 0.5)
    found = linear_probe.means([one])
    assert {"r2", "r"} <= found.keys() and not {"mse", "rmse", "mae_ordinary"} & found.keys()


def test_ordinary_least_squares_is_not_determined_by_few_pictures():
    rng, x = made(60, 40)
    y = x[:, :1] + rng.standard_normal((60, 1))
    for n, determined in ((42, True), (41, False), (30, False)):
        (one,) = probe(x[:n], y[:n], x[45:], y[45:], ("age",))
        assert (one.scores["r2_ordinary"].value is not None) == determined
        assert one.scores["r2"].value is not None


@pytest.mark.parametrize("d", [3, 500])
def test_features_of_many_numbers_give_the_same_model(d):
    """The rotation into the pictures' own span changes no prediction."""
    rng, x = made(60, d)
    y = x[:, :1] + 0.1 * rng.standard_normal((60, 1))
    labels = np.concatenate([y, y > 0], 1).astype(float)
    number, sign = probe(x[:40], labels[:40], x[40:], labels[40:], ("number", "sign"))
    scaler = StandardScaler().fit(x[:40])
    a, b = scaler.transform(x[:40]), scaler.transform(x[40:])
    predicted = Ridge(number.penalty).fit(a, y[:40, 0]).predict(b)
    assert number.scores["mae"].value == pytest.approx(np.abs(predicted - y[40:, 0]).mean())
    model = LogisticRegression(C=sign.penalty, max_iter=2000).fit(a, labels[:40, 1])
    expected = roc_auc_score(labels[40:, 1], model.decision_function(b))
    assert sign.scores["auroc"].value == pytest.approx(expected, abs=0.02)
    if d == 3:
        predicted = LinearRegression().fit(a, y[:40, 0]).predict(b)
        mae = number.scores["mae_ordinary"].value
        assert mae == pytest.approx(np.abs(predicted - y[40:, 0]).mean())


# Intervals and p-values.


def of_noise(grouped):
    """p-values and intervals of predictions that have nothing to do with the labels."""
    p, intervals = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        y, ranks = np.arange(40) % 2, rng.standard_normal((40, 1))
        unit = np.arange(40)
        if grouped:  # of 3 pictures each, alike
            unit, y, ranks = (side.repeat(3, 0) for side in (unit, y, ranks))
        ranks = ranks + 0.1 * rng.standard_normal(ranks.shape)
        predicted = linear_probe._PredictedClasses(y, ranks, (ranks > 0)[:, 0].astype(int), (1,))
        p.append(linear_probe._p_value(predicted, unit, 99, rng))
        (weights,) = linear_probe._weights(linear_probe._resampled(unit, 200, rng), unit)
        auroc = predicted.scores()["auroc"]
        intervals.append(linear_probe._score(auroc, predicted.weighted(weights)["auroc"]))
    return np.array(p), intervals


@pytest.mark.parametrize("grouped", [False, True])
def test_p_values_of_noise_are_uniform_and_intervals_cover(grouped):
    p, intervals = of_noise(grouped)
    for level in (0.1, 0.25, 0.5, 0.75):
        margin = 3 * np.sqrt(level * (1 - level) / len(p))
        assert abs((p <= level).mean() - level) < margin, level
    covered = np.mean([one.low <= 0.5 <= one.high for one in intervals])
    assert 0.9 < covered < 0.99


def test_groups_widen_intervals_and_raise_p_values():
    """Ten patients of thirty pictures each are ten, not three hundred."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 30).astype(str)
    x = rng.standard_normal((20, 4)).repeat(30, 0) + 0.1 * rng.standard_normal((600, 4))
    y = (np.arange(20) % 2 * 1.0).repeat(30)[:, None]
    sides = (x[:300], y[:300], x[300:], y[300:], ("who",))
    (alone,) = probe(*sides)
    (by_group,) = probe(*sides, train_groups=groups[:300], test_groups=groups[300:])
    a, b = alone.scores["auroc"], by_group.scores["auroc"]
    assert b.high - b.low > 3 * (a.high - a.low)
    assert by_group.p > alone.p


def test_labels_move_in_whole_groups():
    rng = np.random.default_rng(0)
    unit = rng.permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6]))
    y = np.arange(6)[unit]  # constant within groups
    orders = np.concatenate(list(linear_probe._orders(unit, 50, rng)))
    assert orders.shape == (50, 21)
    for order in orders:
        received = [set(y[order][unit == k]) for k in range(6)]
        assert all(len(one) == 1 for one in received)  # still constant
        assert set.union(*received) == set(range(6))  # each group's label once
    singles = np.concatenate(list(linear_probe._orders(np.arange(7), 20, rng)))
    assert all(sorted(order) == list(range(7)) for order in singles)


def test_a_picture_without_a_group_is_one_of_its_own():
    units = linear_probe._units(np.array(["b", "", "a", "", "b"]), 5)
    assert len(set(units)) == 4 and units[0] == units[4]
    assert linear_probe.count_groups(np.zeros(0, str), 9) == 9


def test_differences_are_paired():
    rng, x = made(300, 4)
    labels = (x[:, :2] + 0.5 * rng.standard_normal((300, 2)) > 0).astype(float)
    noisy = x + 0.05 * rng.standard_normal(x.shape)
    a, b = (probe(f[:200], labels[:200], f[200:], labels[200:], ("p", "q")) for f in (x, noisy))
    difference = linear_probe.means(linear_probe.differences(a, b))["auroc"]
    own = linear_probe.means(a)["auroc"]
    assert difference.value == pytest.approx(
        linear_probe.mean_scores(a)["auroc"] - linear_probe.mean_scores(b)["auroc"]
    )
    assert difference.high - difference.low < (own.high - own.low) / 2
    same = linear_probe.differences(a, a)[0].scores["ap"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_same_seed_gives_the_same_numbers():
    rng, x = made(120)
    labels = np.stack([x[:, 0] > 0, x[:, 1]], 1).astype(float)
    first, again = (
        probe(x[:80], labels[:80], x[80:], labels[80:], ("a", "b"), seed=3) for _ in range(2)
    )
    assert [one.scores for one in first] == [one.scores for one in again]
    assert linear_probe.adjusted(first).keys() == {"a", "b"}


# Cross-validation.


def test_folds_by_group_do_not_see_who_it_is():
    """A label of the patient, features of the patient: pictures leak, whole groups do not."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6).astype(str)
    x = rng.standard_normal((40, 60)).repeat(6, 0) + 0.1 * rng.standard_normal((240, 60))
    y = (rng.permutation(40) % 2 * 1.0).repeat(6)[:, None]

    def scores(by):
        of = {"groups": by, "folds": 5} if by is not None else {"folds": 5}
        folds = divisions(y, ("who",), **of)
        return cross_validate(lambda a, b: (x[a], x[b]), y, ("who",), folds, groups=by)["who"]

    plain, grouped = scores(None)["auroc"], scores(groups)["auroc"]
    assert plain.mean > 0.95 and plain.folds == grouped.folds == 5
    assert abs(grouped.mean - 0.5) < 0.2 and grouped.std > plain.std
    with pytest.raises(ValueError, match="a group is on both sides"):
        folds = divisions(y, ("who",))
        cross_validate(lambda a, b: (x[a], x[b]), y, ("who",), folds, groups=groups)


def test_a_division_is_stratified_and_whole():
    rng = np.random.default_rng(0)
    y = np.stack([rng.random(200) < 0.1, rng.random(200) < 0.5], 1).astype(float)
    folds = divisions(y, ("rare", "common"), folds=4)
    np.testing.assert_array_equal(np.sort(np.concatenate([b for _, b in folds])), np.arange(200))
    counts = [y[b].sum(0) for _, b in folds]
    assert np.ptp(counts, 0).max() <= 2
    groups = (np.arange(200) // 10).astype(str)
    for a, b in divisions(y, ("rare", "common"), groups=groups):
        assert not set(groups[a]) & set(groups[b]) and len(a) + len(b) == 200
    assert len(divisions(y[:20], ("a", "b"), groups=groups[:20])) == 2  # groups are two
    assert divisions(y[:10], ("a", "b"), groups=groups[:10]) == []


def test_what_is_fitted_for_a_fold_sees_its_training_side_alone():
    rng, x = made(60, 4)
    labels = np.stack([x[:, 0] > 0, x[:, 1]], 1).astype(float)
    seen = []

    def features(train, test):
        seen.append((set(train), set(test)))
        return x[train], x[test]

    found = cross_validate(features, labels, ("a", "b"), divisions(labels, ("a", "b"), folds=3))
    assert len(seen) == 3 and not any(a & b for a, b in seen)
    assert found["a"]["auroc"].mean > 0.9 and found["b"]["r2"].mean > 0.9
    assert found["b"]["r2_ordinary"].mean == pytest.approx(1)


# The page and the files.


def found(with_pixels=True):
    """Of labels of all kinds, with groups, and names that LaTeX would misread."""
    rng = np.random.default_rng(0)
    n = 160
    x = rng.standard_normal((n, 5)).astype(np.float32)
    y = np.digitize(x[:, 0] + 0.5 * rng.standard_normal(n), [-0.5, 0.5])
    labels = np.column_stack(
        [np.eye(3)[y], x[:, 1] > 0, 100 * x[:, 2] + rng.standard_normal(n), np.ones(n)]
    ).astype(np.float32)
    names = ("dx=a", "dx=b", "dx=c", "100%_#1 {x}~^\\$&", "age, years", "constant")
    groups = np.char.add("p", (np.arange(n) // 4).astype(str))

    def codes(rows):
        where = np.arange(n)[rows].astype(str)
        return Codes(x[rows], labels[rows], names, where, group=groups[rows])

    pixels = command.in_unit(rng.integers(0, 256, (n, 12), dtype=np.uint8))
    train, test = slice(0, 100), slice(98, n)
    rows = (pixels[train], pixels[test]) if with_pixels else (None, None)
    return command.findings(codes(train), codes(test), *rows, 3, 0)


@pytest.fixture(scope="module")
def findings():
    return found()


def test_the_page_says_what_was_resampled_and_left_out(findings):
    assert findings.units == "16 groups" and findings.fold_units == "3 folds over 25 groups"
    assert "among both the training and the held-out ones: 1." in findings.warning
    assert "of 16 groups alone: intervals are rough" in findings.warning
    assert findings.left_out.keys() == {"constant"}
    assert findings.dims == {"z": 5, "pixels": 12, "principal components": 5}
    parts = command.parts(findings, 100, 62)
    text = repr([vars(part) for part in parts])
    for words in (
        "bootstrap over 16 groups",
        "z minus principal components",
        "R², ordinary",
        "−0.",
    ):
        assert words in text
    assert findings.folded["z"]["dx"]["auroc"].mean > 0.8
    assert findings.folded["principal components"]["dx"]["auroc"].folds == 3


def test_what_pixels_would_cost_is_left_out_aloud(monkeypatch):
    assert found(with_pixels=False).left_out.keys() == {
        "constant",
        "pixels and principal components",
    }
    monkeypatch.setattr(command, "MOST_FITTED", 100)
    less = found()
    assert list(less.dims) == ["z", "principal components"]
    assert "6 attributes of 100 pictures of 12 numbers" in less.left_out["pixels"]


def test_latex_is_balanced_and_escaped(findings):
    text = command.latex(findings)
    body = re.sub(r"^%.*\n", "", text, flags=re.M)
    plain = re.sub(r"\\[\\&%$#_{}]", "", body)  # escaped ones and line ends
    depth = 0
    for c in plain:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0 and plain.count("$") % 2 == 0
    assert not set("#~^") & set(re.sub(r"R\^2", "", plain)) and "%" not in plain
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") == 2
    for table in re.findall(r"\\begin\{tabular\}\{(l*r*)\}(.*?)\\end\{tabular\}", body, re.S):
        lines = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert len(lines) > 1
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(table[0]) - 1
    commands = set(re.findall(r"\\[a-zA-Z]+", body)) - {r"\toprule", r"\midrule", r"\bottomrule"}
    assert commands <= {
        *(r"\begin", r"\end", r"\hline", r"\providecommand", r"\textbf", r"\pm"),
        *(r"\textbackslash", r"\textasciitilde", r"\textasciicircum"),
    }
    assert r"100\%\_\#1 \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}\$\&" in body
    assert command.escaped('[a]"') == "{[}a]''"
    assert re.search(r"dx & z & \\textbf\{0\.\d{3}\} \[", body)  # z is best here


def test_the_csv_is_read_back(findings, tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = command.flat(findings)
    output = Output(tmp_path, "probe")
    output.write_csv("probe", rows)
    output.write_latex("probe", "ä\n")
    assert (tmp_path / "probe.tex").read_text(encoding="utf-8") == "ä\n"
    table = pandas.read_csv(io.BytesIO((tmp_path / "probe.csv").read_bytes()))
    assert list(table.columns) == list(rows[0]) and len(table) == len(rows)
    assert set(table.attribute) == {"dx", "100%_#1 {x}~^\\$&", "age, years"}
    at = table[(table.attribute == "dx") & (table.features == "z") & (table.score == "auroc")]
    score = findings.of("class")[0].scores["auroc"]
    np.testing.assert_allclose(at[["value", "low", "high"]].to_numpy()[0], score)
    assert table[table.score == "r2_ordinary"].value.notna().all()


def test_components_are_as_many_as_there_are():
    rng = np.random.default_rng(0)
    x = rng.random((50, 3)) @ rng.random((3, 20))  # of rank three
    a, b = command.components(8, x[:40].astype(np.float32), x[40:].astype(np.float32))
    assert a.shape == (40, 3) and b.shape == (10, 3)
    a, _ = command.components(8, rng.random((5, 20)), x)
    assert a.shape == (5, 4)


def test_pixels_are_in_the_unit_interval():
    np.testing.assert_allclose(command.in_unit(np.array([[0, 255]], np.uint8)), [[0, 1]])
    floats = command.in_unit(np.array([[-1, 0, 1]], np.float32))
    np.testing.assert_allclose(floats, [[0, 0.5, 1]])


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="folds = 1 leaves nothing to train on"):
        command.Options(folds=1)
