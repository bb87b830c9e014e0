"""PDAE in the paper's letters: Algorithms 1, 2 and 3 (Zhang et al., NeurIPS 2022, Appendix A).

    x_0, x_t, x_T   image, noised image, pure noise: [B, H, W, C], x_0 in [-1, 1]
    t               0..T-1 (the paper's 1..T)
    z = E(x_0)      the code, [B, d]
    eps_theta       the frozen, pre-trained diffusion model's prediction of the noise
    G               the gradient estimator: Sigma_t G(x_t, z, t) shifts the posterior mean

Every function here is pure. `net` is the networks (`networks.groups.Networks`), `params` their
parameters; sampling is a noise function from here under a loop of `samplers`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from pdae_jax import samplers
from pdae_jax.arrays import Array, Codes, Images, Params, PerExample, Rng, Time, Times, Visited
from pdae_jax.samplers import NoiseFn, PosteriorFn
from pdae_jax.schedule import Factor, Schedule, Table, at


class Prediction(NamedTuple):
    """The networks' outputs at (x_t, t, z), in float32.

    v is the learned variance's interpolation, None where the model has none. gradient is G, None
    where no code was given; with several codes an example it is stacked, [n, B, H, W, C].
    """

    eps: Images
    v: Images | None
    gradient: Any  # Images, [n, B, H, W, C] or None: which of them follows from the codes given


@runtime_checkable
class Denoiser(Protocol):
    """eps_theta and G as the algorithms see them: `networks.groups.Networks` is one."""

    def time(self, params: Params, t: Int[Array, " N"]) -> Any:
        """The part of `predict` that depends on t alone."""
        ...

    def code(self, params: Params, z: Codes) -> Any:
        """The part of `predict` that depends on z alone."""
        ...

    def predict(
        self,
        params: Params,
        x_t: Images,
        time: Any,
        *codes: Any,
        dropout: Rng | None = None,
        dropout_dpm: Rng | None = None,
    ) -> Prediction: ...


@runtime_checkable
class Autoencoder(Denoiser, Protocol):
    """With E as well."""

    def encode(self, params: Params, x_0: Images) -> Codes: ...


def training_loss(
    net: Autoencoder,
    params: Params,
    schedule: Schedule,
    x_0: Images,
    t: Times,
    eps: Images,
    *,
    weight: Table | None = None,
    dropout: Rng | None = None,
) -> PerExample:
    """Algorithm 1: the loss of each example, [B].

    lambda_t (eps - (eps_theta(x_t, t) - k_t G(x_t, E(x_0), t)))^2, averaged over an image;
    k_t = sqrt(alpha_t) sqrt(1 - alpha_bar_t) / beta_t Sigma_t. weight: lambda over t, one of
    `Schedule.loss_weight`; None is the paper's. The caller differentiates it by E and G alone;
    eps_theta is in evaluation mode.
    """
    z = net.encode(params, x_0)
    return code_loss(net, params, schedule, x_0, t, eps, z, weight=weight, dropout=dropout)


def code_loss(
    net: Denoiser,
    params: Params,
    schedule: Schedule,
    x_0: Images,
    t: Times,
    eps: Images,
    z: Codes,
    *,
    weight: Table | None = None,
    dropout: Rng | None = None,
) -> PerExample:
    """Algorithm 1's loss of given codes z; `training_loss` is this at z = E(x_0)."""
    x_t = schedule.x_t(x_0, t, eps)
    out = net.predict(params, x_t, net.time(params, t), net.code(params, z), dropout=dropout)
    k_t = at(schedule.mean_shift, t, x_t) * Sigma(schedule, t, x_t, out.v)
    lambda_t = at(schedule.loss_weight() if weight is None else weight, t, x_t)
    return (lambda_t * (eps - (out.eps - k_t * out.gradient)) ** 2).mean((1, 2, 3))


def dpm_loss(
    net: Denoiser,
    params: Params,
    schedule: Schedule,
    x_0: Images,
    t: Times,
    eps: Images,
    *,
    dropout: Rng | None = None,
) -> PerExample:
    """The diffusion model's own loss: (eps - eps_theta(x_t, t))^2, averaged over an image."""
    x_t = schedule.x_t(x_0, t, eps)
    out = net.predict(params, x_t, net.time(params, t), dropout_dpm=dropout)
    return ((eps - out.eps) ** 2).mean((1, 2, 3))


def posterior_gap(
    net: Denoiser,
    params: Params,
    schedule: Schedule,
    x_0: Images,
    t: Times,
    eps: Images,
    z: Codes,
) -> tuple[PerExample, PerExample]:
    """The paper's Figure 4: |mu~(x_t, x_0) - mu_theta(x_t)|^2 without and with G.

    The second adds Sigma_theta G(x_t, z, t) to mu_theta; the sum is over a picture's elements.
    """
    x_t = schedule.x_t(x_0, t, eps)
    out = net.predict(params, x_t, net.time(params, t), net.code(params, z))
    gap = schedule.true_posterior_mean(x_0, x_t, t) - schedule.posterior_mean(x_t, t, out.eps)
    shifted = gap - Sigma(schedule, t, x_t, out.v) * out.gradient
    return (gap**2).sum((1, 2, 3)), (shifted**2).sum((1, 2, 3))


