"""Diffusion models of other projects: their own classes, converted, compute the same here."""

import dataclasses
import itertools
import json
import pickle
import shutil

import diffusers
import jax
import monai.networks.nets
import numpy as np
import pytest
import torch
import torch_projects
from helpers import by_day, importable, persistent

import pdae_jax
from pdae_jax import pdae, samplers
from pdae_jax.convert import dialects, name_map
from pdae_jax.convert.architecture_facts import FLAG, Facts
from pdae_jax.convert.conversion import convert, export, model_architecture, to_groups
from pdae_jax.convert.torch_checkpoint import read_source
from pdae_jax.convert.verification import verify
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.images import to_float
from pdae_jax.networks.groups import Networks
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.workdir import Workdir

SAID = []


def filled(network, seed=0):
    """Random weights, also where training begins at zero, so that every layer counts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.1 * torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) * (0.1 if weight.ndim > 1 else 0.3))
    return network.eval()


def of_diffusers(**changes):
    settings = dict(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return filled(diffusers.UNet2DModel(**settings | changes))


def of_monai():
    return dict(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(32, 32, 64),
        num_res_blocks=1,
        attention_levels=(False, True, True),
        num_head_channels=8,
        norm_num_groups=8,
    )


def outputs(workdir, theirs, times=(3, 700), seed=0):
    """(ours, theirs) of what the network puts out for the same pictures and times."""
    home = Workdir(workdir)
    arch, net = home.architecture, Networks(home.architecture)
    x = np.random.default_rng(seed).standard_normal((2, *arch.image_shape)).astype(np.float32)
    t = np.array(times)

    def run(params, x, t):
        return net.predict(params, x, net.time(params, t)).eps

    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(run)(home.weights(), x, t))
    with torch.no_grad():
        found = theirs(torch.tensor(np.moveaxis(x, -1, 1).copy()), torch.tensor(t)).numpy()
    return ours, np.moveaxis(found, 1, -1), x


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


SWITCHES = [
    {},
    dict(norm_eps=1e-6, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0),  # google's
    dict(attention_head_dim=None, layers_per_block=2),
    dict(attention_head_dim=16, downsample_type="resnet", upsample_type="resnet"),
    dict(resnet_time_scale_shift="scale_shift", mid_block_scale_factor=1.4),
    dict(
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    dict(add_attention=False, out_channels=2),
    dict(block_out_channels=(32, 48, 80), attention_head_dim=8),
    dict(sample_size=(16, 32), in_channels=3, out_channels=3),
]


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_diffusers_networks_compute_the_same(changes, tmp_path):
    network = of_diffusers(**changes)
    network.save_pretrained(tmp_path / "theirs")
    convert([tmp_path / "theirs"], tmp_path / "ours", say=SAID.append)
    ours, theirs, _ = outputs(tmp_path / "ours", lambda x, t: network(x, t).sample)
    assert_close(ours, theirs[..., : ours.shape[-1]])


@pytest.mark.parametrize("safe", [True, False])
def test_a_pipelines_folder_is_read_with_its_scheduler(safe, tmp_path):
    network = of_diffusers()
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=500, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    pipeline = diffusers.DDIMPipeline(unet=network, scheduler=scheduler)
    pipeline.save_pretrained(tmp_path / "theirs", safe_serialization=safe)
    convert([tmp_path / "theirs"], tmp_path / "ours", say=SAID.append)
    arch = Workdir(tmp_path / "ours").architecture
    assert (arch.T, arch.schedule, arch.predicts) == (500, "cosine", "v")
    ours, v, x = outputs(tmp_path / "ours", lambda x, t: network(x, t).sample, (3, 400))
    signal = np.sqrt(scheduler.alphas_cumprod.numpy()[[3, 400]])[:, None, None, None]
    assert_close(ours, signal * v + np.sqrt(1 - signal**2) * x)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(resblock_updown=True),
        dict(num_head_channels=(0, 32, 64)),  # one head a level
        dict(use_combined_linear=True, out_channels=2),
    ],
    ids=str,
)
def test_monai_networks_compute_the_same(changes, tmp_path):
    settings = of_monai() | changes
    network = filled(monai.networks.nets.DiffusionModelUNet(**settings))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    config = tmp_path / "network.json"
    config.write_text(json.dumps(settings | {"image_size": 16}))
    convert([tmp_path / "model.pt"], tmp_path / "ours", config=config, say=SAID.append)
    ours, theirs, _ = outputs(tmp_path / "ours", network)
    assert_close(ours, theirs[..., : ours.shape[-1]])


def test_the_average_of_a_training_folder_is_taken(tmp_path):
    """diffusers' train_unconditional.py keeps checkpoint-N/unet and checkpoint-N/unet_ema."""
    raw, ema = of_diffusers(), filled(of_diffusers(), seed=1)
    for name, network in (("unet", raw), ("unet_ema", ema)):
        network.save_pretrained(tmp_path / "checkpoint-500" / name)
    for weights, network, other in (("ema", ema, "unet"), ("raw", raw, "unet_ema")):
        said = []
        folder = tmp_path / weights
        convert([tmp_path / "checkpoint-500"], folder, weights=weights, say=said.append)
        assert any(f"not used: {other}:" in line for line in said)
        kept = Workdir(folder).weights()["dpm"]["time_embedding"]["in"]["bias"]
        theirs = network.state_dict()["time_embedding.linear_1.bias"]
        np.testing.assert_array_equal(kept, theirs.numpy())


