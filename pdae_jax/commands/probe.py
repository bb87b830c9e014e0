"""Attributes by linear models from z, from pixels and from principal components."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result
from pdae_jax.commands.options import Page, Seed, option
from pdae_jax.data.pipeline import batches
from pdae_jax.pages.page import Part, Section, Table, Text

with epy.lazy_imports():  # --help needs neither JAX nor scikit-learn
    from sklearn import decomposition

    from pdae_jax.tasks import linear_probe
    from pdae_jax.workdir import code_table

MOST_PIXELS = 2 * 10**8  # of a split, held in memory
MOST_FITTED = 2 * 10**8  # pixels of the training pictures times attributes: minutes
BOOTSTRAP, PERMUTATIONS = 1000, 1000
FEW = 20  # groups, or pictures without any, below which a bootstrap is rough
COMPONENTS = "principal components"

TITLES = {
    "ap": "average precision",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "r2": "R²",
    "r": "r",
    "mse": "MSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2_ordinary": "R², ordinary",
}
MEANINGS = {
    "ap": "Average precision: pictures are ranked by how surely the model says yes, and this is "
    "the share of right ones among the first, averaged over all depths of the ranking; 1 is "
    "perfect, guessing gives the share of pictures that have the attribute. Of several classes, "
    "this and AUROC are means over each class against the rest.",
    "auroc": "AUROC: how often a picture that has the attribute is ranked above one that has it "
    "not; 1 is perfect, 0.5 is guessing.",
    "balanced_accuracy": "Balanced accuracy: the share of pictures called rightly, in each class "
    "by itself and then averaged, so that a common class does not count more; 1 is perfect, "
    "guessing gives one divided by the number of classes.",
    "r2": "R²: the share of the number's variation that the prediction explains; 1 is perfect, 0 "
    "no better than always saying the mean, below 0 worse than that.",
    "r": "r: the correlation of predicted and true numbers; 1 is perfect, 0 none.",
    "rmse": "RMSE and MAE: the typical error in the number's own unit, the first counting large "
    "errors more; less is better.",
    "p": "p: how often the same predictions score as well when the labels are shuffled among "
    "pictures, or among whole groups; q: the same, adjusted for the number of attributes (of the "
    "attributes with q below 0.05, one in twenty is expected to be none).",
    "folds": "Folds: the training pictures in parts, each scored by a model of the others; mean ± "
    "standard deviation over the parts.",
}
# What the tables show: of labels of classes, and of numbers.
SHOWN = {
    "class": ("ap", "auroc", "balanced_accuracy"),
    "number": ("r2", "r", "rmse", "mae", "r2_ordinary"),
}
MAIN = {"class": "auroc", "number": "r2"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Seed):
    folds: int = option(
        5, "folds of cross-validation over the training pictures; 0: none", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1:
            raise ValueError("folds = 1 leaves nothing to train on: give 0 for none, or 2 or more")


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that was found: by features, and within these by attribute.

    dims: how many numbers a picture has. minus: z minus principal components, where both are there.
    units, fold_units: what is resampled and divided, in words. warning: what makes that doubtful,
    or "".
    """

    probed: "dict[str, list[linear_probe.Probed]]"
    folded: "dict[str, dict[str, dict[str, linear_probe.Folded]]]"
    dims: dict[str, int]
    minus: "list[linear_probe.Probed]"
    units: str
    fold_units: str
    left_out: dict[str, str]
    warning: str

    def of(self, kind: str) -> "list[linear_probe.Probed]":
        """z's attributes of a kind, "class" (of two or more) or "number"."""
        return [one for one in self.probed["z"] if kind_of(one) == kind]

    def beside(self, attribute: str) -> "dict[str, linear_probe.Probed]":
        """One attribute from each of the features."""
        return {
            name: one
            for name, some in self.probed.items()
            for one in some
            if one.attribute == attribute
        }

    def fold(self, features: str, attribute: str, score: str) -> "linear_probe.Folded | None":
        return self.folded.get(features, {}).get(attribute, {}).get(score)


def run(context: Context[Options]) -> Result:
    """Probes fitted on the run's training pictures and scored on its held-out ones."""
    data = context.run_data
    if data and not data.open("train").attributes:
        raise ValueError(
            "the data has no attributes to probe: give a table of them when training, "
            "--config.data.attributes=FILE.csv"
        )
    train, test = context.codes("train"), context.codes("test")
    found = findings(
        train,
        test,
        pixels_of(context, "train"),
        pixels_of(context, "test"),
        context.options.folds,
        context.options.seed,
    )
    rows = flat(found)
    context.output.write_csv("probe", rows)
    context.output.write_latex("probe", latex(found))
    return Result(
        [Section("Probes", parts(found, len(train.z), len(test.z)))], numbers_of(found, rows)
    )


