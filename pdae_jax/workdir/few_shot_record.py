"""Few-shot classifiers of a workdir: fitted on stored codes, kept beside the model."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pdae_jax.runtime import processes
from pdae_jax.runtime.choices import nearest
from pdae_jax.tasks.few_shot import choose_shots, few_shot_classifier
from pdae_jax.workdir import checkpoints as checkpoint
from pdae_jax.workdir.code_table import Codes

GROUP = "fewshot"


class FewShot(NamedTuple):
    """params: {"kernel": [d], "bias": number} on normalised z. record: what it was fitted on."""

    params: dict
    record: dict


def fit(
    labelled: Codes,
    unlabelled: Codes,
    attribute: str,
    n_positive: int,
    n_negative: int,
    n_unlabelled: int = 0,
    *,
    seed: int = 0,
) -> FewShot:
    """The binary classifier of some positives and negatives or, with unlabelled codes, the PU one.

    labelled, unlabelled: normalised codes to choose from, perhaps the same table. n_positive,
    n_negative: 0 for all there are; n_unlabelled: taken for negatives, and then no labelled ones
    are. Raises ValueError with the nearest names where there is no such attribute, and where there
    are too few labels.
    """
    if not labelled.attributes:
        raise ValueError("the pictures have no attributes: give a table of them, FILE.csv")
    name = nearest(attribute, labelled.attributes, "attribute")
    y = labelled.labels[:, labelled.attributes.index(name)]
    chosen, rest = choose_shots(
        y,
        n_positive or int((y == 1).sum()),
        0 if n_unlabelled else n_negative or int((y == 0).sum()),
        seed=seed,
    )
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
    params = few_shot_classifier(labelled.z[chosen], y[chosen], unlabelled=more)
    return FewShot(
        params,
        {
            "attribute": name,
            "labelled": len(chosen),
            "positives": int((y[chosen] == 1).sum()),
            "unlabelled": n_unlabelled,
            "seed": seed,
        },
    )


def write(workdir: str | os.PathLike, classifier: FewShot) -> None:
    """Keeps a classifier in workdir/fewshot, in place of the one that was there."""
    folder = Path(workdir) / GROUP
    with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(
            (checkpoints.latest() or 0) + 1,
            {
                GROUP: {
                    name: np.asarray(value, np.float32) for name, value in classifier.params.items()
                }
            },
        )
    with processes.fail_together():
        if processes.writes():
            (folder / "shots.json").write_text(json.dumps(classifier.record, indent=1) + "\n")


def read(workdir: str | os.PathLike) -> FewShot:
    """What `write` kept; ValueError where there is none."""
    record = Path(workdir) / GROUP / "shots.json"
    if not record.exists():
        raise ValueError(
            f"{workdir} has no few-shot classifier: give --attribute=NAME, or train "
            f"one with the config's :fewshot variant"
        )
    params = checkpoint.read_weights(workdir, (GROUP,))[GROUP]
    return FewShot(
        {name: np.asarray(value) for name, value in params.items()}, json.loads(record.read_text())
    )