@pytest.mark.parametrize("project", ["diffusers", "MONAI", "guided"])
def test_one_class_of_a_conditional_network_comes_in(project, tmp_path):
    config = None
    if project == "diffusers":
        network = of_diffusers(num_class_embeds=3)
        source = tmp_path / "theirs"
        network.save_pretrained(source)
    elif project == "MONAI":
        settings = of_monai() | {"num_class_embeds": 3}
        network = monai.networks.nets.DiffusionModelUNet(**settings)
        source, config = saved(network, tmp_path), tmp_path / "network.json"
        config.write_text(json.dumps(settings | {"image_size": 16}))
    else:
        network = torch_projects.Guided(classes=3)
        source = saved(network, tmp_path)
    flags = {"image_size": 16, "heads": 4} if project == "guided" else None

    with pytest.raises(ValueError, match="conditioned on 3 classes; choose .*--class_label=0..2"):
        convert([source], tmp_path / "ours", config=config, flags=flags, say=SAID.append)
    convert([source], tmp_path / "ours", config=config, flags=flags, class_label=2)

    def of_class(x, t):
        labels = torch.tensor([2, 2])
        if project == "diffusers":
            return network(x, t, class_labels=labels).sample
        return network(x, t, **{"class_labels" if project == "MONAI" else "y": labels})

    ours, theirs, _ = outputs(tmp_path / "ours", of_class)
    assert_close(ours, theirs)


SCHEDULERS = [
    dict(),
    dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    dict(beta_schedule="squaredcos_cap_v2"),
    dict(beta_schedule="sigmoid"),
    dict(num_train_timesteps=250),
    dict(trained_betas=list(np.linspace(2e-3, 0.1, 100))),
]


@pytest.mark.parametrize("settings", SCHEDULERS, ids=lambda s: str(s)[:60])
def test_schedules_are_theirs(settings):
    from pdae_jax.convert.project_config import from_scheduler
    from pdae_jax.schedule import named

    theirs = diffusers.DDPMScheduler(**settings)
    facts = from_scheduler(dict(theirs.config), "scheduler_config.json").values
    ours = named(facts["schedule"], facts["T"], facts.get("betas", ()))
    np.testing.assert_allclose(ours.alpha_bar, theirs.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.beta, theirs.betas.numpy(), rtol=2e-5)


def test_a_zero_terminal_snr_is_refused_with_the_reason(tmp_path):
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    diffusers.DDIMPipeline(unet=of_diffusers(), scheduler=scheduler).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="rescale_betas_zero_snr: at the last t nothing"):
        convert([tmp_path / "a"], tmp_path / "ours", say=SAID.append)
    assert not (tmp_path / "ours").exists()


PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}


@pytest.fixture(scope="module", params=PREDICTIONS)
def pipeline(request, tmp_path_factory):
    """(their network, their schedulers' settings, our model) of one prediction."""
    folder, network = tmp_path_factory.mktemp(request.param), of_diffusers(sample_size=8)
    settings = dict(prediction_type=request.param, num_train_timesteps=1000)
    scheduler = diffusers.DDIMScheduler(**settings)
    diffusers.DDIMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder / "theirs")
    convert([folder / "theirs"], folder / "ours", say=SAID.append)
    model = pdae_jax.load(folder / "ours")
    assert model.arch.predicts == PREDICTIONS[request.param]
    return network, settings, model


def channels_last(tensor):
    return np.moveaxis(tensor.numpy(), 1, -1)


def channels_first(array):
    return torch.tensor(np.moveaxis(np.asarray(array), -1, 1).copy())


