"""Pictures of a class known from few labels: Figure 12."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands.context import (
    BATCH_SIZE,
    Context,
    Result,
    in_lines,
    picture_rows,
)
from pdae_jax.commands.options import (
    Count,
    Decoding,
    Drawing,
    Generation,
    Labelled,
    LatentNoise,
    Page,
    Precision,
    Seed,
    option,
)
from pdae_jax.images import to_uint8
from pdae_jax.pages.page import Section, Table, Text

with epy.lazy_imports():  # --help needs neither JAX nor scikit-learn
    from pdae_jax import latent
    from pdae_jax.runtime import processes
    from pdae_jax.tasks import encoding, few_shot, generation
    from pdae_jax.workdir import code_table, workdir

SHOWN = 64  # pictures, where no number is asked for
WORDS = (
    "A few labelled pictures are enough to make more of their kind: a linear classifier is fitted "
    "on their codes, and of the codes that the latent model draws those that it says yes to are "
    "decoded."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels(Labelled, Seed):
    """The labels that a few-shot classifier sees."""

    attribute: str = option("", "attribute of the class")
    positives: int = option(50, "labelled positives; 0: all", at_least=0)
    negatives: int = option(50, "labelled negatives; 0: all", at_least=0)
    unlabelled: int = option(0, "unlabelled pictures instead of negatives", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Labels, Count, Decoding, Drawing, Generation, LatentNoise):
    def ignored(self) -> str:
        of_labels = ("images", "labels", "positives", "negatives", "unlabelled")
        changed = [name for name in of_labels if name in self.changed()]
        if changed and not self.attribute:
            return f"--{changed[0]} without --attribute=NAME: the workdir's own classifier is used"
        if self.images and not self.labels:
            return "--images without --labels=FILE.csv"
        if self.unlabelled and "negatives" in changed:
            return "--negatives with --unlabelled, which takes their place"
        return ""


def run(context: Context[Options]) -> Result:
    """Class-conditional generation by rejection.

    The classifier is fitted on the labels that the options name, or is the workdir's own.
    """
    options = context.options
    if options.attribute:
        params, shots = fit(context)
    else:
        params, shots = context.workdir.few_shot()
    context.model.need("latent")
    accepted = generation.generate_codes_of_class(
        context.model,
        params,
        context.n(SHOWN),
        clamp=options.clamp,
        clip=options.clip,
        seed=options.seed,
    )
    numbers = shots | {
        "wanted": context.n(SHOWN),
        "made": len(accepted.z),
        "drawn": accepted.drawn,
        "acceptance": accepted.rate,
    }
    if not len(accepted.z):
        print(
            f"fewshot: the classifier refused all {accepted.drawn} codes: give more labels, or "
            f"train the latent model longer",
            file=sys.stderr,
        )
        return Result([Section("Few-shot generation", [Text(WORDS), table_of(numbers)])], numbers)
    images = to_uint8(
        context.model.decode(
            accepted.z, rng=options.seed, stop=options.stop, temperature=options.temperature
        )
    )
    said, headline = "", {}
    full = full_classifier(context, shots["attribute"])
    if full:
        kinds = {"agreement": accepted.z, "agreement_of_pictures": context.model.encode(images)}
        for name, z in kinds.items():
            z = np.asarray(latent.normalise(context.statistics(), z))
            numbers[name] = float((z @ full["kernel"] + full["bias"] > 0).mean())
        said = (
            f" A classifier of all labels agrees with {numbers['agreement']:.0%} of them, and "
            f"with {numbers['agreement_of_pictures']:.0%} of the pictures, encoded again."
        )
        headline = {f"few-shot {shots['attribute']}, agreed": numbers["agreement"]}
    rows = in_lines(images[:SHOWN], 16)
    pictures = picture_rows(
        context,
        [("", row) for row in rows],
        f"{shots['attribute']}, from {shots['labelled']} labelled and {shots['unlabelled']} "
        f"unlabelled pictures: {accepted.rate:.1%} of the latent model's codes were taken.{said}",
    )
    sections = [Section("Few-shot generation", [Text(WORDS), pictures, table_of(numbers)])]
    return Result(sections, numbers, {"fewshot": rows}, headline)


def table_of(numbers: Mapping[str, Any]) -> Table:
    """What was labelled, drawn and taken, in words."""
    rows = [
        ["attribute", numbers["attribute"]],
        ["pictures labelled", f"{numbers['labelled']:,}"],
        ["pictures without a label", f"{numbers['unlabelled']:,}"],
        ["codes drawn of the latent model", f"{numbers['drawn']:,}"],
        [
            "codes taken, as the classifier says yes",
            f"{numbers['made']:,} ({numbers['acceptance']:.1%})",
        ],
    ]
    if "agreement" in numbers:
        rows += [
            ["a classifier of all labels says yes too", f"{numbers['agreement']:.0%}"],
            ["to their pictures, encoded again", f"{numbers['agreement_of_pictures']:.0%}"],
        ]
    return Table(["", ""], rows)


def labels_of(section: Mapping[str, Any]) -> Labels:
    """The labels that a config's section describes; ValueError where it names no attribute."""
    labels = Labels(**section)
    if not labels.attribute:
        raise ValueError("which attribute? give --config.fewshot.attribute=NAME")
    return labels


def fit_and_keep(home: "workdir.Workdir", labels: Labels) -> None:
    """Fits the few-shot classifier that the labels describe, and keeps it in the workdir."""
    params, record = fit(Context(home, labels, home.few_shot_output()))
    home.write_few_shot({k: np.asarray(v, np.float32) for k, v in params.items()}, record)
    if processes.writes():
        print("fewshot: " + ", ".join(f"{k} {v}" for k, v in record.items()))


def fit(context: Context[Labels]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The classifier {"kernel": [d], "bias"} on normalised z, and a record of its labels."""
    labels = context.options
    if labels.labels:
        data, key = context.data(), context.cache_key()
        table = context.output.code_table("codes")
        mine = encoding.encode(context.model, data, "all", table, key, batch_size=BATCH_SIZE)
        labelled = context.normalised(mine)
        unlabelled = context.codes("train") if labels.unlabelled else labelled
    else:
        labelled = unlabelled = context.codes("train")
    return few_shot.fit(
        labelled,
        unlabelled,
        labels.attribute,
        labels.positives,
        labels.negatives,
        labels.unlabelled,
        seed=labels.seed,
    )


def full_classifier(context: Context[Any], attribute: str) -> dict[str, Any] | None:
    """A classifier of all labels that the run's data has for an attribute, or None."""
    if context.run_data is None:
        return None
    codes: code_table.Codes = context.codes("train")
    if attribute not in codes.attributes:
        return None
    y = codes.labels[:, codes.attributes.index(attribute)]
    known = np.isfinite(y)
    return few_shot.few_shot_classifier(codes.z[known], y[known])
