"""PyTorch's files in and out: every released kind, hostile ones, and the proof by a twin."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import (
    CELEBA64,
    GOLDEN,
    ROOT,
    TESTS,
    TINY,
    Call,
    assert_close,
    golden,
    importable,
    manifest,
    nhwc,
    stand_in,
)

import pdae_jax
from pdae_jax import pdae
from pdae_jax.convert import (
    architecture_facts,
    conversion,
    torch_checkpoint,
    torch_twin,
)
from pdae_jax.convert.architecture_facts import Facts, Told
from pdae_jax.convert.conversion import convert, export
from pdae_jax.convert.verification import compare, unproven, verify
from pdae_jax.data.dataset import Data
from pdae_jax.metrics import inception, lpips
from pdae_jax.networks.groups import Networks
from pdae_jax.schedule import SCHEDULES
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.workdir import Workdir

TOOL = ROOT / "tools" / "convert_torch_weights.py"
# What the tiny stand-ins' shapes do not tell.
TINY_FLAGS = {"heads": 2, "image_size": 16}


def quiet(line):
    """Takes what a conversion says."""


def tensors(state: dict) -> dict:
    return {key: torch.tensor(value) for key, value in state.items()}


def named(name: str, seed: int | None = None) -> dict:
    """Stand-in weights as torch tensors; the golden file's own seed where none is given."""
    return tensors(stand_in(name, int(golden(name)["seed"]) if seed is None else seed))


def zeros_like(state: dict) -> dict:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def lightning_classes():
    """Classes that exist while a file is saved, and cannot be imported when it is read."""
    return importable(
        "pytorch_lightning.callbacks.model_checkpoint",
        ModelCheckpoint=type("ModelCheckpoint", (), {}),
        AttributeDict=type("AttributeDict", (dict,), {}),
    )