def in_double(scheduler):
    """Their constants without float32's rounding, which is 1e-5 after a product of a thousand."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    return scheduler


def test_ddim_is_diffusers_step_by_step(pipeline):
    network, settings, model = pipeline
    scheduler = in_double(diffusers.DDIMScheduler(**settings))  # clips x_0, as our DDIM does
    scheduler.set_timesteps(20)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    params = model.params
    step = jax.jit(  # weights that are no argument would be folded, for long
        lambda params, x, t, t_next: samplers.ddim_step(
            lambda x, t: model.net.predict(params, x, model.net.time(params, t[None])).eps,
            *(x, t, t_next, model.schedule),
        )
    )
    theirs = channels_first(x)
    times = scheduler.timesteps.numpy()
    assert list(times[:3]) == [950, 900, 850] and times[-1] == 0
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        for t, t_next in zip(times, times[1:]):
            x = step(params, x, np.int32(t), np.int32(t_next))
            out = network(theirs, torch.tensor(int(t))).sample
            # Of a clipped x_0 the eps follows, as in the paper's code.
            stepped = scheduler.step(out, int(t), theirs, use_clipped_model_output=True)
            theirs = stepped.prev_sample
            np.testing.assert_allclose(np.asarray(x), channels_last(theirs), atol=2e-5)
            x = channels_last(theirs)
    assert np.asarray(x).std() > 0.05


def test_ddpm_is_diffusers_step_by_step(pipeline):
    """The mean and the variance of each ancestral step, and so the step under the same noise."""
    network, settings, model = pipeline
    scheduler = in_double(diffusers.DDPMScheduler(**settings, clip_sample=False))
    params, rng = model.params, np.random.default_rng(0)
    times = np.array([999, 700, 300, 50, 1, 0])
    posterior = jax.jit(
        lambda params, *given: pdae.ddpm_posterior(model.net, params, model.schedule, None, times)(
            *given
        )
    )
    for t in times.tolist():
        x = rng.standard_normal((2, 8, 8, 1)).astype(np.float32)
        with torch.no_grad(), jax.default_matmul_precision("highest"):
            mean, log_variance = posterior(params, x, np.int32(t))
            noise = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
            ours = mean + (t > 0) * np.exp(0.5 * np.asarray(log_variance)) * noise
            out = network(channels_first(x), torch.tensor(t)).sample
            drawn = channels_first(noise)
            with pytest.MonkeyPatch.context() as patch:  # their noise is ours
                patch.setattr(
                    "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: drawn
                )
                theirs = scheduler.step(out, t, channels_first(x)).prev_sample
        theirs = channels_last(theirs)
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=1e-5)


def test_predict_gives_eps_without_a_code(pipeline):
    network, _, model = pipeline
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    eps = model.predict(x, 500)
    assert eps.shape == x.shape
    np.testing.assert_allclose(model.predict(x[0], 500), eps[0], atol=2e-5)
    with torch.no_grad():
        out = channels_last(network(channels_first(x), torch.tensor(500)).sample)
    signal = model.schedule.alpha_bar[500] ** 0.5
    noise = (1 - signal**2) ** 0.5
    wanted = {"eps": out, "v": signal * out + noise * x, "x_0": (x - signal * out) / noise}[
        model.arch.predicts
    ]
    np.testing.assert_allclose(eps, wanted, atol=2e-4)


# Projects that PyPI lacks: networks of our own in PyTorch, under the projects' names.


def saved(network, folder, name="model.pt"):
    torch.save(filled(network).state_dict(), folder / name)
    return folder / name


GUIDED = [
    {},  # the project's own flags
    dict(use_scale_shift_norm=False),
    dict(resblock_updown=True, use_new_attention_order=True, num_head_channels=16),
    dict(resblock_updown=True, use_scale_shift_norm=False, learn_sigma=True),
    dict(num_heads_upsample=2, num_res_blocks=2),
    dict(channel_mult=(2, 2), num_channels=16),  # begins at mult[0] times the base
    dict(channel_mult=(0.5, 1, 2), num_channels=64, attention_resolutions=(8, 4)),
    dict(improved=True, channel_mult=(2, 2), channels=1),
    dict(channel_mult=(2, 4, 4), num_channels=16, attention_resolutions=(16, 4)),
]


@pytest.mark.parametrize("flags", GUIDED, ids=str)
def test_guided_diffusion_with_any_flags_computes_the_same(flags, tmp_path):
    network = torch_projects.Guided(**flags)
    file = saved(network, tmp_path)
    told = {"image_size": 16, "heads": 4}
    if "num_head_channels" in flags:
        told = {"image_size": 16, "head_channels": 16}
    if "num_heads_upsample" in flags:
        told["heads_up"] = 2
    told["qkv_order"] = "new" if "use_new_attention_order" in flags else "legacy"
    convert([file], tmp_path / "ours", flags=told, say=SAID.append)
    ours, theirs, _ = outputs(tmp_path / "ours", network)
    assert_close(ours, theirs[..., : ours.shape[-1]])


# scale_shift_norm, resblock_updown, new_attention_order, learn_sigma, num_head_channels: here each
# pair of them in all four ways.
PAIRWISE = [
    (0, 0, 0, 0, 1),
    (0, 0, 1, 1, 0),
    (0, 1, 0, 1, 0),
    (1, 0, 0, 1, 1),
    (1, 1, 1, 0, 0),
    (1, 1, 1, 1, 1),
]


@pytest.mark.parametrize("flags", PAIRWISE, ids=str)
def test_flags_are_independent(flags, tmp_path):
    file, told, network = guided_by(flags, tmp_path)
    convert([file], tmp_path / "ours", flags=told, say=SAID.append)
    ours, theirs, _ = outputs(tmp_path / "ours", network)
    assert_close(ours, theirs[..., : ours.shape[-1]])


def test_every_combination_of_flags_comes_in(tmp_path):
    """All tensors find their places, and the architecture has what the flags say."""
    for flags in itertools.product((False, True), repeat=5):
        file, told, _ = guided_by(flags, tmp_path)
        networks = {"unet": read_source(file).networks["unet"]}
        arch, _ = model_architecture(networks, [Facts(FLAG, told)])
        groups = to_groups(networks, arch)
        assert [*groups] == ["dpm"]
        found = (
            arch.condition == "scale_shift",
            arch.down == arch.up == ("residual",),
            arch.qkv_order == "new",
            arch.learned_variance,
            arch.head_channels == 16,
        )
        assert found == flags


def guided_by(flags, folder):
    """The file of a network by five flags, what its tensors do not tell, and the network."""
    scale_shift, resblock_updown, new_order, sigma, head_channels = flags
    network = torch_projects.Guided(
        use_scale_shift_norm=scale_shift,
        resblock_updown=resblock_updown,
        use_new_attention_order=new_order,
        learn_sigma=sigma,
        num_head_channels=16 if head_channels else -1,
    )
    told = {"image_size": 16, "qkv_order": "new" if new_order else "legacy"}
    told |= {"head_channels": 16} if head_channels else {"heads": 4, "head_channels": 0}
    return saved(network, folder), told, network


def test_rescaled_times_are_read_as_of_a_thousand(tmp_path):
    """improved-diffusion: 4000 times, of which the network reads t 1000 / T; predict_xstart."""
    network = torch_projects.Guided(improved=True)
    told = dict(image_size=16, heads=4, qkv_order="legacy", schedule="cosine", T=4000)
    told |= dict(reads="t_of_1000", predicts="x_0")
    convert([saved(network, tmp_path)], tmp_path / "ours", flags=told, say=SAID.append)
    ours, x_0, x = outputs(tmp_path / "ours", lambda x, t: network(x, t * 0.25), (100, 3000))
    alpha_bar = pdae_jax.load(tmp_path / "ours").schedule.alpha_bar[[100, 3000]]
    signal = np.sqrt(alpha_bar)[:, None, None, None]
    assert_close(ours, (x - signal * x_0) / np.sqrt(1 - signal**2))


def test_ddim_names_compute_the_same(tmp_path):
    network = torch_projects.DDIM()
    state = filled(network).state_dict()
    optimizer = {"state": {}, "param_groups": []}
    average = {f"module.{key}": value for key, value in state.items()}
    raw = {key: torch.zeros_like(value) for key, value in average.items()}
    torch.save([raw, optimizer, 3, 100, average], tmp_path / "ckpt.pth")
    convert([tmp_path / "ckpt.pth"], tmp_path / "ours", flags={"image_size": 16}, say=SAID.append)
    ours, theirs, _ = outputs(tmp_path / "ours", network)
    assert_close(ours, theirs)


@pytest.mark.parametrize("classes", [0, 3])
def test_edm_becomes_eps_at_every_noise_level(classes, tmp_path):
    """The state dict alone; D(x; sigma) at sigma = sqrt(1 / alpha_bar - 1), as eps."""
    network = torch_projects.EDM(classes=classes)
    label = 1 if classes else None
    convert([saved(network, tmp_path)], tmp_path / "ours", class_label=label, say=SAID.append)
    model = pdae_jax.load(tmp_path / "ours")
    assert (model.arch.schedule, model.arch.predicts) == ("karras", "edm")
    np.testing.assert_allclose(model.schedule.noise_level[[0, -1]], [0.002, 80], rtol=1e-6)
    times = (20, 600)
    signal = np.sqrt(model.schedule.alpha_bar)[list(times)][:, None, None, None]
    one_hot = torch.eye(3, dtype=torch.float64)[[1, 1]] if classes else None

    def x_0(x, t):
        # In double, as x_0 is turned into eps below by a difference of nearly equal numbers.
        sigma = torch.tensor(model.schedule.noise_level[t.numpy()])
        scale = torch.tensor(np.moveaxis(signal, -1, 1))
        return network.double()(x.double() / scale, sigma, one_hot)

    ours, theirs, x = outputs(tmp_path / "ours", x_0, times)
    assert_close(ours, (x - signal * theirs) / np.sqrt(1 - signal**2))


# Out again, and verified.


def test_a_diffusers_folder_loads_back_in_diffusers_bit_for_bit(tmp_path):
    network = of_diffusers(resnet_time_scale_shift="scale_shift", upsample_type="resnet")
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear")
    folder = tmp_path / "theirs"
    diffusers.DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
    convert([folder], tmp_path / "ours", say=SAID.append)
    export(tmp_path / "ours", tmp_path / "back")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "back")
    read = json.loads(again.to_json_string()), json.loads(network.to_json_string())
    assert {**read[0], "_name_or_path": 0} == {**read[1], "_name_or_path": 0}
    state, before = again.state_dict(), network.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)
    schedule = diffusers.DDPMScheduler.from_pretrained(tmp_path / "back")
    assert torch.equal(schedule.betas, scheduler.betas)


@pytest.mark.parametrize(
    "network", [torch_projects.DDIM, torch_projects.EDM, torch_projects.Guided], ids=str
)
def test_a_model_goes_out_in_the_names_that_it_came_with(network, tmp_path):
    file = saved(network(), tmp_path)
    told = {} if network is torch_projects.EDM else {"image_size": 16}
    told |= {"heads": 4} if network is torch_projects.Guided else {}
    convert([file], tmp_path / "ours", flags=told, say=SAID.append)
    export(tmp_path / "ours", tmp_path / "back.pt")
    again, before = torch.load(tmp_path / "back.pt"), torch.load(file)
    again = again.get("ema_denoise_fn", again)  # guided-diffusion's, as the authors keep them
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_every_kind_is_verified(tmp_path):
    """--verify: a second implementation in PyTorch, under guided-diffusion's names."""
    of_diffusers(mid_block_scale_factor=1.4, freq_shift=1).save_pretrained(tmp_path / "diffusers")
    torch.save(filled(torch_projects.DDIM()).state_dict(), tmp_path / "ddim.pt")
    torch.save(filled(torch_projects.EDM()).state_dict(), tmp_path / "edm.pt")
    flags = {"resblock_updown": True, "use_scale_shift_norm": False, "channel_mult": (2, 2)}
    torch.save(filled(torch_projects.Guided(**flags)).state_dict(), tmp_path / "guided.pt")
    for name in ("diffusers", "ddim.pt", "edm.pt", "guided.pt"):
        told = {"image_size": 16} if name in ("ddim.pt", "guided.pt") else {}
        told |= {"heads": 4} if name == "guided.pt" else {}
        convert([tmp_path / name], tmp_path / f"{name}.ours", flags=told, say=SAID.append)
        assert verify(tmp_path / f"{name}.ours", say=SAID.append), SAID[-5:]