def findings(
    train: "code_table.Codes",
    test: "code_table.Codes",
    train_pixels: np.ndarray | None,
    test_pixels: np.ndarray | None,
    folds: int,
    seed: int,
) -> Findings:
    """Probes of z and, where there are pixels [N, H W C], of these and of their components."""
    d = train.z.shape[1]
    features = {"z": (train.z, test.z)}
    left_out = linear_probe.left_out(train.labels, test.labels, train.attributes)
    if train_pixels is not None and test_pixels is not None:
        if train_pixels.size * len(train.attributes) <= MOST_FITTED:
            features["pixels"] = (train_pixels, test_pixels)
        else:
            n, pixels = train_pixels.shape
            left_out["pixels"] = (
                f"{len(train.attributes):,} attributes of {n:,} pictures of {pixels:,} numbers "
                f"would take long; their principal components are probed"
            )
        features[COMPONENTS] = components(d, train_pixels, test_pixels)
    else:
        left_out[f"pixels and {COMPONENTS}"] = f"a split has more than {MOST_PIXELS:,} pixel values"
    probed = {
        name: linear_probe.probe(
            *(a, train.labels, b, test.labels, train.attributes),
            train_groups=train.group,
            test_groups=test.group,
            bootstrap=BOOTSTRAP,
            permutations=PERMUTATIONS,
            seed=seed,
        )
        for name, (a, b) in features.items()
    }
    how: dict[str, Any] = {"groups": train.group, "seed": seed}
    divided = (
        linear_probe.divisions(train.labels, train.attributes, folds=folds, **how) if folds else []
    )
    makers = {"z": lambda a, b: (train.z[a], train.z[b])}
    if train_pixels is not None:  # pixels themselves would take long
        makers[COMPONENTS] = lambda a, b: components(d, train_pixels[a], train_pixels[b])
    folded = {
        name: linear_probe.cross_validate(make, train.labels, train.attributes, divided, **how)
        for name, make in makers.items()
        if divided
    }
    pictures = sum(len(rows) for _, rows in divided)
    return Findings(
        probed,
        folded,
        {name: a.shape[1] for name, (a, _) in features.items()},
        linear_probe.differences(probed["z"], probed.get(COMPONENTS, [])),
        counted(test.group, len(test.z)),
        f"{len(divided)} folds over {counted(train.group, pictures)}" if divided else "",
        left_out,
        warning_of(train.group, test.group, len(test.z)),
    )


