"""Identities that hold whatever the weights: the algorithms, samplers and networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, assert_close

from pdae_jax import latent, pdae, samplers
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.schedule import constant, cosine, linear

SCHEDULE = linear()


def randomised(params, rng):
    """Adds noise to every array, so that nothing stays at its zero initialisation."""
    leaves, tree = jax.tree.flatten(params)
    rngs = jax.random.split(rng, len(leaves))
    return tree.unflatten(
        [leaf + 0.05 * jax.random.normal(r, leaf.shape) for leaf, r in zip(leaves, rngs)]
    )


@pytest.fixture(scope="module")
def tiny():
    net = Networks(TINY)
    params = randomised(jax.jit(lambda: net.init(jax.random.key(0)))(), jax.random.key(1))
    x_0 = jax.random.uniform(jax.random.key(2), (4, 16, 16, 3), minval=-1, maxval=1)
    return net, params, x_0


def test_shift_moves_the_posterior_mean_by_sigma_squared_G():
    rng = np.random.default_rng(0)
    x_t, eps, G = (rng.standard_normal((5, 4, 4, 3)).astype(np.float32) for _ in range(3))
    t = jnp.array([0, 1, 10, 500, 999])
    sigma2 = pdae.Sigma(SCHEDULE, t, x_t)
    k_t = SCHEDULE.mean_shift[t].reshape(-1, 1, 1, 1).astype(np.float32) * sigma2
    moved = SCHEDULE.posterior_mean(x_t, t, eps - k_t * G) - SCHEDULE.posterior_mean(x_t, t, eps)
    assert_close(moved, sigma2 * G, 1e-4)


def test_posterior_mean_of_the_true_noise_is_the_true_posterior_mean():
    rng = np.random.default_rng(0)
    x_0, eps = (rng.standard_normal((4, 4, 4, 1)).astype(np.float32) for _ in range(2))
    t = jnp.array([1, 20, 500, 999])
    x_t = SCHEDULE.x_t(x_0, t, eps)
    assert_close(
        SCHEDULE.posterior_mean(x_t, t, eps), SCHEDULE.true_posterior_mean(x_0, x_t, t), 1e-5
    )


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("schedule", [linear(), constant()])
def test_ddim_is_exact_on_point_mass_data(steps, schedule):
    """All data at one image: the best noise function is known, and any step count is exact."""
    x_star = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1), minval=-1, maxval=1)
    x_T = jax.random.normal(jax.random.key(1), x_star.shape)
    times = samplers.ddim_times(1000, steps)
    out = samplers.ddim(lambda x, t: schedule.eps(x, t, x_star), x_T, times[::-1], schedule)
    implied = schedule.eps(x_T, int(times[-1]), x_star)
    np.testing.assert_allclose(out, schedule.x_t(x_star, 0, implied), atol=2e-4)


def test_ddpm_is_exact_on_point_mass_data():
    x_star = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1), minval=-1, maxval=1)
    times = np.arange(1000)[::-1]

    def posterior(x, t):
        return (SCHEDULE.true_posterior_mean(x_star, x, t), pdae.log_Sigma(SCHEDULE, t, x))

    rngs = jax.random.split(jax.random.key(2), 2)
    draw = samplers.draws(rngs, x_star.shape[1:])
    out = samplers.ddpm(posterior, draw(1000), times, draw)
    np.testing.assert_allclose(out, x_star, atol=1e-5)


def test_without_G_pdae_is_the_bare_model_bit_for_bit(tiny):
    """G's head starts at zero: at step 0 PDAE decodes, and loses, as the diffusion model does."""
    net, params, x_0 = tiny
    fresh = jax.jit(lambda: net.init(jax.random.key(3), ("gradient",)))()
    params = {**params, **fresh}
    times = samplers.ddim_times(1000, 4)
    z = net.encode(params, x_0)
    runs = [
        samplers.ddim(pdae.noise_fn(net, params, SCHEDULE, code, times), x_0, times[::-1], SCHEDULE)
        for code in (z, None)
    ]
    np.testing.assert_array_equal(*runs)

    t, eps = jnp.array([3, 200, 600, 999]), jax.random.normal(jax.random.key(4), x_0.shape)
    weight = SCHEDULE.loss_weight(0.1)[t]
    np.testing.assert_allclose(
        pdae.training_loss(net, params, SCHEDULE, x_0, t, eps),
        weight * pdae.dpm_loss(net, params, SCHEDULE, x_0, t, eps),
        rtol=1e-5,
    )


def test_stop_1_is_the_bare_model_and_stop_0_is_pdae(tiny):
    net, params, x_0 = tiny
    times, z = samplers.ddim_times(1000, 5), net.encode(params, x_0)

    def run(z, **kwargs):
        return np.asarray(
            samplers.ddim(
                pdae.noise_fn(net, params, SCHEDULE, z, times, **kwargs), x_0, times[::-1], SCHEDULE
            )
        )

    assert_close(run(z, stop=1.0), run(None), 1e-6)
    assert np.abs(run(z, stop=0.0) - run(None)).max() > 1e-3
    assert np.abs(run(z, stop=0.5) - run(z)).max() > 1e-3
    with pytest.raises(ValueError, match="stop must be a share"):
        pdae.noise_fn(net, params, SCHEDULE, z, times, stop=1.5)


