"""Everything whose data is z: its statistics, and the latent diffusion model. No pixels here."""
import jax.numpy as jnp
import numpy as np

from pdae_jax import samplers
from pdae_jax.schedule import Schedule


def statistics(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation (ddof = 1) of each dimension of z [N, d]: [d] each."""
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"statistics need at least two codes [N, d], got shape {z.shape}")
    return z.mean(0).astype(np.float32), z.std(0, ddof=1).astype(np.float32)


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