def components(most: int, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the training side, at most `most`, of both sides.

    n pictures have at most n - 1 of them; those of no variance, as rounding has it, are left out.
    """
    most = max(1, min(most, len(train) - 1, train.shape[1]))
    pca = decomposition.PCA(most, random_state=0).fit(train)
    variance = pca.explained_variance_
    kept = max(1, int((variance > variance[0] * np.finfo(np.float32).eps * len(train)).sum()))
    return pca.transform(train)[:, :kept], pca.transform(test)[:, :kept]


def pixels_of(context: Context[Options], split: str) -> np.ndarray | None:
    """A split's pictures as rows of pixels in [0, 1], [N, H W C]; None where that is too much
    memory."""
    data, shape = context.run_data, context.model.arch.image_shape
    if data is None:
        return None
    source = data.open(split, context.model.value_range)
    if len(source) * int(np.prod(shape)) > MOST_PIXELS:
        return None
    with batches(
        source, size=shape[:2], channels=shape[2], batch_size=256, max_broken=data.max_broken
    ) as some:
        rows = [batch["image"][batch["mask"]].reshape(batch["mask"].sum(), -1) for batch in some]
    return in_unit(np.concatenate(rows))


def in_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8, or floats in [-1, 1], as float32 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 255
    return (pixels.astype(np.float32) + 1) / 2


def counted(groups: np.ndarray, n: int) -> str:
    """What is resampled, in words."""
    units, unit = (linear_probe.count_groups(groups, n), "group") if len(groups) else (n, "picture")
    return f"{units:,} {unit}{'s' * (units != 1)}"


def warning_of(train: np.ndarray, test: np.ndarray, n_test: int) -> str:
    """What makes scores or intervals doubtful, in words; "" where nothing is known to."""
    words = []
    if both := (set(train.tolist()) & set(test.tolist())) - {""}:
        words.append(
            f"Groups with pictures among both the training and the held-out ones: {len(both):,}. "
            f"Scores of the held-out pictures may be too good; folds keep groups together."
        )
    if linear_probe.count_groups(test, n_test) < FEW:
        words.append(
            f"The held-out pictures are of {counted(test, n_test)} alone: intervals are rough, "
            f"and rather too narrow."
        )
    return " ".join(words)


# Words and numbers.


def kind_of(one: "linear_probe.Probed") -> str:
    return "number" if one.kind == "number" else "class"


def say(value: float | None, name: str = "") -> str:
    """A score as text: errors have units, and so no fixed number of digits."""
    if value is None:
        return "–"
    text = f"{value:z.3g}" if name in linear_probe.ERRORS else f"{value:z.3f}"
    return text.replace("-", "−", 1) if value < 0 else text


def interval(score: "linear_probe.Score | None", name: str = "") -> str:
    if score is None or score.value is None:
        return "–"
    if score.low is None:
        return say(score.value, name)
    return f"{say(score.value, name)} [{say(score.low, name)}, {say(score.high, name)}]"


def p_text(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}"


def fold_text(fold: "linear_probe.Folded | None") -> str:
    if fold is None:
        return "–"
    return say(fold.mean) + (f" ± {say(fold.std)}" if fold.std is not None else "")


def share_text(one: "linear_probe.Probed") -> str:
    if one.kind == "classes":
        return f"{len(one.classes)} classes, the commonest {one.positives:.3g}"
    return f"{one.positives:.3g}"


def parts(found: Findings, n_train: int, n_test: int) -> list[Part]:
    """The page: means, each attribute from z, the features beside each other, what it all means."""
    sizes = ", ".join(f"{name} {d:,}" for name, d in found.dims.items())
    resamples = f"95 % intervals: bootstrap over {found.units}"
    result: list[Part] = [Text(found.warning)] if found.warning else []
    means = {name: linear_probe.means(some) for name, some in found.probed.items()}
    if found.minus:
        means[f"z minus {COMPONENTS}"] = linear_probe.means(found.minus)
    names = [name for name in TITLES if any(name in mean for mean in means.values())]
    result.append(
        Table(
            ["features", *(TITLES[name] for name in names)],
            [
                [label, *(interval(mean.get(name)) for name in names)]
                for label, mean in means.items()
            ],
            caption=f"Linear models fitted on {n_train:,} training pictures, scored on {n_test:,} "
            f"held-out ones; means over attributes. Numbers a picture: {sizes}. {resamples}.",
        )
    )
    for kind, shown in SHOWN.items():
        of_kind, main = found.of(kind), MAIN[kind]
        if not of_kind:
            continue
        q = linear_probe.adjusted(found.probed["z"])
        rows = [
            [
                one.attribute,
                share_text(one),
                *(interval(one.scores.get(name), name) for name in shown),
                p_text(one.p),
                p_text(q.get(one.attribute)),
                *([fold_text(found.fold("z", one.attribute, main))] if found.folded else []),
            ]
            for one in of_kind
        ]
        heads = [TITLES[name] for name in shown]
        heads += ["p", "q", *([f"{TITLES[main]}, folds"] if found.folded else [])]
        of_numbers = (
            " Ridge regression; R², ordinary: of ordinary least squares, and – where pictures "
            "hardly outnumber the numbers of z, so that it would fit any labels."
        )
        folds = f" {found.fold_units}." if found.folded else ""
        result.append(
            Table(
                ["attribute", "share" if kind == "class" else "mean", *heads],
                rows,
                caption=f"From z. {resamples}.{folds}" + of_numbers * (kind == "number"),
            )
        )
        if len(found.probed) > 1:
            result.append(comparison(found, of_kind, main))
    kinds = [kind for kind in SHOWN if found.of(kind)]
    words = [MEANINGS[name] for kind in kinds for name in SHOWN[kind] if name in MEANINGS]
    words += [MEANINGS["p"], *([MEANINGS["folds"]] if found.folded else [])]
    result.append(Text("\n\n".join(words)))
    if found.left_out:
        rows = [[name, why] for name, why in found.left_out.items()]
        result.append(Table(["not probed", "reason"], rows))
    return result


def comparison(found: Findings, of_kind: "list[linear_probe.Probed]", main: str) -> Table:
    """One score of each attribute, from all features."""
    minus = {one.attribute: one.scores.get(main) for one in found.minus}
    rows = []
    for one in of_kind:
        beside = found.beside(one.attribute)
        scores = [
            beside[name].scores.get(main) if name in beside else None for name in found.probed
        ]
        folds = [fold_text(found.fold(name, one.attribute, main)) for name in found.folded]
        rows.append([one.attribute, *map(interval, [*scores, minus.get(one.attribute)]), *folds])
    heads = [f"{name} ({d:,})" for name, d in found.dims.items()]
    folds = [f"{name}, folds" for name in found.folded]
    return Table(
        ["attribute", *heads, f"z minus {COMPONENTS}", *folds],
        rows,
        caption=f"{TITLES[main]} from each kind of features, and how many numbers a picture they "
        f"are. The difference is paired: both are of the same pictures in every resample.",
    )


def flat(found: Findings) -> list[dict[str, Any]]:
    """One row for each attribute, features and score, for the CSV file."""
    rows = []
    for features, some in found.probed.items():
        q = linear_probe.adjusted(some)
        for one in some:
            for name, score in one.scores.items():
                fold = found.fold(features, one.attribute, name)
                rows.append(
                    {
                        "attribute": one.attribute,
                        "kind": one.kind,
                        "classes": " | ".join(one.classes),
                        "features": features,
                        "dimensions": found.dims[features],
                        "train": one.rows[0],
                        "test": one.rows[1],
                        "share_or_mean": one.positives,
                        "penalty": one.penalty,
                        "score": name,
                        **score._asdict(),
                        "chance": one.chance.get(name),
                        "p": one.p,
                        "q": q.get(one.attribute),
                        "fold_mean": fold and fold.mean,
                        "fold_sd": fold and fold.std,
                        "folds": fold and fold.folds,
                    }
                )
    return rows


def numbers_of(found: Findings, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON file's: means, z by attribute, differences, and all rows of the CSV file."""

    def scores(some: "Mapping[str, linear_probe.Score]") -> dict[str, Any]:
        return {name: score._asdict() for name, score in some.items()}

    return {
        "means": {name: linear_probe.mean_scores(some) for name, some in found.probed.items()},
        "mean_intervals": {
            name: scores(linear_probe.means(some)) for name, some in found.probed.items()
        },
        "attributes": {one.attribute: scores(one.scores) for one in found.probed["z"]},
        "z_minus_principal_components": {
            "means": scores(linear_probe.means(found.minus)),
            "attributes": {one.attribute: scores(one.scores) for one in found.minus},
        },
        "intervals": f"95 %, bootstrap over {found.units}, {BOOTSTRAP:,} resamples",
        "p_values": f"{PERMUTATIONS:,} permutations of {found.units}",
        "folds": found.fold_units or "none",
        "dimensions": found.dims,
        "left_out": found.left_out,
        "warning": found.warning,
        "rows": rows,
    }


# LaTeX.

SPECIAL = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would begin an argument
    '"': "''",  # a straight one is not in every font encoding
}


