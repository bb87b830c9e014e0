"""PDAE in the paper's letters: Algorithms 1, 2 and 3 (Zhang et al., NeurIPS 2022, Appendix A).

    x_0, x_t, x_T   image, noised image, pure noise: [B, H, W, C], x_0 in [-1, 1]
    t               0..T-1 (the paper's 1..T)
    z = E(x_0)      the code, [B, d]
    eps_theta       the frozen, pre-trained diffusion model's prediction of the noise
    G               the gradient estimator: Sigma_t G(x_t, z, t) shifts the posterior mean

Every function here is pure. `net` is the networks (`models.Networks`), `params` their parameters;
what has to be sampled becomes a noise function for the loops in `samplers`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax import samplers
from pdae_jax.schedule import Schedule, at


def training_loss(
    net, params, schedule: Schedule, x_0, t, eps, *, gamma: float = 0.1, dropout=None
):
    """Algorithm 1: the loss of each example, [B].

    lambda_t (eps - (eps_theta(x_t, t) - k_t G(x_t, E(x_0), t)))^2, averaged over an image;
    k_t = sqrt(alpha_t) sqrt(1 - alpha_bar_t) / beta_t Sigma_t. The caller differentiates it by E
    and G alone; eps_theta is in evaluation mode.
    """
    z = net.encode(params, x_0)
    return code_loss(net, params, schedule, x_0, t, eps, z, gamma=gamma, dropout=dropout)


def code_loss(net, params, schedule: Schedule, x_0, t, eps, z, *, gamma: float = 0.1, dropout=None):
    """Algorithm 1's loss, [B], of given codes z: what `training_loss` is at z = E(x_0)."""
    x_t = schedule.x_t(x_0, t, eps)
    out = net.predict(params, x_t, net.time(params, t), net.code(params, z), dropout=dropout)
    k_t = at(schedule.mean_shift, t, x_t) * Sigma(schedule, t, x_t, out.v)
    lambda_t = at(schedule.loss_weight(gamma), t, x_t)
    return (lambda_t * (eps - (out.eps - k_t * out.gradient)) ** 2).mean((1, 2, 3))


def dpm_loss(net, params, schedule: Schedule, x_0, t, eps, *, dropout=None):
    """The diffusion model's own loss, [B]: (eps - eps_theta(x_t, t))^2, averaged over an image."""
    x_t = schedule.x_t(x_0, t, eps)
    out = net.predict(params, x_t, net.time(params, t), dropout_dpm=dropout)
    return ((eps - out.eps) ** 2).mean((1, 2, 3))


def posterior_gap(net, params, schedule: Schedule, x_0, t, eps, z):
    """The paper's Figure 4, [B] twice: |mu~(x_t, x_0) - mu_theta(x_t)|^2 without and with G.

    The second adds Sigma_theta G(x_t, z, t) to mu_theta; the sum is over a picture's elements.
    """
    x_t = schedule.x_t(x_0, t, eps)
    out = net.predict(params, x_t, net.time(params, t), net.code(params, z))
    gap = schedule.true_posterior_mean(x_0, x_t, t) - schedule.posterior_mean(x_t, t, out.eps)
    shifted = gap - Sigma(schedule, t, x_t, out.v) * out.gradient
    return (gap**2).sum((1, 2, 3)), (shifted**2).sum((1, 2, 3))


def one_step_x_0(net, params, schedule: Schedule, x_t, t, z):
    """Figures 1 to 3: the x_0 that one step implies at x_t, without and with G, and G itself.

    With G, eps is what Algorithm 1 trains, eps_theta - k_t G; each is clipped to [-1, 1].
    """
    out = net.predict(params, x_t, net.time(params, t), net.code(params, z))
    k_t = at(schedule.mean_shift, t, x_t) * Sigma(schedule, t, x_t, out.v)
    both = (schedule.x_0(x_t, t, eps) for eps in (out.eps, out.eps - k_t * out.gradient))
    return *(jnp.clip(x_0, -1.0, 1.0) for x_0 in both), out.gradient


