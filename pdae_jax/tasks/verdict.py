"""Whether a model is trained well: one sentence, from numbers that a report has measured."""

from typing import NamedTuple

import numpy as np

from pdae_jax.images import to_float
from pdae_jax.model import Model
from pdae_jax.tasks import reconstruction

MOST_OF_MEAN = 0.5  # the error of z alone, over the mean picture's, from which z says little
LEAST_USED = 1.1  # the loss with another picture's z, over that with its own
MOST_UNTRAINED = 0.05  # of the untrained weights in the average
LEAST_DONE = 0.95  # of the planned steps
AS_GOOD = 10.0  # the error by x_T without z over that with z, up to which they are alike
ROUND_TRIPS = 16  # pictures that go to x_T and back


class Evidence(NamedTuple):
    """alone, mean, pca: mean squared errors of held-out pictures, pixels in [0, 1], decoded from z
    alone, as the mean picture, and by `components` principal components of the training pictures.
    inferred, bare: those decoded from the inferred x_T with z, and by the diffusion model alone
    without it. done, dpm_done: the shares of PDAE's and the diffusion model's planned steps.
    untrained: of the first weights in the average. used: the loss with another picture's z over
    that with its own; None where it was not measured."""

    alone: float
    mean: float
    pca: float
    components: int
    inferred: float
    bare: float
    done: float = 1.0
    dpm_done: float = 1.0
    untrained: float = 0.0
    used: float | None = None


class Verdict(NamedTuple):
    good: bool
    sentence: str


def measure(model: Model, train: np.ndarray, held_out: np.ndarray) -> Evidence:
    """The errors of held-out pictures; both [N, H, W, C], uint8 or in [-1, 1].

    Whatever the protocol's temperature, z alone is decoded at 0.
    """
    error = reconstruction.mean_squared_error
    train, held_out, z = to_float(train), to_float(held_out), model.encode(held_out)
    every = max(1, len(held_out) // ROUND_TRIPS)
    some, z_of_some = held_out[::every], z[::every]
    inferred = model.decode(z_of_some, model.invert(some, z_of_some))
    bare = model.decode(None, model.invert(some, bare=True), drawn=False)
    pca, components = principal_error((train + 1) / 2, (held_out + 1) / 2, model.arch.z_size)
    return Evidence(
        alone=error(held_out, model.decode(z, temperature=0.0)),
        mean=error(held_out, np.broadcast_to(train.mean(0), held_out.shape)),
        pca=pca,
        components=components,
        inferred=error(some, inferred),
        bare=error(some, bare),
    )


def principal_error(train: np.ndarray, held_out: np.ndarray, components: int) -> tuple[float, int]:
    """Mean squared error of held-out pictures rebuilt from their principal components.

    train, held_out: float [N, H, W, C] in [0, 1]. Returns the error and the number of components,
    fewer than asked for where there are not so many pictures.
    """
    flat = train.reshape(len(train), -1)
    mean = flat.mean(0)
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
        f"the mean picture's ({e.mean:.3g}); {e.components} principal components, which are fitted "
        f"to this error alone, have {e.pca:.2g}"
    )
    beside = ""
    if e.bare < AS_GOOD * e.inferred:
        beside = (
            f" That x_T brings them back to {e.inferred:.1g} says nothing of this: without z it "
            f"does to {e.bare:.1g}."
        )
    faults = []
    if e.dpm_done < LEAST_DONE:
        faults.append(
            f"the diffusion model has {e.dpm_done:.0%} of its planned steps: train it to its end, "
            f"and PDAE over it in another --workdir"
        )
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
        return Verdict(False, f"Undertrained: {against}. {sentences(faults)}{beside}")
    used = (
        ""
        if e.used is None
        else f"; with another picture's z the loss is {e.used:.1f} times as high"
    )
    return Verdict(True, f"Trained: {against}{used}.{beside}")


def sentences(faults: list[str]) -> str:
    """Faults as a sentence."""
    words = "; ".join(faults)
    return f"{words[:1].upper()}{words[1:]}."