def save_lightning(path: Path, ema: dict, hyper_parameters: dict) -> Path:
    """A file in the layout of Diff-AE's *_ddpm/last.ckpt."""
    state = {f"model.{key}": value for key, value in zeros_like(ema).items()}
    state |= {f"ema_model.{key}": value for key, value in ema.items()}
    with lightning_classes() as pl:
        torch.save(
            {
                "epoch": 7,
                "global_step": 940_000,
                "pytorch-lightning_version": "1.4.5",
                "state_dict": state | {"x_T": torch.randn(8, 3, 16, 16)},
                "callbacks": {
                    pl.ModelCheckpoint: {
                        "best_model_score": torch.tensor(0.1),
                        "dirpath": "checkpoints",
                    }
                },
                "optimizer_states": [
                    {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
                ],
                "lr_schedulers": [],
                "hyper_parameters": pl.AttributeDict(hyper_parameters),
            },
            path,
        )
    return path


def config_yml(path: Path, diffusion: dict | None = None, **changes) -> Path:
    """The authors' config.yml of the tiny UNet: attention as down-sampling rates."""
    values = {
        "input_channel": 3,
        "base_channel": 32,
        "channel_multiplier": [1, 2],
        "num_residual_blocks_of_a_block": 1,
        "attention_resolutions": [2],
        "num_heads": 2,
        "head_channel": -1,
        "use_new_attention_order": False,
        "dropout": 0.0,
    } | changes
    config = {
        "dataset_config": {"image_size": 16},
        "diffusion_config": {"timesteps": 1000, "betas_type": "linear"} | (diffusion or {}),
        "decoder_config": values,
    }
    path.write_text(json.dumps(config))
    return path


def save_autoencoder(path: Path, decoder: dict, encoder: dict, **more) -> Path:
    torch.save(
        {
            "encoder": zeros_like(encoder),
            "ema_encoder": encoder,
            "decoder": zeros_like(decoder),
            "ema_decoder": decoder,
            "step": 296_875,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
            "scaler": {},
            **more,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def tiny_encoder():
    """An encoder of 16 px pictures: 64, 128 channels, attention nowhere, z of 16."""
    network = torch_twin.Encoder(TINY)
    torch.manual_seed(0)
    return {key: torch.randn_like(value) * 0.1 for key, value in network.state_dict().items()}


@pytest.fixture
def autoencoder(tmp_path, tiny_encoder):
    config_yml(tmp_path / "config.yml")
    return save_autoencoder(tmp_path / "checkpoint.pt", named("shift_unet_tiny"), tiny_encoder)


# Every row of the released files: converted, loaded, run.


def test_diffae_lightning_file(tmp_path):
    data = golden("diffae_ddpm_tiny")
    path = save_lightning(
        tmp_path / "last.ckpt",
        named("diffae_ddpm_tiny"),
        {
            "net_ch": 32,
            "net_ch_mult": (1, 2),
            "net_attn": (8,),
            "net_beatgans_attn_head": 1,
            "net_num_res_blocks": 1,
            "img_size": 16,
            "T": 1000,
            "beta_scheduler": "linear",
            "dropout": 0.0,
        },
    )
    said = []
    receipt = convert([path], tmp_path / "out", say=said.append)
    model = pdae_jax.load(tmp_path / "out")
    assert_close(eps(model, data), nhwc(data["out"]), 1e-5)
    assert receipt["sources"][0]["step"] == 940_000
    assert "heads = 1, from hyper_parameters" in said
    assert any("x_T" in line and "ModelCheckpoint" in line for line in said)
    raw = convert([path], tmp_path / "raw", weights="raw", say=quiet)
    assert raw["groups"]["dpm"]["norm"] == 0


def eps(model, data):
    """eps_theta of a golden file's inputs (and v, where learned), block by block."""
    out = model.net.predict(model.params, nhwc(data["x"]), model.net.time(model.params, data["t"]))
    return out.eps if out.v is None else jnp.concatenate([out.eps, out.v], -1)


def test_pdae_diffusion_model_at_full_size(tmp_path):
    data, state = golden("unet_celeba64"), named("unet_celeba64")
    torch.save(
        {
            "ema_denoise_fn": state,
            "denoise_fn": zeros_like(state),
            "step": 562_500,
            "optimizer": {},
            "scaler": {},
        },
        tmp_path / "checkpoint.pt",
    )
    receipt = convert([tmp_path / "checkpoint.pt"], tmp_path / "out", say=quiet)
    model = pdae_jax.load(tmp_path / "out")
    assert model.arch == dataclasses.replace(CELEBA64, z_size=512)
    assert_close(eps(model, data), nhwc(data["out"]), 1e-5)
    assert receipt["groups"]["dpm"]["parameters"] == sum(v.numel() for v in state.values())


def test_pdae_autoencoder_and_all_that_goes_with_it_at_full_size(tmp_path):
    """Autoencoder, latents, latent model and classifier: one directory that can do everything."""
    decoder, encoder = named("shift_unet_celeba64"), named("encoder_celeba64")
    latent = named("latent_dpm_celeba64")
    files = [
        save_autoencoder(tmp_path / "checkpoint.pt", decoder, encoder),
        *(tmp_path / name for name in ("latents.pt", "latent.pt", "classifier.pt")),
    ]
    mean, std = torch.randn(512), torch.rand(512) + 0.5
    torch.save({"mean": mean, "std": std}, files[1])
    torch.save(
        {
            "ema_latent_denoise_fn": latent,
            "latent_denoise_fn": zeros_like(latent),
            "encoder": encoder,
            "step": 1000,
        },
        files[2],
    )
    weight, bias = torch.randn(40, 512), torch.randn(40)
    torch.save(
        {
            "ema_classifier": {"weight": weight, "bias": bias},
            "classifier": {"weight": weight, "bias": bias},
        },
        files[3],
    )
    receipt = convert(files, tmp_path / "out", say=quiet)

    model = pdae_jax.load(tmp_path / "out")
    assert model.params.keys() == {
        "dpm",
        "encoder",
        "gradient",
        "latent",
        "statistics",
        "classifier",
    }
    data = golden("shift_unet_celeba64")
    out = model.net.predict(
        model.params,
        nhwc(data["x"]),
        model.net.time(model.params, data["t"]),
        model.net.code(model.params, data["z"]),
    )
    assert_close(out.eps, nhwc(data["epsilon"]), 1e-5)
    assert_close(out.gradient, nhwc(data["gradient"]), 1e-5)
    data = golden("encoder_celeba64")
    assert_close(model.encode(nhwc(data["x"])), data["z"], 1e-5)
    data = golden("latent_dpm_celeba64")
    assert_close(
        model.net.latent_eps(
            model.params, data["z"], model.net.latent_time(model.params, data["t"])
        ),
        data["out"],
        1e-5,
    )
    assert np.array_equal(model.params["statistics"]["std"], std.numpy())
    assert np.array_equal(model.params["classifier"]["kernel"], weight.numpy().T)
    names_told = Workdir(tmp_path / "out").attributes
    assert len(set(names_told)) == 40 and names_told[20] == "Male" and names_told[-1] == "Young"
    assert len(receipt["sources"]) == 4 and all(len(s["sha256"]) == 64 for s in receipt["sources"])
    assert receipt["groups"]["gradient"]["parameters"] + receipt["groups"]["dpm"][
        "parameters"
    ] == sum(value.numel() for value in decoder.values())
    assert Workdir(tmp_path / "out").receipt == json.loads(json.dumps(receipt))


def test_guided_diffusion_with_learned_variance(tmp_path):
    data = golden("adm_learned_sigma_tiny")
    torch.save(named("adm_learned_sigma_tiny"), tmp_path / "adm.pt")
    convert(
        [tmp_path / "adm.pt"], tmp_path / "out", flags={"heads": 4, "image_size": 16}, say=quiet
    )
    model = pdae_jax.load(tmp_path / "out")
    assert model.arch.learned_variance and model.arch.head_channels == 0
    assert_close(eps(model, data), nhwc(data["out"]), 1e-5)


@pytest.mark.parametrize(
    "flags", [{"qkv_order": "new", "heads": 4}, {"qkv_order": "legacy", "head_channels": 16}]
)
def test_both_qkv_orders_and_head_channels_agree_with_the_twin(tmp_path, flags):
    state = named("adm_new_order_tiny", 5)
    torch.save(state, tmp_path / "adm.pt")
    said = []
    convert(
        [tmp_path / "adm.pt"], tmp_path / "out", flags=flags | {"image_size": 16}, say=said.append
    )
    assert f"qkv_order = {flags['qkv_order']}, from a flag" in said
    assert verify(tmp_path / "out", say=quiet)
    other = dataclasses.replace(
        Workdir(tmp_path / "out").architecture,
        qkv_order={"new": "legacy", "legacy": "new"}[flags["qkv_order"]],
    )
    rows = compare(
        other,
        Workdir(tmp_path / "out").weights(),
        {"unet": stand_in("adm_new_order_tiny", 5)},
    )
    assert all(row.passed for row in rows)  # the twin follows: so the order is looked at below
    model, wrong = pdae_jax.load(tmp_path / "out"), pdae_jax.load(tmp_path / "out")
    x, t = jnp.ones((1, 16, 16, 3)), jnp.array([5])
    wrong = dataclasses.replace(model.net, arch=other)
    assert not np.allclose(
        model.net.predict(model.params, x, model.net.time(model.params, t)).eps,
        wrong.predict(model.params, x, wrong.time(model.params, t)).eps,
    )


def test_a_class_conditional_unet_becomes_that_of_one_class(tmp_path):
    state = named("unet_tiny")
    embedding = torch.randn(10, 128)
    torch.save(state | {"label_emb.weight": embedding}, tmp_path / "adm.pt")
    with pytest.raises(ValueError, match="conditioned on 10 classes.*--class_label=0..9"):
        convert([tmp_path / "adm.pt"], tmp_path / "out", flags=TINY_FLAGS, say=quiet)
    convert([tmp_path / "adm.pt"], tmp_path / "out", flags=TINY_FLAGS, class_label=3, say=quiet)
    network = torch_twin.load("unet", TINY, {key: value.numpy() for key, value in state.items()})
    data = golden("unet_tiny")
    with torch.no_grad():  # as guided-diffusion does: emb = time_embed(t) + label_emb(y)
        network.time_embed.register_forward_hook(lambda module, x, out: out + embedding[3])
        wanted = network(torch.tensor(data["x"]), torch.tensor(data["t"]))[0].numpy()
    assert_close(eps(pdae_jax.load(tmp_path / "out"), data), nhwc(wanted), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_a_data_parallel_prefix(tmp_path, dtype):
    """Parameters are float32 whatever the file's type; "module." before every name is dropped."""
    state = {key: value.to(dtype) for key, value in named("unet_tiny").items()}
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "a.pt")
    convert([tmp_path / "a.pt"], tmp_path / "out", flags=TINY_FLAGS, say=quiet)
    params = Workdir(tmp_path / "out").weights()["dpm"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(
        params["time_embedding"]["in"]["kernel"], state["time_embed.0.weight"].float().numpy().T
    )
    assert verify(tmp_path / "out", say=quiet)


@pytest.mark.parametrize(
    "name, shapes, extra",
    [
        ("lpips_alexnet", lpips.alexnet_shapes(), {"classifier.1.weight": (8, 4)}),
        ("fid_inception", inception.shapes(), {"Mixed_5b.branch1x1.bn.num_batches_tracked": ()}),
    ],
)
def test_metric_files(tmp_path, name, shapes, extra):
    assert {key: tuple(shape) for key, shape in manifest(name).items()} == shapes
    state = named(name, 800)
    torch.save(
        state | {key: torch.zeros(shape) for key, shape in extra.items()}, tmp_path / "a.pth"
    )
    receipt = convert([tmp_path / "a.pth"], tmp_path / "out", say=quiet)
    assert receipt["architecture"] is None
    ((group, facts),) = receipt["groups"].items()
    assert facts["arrays"] == len(shapes)
    params = Workdir(tmp_path / "out").weights()[group]
    first = {
        "alexnet": ("features", "0", "kernel"),
        "inception": ("Conv2d_1a_3x3", "conv", "kernel"),
    }[group]
    kernel = params[first[0]][first[1]][first[2]]
    key = f"{first[0]}.{first[1]}.weight"
    assert np.array_equal(kernel, state[key].numpy().transpose(2, 3, 1, 0))
    with pytest.raises(ValueError, match="no model at"):
        pdae_jax.load(tmp_path / "out")


def test_lpips_heads(tmp_path):
    """Of LPIPS's own file, which is in PyTorch's format of before 1.6."""
    heads = TESTS / "data" / "alex.pth"
    assert hashlib.sha256(heads.read_bytes()).hexdigest().startswith("df73285e")
    torch.save(named("lpips_alexnet", 1), tmp_path / "alexnet.pth")
    receipt = convert([heads, tmp_path / "alexnet.pth"], tmp_path / "out", say=quiet)
    assert receipt["groups"].keys() == {"lpips", "alexnet"}
    found = Workdir(tmp_path / "out").weights()["lpips"]
    for key, tensor in torch.load(heads, "cpu", weights_only=True).items():
        assert np.array_equal(
            np.ravel(found[key.split(".")[0]]["model"]["1"]["kernel"]), tensor.ravel()
        )


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("unet_128", {"image_shape": (128, 128, 3), "heads": 1, "mult": (1, 1, 2, 3, 4)}),
        ("diffae_ddpm128", {"image_shape": (128, 128, 3), "heads": 1}),
        ("unet_celeba64", {"image_shape": (64, 64, 3), "heads": 4}),
        ("unet_mnist", {"image_shape": (32, 32, 1), "attention": ()}),
        (
            "adm_lsun256",
            {
                "image_shape": (256, 256, 3),
                "head_channels": 64,
                "attention": (32, 16, 8),
                "learned_variance": True,
                "mult": (1, 1, 2, 2, 4, 4),
            },
        ),
    ],
)
def test_architecture_of_the_released_models(name, wanted):
    shapes = {key: tuple(shape) for key, shape in manifest(name).items()}
    arch, told = architecture_facts.architecture({"unet": shapes}, [])
    assert {field: getattr(arch, field) for field in wanted} == wanted
    assert any(one.field == "heads" for one in told)


# What no shape tells: config.yml, hyper_parameters, a flag, the known models, in that order.


def test_who_tells_what_shapes_do_not(tmp_path):
    shapes = {"unet": {key: tuple(shape) for key, shape in manifest("unet_tiny").items()}}
    config = architecture_facts.from_config(json.loads(config_yml(tmp_path / "c.yml").read_text()))
    hyper = architecture_facts.from_hyper_parameters(
        {"net_ch": 32, "net_beatgans_attn_head": 4, "img_size": 16}
    )
    flag = Facts("a flag", {"heads": 8}, explicit=True)
    heads = [
        architecture_facts.architecture(shapes, told)[0].heads
        for told in ([config, hyper], [hyper], [flag], [])
    ]
    assert heads == [2, 4, 8, 1]
    with pytest.raises(ValueError, match="heads is 2 by config.yml and 8 by a flag; leave one out"):
        architecture_facts.architecture(shapes, [config, flag])
    with pytest.raises(ValueError, match=r"mult is \(1, 2\) by the tensors and \(1, 4\) by config"):
        wrong = config_yml(tmp_path / "d.yml", channel_multiplier=[1, 4])
        architecture_facts.architecture(
            shapes, [architecture_facts.from_config(json.loads(wrong.read_text()))]
        )
    attention = {
        key: shape for key, shape in shapes["unet"].items() if "input_blocks.3.1" not in key
    }
    with pytest.raises(ValueError, match="nothing tells the image_size.*--image_size="):
        architecture_facts.architecture({"unet": attention}, [])


SCHEDULE = r"is none of those here \(linear, .*karras\).*--schedule"
# Where it stands, and what load() or the first encode() would fail at.
NOT_LOADABLE = [
    ("hyper", {"beta_scheduler": "jsd"}, rf"'jsd', from hyper_parameters, {SCHEDULE}"),
    ("config", {"betas_type": "jsd"}, rf"'jsd', from .*config\.yml, {SCHEDULE}"),
    ("own", {"schedule": "jsd"}, rf"'jsd', from the file's own .*, {SCHEDULE}"),
    ("flag", {"schedule": "jsd"}, rf"'jsd', from a flag, {SCHEDULE}"),
    ("flag", {"schedule": ["linear"]}, rf"\['linear'\], from a flag, {SCHEDULE}"),
    ("hyper", {"T": 20}, "the linear schedule needs T above 20, got 20"),
    ("own", {"T": 15}, "the linear schedule needs T above 20, got 15"),
    ("hyper", {"T": 1e3}, r"T must be a whole number of at least 1, got 1000\.0"),
    ("config", {"linear_beta_end": 1.1}, r"each beta must be in \(0, 1\)"),
    ("config", {"use_new_attention_order": "yes"}, "cannot be read as a config: 'yes'; mend it"),
    ("config", {"num_heads": 5}, "do not divide into 5 attention heads"),
    ("hyper", {"net_beatgans_attn_head": 0}, "heads must be a whole number of at least 1, got 0"),
    ("flag", {"head_channels": 48}, "heads of head_channels = 48"),
    ("flag", {"qkv_order": "old"}, "qkv_order must be .*, got 'old'"),
    ("flag", {"image_size": 15}, "image height 15 is not divisible by 2"),
    ("own", {"attention": [3, 5]}, "attention_levels is"),
    ("own", {"patch": 2}, "patch is 1 by the tensors and 2 by the file's own architecture"),
    ("own", {"encoder_heads": 3}, "encoder_heads = 3 must divide"),
    ("own", {"kernel": 5}, "has what this version does not know: kernel"),
    ("own", {"image_shape": [16, 16]}, r"image_shape must be \(height, width, channels\)"),
]


@pytest.mark.parametrize("where, values, says", NOT_LOADABLE)
def test_what_load_would_refuse_is_refused_here(tmp_path, tiny_encoder, where, values, says):
    """In one line, with nothing written, wherever the fact comes from."""
    path, flags = tmp_path / "a.pt", dict(TINY_FLAGS)
    if where == "hyper":
        save_lightning(path, named("diffae_ddpm_tiny"), {"img_size": 16, "T": 1000} | values)
        flags = {}
    elif where == "own":
        contents = {"ema_decoder": named("shift_unet_tiny"), "ema_encoder": tiny_encoder}
        torch.save(contents | {"architecture": TINY.to_dict() | values}, path)
        flags = {}
    else:
        torch.save({"ema_denoise_fn": named("unet_tiny")}, path)
    if where == "config":
        config_yml(tmp_path / "config.yml", diffusion=values, **values)
        flags = {}
    if where == "flag":
        flags |= values
    with pytest.raises(ValueError, match=says) as caught:
        convert([path], tmp_path / "out", flags=flags, say=quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_flag_says_which_schedule_an_unknown_name_means(tmp_path):
    path = save_lightning(tmp_path / "a.ckpt", named("diffae_ddpm_tiny"), {"beta_scheduler": "jsd"})
    said = []
    flags = {"image_size": 16, "schedule": "constant", "heads": 1}
    convert([path], tmp_path / "out", flags=flags, say=said.append)
    assert "schedule = constant, from a flag" in said
    assert len(pdae_jax.load(tmp_path / "out").schedule.beta) == 1000


def test_attention_that_no_map_has_leaves_and_comes_back(tmp_path):
    """A size in `attention` larger than the picture means none, here as in training."""
    arch = dataclasses.replace(TINY, image_shape=(8, 8, 3), attention=(16,), z_size=512)
    workdir = Workdir.create(tmp_path / "run")
    workdir.write_architecture(arch)
    workdir.save_weights(
        jax.device_get(jax.jit(lambda: Networks(arch).init(jax.random.key(0), ("dpm",)))())
    )
    export(workdir.path, tmp_path / "a.pt")
    convert([tmp_path / "a.pt"], tmp_path / "back", say=quiet)
    assert Workdir(tmp_path / "back").architecture.attention == ()


@pytest.mark.parametrize(
    "text, says",
    [
        ("decoder_config: {base_channel: 32, head_channel: null}", "cannot be read as a config"),
        (
            "decoder_config: {base_channel: 32, attention_resolutions: '2'}",
            "cannot be read as a config",
        ),
        (
            "decoder_config: {base_channel: 32, attention_resolutions: [0]}",
            "cannot be read as a config",
        ),
        ("a: &a {b: *a}", "is not used: it has no base_channel"),
        ("a: [unclosed", "cannot be read as a config"),
    ],
)
def test_a_config_beside_is_used_or_spoken_of(tmp_path, text, says):
    said = []
    path = tmp_path / "checkpoint.pt"
    torch.save({"ema_denoise_fn": named("unet_tiny", 0)}, path)
    (tmp_path / "config.yml").write_text(text)
    try:
        convert([path], tmp_path / "out", flags={"image_size": 16}, say=said.append)
    except ValueError as error:
        said.append(str(error))
    assert any(f"config.yml {says}" in line for line in said), said


def test_our_own_files_know_themselves_best(tmp_path, autoencoder):
    """A config.yml of another model beside an exported file does not change what comes back."""
    convert([autoencoder], tmp_path / "ours", say=quiet)
    export(tmp_path / "ours", tmp_path / "new" / "out.pt")
    config_yml(tmp_path / "new" / "config.yml", num_heads=4)
    convert([tmp_path / "new" / "out.pt"], tmp_path / "back", say=quiet)
    assert Workdir(tmp_path / "back").architecture.heads == 2
    with pytest.raises(ValueError, match="leave one out"):
        convert(
            [tmp_path / "new" / "out.pt"],
            tmp_path / "again",
            say=quiet,
            config=tmp_path / "new" / "config.yml",
        )


@pytest.mark.parametrize(
    "change, says",
    [
        ({"layers.30000000.linear.weight": (4, 4)}, "layers.4 is missing"),
        ({"layers.x.linear.weight": (4, 4)}, "layers.4 is missing"),
    ],
)
def test_layers_are_counted_not_believed(change, says):
    shapes = {key: tuple(shape) for key, shape in manifest("latent_dpm_celeba64").items()}
    layers = architecture_facts.READERS["latent"](shapes)["latent_layers"]
    with pytest.raises(ValueError, match=says.replace("4", str(layers))):
        architecture_facts.READERS["latent"](shapes | change)


def test_a_number_too_large_for_float32_is_refused(tmp_path):
    state = named("unet_tiny", 0)
    state["out.2.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    torch.save(state, tmp_path / "a.pt")
    flags = {"image_size": 16, "heads": 1}
    with pytest.raises(ValueError, match="not finite"):
        convert([tmp_path / "a.pt"], tmp_path / "out", flags=flags, say=quiet)
    assert not (tmp_path / "out").exists()


# Strict, and whole or not at all.


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda d: d.pop("out.2.bias"), r"missing out\.2\.bias"),
        (lambda d: d.update(extra=torch.ones(2)), "left over extra"),
        (
            lambda d: d.update({"shift_out.2.wieght": d.pop("shift_out.2.weight")}),
            r"missing shift_out\.2\.weight \(nearest there: shift_out\.2\.wieght\)",
        ),
        (
            lambda d: d.update({"label_emb.weight": d["label_emb.weight"].t().contiguous()}),
            "z_size",
        ),
        (
            lambda d: d.update({"time_embed.0.weight": d["time_embed.0.weight"].t().contiguous()}),
            "misshapen: input_blocks.1.0.emb_layers",
        ),
        (
            lambda d: d.update(
                {"middle_block.0.emb_layers.1.weight": d["middle_block.0.emb_layers.1.weight"][:64]}
            ),
            r"misshapen: middle_block\.0\.emb_layers\.1\.weight is \[64, 128\], not \[128, 128\]",
        ),
        (lambda d: d["out.0.weight"].fill_(float("nan")), r"NaN or infinite .* out\.0\.weight"),
        (lambda d: d.pop("input_blocks.0.0.weight"), r"input_blocks\.0\.0\.weight"),
        (lambda d: d.update({"out.2.weight": [1, 2]}), "no tensor that can be read"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_written(tmp_path, tiny_encoder, change, says):
    decoder = named("shift_unet_tiny", 1)
    change(decoder)
    torch.save({"ema_decoder": decoder, "ema_encoder": tiny_encoder}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=says):
        convert([tmp_path / "a.pt"], tmp_path / "out", flags={"heads": 2}, say=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_files_of_two_models_are_not_mixed(tmp_path, autoencoder):
    other = named("unet_tiny", 9)
    torch.save({"ema_denoise_fn": other}, tmp_path / "dpm.pt")
    with pytest.raises(
        ValueError, match="diffusion model of .*dpm.pt is not that of .*checkpoint.pt"
    ):
        convert([autoencoder, tmp_path / "dpm.pt"], tmp_path / "out", say=quiet)
    torch.save({"mean": torch.zeros(32), "std": torch.ones(32)}, tmp_path / "latents.pt")
    with pytest.raises(ValueError, match="z_size = 32 and another network 16"):
        convert([autoencoder, tmp_path / "latents.pt"], tmp_path / "out", say=quiet)
    with pytest.raises(ValueError, match="only statistics was given.*autoencoder"):
        convert([tmp_path / "latents.pt"], tmp_path / "out", say=quiet)


def test_a_failing_write_leaves_nothing(tmp_path, autoencoder, monkeypatch):
    def full(self, step, ema, train=None):
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(OSError, match="No space left"):
        convert([autoencoder], tmp_path / "out", say=quiet)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is there already; choose another --output"):
        convert([autoencoder], tmp_path / "out", say=quiet)


# Hostile files: nothing of them is ever run, and nothing is written.


def hostile(kind: str, path: Path) -> str:
    """Writes a hostile or useless file; returns what the refusal must say."""
    good = {"ema_denoise_fn": named("unet_tiny", 1)}
    match kind:
        case "a call in a tensor's place":
            trap = ["sh", "-c", f"touch {path.parent}/pwned"]
            good["ema_denoise_fn"]["out.2.bias"] = Call(subprocess.check_output, trap)
            torch.save(good, path)
            return "out.2.bias of its unet is no tensor that can be read, but a Placeholder"
        case "flipped bit":
            torch.save(good, path)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            return "checksum"
        case "a list":
            torch.save([1, 2], path)
            return "holds a list, not a dict of tensors"
        case "another dict":
            torch.save({"weights": torch.ones(3)}, path)
            return "no checkpoint of a known kind: its keys are weights"
        case "unknown tensors":
            torch.save(good | {"discriminator": {"w": torch.ones(3)}}, path)
            return "discriminator hold tensors of no known use"
    raise ValueError(kind)


HOSTILE = re.findall(r'^        case "(.*?)":', Path(__file__).read_text(), re.M)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_broken_files_are_refused(tmp_path, kind):
    says = hostile(kind, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=says) as caught:
        convert([tmp_path / "a.pt"], tmp_path / "out", flags=TINY_FLAGS, say=quiet)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_call_is_never_made_and_is_named(tmp_path):
    """First of all names, however many there are."""
    classes = {f"A{k}": type(f"A{k}", (), {}) for k in range(30)}
    good = {"ema_denoise_fn": named("unet_tiny", 1), "step": Call(os.system, "touch pwned")}
    with importable("a_project", **classes):
        torch.save(good | {"callbacks": [kind() for kind in classes.values()]}, tmp_path / "a.pt")
    said = []
    convert([tmp_path / "a.pt"], tmp_path / "out", flags=TINY_FLAGS, say=said.append)
    (line,) = (line for line in said if "nothing of which was loaded or run" in line)
    assert f"objects of 31 names, nothing of which was loaded or run: {os.name}.system, " in line
    assert not list(Path().glob("pwned"))


@pytest.mark.parametrize(
    "hyper_parameters",
    [
        {"img_size": "large", "net_attn": (8,)},
        {"img_size": 16, "net_attn": (0,)},
        {"dropout": "much", "img_size": 16},
        {"img_size": 0, "net_attn": (8,)},
        {"img_size": -16, "net_attn": (8,)},
    ],
)
def test_settings_that_make_no_sense_are_one_line(tmp_path, hyper_parameters):
    path = save_lightning(tmp_path / "a.ckpt", named("diffae_ddpm_tiny"), hyper_parameters)
    with pytest.raises(ValueError, match="make no sense|of another kind|must be"):
        convert([path], tmp_path / "out", say=quiet)


# The proof, and the way out.


def test_verify_passes_what_is_right_and_fails_what_is_not(tmp_path, autoencoder):
    said = []
    convert([autoencoder], tmp_path / "out", say=quiet)
    assert verify(tmp_path / "out", say=said.append)
    table = said[0]
    for group in (
        "eps_theta: time embedding",
        "eps_theta: way down",
        "eps_theta: middle",
        "eps_theta: way up",
        "G: z embedding",
        "G: middle",
        "G: way up",
        "encoder: layers",
        "\neps ",
        "\ngradient ",
        "\nz ",
    ):
        assert group in table, table
    networks = conversion.merge([torch_checkpoint.read_source(autoencoder)])
    arch, params = (
        Workdir(tmp_path / "out").architecture,
        pdae_jax.load(tmp_path / "out").params,
    )
    kernel = params["gradient"]["up"]["block_1"]["conv_in"]["kernel"]
    params["gradient"]["up"]["block_1"]["conv_in"]["kernel"] = kernel.swapaxes(0, 1)
    rows = {row.group: row for row in compare(arch, params, networks)}
    assert not rows["G: way up"].passed and not rows["gradient"].passed
    assert rows["G: way up"].worst.startswith("shift_output_blocks")
    assert rows["eps"].passed and rows["z"].passed
    assert said[-1].endswith(f"told: {from_config(autoencoder)}\n{HOW_TO_PROVE}")

    autoencoder.write_bytes(autoencoder.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="not the file that was converted"):
        verify(tmp_path / "out")


NOT_PROVEN = "not proven, for no tensor shows it, and the original was run with the same:"
HOW_TO_PROVE = (
    "  pictures like those that it was trained on prove heads, qkv_order, schedule, predicts: "
    "convert with --images=PATH"
)


def from_config(autoencoder: Path) -> str:
    """The facts of a verdict that the config.yml beside a file tells."""
    facts = ("heads = 2", "qkv_order = legacy", "schedule = linear", "T = 1000")
    return ", ".join(f"{fact} (from {autoencoder.parent / 'config.yml'})" for fact in facts)


def test_a_pass_names_what_it_does_not_prove(tmp_path, autoencoder):
    """With half the heads a model passes too, as the twin has them as well: so it is said."""
    path = tmp_path / "far" / "from" / "configs" / "a.pt"
    path.parent.mkdir(parents=True)
    torch.save({"ema_denoise_fn": named("unet_tiny")}, path)
    said = []
    with pytest.raises(ValueError, match="nothing tells how many attention heads.*--images=PATH"):
        convert([path], tmp_path / "wrong", flags={"image_size": 16}, say=quiet)
    convert([path], tmp_path / "wrong", flags={"image_size": 16, "heads": 1}, say=quiet)
    assert verify(tmp_path / "wrong", say=said.append)
    assert said[1].startswith("passed") and said[2].splitlines() == [
        NOT_PROVEN,
        "  assumed: qkv_order = legacy, schedule = linear, T = 1000, predicts = eps, heads_up = 0",
        "  told: heads = 1 (from a flag), image_size = 16 (from a flag)",
        HOW_TO_PROVE,
    ]


def test_a_pass_of_our_own_file_has_nothing_to_add(tmp_path, autoencoder):
    convert([autoencoder], tmp_path / "out", say=quiet)
    export(tmp_path / "out", tmp_path / "new" / "out.pt")
    convert([tmp_path / "new" / "out.pt"], tmp_path / "back", say=quiet)
    said = []
    assert verify(tmp_path / "back", say=said.append)
    assert len(said) == 2 and said[1].startswith("passed")


def test_facts_of_a_receipt_are_read_back():
    for told in (
        Told("image_size", (16, 8), "from a flag"),
        Told("heads", 2, "from a, b/config.yml"),
        Told("schedule", "linear", "assumed: nothing here tells"),
    ):
        assert Told.parse(str(told)) == told._replace(value=str(told.value))
    assert Told.parse("T = 1000, assumed: nothing here tells").assumed


def test_an_encoders_heads_are_named_where_it_attends(tmp_path):
    told = [Told("encoder_heads", 4, "assumed: nothing here tells")]
    assert unproven(TINY, told) == ""  # its maps are 8 x 8 and 4 x 4
    assert "assumed: encoder_heads = 4" in unproven(CELEBA64, told)


def test_latent_networks_are_verified_too(tmp_path, autoencoder):
    torch.save({"ema_latent_denoise_fn": named("latent_dpm_tiny")}, tmp_path / "latent.pt")
    said = []
    convert([autoencoder, tmp_path / "latent.pt"], tmp_path / "out", say=quiet)
    assert verify(tmp_path / "out", say=said.append)
    assert "latent: layers" in said[0] and "eps of z_t" in said[0]


def test_out_to_torch_and_back_is_bit_equal(tmp_path, autoencoder):
    """A state dict leaves as it came; a PyTorch user loads it strictly; it comes back the same."""
    torch.save({"mean": torch.randn(16), "std": torch.rand(16)}, tmp_path / "latents.pt")
    convert([autoencoder, tmp_path / "latents.pt"], tmp_path / "out", say=quiet)
    export(tmp_path / "out", tmp_path / "back.pt")
    original = torch.load(autoencoder, weights_only=True)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for key in ("ema_decoder", "ema_encoder"):
        assert back[key].keys() == original[key].keys()
        assert all(torch.equal(back[key][name], original[key][name]) for name in original[key])
    torch_twin.UNet(TINY, True).load_state_dict(back["ema_decoder"], strict=True)
    convert([tmp_path / "back.pt"], tmp_path / "again", say=quiet)
    same_model(tmp_path / "out", tmp_path / "again")
    with pytest.raises(ValueError, match="is there already"):
        export(tmp_path / "out", tmp_path / "back.pt")


def same_model(one: Path, other: Path) -> None:
    assert Workdir(one).architecture == Workdir(other).architecture
    jax.tree.map(np.testing.assert_array_equal, Workdir(one).weights(), Workdir(other).weights())


def test_a_model_trained_here_goes_out_and_comes_back(tmp_path):
    """Not square, one channel, with more heads: its file carries its architecture."""
    arch = dataclasses.replace(
        TINY,
        image_shape=(16, 8, 1),
        mult=(1,),
        attention=(),
        heads=4,
        encoder_widths=(32,),
        dropout=0.2,
        T=500,
    )
    settings = Settings(steps=1, batch_size=8, pictures_every=0, health_every=0)
    for objective in ("dpm", "pdae"):
        assert train(tmp_path / "run", objective, arch=arch, data=Data("digits"), settings=settings)
    export(tmp_path / "run", tmp_path / "run.pt")
    convert([tmp_path / "run.pt"], tmp_path / "again", say=quiet)
    back = Workdir(tmp_path / "again").architecture
    latent = {
        name: getattr(arch, name) for name in ("latent_layers", "latent_hidden", "latent_time")
    }
    assert dataclasses.replace(back, **latent) == arch
    jax.tree.map(
        np.testing.assert_array_equal,
        Workdir(tmp_path / "run").weights(),
        Workdir(tmp_path / "again").weights(),
    )


def test_a_patchified_model_is_not_exported(tmp_path):
    settings = Settings(steps=1, batch_size=8, pictures_every=0, health_every=0)
    arch = dataclasses.replace(TINY, image_shape=(8, 8, 1), patch=2, mult=(1,))
    assert train(tmp_path, "dpm", arch=arch, data=Data("digits"), settings=settings)
    with pytest.raises(ValueError, match="has patch = 2, which the original's networks do not"):
        export(tmp_path, tmp_path / "run.pt")


def test_pdae_starts_at_the_converted_diffusion_models_loss_and_leaves_it_alone(tmp_path):
    """G starts at zero; the diffusion model's parameters are what they were, after training."""
    save_lightning(
        tmp_path / "last.ckpt",
        named("diffae_ddpm_tiny"),
        {"net_beatgans_attn_head": 1, "img_size": 16, "dropout": 0.0},
    )
    convert([tmp_path / "last.ckpt"], tmp_path / "dpm", say=quiet)
    arch = dataclasses.replace(Workdir(tmp_path / "dpm").architecture, z_size=16)
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for k in range(16):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(
            tmp_path / "pictures" / f"{k}.png"
        )
    settings = Settings(steps=3, batch_size=8, log_every=1, pictures_every=0, health_every=0)
    assert train(
        tmp_path / "run",
        "pdae",
        arch=arch,
        data=Data(f"folder:{tmp_path / 'pictures'}"),
        settings=settings,
        pretrained=tmp_path / "dpm",
    )
    before = Workdir(tmp_path / "dpm").weights()["dpm"]
    jax.tree.map(np.testing.assert_array_equal, before, Workdir(tmp_path / "run").weights()["dpm"])

    model = pdae_jax.load(tmp_path / "dpm")
    net = dataclasses.replace(model.net, arch=arch)
    params = {"dpm": before}
    params |= jax.jit(lambda: net.init(jax.random.key(1), ("encoder", "gradient")))()
    x_0 = jnp.asarray(rng.uniform(-1, 1, (4, 16, 16, 3)), jnp.float32)
    t, noise = jnp.array([0, 10, 400, 999]), jax.random.normal(jax.random.key(2), x_0.shape)
    weight = model.schedule.loss_weight()[np.asarray(t)]

    @jax.jit
    def losses(params):
        given = net, params, model.schedule, x_0, t, noise
        return pdae.training_loss(*given), pdae.dpm_loss(*given)

    ours, bare = losses(params)
    np.testing.assert_allclose(ours, weight * bare, rtol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "run/pdae/metrics.jsonl").open()]
    assert len(lines) == 3 and all(np.isfinite(line["loss"]) for line in lines)


# The commands.


def run_tool(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, args)], capture_output=True, text=True, cwd=ROOT
    )


def test_the_commands(tmp_path, autoencoder):
    done = run_tool(autoencoder, f"--output={tmp_path / 'out'}", "--verify")
    assert done.returncode == 0, done.stderr
    for words in (
        "PDAE's autoencoder, step 296,875",
        "heads = 2, from",
        "config.yml",
        "not used: encoder: its average",
        "gradient: ",
        "passed: largest relative error",
        NOT_PROVEN,
        HOW_TO_PROVE,
    ):
        assert words in done.stdout
    done = run_tool(tmp_path / "out", f"--to-torch={tmp_path / 'back.pt'}")
    assert done.returncode == 0 and (tmp_path / "back.pt").exists(), done.stderr
    moved = autoencoder.rename(tmp_path / "moved.pt")
    command = [
        sys.executable,
        "-m",
        "pdae_jax.main",
        "--mode=verify",
        f"--workdir={tmp_path / 'out'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "no such file; give the sources with --source=" in done.stderr
    done = subprocess.run([*command, f"--source={moved}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "passed" in done.stdout, done.stderr
    assert NOT_PROVEN in done.stdout and HOW_TO_PROVE in done.stdout


def test_the_help_names_every_schedule():
    done = run_tool("--help")
    assert all(name in done.stdout.partition("noise schedule")[2] for name in SCHEDULES)


@pytest.mark.parametrize(
    "args, says",
    [
        ((), "the following arguments are required"),
        (("no.pt",), "no output: give --output=DIR"),
        (("no.pt", "--output=x"), "no.pt: no such file"),
        ((str(GOLDEN / "weights.py"), "--output=x"), "not a PyTorch file"),
        ((str(GOLDEN / "unet_tiny.npz"), "--output=x"), "a NumPy .npz, not a PyTorch file"),
        (("no", "--to-torch=y"), "no model at"),
        (("no", "--to-torch=y", "--heads=2"), "--heads would be unused with --to-torch"),
    ],
)
def test_bad_commands_are_one_line(tmp_path, args, says):
    done = run_tool(*args)
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
