"""Numbers of the original PyTorch networks and loops, on stand-in weights (golden/)."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CELEBA64,
    FACES128,
    GOLDEN,
    TINY,
    assert_close,
    golden,
    manifest,
    nhwc,
    stand_in,
)

from pdae_jax import latent, pdae, samplers
from pdae_jax.convert import name_map
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.schedule import constant, linear
from pdae_jax.training.losses import Given
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import make_update

FORWARD, LOOP = 1e-5, 1e-4


@pytest.mark.parametrize(
    "name, arch",
    [
        ("unet_tiny", TINY),
        ("diffae_ddpm_tiny", dataclasses.replace(TINY, heads=1)),
        ("adm_learned_sigma_tiny", dataclasses.replace(TINY, heads=4, learned_variance=True)),
        ("unet_celeba64", CELEBA64),
    ],
)
def test_diffusion_model(name, arch):
    data, net = golden(name), Networks(arch)
    params = name_map.to_params(name_map.unet(arch), stand_in(name, int(data["seed"])))
    out = net.predict(params, nhwc(data["x"]), net.time(params, data["t"]))
    found = out.eps if out.v is None else jnp.concatenate([out.eps, out.v], -1)
    assert_close(found, nhwc(data["out"]), FORWARD)


@pytest.mark.parametrize(
    "name, arch", [("shift_unet_tiny", TINY), ("shift_unet_celeba64", CELEBA64)]
)
def test_gradient_estimator(name, arch):
    data, net = golden(name), Networks(arch)
    params = name_map.to_params(name_map.decoder(arch), stand_in(name, int(data["seed"])))
    out = net.predict(
        params, nhwc(data["x"]), net.time(params, data["t"]), net.code(params, data["z"])
    )
    assert_close(out.eps, nhwc(data["epsilon"]), FORWARD)
    assert_close(out.gradient, nhwc(data["gradient"]), FORWARD)


def test_encoder():
    data = golden("encoder_celeba64")
    params = name_map.to_params(
        name_map.encoder(CELEBA64), stand_in("encoder_celeba64", int(data["seed"]))
    )
    assert_close(Networks(CELEBA64).encode(params, nhwc(data["x"])), data["z"], FORWARD)


@pytest.mark.parametrize(
    "name, arch", [("latent_dpm_tiny", TINY), ("latent_dpm_celeba64", CELEBA64)]
)
def test_latent_network(name, arch):
    data, net = golden(name), Networks(arch)
    params = name_map.to_params(name_map.latent_mlp(arch), stand_in(name, int(data["seed"])))
    found = net.latent_eps(params, data["z"], net.latent_time(params, data["t"]))
    assert_close(found, data["out"], FORWARD)


@pytest.mark.parametrize(
    "name, table, arch",
    [
        ("unet_128", name_map.unet, FACES128),
        ("diffae_ddpm128", name_map.unet, FACES128),
        ("shift_unet_128", name_map.decoder, FACES128),
        ("encoder_128", name_map.encoder, FACES128),
        ("latent_dpm_20", name_map.latent_mlp, dataclasses.replace(FACES128, latent_layers=20)),
        (
            "unet_mnist",
            name_map.unet,
            Architecture(image_shape=(32, 32, 1), base=64, mult=(1, 2, 2, 4), attention=()),
        ),
        (
            "adm_new_order_tiny",
            name_map.unet,
            dataclasses.replace(TINY, heads=4, learned_variance=True, qkv_order="new"),
        ),
        (
            "adm_lsun256",
            name_map.unet,
            Architecture(
                image_shape=(256, 256, 3),
                base=256,
                mult=(1, 1, 2, 2, 4, 4),
                attention=(32, 16, 8),
                head_channels=64,
                learned_variance=True,
            ),
        ),
    ],
)
def test_manifest_names_and_shapes(name, table, arch):
    """Every tensor of the released layouts has a place in ours, with its shape, and no other."""
    net, entries, shapes = Networks(arch), table(arch), manifest(name)
    assert entries.keys() == shapes.keys()
    groups = {entry.path[0] for entry in entries.values()}
    ours = jax.eval_shape(lambda: net.init(jax.random.key(0), groups))
    zeros = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    theirs = name_map.to_params(entries, zeros)
    assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, ours)
    back = name_map.to_torch(entries, theirs)
    assert {key: list(array.shape) for key, array in back.items()} == shapes


def test_name_map_there_and_back_is_bit_equal():
    for table, name in (
        (name_map.decoder, "shift_unet_tiny"),
        (name_map.latent_mlp, "latent_dpm_tiny"),
    ):
        weights = stand_in(name, 3)
        back = name_map.to_torch(table(TINY), name_map.to_params(table(TINY), weights))
        assert back.keys() == weights.keys()
        assert all(np.array_equal(back[key], weights[key]) for key in weights)


def test_name_map_is_strict():
    weights = stand_in("unet_tiny", 0)
    weights["out.2.wieght"] = weights.pop("out.2.weight")
    with pytest.raises(ValueError, match="out.2.weight.*out.2.wieght"):
        name_map.to_params(name_map.unet(TINY), weights)


def test_schedule():
    data, schedule = golden("schedule_linear_1000"), linear()
    at = data["index"]
    for found, name in [
        (schedule.alpha_bar, "alphas_cumprod"),
        (schedule.posterior_variance, "posterior_variance"),
        (schedule.posterior_log_variance, "posterior_log_variance_clipped"),
        (-schedule.mean_shift * schedule.posterior_variance, "shift_coef"),
        (schedule.loss_weight(0.1), "weight"),
        (np.sqrt(1 / schedule.alpha_bar), "sqrt_recip_alphas_cumprod"),
        (np.sqrt(1 / schedule.alpha_bar - 1), "sqrt_recip_alphas_cumprod_m1"),
    ]:
        np.testing.assert_allclose(found[at], data[name], rtol=1e-6, err_msg=name)


def test_ddim_times():
    data = golden("ddim_timesteps")
    for key in data:
        np.testing.assert_array_equal(samplers.ddim_times(1000, int(key.split("_")[1])), data[key])


@pytest.fixture(scope="module")
def sampling():
    data = golden("sampling_tiny")
    weights = stand_in("shift_unet_tiny", int(data["seed"]))
    for key in ("out.2.weight", "shift_out.2.weight"):
        weights[key] = weights[key] * np.float32(data["out_scale"])
    return data, Networks(TINY), name_map.to_params(name_map.decoder(TINY), weights), linear()


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("shift", [True, False])
def test_ddim_and_inversion(sampling, steps, shift):
    data, net, params, schedule = sampling
    times = samplers.ddim_times(1000, steps)
    eps = pdae.noise_fn(net, params, schedule, data["z"] if shift else None, times)
    suffix = f"{steps}" if shift else f"{steps}_noshift"
    assert_close(
        samplers.ddim(eps, nhwc(data["x_T"]), times[::-1], schedule),
        nhwc(data[f"ddim_{suffix}"]),
        LOOP,
    )
    assert_close(
        samplers.ddim(eps, nhwc(data["x_0"]), times, schedule), nhwc(data[f"encode_{suffix}"]), LOOP
    )


def test_stop(sampling):
    data, net, params, schedule = sampling
    times = samplers.ddim_times(1000, 20)
    eps = pdae.noise_fn(net, params, schedule, data["z"], times, stop=0.3)
    assert_close(
        samplers.ddim(eps, nhwc(data["x_T"]), times[::-1], schedule),
        nhwc(data["ddim_20_stop30"]),
        LOOP,
    )


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_trajectory_interpolation(sampling, weight):
    data, net, params, schedule = sampling
    times = samplers.ddim_times(1000, 20)
    eps = pdae.trajectory_noise_fn(net, params, schedule, data["z"], data["z2"], weight, times)
    assert_close(
        samplers.ddim(eps, nhwc(data["x_T"]), times[::-1], schedule),
        nhwc(data[f"traj_20_{weight}"]),
        LOOP,
    )


def test_ddpm(sampling):
    data, net, params, schedule = sampling
    noise = np.random.Generator(np.random.PCG64(int(data["noise_seed"]))).standard_normal(
        (40, 2, 3, 16, 16), np.float32
    )
    noise, times = jnp.asarray(np.moveaxis(noise, 2, -1)), np.arange(40)[::-1]
    posterior = pdae.ddpm_posterior(net, params, schedule, data["z"], times)
    found = samplers.ddpm(posterior, nhwc(data["x_T"]), times, lambda t: noise[39 - t])
    assert_close(found, nhwc(data["ddpm_40"]), LOOP)


@pytest.mark.parametrize("clip, key", [(False, "z_0"), (True, "z_0_clipped")])
def test_latent_sampling(clip, key):
    data, net, schedule = golden("latent_sampling_tiny"), Networks(TINY), constant()
    weights = stand_in("latent_dpm_tiny", int(data["seed"]))
    weights["layers.3.linear.weight"] *= np.float32(data["last_scale"])
    params = name_map.to_params(name_map.latent_mlp(TINY), weights)
    times = samplers.ddim_times(1000, 20)
    np.testing.assert_array_equal(times, data["timesteps"])
    eps = latent.noise_fn(net, params, schedule, times)
    threshold = "static" if clip else "none"
    z = samplers.ddim(eps, data["z_T"], times[::-1], schedule, threshold)
    assert_close(z, data[key], LOOP)


@pytest.mark.slow
def test_three_steps_of_algorithm_1():
    """Losses, the gradient of every parameter, and the EMA, against PyTorch's."""
    data = golden("train_tiny")
    config = json.loads((GOLDEN / "train_tiny.config.json").read_text())
    arch = Architecture(
        image_shape=(64, 64, 3),
        base=config["base_channel"],
        mult=config["channel_multiplier"],
        blocks=config["num_residual_blocks_of_a_block"],
        attention=tuple(64 // r for r in config["attention_resolutions"]),
        heads=config["num_heads"],
        dropout=0.0,
        z_size=16,
    )
    net, schedule, row = Networks(arch), linear(), OBJECTIVES["pdae"]
    tables = {"encoder": name_map.encoder(arch), "decoder": name_map.decoder(arch)}
    params = {}
    for file, table in tables.items():
        params |= name_map.to_params(
            table, stand_in(f"train_tiny.{file}", int(data[f"{file}_seed"]))
        )
    frozen = {"dpm": params["dpm"]}
    trained = {group: params[group] for group in row.trains}
    settings = Settings(ema=0.9999, learning_rate=1e-4)
    state = TrainState.create(jax.tree.map(jnp.asarray, trained), settings.optimizer())
    update = jax.jit(make_update(row, net, schedule, settings))

    def drawn(i):
        x_0 = (
            np.random.Generator(np.random.PCG64(int(data["x_0_seeds"][i]))).random(
                (4, 3, 64, 64), np.float32
            )
            * 2
            - 1
        )
        eps = np.random.Generator(np.random.PCG64(int(data["noise_seeds"][i]))).standard_normal(
            (4, 3, 64, 64), np.float32
        )
        return {"x_0": nhwc(x_0), "t": jnp.asarray(data["t"][i]), "eps": nhwc(eps)}

    grads = jax.jit(
        jax.grad(lambda p: row.loss(Given(net, schedule, {**frozen, **p}), drawn(0)).mean())
    )(state.params)
    losses = []
    for i in range(3):
        state, metrics = update(state, frozen, drawn(i), None)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, data["losses"], rtol=1e-5)

    delta = jax.tree.map(lambda new, old: np.asarray(new) - old, state.ema, trained)
    expected = {
        str(name): (norm, moved)
        for name, norm, moved in zip(
            data["grad_names"], data["grad_norms"], data["ema_delta_norms"]
        )
    }
    total = np.linalg.norm(data["grad_norms"])
    seen = set()
    for file, table in tables.items():
        table = {key: entry for key, entry in table.items() if entry.path[0] in row.trains}
        initial, norms, moved = (name_map.to_torch(table, tree) for tree in (trained, grads, delta))
        for key in table:
            want_gradient, want_moved = expected[f"{file}.{key}"]
            size = {
                name: np.linalg.norm(tree[key].astype(np.float64))
                for name, tree in [("w", initial), ("gradient", norms), ("moved", moved)]
            }
            # Biases before a one-channel norm have no gradient: both sides' is rounding.
            assert size["gradient"] == pytest.approx(want_gradient, rel=1e-4, abs=1e-8 * total), key
            # Three steps move the EMA of a weight near 1 by less than float32 resolves, so that
            # PyTorch's roundings, one or two units in the last place, add in quadrature.
            rounding = 2 * 2**-23 * size["w"]
            assert size["moved"] ** 2 == pytest.approx(want_moved**2, rel=2e-3, abs=rounding**2), (
                key
            )
            seen.add(f"{file}.{key}")
    assert seen == set(expected)
    z = net.encode(state.params, drawn(0)["x_0"])
    assert_close(z, data["z_after"], FORWARD)