def test_both_interpolations_meet_at_the_ends(tiny):
    net, params, x_0 = tiny
    times, z = samplers.ddim_times(1000, 3), net.encode(params, x_0)
    other = jnp.roll(z, 1, axis=0)
    for weight, end in ((0.0, z), (1.0, other)):
        trajectory = pdae.trajectory_noise_fn(net, params, SCHEDULE, z, other, weight, times)
        direct = pdae.noise_fn(net, params, SCHEDULE, end, times)
        t = jnp.asarray(int(times[-1]))
        assert_close(trajectory(x_0, t), direct(x_0, t), 1e-5)


def test_slerp_keeps_the_norm_and_the_ends():
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 3))
    np.testing.assert_allclose(samplers.slerp(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(samplers.slerp(a, b, 1.0), b, atol=1e-5)
    np.testing.assert_allclose(samplers.slerp(a, a, 0.5), a, atol=1e-5)
    unit = [v / jnp.linalg.norm(v.reshape(3, -1), axis=1).reshape(3, 1, 1, 1) for v in (a, b)]
    norms = jnp.linalg.norm(samplers.slerp(*unit, 0.3).reshape(3, -1), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-5)


def test_inversion_then_decoding_returns_the_picture():
    """One step, run both ways, on Gaussian data, whose noise function is known: the error falls."""
    x_0 = 0.3 * jax.random.normal(jax.random.key(0), (2, 8, 8, 1))

    def eps(x, t):
        alpha_bar = jnp.asarray(SCHEDULE.alpha_bar, jnp.float32)[t]
        return jnp.sqrt(1 - alpha_bar) * x / (alpha_bar * 0.3**2 + 1 - alpha_bar)

    errors = []
    for steps in (10, 100, 1000):
        times = samplers.ddim_times(1000, steps)
        x_T = samplers.ddim(eps, x_0, times, SCHEDULE, "none")
        back = samplers.ddim(eps, x_T, times[::-1], SCHEDULE, "none")
        errors.append(float(jnp.abs(back - x_0).mean()))
    assert errors[2] < errors[1] < errors[0] and errors[2] < 3e-3
    assert 0.8 < float(x_T.std()) < 1.2  # and x_T is about standard normal


def test_time_projections_are_made_once_a_call(tiny):
    """The scan's body holds no product with the time or z projections' matrices."""
    net, params, x_0 = tiny
    times = samplers.ddim_times(1000, 5)

    def decode(params, x, z):
        return samplers.ddim(
            pdae.noise_fn(net, params, SCHEDULE, z, times), x, times[::-1], SCHEDULE
        )

    jaxpr = jax.make_jaxpr(decode)(params, x_0, jnp.zeros((4, 16)))
    wide = {
        2 * sum(widths)
        for widths in (TINY.up_conditions(), TINY.down_conditions() + TINY.up_conditions())
    }

    def products(jaxpr):
        return sum(
            eqn.primitive.name == "dot_general" and eqn.outvars[0].aval.shape[-1] in wide
            for eqn in jaxpr.eqns
        )

    scans = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(scans) == 1
    assert products(scans[0].params["jaxpr"].jaxpr) == 0
    inner = [
        eqn.params["jaxpr"].jaxpr
        for eqn in jaxpr.jaxpr.eqns
        if "jaxpr" in eqn.params and eqn.primitive.name != "scan"
    ]
    assert products(jaxpr.jaxpr) + sum(map(products, inner)) == 3  # t for both networks, and z


def test_learned_variance_bounds_and_pdae_on_it():
    """v = -1 is sigma_t^2, v = 1 is beta_t, per pixel; and PDAE runs on such a model."""
    t, x = jnp.array([500]), jnp.zeros((1, 16, 16, 3))
    np.testing.assert_allclose(
        pdae.Sigma(SCHEDULE, t, x, x - 1)[0, 0, 0, 0], SCHEDULE.posterior_variance[500], rtol=1e-5
    )
    np.testing.assert_allclose(
        pdae.Sigma(SCHEDULE, t, x, x + 1)[0, 0, 0, 0], SCHEDULE.beta[500], rtol=1e-5
    )
    net = Networks(dataclasses.replace(TINY, learned_variance=True))
    params = jax.jit(lambda: net.init(jax.random.key(0)))()
    out = net.predict(params, x, net.time(params, t), net.code(params, jnp.zeros((1, 16))))
    assert out.eps.shape == out.v.shape == out.gradient.shape == x.shape
    loss = pdae.training_loss(net, params, SCHEDULE, x, t, x + 0.5)
    assert loss.shape == (1,) and np.isfinite(loss).all()


@pytest.mark.parametrize("shape", [(16, 24, 1), (8, 16, 5)])
def test_any_shape_and_channel_count(shape):
    arch = Architecture(
        image_shape=shape, base=32, mult=(1, 2), blocks=1, attention=(8,), heads=2, z_size=7
    )
    net, x = Networks(arch), jnp.zeros((2, *shape))
    params = jax.jit(lambda: net.init(jax.random.key(0)))()
    z = net.encode(params, x)
    assert z.shape == (2, 7)
    out = net.predict(params, x, net.time(params, jnp.array([1, 2])), net.code(params, z))
    assert out.eps.shape == out.gradient.shape == x.shape


@pytest.mark.parametrize(
    "shape, message",
    [
        ((20, 16, 3), "height 20 is not divisible by 16.*use 16 or 32"),
        ((64, 40, 3), "width 40 is not divisible by 16.*use 32 or 48"),
    ],
)
def test_size_not_divisible(shape, message):
    with pytest.raises(ValueError, match=message):
        Architecture(image_shape=shape)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_a_patchified_first_level(learned_variance):
    """Patches change the first and last convolution alone, and where attention is; G learns."""
    arch = dataclasses.replace(
        TINY, patch=2, mult=(1,), attention=(8,), learned_variance=learned_variance
    )
    whole = dataclasses.replace(arch, patch=1, image_shape=(8, 8, 3))
    net = Networks(arch)
    params = jax.jit(lambda: net.init(jax.random.key(0)))()
    others = jax.eval_shape(lambda: Networks(whole).init(jax.random.key(0)))
    differs = {
        name
        for group in ("dpm", "gradient")
        for (path, ours), (_, theirs) in zip(
            jax.tree.leaves_with_path(params[group]), jax.tree.leaves_with_path(others[group])
        )
        for name in [jax.tree_util.keystr(path, simple=True, separator="/")]
        if ours.shape != theirs.shape
    }
    assert differs == {"down/block_0/kernel", "up/out/kernel", "up/out/bias"}

    x_0 = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1)
    t, eps = jnp.array([10, 500]), jax.random.normal(jax.random.key(2), x_0.shape)
    z = net.encode(params, x_0)
    out = net.predict(params, x_0, net.time(params, t), net.code(params, z))
    assert out.eps.shape == out.gradient.shape == x_0.shape
    assert (out.v is not None) == learned_variance
    loss, grads = jax.jit(
        jax.value_and_grad(
            lambda gradient: pdae.training_loss(
                net, {**params, "gradient": gradient}, SCHEDULE, x_0, t, eps
            ).mean()
        )
    )(params["gradient"])
    assert np.isfinite(loss) and np.abs(grads["up"]["out"]["kernel"]).max() > 0
    decoded = pdae.decode(net, params, SCHEDULE, eps, z, samplers.ddim_times(1000, 2)[::-1])
    assert decoded.shape == x_0.shape and np.isfinite(decoded).all()


@pytest.mark.parametrize(
    "patch, message",
    [
        (0, "patch must be a whole number of at least 1, got 0"),
        (
            3,
            "height 16 is not divisible by 6.*over patch = 3 need; use 12 or 18",
        ),
    ],
)
def test_patch_does_not_fit(patch, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, patch=patch)


def test_bfloat16_computes_with_float32_parameters_and_outputs(tiny):
    net, params, x_0 = tiny
    half = Networks(TINY, jnp.bfloat16)
    fresh = jax.eval_shape(lambda: half.init(jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    t = jnp.array([1, 100, 500, 900])
    outs = []
    for n in (net, half):
        z = n.encode(params, x_0)
        out = n.predict(params, x_0, n.time(params, t), n.code(params, z))
        assert {z.dtype, out.eps.dtype, out.gradient.dtype} == {jnp.dtype("float32")}
        outs.append(np.concatenate([np.ravel(out.eps), np.ravel(out.gradient)]))
    correlation = np.corrcoef(*outs)[0, 1]
    assert 0.99 < correlation < 1 - 1e-9  # close, and not secretly float32


def test_latent_statistics_and_loss():
    z = np.random.default_rng(0).normal(3, 2, (50, 16)).astype(np.float32)
    mean, std = latent.statistics(z)
    np.testing.assert_allclose(((z - mean) / std).std(0, ddof=1), 1, rtol=1e-5)
    net = Networks(TINY)
    params = net.init(jax.random.key(0), ("latent",))
    loss = latent.training_loss(
        net, params, constant(), z[:4], jnp.arange(4), jax.random.normal(jax.random.key(1), (4, 16))
    )
    assert loss.shape == (4,) and (loss > 0).all()
    with pytest.raises(ValueError, match="at least two codes"):
        latent.statistics(z[:1])


def test_ddim_steps_out_of_range():
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"from 1 to T = 1000, got {steps}"):
            samplers.ddim_times(1000, steps)


def test_cosine_schedule():
    schedule = cosine()
    expected = (
        np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    )
    assert schedule.alpha_bar[499] == pytest.approx(expected, rel=1e-9)
    assert schedule.beta.max() == 0.999
