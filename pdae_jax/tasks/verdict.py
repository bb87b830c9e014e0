"""Whether a model is trained well: one sentence, from numbers that a report has measured."""

from typing import NamedTuple

import numpy as np

MOST_OF_MEAN = 0.5  # the error of z alone, over the mean picture's, from which z says little
LEAST_USED = 1.1  # the loss with another picture's z, over that with its own
MOST_UNTRAINED = 0.05  # of the untrained weights in the average
LEAST_DONE = 0.95  # of the planned steps


class Evidence(NamedTuple):
    """alone, mean, pca: mean squared errors of held-out pictures, pixels in [0, 1], decoded from z
    alone, as the mean picture, and by `components` principal components of the training pictures.
    done: the share of PDAE's planned steps. untrained: of the first weights in the average. used:
    the loss with another picture's z over that with its own; None where it was not measured."""

    alone: float
    mean: float
    pca: float
    components: int
    done: float = 1.0
    untrained: float = 0.0
    used: float | None = None


class Verdict(NamedTuple):
    good: bool
    sentence: str


def principal_error(train: np.ndarray, held_out: np.ndarray, components: int) -> tuple[float, int]:
    """Mean squared error of held-out pictures rebuilt from their principal components.

    train, held_out: float [N, H, W, C] in [0, 1]. Returns the error and the number of components,
    fewer than asked for where there are not so many pictures.
    """
    flat, mean = train.reshape(len(train), -1).astype(np.float64), train.mean(0).reshape(-1)
    centred = flat - mean
    # Eigenvectors of the pictures' Gram matrix, which is smaller than the pixels' covariance.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    k = min(components, int((values > values[-1] * 1e-12).sum()))
    basis = centred.T @ vectors[:, -k:] / np.sqrt(values[-k:])
    rest = held_out.reshape(len(held_out), -1) - mean
    return float(((rest - (rest @ basis) @ basis.T) ** 2).mean()), k


def judge(evidence: Evidence) -> Verdict:
    """The verdict, and what to do where it is bad."""
    e = evidence
    against = (
        f"from z alone held-out pictures have an error of {e.alone:.3g}, {e.alone / e.mean:.0%} of "
        f"the mean picture's ({e.mean:.3g}); {e.components} principal components have {e.pca:.2g}"
    )
    faults = []
    if e.done < LEAST_DONE:
        faults.append(f"{e.done:.0%} of the planned steps are done: run the command again")
    if e.untrained > MOST_UNTRAINED:
        faults.append(
            f"{e.untrained:.0%} of the average that is used are the untrained weights: train "
            f"longer, or leave ema out"
        )
    if e.used is not None and e.used < LEAST_USED:
        faults.append(
            f"z is hardly used (with another picture's z the loss is {e.used:.2f} times as high): "
            f"train longer"
        )
    if e.alone > MOST_OF_MEAN * e.mean and not faults:
        faults.append("z says little of a picture yet: raise --config.pdae.steps and run it again")
    if faults or e.alone > MOST_OF_MEAN * e.mean:
        return Verdict(False, f"Undertrained: {against}. {'; '.join(faults).capitalize()}.")
    used = (
        ""
        if e.used is None
        else f"; with another picture's z the loss is {e.used:.1f} times as high"
    )
    return Verdict(True, f"Trained: {against}{used}.")