# PDAE over each kind.

KINDS = {
    "diffusers": lambda: of_diffusers(sample_size=8, block_out_channels=(32, 32), **TWO_LEVELS),
    "v": lambda: of_diffusers(sample_size=8, block_out_channels=(32,), **ONE_LEVEL),
    "guided": lambda: torch_projects.Guided(
        8, channel_mult=(1,), use_scale_shift_norm=False, channels=1, num_heads=1
    ),
    "ddim": lambda: torch_projects.DDIM(8, mult=(1,), blocks=1, attention=(), channels=1),
    "edm": lambda: torch_projects.EDM(8, 1, mult=(1,)),
}
ONE_LEVEL = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
TWO_LEVELS = dict(
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)


# One that predicts eps and one that predicts x_0 of a noise level; the others at night.
@pytest.mark.parametrize("kind", by_day(KINDS, "diffusers", "edm"))
def test_pdae_is_trained_over_each_kind(kind, tmp_path):
    """It begins as the bare model, which stays as it is, and explains the pictures better soon."""
    file = saved(KINDS[kind](), tmp_path)
    flags = {"image_size": 8, "predicts": "v" if kind == "v" else None}
    flags["heads"] = 1 if kind == "guided" else None
    flags = {name: value for name, value in flags.items() if value}
    if kind in ("diffusers", "v"):
        KINDS[kind]().save_pretrained(tmp_path / "theirs")
        file = tmp_path / "theirs"
    convert([file], tmp_path / "dpm", flags=flags, say=SAID.append)
    home = Workdir(tmp_path / "dpm")
    arch = dataclasses.replace(home.architecture, z_size=16, encoder_widths=(32,), dropout=0.0)
    home.write_architecture(arch)

    net, before = Networks(arch), home.weights()
    x_0 = to_float(first_pictures(Data("digits").open("test"), arch.image_shape, 64))
    t = np.arange(64) * (arch.T // 64)
    eps = np.random.default_rng(0).standard_normal(x_0.shape).astype(np.float32)

    @jax.jit
    def losses(params):
        given = net, params, net.schedule, x_0, t, eps
        return pdae.training_loss(*given), pdae.dpm_loss(*given)

    fresh = jax.jit(lambda: net.init(jax.random.key(0), ("encoder", "gradient")))()
    ours, bare = losses(before | fresh)
    weight = net.schedule.loss_weight()[t]
    np.testing.assert_allclose(ours, weight * bare, rtol=1e-4, atol=1e-6)

    settings = Settings(
        batch_size=32, steps=40, learning_rate=2e-3, ema=0.9, pictures_every=0, health_every=0
    )
    assert train(
        tmp_path / "run",
        "pdae",
        arch=arch,
        data=Data("digits"),
        settings=settings,
        pretrained=tmp_path / "dpm",
    )
    after = Workdir(tmp_path / "run").weights()
    jax.tree.map(np.testing.assert_array_equal, after["dpm"], before["dpm"])
    assert np.mean(losses(after)[0]) < 0.9 * np.mean(ours)
    model = pdae_jax.load(tmp_path / "run")
    assert model.decode(model.encode(x_0[:2]), steps=3).shape == (2, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_model_that_diffusers_trained_becomes_an_autoencoder(tmp_path):
    """Trained on digits as its train_unconditional.py does; PDAE over it, in half a minute each."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where others work on these cores
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32,),
        layers_per_block=1,
        norm_num_groups=8,
        **ONE_LEVEL,
    )
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    source = Data("digits").open("train")
    pictures = to_float(first_pictures(source, (8, 8, 1), len(source)))
    pictures = torch.tensor(np.moveaxis(pictures, -1, 1).copy())
    for _ in range(300):
        x_0 = pictures[torch.randint(len(pictures), (32,))]
        eps, t = torch.randn_like(x_0), torch.randint(1000, (32,))
        loss = ((network(scheduler.add_noise(x_0, eps, t), t).sample - eps) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(tmp_path / "theirs")

    convert([tmp_path / "theirs"], tmp_path / "dpm", say=SAID.append)
    arch = dataclasses.replace(Workdir(tmp_path / "dpm").architecture, z_size=32, dropout=0.0)
    Workdir(tmp_path / "dpm").write_architecture(arch)
    settings = Settings(
        batch_size=32,
        steps=300,
        learning_rate=2e-3,
        decay="cosine",
        ema=0.98,
        gamma=0.0,
        pictures_every=0,
        health_every=0,
    )
    data, home = Data("digits", flip=False), tmp_path / "pdae"
    given = dict(arch=arch, data=data, settings=settings, pretrained=tmp_path / "dpm")
    before = Workdir(tmp_path / "dpm").weights(["dpm"])
    assert train(home, "pdae", **given)
    jax.tree.map(np.testing.assert_array_equal, Workdir(home).weights(["dpm"]), before)

    model, held_out = (
        pdae_jax.load(home),
        to_float(first_pictures(data.open("test"), (8, 8, 1), 64)),
    )
    z = model.encode(held_out)
    mean = pictures.mean(0).numpy()[0, :, :, None]

    def error(found):  # of pixels in [0, 1]
        return float(np.mean((found - held_out) ** 2)) / 4

    of_mean = error(mean)
    assert error(model.decode(z, model.invert(held_out, z))) < 1e-4
    assert error(model.decode(z, temperature=0.0)) < 0.4 * of_mean


# Consistency models, EDM's own files, and what cannot come in.


@pytest.mark.parametrize("name", ["edm_cat256_ema.pt", "cd_imagenet64_lpips.pt", "model.pt"])
def test_openais_consistency_models_become_eps(name, tmp_path):
    """Their blocks are guided-diffusion's, which read 250 ln sigma; D by one of two scalings.

    The name of a published file says which; of another one flags do.
    """
    network = torch_projects.Guided(
        use_scale_shift_norm=False,
        resblock_updown=True,
        use_new_attention_order=True,
        num_head_channels=16,
    )
    predicts = "edm" if name.startswith("edm") else "consistency"
    told = dict(image_size=16, head_channels=16, T=200)  # the published ones' are others
    if name == "model.pt":
        told |= dict(qkv_order="new", schedule="karras", predicts=predicts, reads="250_log_sigma")
    convert([saved(network, tmp_path, name)], tmp_path / "ours", flags=told, say=SAID.append)
    schedule, times = pdae_jax.load(tmp_path / "ours").schedule, (20, 150)
    signal = np.sqrt(schedule.alpha_bar)[list(times)][:, None, None, None]
    least = {"edm": 0.0, "consistency": 0.002}[predicts]

    def x_0(x, t):
        sigma = torch.tensor(schedule.noise_level[t.numpy()])
        y = x.double() / torch.tensor(np.moveaxis(signal, -1, 1))
        s, total = sigma.reshape(-1, 1, 1, 1), (sigma**2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
        F_x = network((y / total).float(), 250 * sigma.log()).double()
        return 0.25 / ((s - least) ** 2 + 0.25) * y + 0.5 * (s - least) / total * F_x

    ours, theirs, x = outputs(tmp_path / "ours", x_0, times)
    assert_close(ours, (x - signal * theirs) / np.sqrt(1 - signal**2))


def test_edms_pickles_come_in_and_their_source_does_not(tmp_path):
    network = filled(torch_projects.EDM())
    source = f"open({str(tmp_path / 'pwned')!r}, 'w')"
    outer = torch.nn.Module()

    def _reconstruct_persistent_obj(meta):
        raise AssertionError

    with importable(
        "torch_utils.persistence", _reconstruct_persistent_obj=_reconstruct_persistent_obj
    ):
        outer._modules["model"] = persistent("DhariwalUNet", source, network)
        whole = persistent("EDMPrecond", source, outer, img_resolution=16, sigma_data=0.5)
        snapshot = pickle.dumps({"ema": whole, "loss_fn": None}, 4)
    (tmp_path / "network-snapshot.pkl").write_bytes(snapshot)
    convert([tmp_path / "network-snapshot.pkl"], tmp_path / "ours", say=SAID.append)
    assert not (tmp_path / "pwned").exists()
    back = name_map.to_torch(
        name_map.unet(Workdir(tmp_path / "ours").architecture, dialects.EDM),
        Workdir(tmp_path / "ours").weights(),
    )
    state = network.state_dict()
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[name], tensor.numpy()) for name, tensor in state.items())


NO_BETAS = [
    "CMStochasticIterativeScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "EDMEulerScheduler",
]


@pytest.mark.parametrize("name", NO_BETAS)
def test_schedulers_without_betas_are_refused(name, tmp_path):
    of_diffusers().save_pretrained(tmp_path / "unet")
    getattr(diffusers, name)().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match=f"{name} has no betas"):
        convert([tmp_path / "unet"], tmp_path / "ours", say=SAID.append)


def test_a_training_folders_scheduler_is_found_from_its_checkpoint(tmp_path):
    of_diffusers().save_pretrained(tmp_path / "checkpoint-500" / "unet")
    scheduler = diffusers.DDPMScheduler(500, beta_schedule="squaredcos_cap_v2")
    scheduler.save_pretrained(tmp_path / "scheduler")
    config = tmp_path / "scheduler" / "scheduler_config.json"
    value = json.loads(config.read_text())
    del value["prediction_type"]
    config.write_text(json.dumps(value | {"predict_epsilon": False}))  # as it was once written
    convert([tmp_path / "checkpoint-500"], tmp_path / "ours", say=SAID.append)
    arch = Workdir(tmp_path / "ours").architecture
    assert (arch.T, arch.schedule, arch.predicts) == (500, "cosine", "x_0")


def test_weights_of_any_name_belong_to_the_config_beside_them(tmp_path):
    of_diffusers(norm_eps=1e-6).half().save_pretrained(tmp_path / "theirs", variant="fp16")
    assert [*(tmp_path / "theirs").glob("*.fp16.safetensors")]
    convert([tmp_path / "theirs"], tmp_path / "ours", say=SAID.append)
    assert Workdir(tmp_path / "ours").architecture.norm_eps == 1e-6


@pytest.mark.parametrize("project", ["diffusers", "MONAI"])
def test_what_no_tensor_shows_of_a_network_needs_its_config(project, tmp_path):
    """And --config=FILE gives it, 1e-06 in it being a number in JSON and in YAML."""
    if project == "diffusers":
        network = of_diffusers(norm_eps=1e-6)
        network.save_pretrained(tmp_path / "theirs")
        text = (tmp_path / "theirs" / "config.json").read_text()
    else:
        settings = of_monai() | {"norm_eps": 1e-6}
        network = filled(monai.networks.nets.DiffusionModelUNet(**settings))
        text = json.dumps({"network_def": settings, "image_size": 16})
    file = tmp_path / "model.pt"
    torch.save(network.state_dict(), file)
    flags = {"image_size": 16, "heads": 1}
    with pytest.raises(ValueError, match=f"no tensor shows the norms.* of {project}'s network"):
        convert([file], tmp_path / "ours", flags=flags, say=SAID.append)
    for suffix in (".json", ".yml"):
        config = tmp_path / f"settings{suffix}"
        config.write_text(text)
        convert([file], tmp_path / suffix, config=config, say=SAID.append)
        arch = Workdir(tmp_path / suffix).architecture
        assert (arch.norm_eps, arch.norm_groups) == (1e-6, 8)


def test_a_config_of_other_sizes_is_refused(tmp_path):
    of_diffusers().save_pretrained(tmp_path / "theirs")
    config = tmp_path / "theirs" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"block_out_channels": [32, 64, 96]})
    )
    with pytest.raises(ValueError, match=r"mult is \(1, 2, 2\) by the tensors and \(1, 2, 3"):
        convert([tmp_path / "theirs"], tmp_path / "ours", say=SAID.append)


def test_pipelines_are_judged_by_the_parts_that_are_there(tmp_path):
    of_diffusers().save_pretrained(tmp_path / "unet")
    index = {"_class_name": "AudioDiffusionPipeline", "vqvae": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    convert([tmp_path / "unet"], tmp_path / "ours", say=SAID.append)
    index["vqvae"] = ["diffusers", "VQModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for source in (tmp_path, tmp_path / "unet"):
        with pytest.raises(ValueError, match="works on latents or conditions .*vqvae"):
            convert([source], tmp_path / "no", say=SAID.append)


def test_settings_lie_beside_what_goes_out_in_another_projects_names(tmp_path):
    """Whose own code loads the tensors alone; here they come back as they were."""
    of_diffusers(norm_eps=1e-6, freq_shift=1).save_pretrained(tmp_path / "theirs")
    convert([tmp_path / "theirs"], tmp_path / "ours", say=SAID.append)
    export(tmp_path / "ours", tmp_path / "out.pt")
    of_diffusers().load_state_dict(torch.load(tmp_path / "out.pt"))
    convert([tmp_path / "out.pt"], tmp_path / "back", say=SAID.append)
    assert Workdir(tmp_path / "back").architecture == Workdir(tmp_path / "ours").architecture
    with pytest.raises(ValueError, match="is a PyTorch file: give FILE.pt"):
        export(tmp_path / "ours", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "flags, asked",
    [
        ({}, "image_size"),
        (
            {"num_channels": 64, "channel_mult": (1, 2, 4, 8), "attention_resolutions": (4,)},
            "image",
        ),
        ({"learn_sigma": True}, "image_size"),
    ],
    ids=str,
)
def test_nothing_is_guessed_of_ones_own_training(flags, asked, tmp_path):
    """guided-diffusion's own flags, even at the sizes of published models."""
    file = saved(torch_projects.Guided(**flags), tmp_path)
    with pytest.raises(ValueError, match=f"nothing tells the {asked}"):
        convert([file], tmp_path / "ours", say=SAID.append)
    with pytest.raises(ValueError, match="nothing tells how many attention heads"):
        convert([file], tmp_path / "ours", flags={"image_size": 16}, say=SAID.append)


def test_rescaled_times_are_spoken_of_where_they_may_be(tmp_path):
    said = []
    told = dict(image_size=16, heads=4, schedule="cosine", T=4000)
    file = saved(torch_projects.Guided(improved=True), tmp_path)
    convert([file], tmp_path / "ours", flags=told, say=said.append)
    assert "reads = t, assumed: nothing here tells" in said
    assert "heads_up = 0, assumed: nothing here tells" in said


NEAR_MISSES = {
    "a network of volumes": {"conv_in.conv.weight": (32, 1, 3, 3, 3)},
    "a latent diffusion model": {"first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)},
    "conditioned on text": {
        "input_blocks.0.0.weight": (32, 4, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 768),
    },
    "EDM2's network": {"unet.enc.64x64_conv.weight": (32, 4, 3, 3), "unet.out.emb_gain": (1,)},
    "score_sde's network": {"all_modules.0.W": (64,)},
    "lucidrains": {"init_conv.weight": (64, 3, 7, 7), "downs.0.0.block1.proj.weight": (1,)},
    "guided-diffusion's upsampler": {
        "input_blocks.0.0.weight": (32, 6, 3, 3),
        "out.2.weight": (6, 32, 3, 3),
        "output_blocks.0.0.in_layers.0.weight": (32,),
    },
    "guided-diffusion's classifier": {
        "input_blocks.0.0.weight": (32, 3, 3, 3),
        "out.0.weight": (32,),
    },
    "a diffusion transformer": {"blocks.0.adaLN_modulation.1.weight": (6, 4)},
    "EDM's SongUNet": {"map_layer0.weight": (8, 4), "dec.8x8_aux_norm.weight": (4,)},
}


IN_BOXES = {
    "a latent diffusion model": lambda state: {
        "state_dict": {f"model.diffusion_model.{k}": v for k, v in state.items()}
        | {"first_stage_model.quant_conv.weight": torch.zeros(4)},
        "pytorch-lightning_version": "1.4.2",
    },
    "lucidrains": lambda state: {
        "step": 10,
        "model": {f"model.{k}": v for k, v in LUCIDRAINS.items()},
        "ema": {f"ema_model.model.{k}": v for k, v in LUCIDRAINS.items()},
        "version": "2.1",
    },
    "score_sde's network": lambda state: {
        "model": {"module.all_modules.0.W": torch.zeros(64)},
        "ema": {"decay": 0.999, "shadow_params": [torch.zeros(64)]},
        "step": 3,
    },
}
LUCIDRAINS = {
    "init_conv.weight": torch.zeros(64, 3, 7, 7),
    "downs.0.0.block1.proj.weight": torch.zeros(1),
}


@pytest.mark.parametrize("what", IN_BOXES)
def test_what_cannot_come_in_is_named_within_its_trainers_file(what, tmp_path):
    torch.save(IN_BOXES[what](torch_projects.DDIM().state_dict()), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=what) as caught:
        convert([tmp_path / "model.pt"], tmp_path / "ours", say=SAID.append)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", NEAR_MISSES)
def test_what_cannot_come_in_is_named(what, tmp_path):
    state = {name: torch.zeros(shape) for name, shape in NEAR_MISSES[what].items()}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=what) as caught:
        convert([tmp_path / "model.pt"], tmp_path / "ours", say=SAID.append)
    assert "\n" not in str(caught.value) and not (tmp_path / "ours").exists()


WRAPPERS = {
    "compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "swa": lambda state: (
        {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()}
    ),
    "ema_pytorch": lambda state: (
        {"step": torch.tensor(3), "initted": torch.tensor(True)}
        | {f"online_model.{k}": torch.zeros_like(v) for k, v in state.items()}
        | {f"ema_model.{k}": v for k, v in state.items()}
    ),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "lightning": lambda state: {
        "state_dict": {f"net.{k}": v for k, v in state.items()},
        "pytorch-lightning_version": "2.4.0",
        "epoch": 3,
    },
    "shadow": lambda state: {
        "ema": {"decay": 0.999, "shadow_params": [*state.values()]},
        "model": state,
    },
    "both": lambda state: {
        "model": {k: torch.zeros_like(v) for k, v in state.items()},
        "ema": state,
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_trainers_put_around_a_state_dict_is_undone(wrapper, tmp_path):
    state = filled(torch_projects.DDIM()).state_dict()
    torch.save(WRAPPERS[wrapper](state), tmp_path / "model.pt")
    convert([tmp_path / "model.pt"], tmp_path / "ours", flags={"image_size": 16}, say=SAID.append)
    home = Workdir(tmp_path / "ours")
    back = name_map.to_torch(name_map.unet(home.architecture, dialects.DDIM), home.weights())
    assert all(np.array_equal(back[name], tensor.numpy()) for name, tensor in state.items())


def test_a_pickled_module_and_quantized_weights_are_told_what_to_do(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"a pickled .*Linear.*save its tensors, torch\.save\("):
        convert([tmp_path / "module.pt"], tmp_path / "ours", say=SAID.append)
    state = torch_projects.DDIM().state_dict()
    state["conv_in.weight"] = state["conv_in.weight"].to(torch.int8)
    torch.save(state, tmp_path / "int8.pt")
    with pytest.raises(ValueError, match="conv_in.weight.* is of int8, as of a quantized model"):
        convert([tmp_path / "int8.pt"], tmp_path / "ours", flags={"image_size": 16})


def test_the_names_of_attributes_travel_in_the_file(workdir, tmp_path):
    """The shared workdir's classifier: ten digits, by their names."""
    export(workdir, tmp_path / "model.pt")
    convert([tmp_path / "model.pt"], tmp_path / "back", say=SAID.append)
    there = Workdir(workdir).attributes
    assert there and Workdir(tmp_path / "back").attributes == there


def test_an_output_that_is_no_number_is_named(tmp_path):
    said = []
    file = saved(torch_projects.DDIM(), tmp_path)
    convert([file], tmp_path / "ours", flags={"image_size": 16}, say=SAID.append)
    home = Workdir(tmp_path / "ours")
    weights = home.weights()
    weights["dpm"]["up"]["norm"]["scale"] = np.full_like(
        weights["dpm"]["up"]["norm"]["scale"], 3e38
    )
    shutil.rmtree(tmp_path / "ours" / "dpm")
    home.save_weights(weights)
    assert not verify(tmp_path / "ours", say=said.append)
    assert said[1].startswith("FAILED: eps gives NaN or infinite numbers")


def test_names_of_earlier_versions_are_known(tmp_path):
    """diffusers' attention before 0.17, and that of MONAI's generative package."""
    network = of_diffusers()
    network.save_pretrained(tmp_path / "theirs", safe_serialization=False)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    rename(tmp_path / "theirs" / "diffusion_pytorch_model.bin", new)
    convert([tmp_path / "theirs"], tmp_path / "ours", say=SAID.append)
    ours, theirs, _ = outputs(tmp_path / "ours", lambda x, t: network(x, t).sample)
    assert_close(ours, theirs)

    settings = of_monai()
    network = filled(monai.networks.nets.DiffusionModelUNet(**settings))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    rename(tmp_path / "model.pt", {"attn.out_proj": "proj_attn", "attn.to_": "to_"})
    config = tmp_path / "network.json"
    config.write_text(json.dumps(settings | {"image_size": 16}))
    convert([tmp_path / "model.pt"], tmp_path / "monai", config=config, say=SAID.append)
    assert_close(*outputs(tmp_path / "monai", network)[:2])


def rename(file, names):
    """Gives parts of a state dict's names other ones, in its file."""
    state = {}
    for key, tensor in torch.load(file).items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[key] = tensor
    torch.save(state, file)