def Sigma(schedule: Schedule, t, x_t, v=None):
    """Sigma_theta(x_t, t): the constant sigma_t^2, or a number a pixel where the model learned it."""
    if v is None:
        return at(schedule.posterior_variance, t, x_t)
    return jnp.exp(log_Sigma(schedule, t, x_t, v))


def log_Sigma(schedule: Schedule, t, x_t, v=None):
    """log Sigma_theta for sampling, clipped at t = 0, where sigma_t is 0.

    Learned (Nichol and Dhariwal 2021): v' log beta_t + (1 - v') log sigma_t^2, v' = (v + 1) / 2.
    """
    constant = at(schedule.posterior_log_variance, t, x_t)
    if v is None:
        return constant
    return (v + 1) / 2 * at(np.log(schedule.beta), t, x_t) + (1 - (v + 1) / 2) * constant


def ddpm_posterior(net, params, schedule: Schedule, z, times):
    """Algorithm 2's step, for `samplers.ddpm`: (x_t, t) -> mean and log variance of x_{t-1}.

    mean = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_t) + Sigma_t G; z = None
    leaves G out. `times` are those that will be visited.
    """
    time, codes = _projections(net, params, schedule, times, z)

    def posterior(x_t, t):
        out = net.predict(params, x_t, time(t), *codes)
        mean = schedule.posterior_mean(x_t, t, out.eps)
        if codes:
            mean = mean + Sigma(schedule, t, x_t, out.v) * out.gradient
        return mean, log_Sigma(schedule, t, x_t, out.v)

    return posterior


def noise_fn(net, params, schedule: Schedule, z, times, *, stop: float = 0.0):
    """Algorithm 3's noise, for `samplers.ddim`: eps_theta - sqrt(1 - alpha_bar_t) G(x_t, z, t).

    z: [B, d]; None is the bare diffusion model. times: those that will be visited. stop: the
    share of the steps, the last ones (small t), that go without G: 0 none, 1 all of them.
    """
    time, codes = _projections(net, params, schedule, times, z)
    t_stop = _stop_time(times, stop)

    def eps(x_t, t):
        def shifted():
            out = net.predict(params, x_t, time(t), *codes)
            return out.eps - at(schedule.score_shift, t, x_t) * out.gradient

        def bare():
            return net.predict(params, x_t, time(t)).eps

        if not codes:
            return bare()
        return jax.lax.cond(t >= t_stop, shifted, bare) if stop > 0 else shifted()

    return eps


def decode(net, params, schedule: Schedule, x_T, z, times, *, stop: float = 0.0):
    """Algorithm 3: DDIM from x_T under z along descending `times`; ascending ones infer x_T."""
    return samplers.ddim(noise_fn(net, params, schedule, z, times, stop=stop), x_T, times, schedule)


def trajectory_noise_fn(net, params, schedule: Schedule, z_1, z_2, weight, times):
    """Interpolation (b): as `noise_fn`, with G = lerp(G(x_t, z_1, t), G(x_t, z_2, t), weight).

    Interpolation (a) is `noise_fn` at lerp(z_1, z_2); both start at slerp of the two x_T.
    """
    time, codes = _projections(net, params, schedule, times, z_1, z_2)

    def eps(x_t, t):
        out = net.predict(params, x_t, time(t), *codes)
        return out.eps - at(schedule.score_shift, t, x_t) * samplers.lerp(*out.gradient, weight)

    return eps


def _projections(net, params, schedule, times, *zs):
    """What depends on t alone, as a function of t, and on z alone: once a call, not a step."""
    time = samplers.tabulate(lambda t: net.time(params, t), times, schedule.T)
    return time, [net.code(params, z) for z in zs if z is not None]


def _stop_time(times, stop: float) -> int:
    """The first time that still has G: step i, from t_i, has it while i - 1 >= int(stop S)."""
    if not 0 <= stop <= 1:
        raise ValueError(f"stop must be a share from 0 to 1, got {stop}")
    times = np.sort(np.asarray(times))
    steps = len(times) - 1
    first = int(stop * steps) + 1
    return int(times[first]) if first <= steps else int(times[-1]) + 1
