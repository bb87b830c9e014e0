"""Everything whose data is z: statistics, the latent diffusion model, classifiers, edits. No pixels.

z is normalised (zero mean, unit standard deviation in each dimension) wherever these see it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax import samplers
from pdae_jax.schedule import Schedule, constant

SCHEDULE = constant  # beta 0.008 throughout (paper, Table 2)


def statistics(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation (ddof = 1) of each dimension of z [N, d]: [d] each."""
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"statistics need at least two codes [N, d], got shape {z.shape}")
    return z.mean(0).astype(np.float32), z.std(0, ddof=1).astype(np.float32)


def normalise(statistics, z):
    """(z - mean) / std; statistics: {"mean", "std"}, each [d]."""
    return (z - statistics["mean"]) / statistics["std"]


def denormalise(statistics, z):
    """The inverse of `normalise`."""
    return z * statistics["std"] + statistics["mean"]


def training_loss(net, params, schedule: Schedule, z, t, eps):
    """The latent diffusion model's loss, [B]: mean |eps - eps_omega(z_t, t)|, z normalised.

    Paper, Appendix B.1, equation 1, with the constant schedule 0.008.
    """
    z_t = schedule.x_t(z, t, eps)
    return jnp.abs(eps - net.latent_eps(params, z_t, net.latent_time(params, t))).mean(-1)


def noise_fn(net, params, schedule: Schedule, times):
    """eps_omega as a noise function of (z_t, t), for `samplers.ddim` with clip=False.

    The original clips the implied z_0 to [-1, 1]; pass clip=True to reproduce that.
    """
    time = samplers.tabulate(lambda t: net.latent_time(params, t), times, schedule.T)
    return lambda z_t, t: net.latent_eps(params, z_t, time(t))


def sample(
    net,
    params,
    rngs,
    schedule: Schedule,
    steps: int = 100,
    *,
    clamp: bool = False,
    clip: bool = False,
):
    """Codes from the latent diffusion model, by DDIM: one key an example -> z, denormalised [B, d].

    clamp: cut the first z_T to [-1, 1], and clip: the implied z_0 at every step; the original does
    both, the paper speaks of neither.
    """
    z_T = jax.vmap(lambda rng: jax.random.normal(rng, (net.arch.z_size,)))(rngs)
    z_T = jnp.clip(z_T, -1, 1) if clamp else z_T
    times = samplers.ddim_times(schedule.T, steps)[::-1]
    z = samplers.ddim(noise_fn(net, params, schedule, times), z_T, times, schedule, clip=clip)
    return denormalise(params["statistics"], z)


def logits(classifier, z):
    """z normalised, [B, d] -> a logit for each attribute, [B, A]."""
    return z @ classifier["kernel"] + classifier["bias"]


def classifier_loss(classifier, z, labels):
    """Binary cross-entropy of each example, [B], the mean over its known attributes.

    labels: [B, A], 1 yes, 0 no, NaN not known.
    """
    known = ~jnp.isnan(labels)
    y = jnp.where(known, labels, 0.0)
    out = logits(classifier, z)
    each = jnp.where(known, jax.nn.softplus(out) - y * out, 0.0)
    return each.sum(-1) / jnp.maximum(known.sum(-1), 1)


def direction(classifier, attribute: int, fixed=()):
    """The unit vector [d] along which an attribute's logit grows fastest.

    fixed: other attributes' indices, whose logits it must not move: it is made orthogonal to their
    directions.
    """
    kernel = jnp.asarray(classifier["kernel"])
    w = kernel[:, attribute]
    if len(fixed):
        basis, _ = jnp.linalg.qr(kernel[:, jnp.asarray(fixed)])
        w = w - basis @ (basis.T @ w)
    return w / jnp.linalg.norm(w)


def edit(statistics, z, direction, strength: float):
    """z moved along a direction: normalised, + strength sqrt(d) direction, denormalised.

    The paper's attribute manipulation; strengths of about -0.5 to 0.5. z: [B, d].
    """
    step = strength * np.sqrt(z.shape[-1]) * direction
    return denormalise(statistics, normalise(statistics, z) + step)
