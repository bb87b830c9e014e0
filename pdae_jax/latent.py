"""Everything whose data is z, not pixels: statistics, the latent diffusion model, edits.

z is normalised (zero mean, unit standard deviation in each dimension) wherever these see it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pdae_jax import samplers
from pdae_jax.arrays import Array, Codes, Params, PerExample, Rngs, Times, Visited
from pdae_jax.samplers import NoiseFn
from pdae_jax.schedule import Schedule, constant

SCHEDULE = constant  # beta 0.008 throughout (paper, Table 2)

Direction = Float[Array, "d"]  # in normalised z
Statistics = Mapping[str, Any]  # {"mean", "std"}, each [d]
Classifier = Mapping[str, Any]  # {"kernel": [d, A], "bias": [A]} on normalised z


@runtime_checkable
class LatentModel(Protocol):
    """eps_omega as the algorithms see it: `networks.groups.Networks` is one."""

    def latent_time(self, params: Params, t: Int[Array, " N"]) -> Float[Array, "N width"]: ...

    def latent_eps(self, params: Params, z_t: Codes, time: Float[Array, "#B width"]) -> Codes: ...


def statistics(
    z: Float[np.ndarray, "N d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and unbiased standard deviation (ddof = 1) of each dimension of z."""
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"statistics need at least two codes [N, d], got shape {z.shape}")
    return z.mean(0).astype(np.float32), z.std(0, ddof=1).astype(np.float32)


def normalise(statistics: Statistics, z: Codes) -> Codes:
    """(z - mean) / std; statistics: {"mean", "std"}, each [d]."""
    return (z - statistics["mean"]) / statistics["std"]


def denormalise(statistics: Statistics, z: Codes) -> Codes:
    """The inverse of `normalise`."""
    return z * statistics["std"] + statistics["mean"]


def training_loss(
    net: LatentModel, params: Params, schedule: Schedule, z: Codes, t: Times, eps: Codes
) -> PerExample:
    """The latent diffusion model's loss: mean |eps - eps_omega(z_t, t)|, z normalised.

    Paper, Appendix B.1, equation 1, with the constant schedule 0.008.
    """
    z_t = schedule.x_t(z, t, eps)
    return jnp.abs(eps - net.latent_eps(params, z_t, net.latent_time(params, t))).mean(-1)


def noise_fn(net: LatentModel, params: Params, schedule: Schedule, times: Visited) -> NoiseFn:
    """eps_omega as a noise function of (z_t, t), for samplers without a threshold.

    The original clips the implied z_0 to [-1, 1]; "static" reproduces that.
    """
    time = samplers.tabulate(lambda t: net.latent_time(params, t), times, schedule.T)
    return lambda z_t, t: net.latent_eps(params, z_t, time(t))


def sample(
    net: LatentModel,
    params: Params,
    rngs: Rngs,
    schedule: Schedule,
    steps: int = 100,
    *,
    clamp: bool = False,
    clip: bool = False,
) -> Codes:
    """Codes from the latent diffusion model, by DDIM: one key an example -> z, denormalised.

    clamp: cut the first z_T to [-1, 1], and clip: the implied z_0 at every step; the original does
    both, the paper speaks of neither.
    """
    d = params["statistics"]["mean"].shape
    z_T = jax.vmap(lambda rng: jax.random.normal(rng, d))(rngs)
    z_T = jnp.clip(z_T, -1, 1) if clamp else z_T
    times = samplers.ddim_times(schedule.T, steps)[::-1]
    eps, threshold = noise_fn(net, params, schedule, times), "static" if clip else "none"
    z = samplers.ddim(eps, z_T, times, schedule, threshold)
    return denormalise(params["statistics"], z)


def logits(classifier: Classifier, z: Codes) -> Float[Array, "B A"]:
    """A logit for each attribute, of normalised z."""
    return z @ classifier["kernel"] + classifier["bias"]


def classifier_loss(classifier: Classifier, z: Codes, labels: Float[Array, "B A"]) -> PerExample:
    """Binary cross-entropy of each example, the mean over its known attributes.

    z: normalised. labels: 1 yes, 0 no, NaN not known.
    """
    known = ~jnp.isnan(labels)
    y = jnp.where(known, labels, 0.0)
    out = logits(classifier, z)
    each = jnp.where(known, jax.nn.softplus(out) - y * out, 0.0)
    return each.sum(-1) / jnp.maximum(known.sum(-1), 1)


def direction(classifier: Classifier, attribute: int, fixed: Sequence[int] = ()) -> Direction:
    """The unit vector along which an attribute's logit grows fastest.

    fixed: other attributes' indices, whose logits it must not move: it is made orthogonal to their
    directions.
    """
    kernel = jnp.asarray(classifier["kernel"])
    w = kernel[:, attribute]
    if len(fixed):
        basis, _ = jnp.linalg.qr(kernel[:, jnp.asarray(fixed)])
        w = w - basis @ (basis.T @ w)
    return w / jnp.linalg.norm(w)


EXPECTED = 3.0  # codes with both of two labels: where none has, one excludes the other


def matched_direction(
    z: Float[np.ndarray, "N d"], labels: Float[np.ndarray, "N A"], attribute: int
) -> tuple[Direction, float]:
    """The unit vector to codes with an attribute from those without that are else alike; matches.

    The difference of the two means within each stratum of codes whose other labels are equal, by
    inverse variance over all strata. Labels that exclude the attribute, such as other skins, are
    not matched: no code with it has them, where by chance `EXPECTED` or more would. Where a
    classifier's direction is how an attribute is told, this is how codes differ by it (Haufe et al.
    2014: filters and patterns).

    z: normalised. labels: 1 yes, 0 no, NaN not known. matches: as many pairs of codes would tell as
    much. Raises ValueError where no two codes differ in the attribute and agree in the others.
    """
    known = ~np.isnan(labels[:, attribute])
    z, labels = z[known], labels[known]
    has = labels[:, attribute] == 1
    by_chance = has.mean() * np.nansum(labels, axis=0) if len(z) else np.zeros(labels.shape[1])
    excluded = ~(labels[has] != 0).any(0) & (by_chance >= EXPECTED)
    matched = ~excluded & (np.arange(labels.shape[1]) != attribute)
    rows = np.nan_to_num(labels[:, matched], nan=-1.0)  # not known is alike to not known
    _, stratum = np.unique(rows, axis=0, return_inverse=True)
    stratum = stratum.ravel()
    counts = np.stack([np.bincount(stratum[has == y], minlength=len(z)) for y in (False, True)])
    total, matches = np.zeros(z.shape[1]), 0.0
    order = np.argsort(stratum, kind="stable")
    ends = np.cumsum(counts.sum(0))
    for k in np.flatnonzero(counts.all(0)):
        those = order[ends[k] - counts[:, k].sum() : ends[k]]
        with_it, without = z[those[has[those]]], z[those[~has[those]]]
        weight = 1 / (1 / len(with_it) + 1 / len(without))
        total += weight * (with_it.mean(0) - without.mean(0))
        matches += weight
    length = np.linalg.norm(total)
    if not length > 0:
        raise ValueError("no two codes differ in the attribute and agree in all others")
    return (total / length).astype(np.float32), 2 * matches


def edit(statistics: Statistics, z: Codes, direction: Direction, strength: float) -> Codes:
    """z moved along a direction: normalised, + strength sqrt(d) direction, denormalised.

    The paper's attribute manipulation; strengths of about -0.5 to 0.5.
    """
    step = strength * np.sqrt(z.shape[-1]) * direction
    return denormalise(statistics, normalise(statistics, z) + step)