def escaped(text: str) -> str:
    """Text as LaTeX sets it literally."""
    one_line = " ".join(text.split())
    return "".join(SPECIAL.get(c, c) for c in one_line)


def latex(found: Findings) -> str:
    """One table for labels of classes and one for numbers, to be read by \\input.

    The rules are those of booktabs where it is loaded, and plain lines where not. The best of the
    features is bold.
    """
    lines = [
        f"% Linear probes. 95 % intervals: bootstrap over {found.units}.",
        f"% p: {PERMUTATIONS:,} permutations of {found.units}.",
        *([f"% Folds: {found.fold_units}, mean and standard deviation."] if found.folded else []),
        *(
            rf"\providecommand{{\{rule}}}{{\hline}}"
            for rule in ("toprule", "midrule", "bottomrule")
        ),
    ]
    for kind, shown in SHOWN.items():
        if found.of(kind):
            lines += tabular(found, kind, shown)
    return "\n".join(lines)


def tabular(found: Findings, kind: str, shown: Sequence[str]) -> list[str]:
    """The lines of one table: for each attribute a row from each of the features."""
    main = MAIN[kind]
    title = TITLES | {"r2": "$R^2$", "r": "$r$", "r2_ordinary": "$R^2$, ordinary"}
    heads = ["attribute", "features", *(title[name] for name in shown), "$p$"]
    heads += [f"{title[main]}, folds"] * bool(found.folded)
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * (len(heads) - 2)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
    ]
    for one in found.of(kind):
        lines.append(r"\midrule")
        beside = found.beside(one.attribute)
        for k, (features, other) in enumerate(beside.items()):
            cells = [escaped(one.attribute) if k == 0 else "", features]
            for name in shown:
                text = minus_signs(interval(other.scores.get(name), name))
                best = best_of(name, beside) == features
                value, space, rest = text.partition(" ")
                cells.append(rf"\textbf{{{value}}}{space}{rest}" if best else text)
            cells.append(minus_signs(p_text(other.p)))
            if found.folded:
                fold = fold_text(found.fold(features, one.attribute, main))
                cells.append(minus_signs(fold).replace("±", r"$\pm$"))
            lines.append(" & ".join(cells) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}", ""]


def best_of(name: str, beside: "Mapping[str, linear_probe.Probed]") -> str:
    """The features with the best score of an attribute; "" where there are no others."""
    values = {
        features: value
        for features, one in beside.items()
        if name in one.scores and (value := one.scores[name].value) is not None
    }
    if len(values) < 2:
        return ""
    choose = min if name in linear_probe.ERRORS else max
    return choose(values, key=lambda features: values[features])


def minus_signs(text: str) -> str:
    """Numbers with LaTeX's minus and its dash."""
    return text.replace("−", "$-$").replace("–", "--")