def one_step_x_0(
    net: Denoiser, params: Params, schedule: Schedule, x_t: Images, t: Times, z: Codes
) -> tuple[Images, Images, Images]:
    """Figures 1 to 3: the x_0 that one step implies at x_t, without and with G, and G itself.

    With G, eps is what Algorithm 1 trains, eps_theta - k_t G; each is clipped to [-1, 1].
    """
    out = net.predict(params, x_t, net.time(params, t), net.code(params, z))
    k_t = at(schedule.mean_shift, t, x_t) * Sigma(schedule, t, x_t, out.v)
    bare = schedule.x_0(x_t, t, out.eps)
    shifted = schedule.x_0(x_t, t, out.eps - k_t * out.gradient)
    return jnp.clip(bare, -1.0, 1.0), jnp.clip(shifted, -1.0, 1.0), out.gradient


def Sigma(
    schedule: Schedule, t: Time | Times, x_t: Images, v: Images | None = None
) -> Factor | Images:
    """Sigma_theta(x_t, t): the constant sigma_t^2, or one a pixel where the model learned it."""
    if v is None:
        return at(schedule.posterior_variance, t, x_t)
    return jnp.exp(log_Sigma(schedule, t, x_t, v))


def log_Sigma(
    schedule: Schedule, t: Time | Times, x_t: Images, v: Images | None = None
) -> Factor | Images:
    """log Sigma_theta for sampling, clipped at t = 0, where sigma_t is 0.

    Learned (Nichol and Dhariwal 2021): v' log beta_t + (1 - v') log sigma_t^2, v' = (v + 1) / 2.
    """
    constant = at(schedule.posterior_log_variance, t, x_t)
    if v is None:
        return constant
    return (v + 1) / 2 * at(np.log(schedule.beta), t, x_t) + (1 - (v + 1) / 2) * constant


def ddpm_posterior(
    net: Denoiser, params: Params, schedule: Schedule, z: Codes | None, times: Visited
) -> PosteriorFn:
    """Algorithm 2's step, for `samplers.ddpm`: (x_t, t) -> mean and log variance of x_{t-1}.

    mean = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_t) + Sigma_t G; z = None
    leaves G out. `times` are those that will be visited.
    """
    time, codes = _projections(net, params, schedule, times, z)

    def posterior(x_t: Images, t: Time) -> tuple[Images, Factor | Images]:
        out = net.predict(params, x_t, time(t), *codes)
        mean = schedule.posterior_mean(x_t, t, out.eps)
        if codes:
            mean = mean + Sigma(schedule, t, x_t, out.v) * out.gradient
        return mean, log_Sigma(schedule, t, x_t, out.v)

    return posterior


def noise_fn(
    net: Denoiser,
    params: Params,
    schedule: Schedule,
    z: Codes | None,
    times: Visited,
    *,
    stop: float = 0.0,
) -> NoiseFn:
    """Algorithm 3's noise, for `samplers.ddim`: eps_theta - sqrt(1 - alpha_bar_t) G(x_t, z, t).

    z: None is the bare diffusion model. times: those that will be visited. stop: the share of T,
    the small times, which go without G: 0 none, 1 all of them.
    """
    time, codes = _projections(net, params, schedule, times, z)

    def shifted(x_t: Images, t: Time) -> Images:
        out = net.predict(params, x_t, time(t), *codes)
        return out.eps - at(schedule.score_shift, t, x_t) * out.gradient

    def bare(x_t: Images, t: Time) -> Images:
        return net.predict(params, x_t, time(t)).eps

    return until(schedule, stop, shifted if codes else bare, bare)


def decode(
    net: Denoiser,
    params: Params,
    schedule: Schedule,
    x_T: Images,
    z: Codes | None,
    times: Visited,
    *,
    stop: float = 0.0,
) -> Images:
    """Algorithm 3: DDIM from x_T under z along descending `times`; ascending ones infer x_T."""
    return samplers.ddim(noise_fn(net, params, schedule, z, times, stop=stop), x_T, times, schedule)


def trajectory_noise_fn(
    net: Denoiser,
    params: Params,
    schedule: Schedule,
    z_1: Codes,
    z_2: Codes,
    weight: ArrayLike,
    times: Visited,
) -> NoiseFn:
    """Interpolation (b): as `noise_fn`, with G = lerp(G(x_t, z_1, t), G(x_t, z_2, t), weight).

    Interpolation (a) is `noise_fn` at lerp(z_1, z_2); both start at slerp of the two x_T.
    """
    time, codes = _projections(net, params, schedule, times, z_1, z_2)

    def eps(x_t: Images, t: Time) -> Images:
        out = net.predict(params, x_t, time(t), *codes)
        G_1, G_2 = out.gradient
        return out.eps - at(schedule.score_shift, t, x_t) * samplers.lerp(G_1, G_2, weight)

    return eps


def _projections(
    net: Denoiser, params: Params, schedule: Schedule, times: Visited, *zs: Codes | None
) -> tuple[Callable[[Time], Any], list[Any]]:
    """The networks' shares of t, as a function of t, and of each z: once a call, not a step."""
    time = samplers.tabulate(lambda t: net.time(params, t), times, schedule.T)
    return time, [net.code(params, z) for z in zs if z is not None]


def until(schedule: Schedule, stop: float, shifted: NoiseFn, bare: NoiseFn) -> NoiseFn:
    """`shifted`, but `bare` at the small times, a share `stop` of T."""
    if not 0 <= stop <= 1:
        raise ValueError(f"stop must be a share from 0 to 1, got {stop}")
    if stop == 0:
        return shifted
    first = int(stop * (schedule.T - 1)) + 1  # that still is under z
    return lambda x_t, t: jax.lax.cond(t >= first, shifted, bare, x_t, t)
