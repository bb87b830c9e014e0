"""Facts from the configs that projects store beside their weights: diffusers', MONAI's, EDM's.

What a config says that no block here can do is refused by its name; what it says of sizes is held
against the tensors by `architecture_facts.architecture`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pdae_jax.convert.architecture_facts import Facts, NotAConfig, linear_named
from pdae_jax.convert.unet_facts import mult_of
from pdae_jax.runtime.choices import listed
from pdae_jax.schedule import GIVEN

Config = Mapping[str, Any]

# diffusers' pipelines and networks that are something else than an unconditional pixel UNet.
OTHERS = {
    "UNet2DConditionModel": "conditioned on text",
    "UNet1DModel": "of sequences",
    "UNet3DConditionModel": "of videos",
    "AutoencoderKL": "an autoencoder",
    "VQModel": "an autoencoder",
    "DiTTransformer2DModel": "a transformer",
    "Transformer2DModel": "a transformer",
    "UVit2DModel": "a transformer",
    "NCSNpp": "NCSN++",
}
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True, "ResnetDownsampleBlock2D": False}
UP = {"UpBlock2D": False, "AttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}
PREDICTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}


def from_diffusers(config: Config, where: str) -> Facts:
    """Facts of a `UNet2DModel`'s config.json. where: its path, for messages."""
    name = config.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        kind = OTHERS.get(name, "another network")
        raise ValueError(
            f"{where}: {listed([name])} is {kind}; of diffusers' networks UNet2DModel comes in, "
            f"an unconditional diffusion model of pixels"
        )
    given = DIFFUSERS | {key: value for key, value in config.items() if key in DIFFUSERS}
    for key, wanted in DIFFUSERS_FIXED.items():
        if given[key] not in wanted:
            raise ValueError(
                f"{where}: {key} = {listed([given[key]])} is not supported, only "
                f"{' or '.join(map(str, wanted))}"
            )
    widths = tuple(given["block_out_channels"])
    kinds = {}
    for key, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        types = [one.removeprefix("UNetRes") for one in given[key]]
        odd = [one for one in types if one not in known]
        if odd:
            raise ValueError(
                f"{where}: {key} has {listed(odd)}, blocks of another network (such as NCSN++, or "
                f"one conditioned on text); supported are {', '.join(known)}"
            )
        kinds[key] = [known[one] for one in types]
    attends = [k for k, one in enumerate(kinds["down_block_types"]) if one]
    attends_up = [len(widths) - 1 - k for k, one in enumerate(kinds["up_block_types"]) if one]
    facts: dict[str, Any] = {
        "base": widths[0],
        "mult": mult_of(widths),
        "channels": given["in_channels"],
        "blocks": given["layers_per_block"],
        "attention_levels": tuple(attends),
        "attention_up_levels": tuple(sorted(attends_up)),
        "condition": "shift" if given["resnet_time_scale_shift"] == "default" else "scale_shift",
        "norm_groups": given["norm_num_groups"],
        "norm_eps": given["norm_eps"],
        "middle_scale": float(given["mid_block_scale_factor"]),
        "frequencies": "cos_sin" if given["flip_sin_to_cos"] else "sin_cos",
        "frequency_shift": float(given["freq_shift"]),
        "strided": "conv" if given["downsample_padding"] else "conv_right",
        "dropout": given["dropout"],
        **_heads(given["attention_head_dim"]),
    }
    size = given["sample_size"]
    if size is not None:
        facts["image_size"] = tuple(size) if isinstance(size, list) else size
    if not given["add_attention"]:
        facts["middle"] = "plain"
    middle_groups = given["attn_norm_num_groups"]
    if middle_groups not in (None, given["norm_num_groups"]):
        raise ValueError(
            f"{where}: attn_norm_num_groups = {middle_groups} beside norm_num_groups = "
            f"{given['norm_num_groups']} is not supported"
        )
    return Facts(where, facts)


def _heads(channels: int | None) -> dict[str, int]:
    """Heads by their channels; None is one head."""
    return {"heads": 1, "head_channels": channels or 0}


# The arguments of UNet2DModel and their defaults, which a config may leave out.
DIFFUSERS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
}
DIFFUSERS_FIXED: dict[str, Sequence[Any]] = {
    "center_input_sample": (False, None),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}


def from_scheduler(config: Config, where: str) -> Facts:
    """Facts of a scheduler_config.json: the schedule, T and what is predicted."""
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"{where}: rescale_betas_zero_snr: at the last t nothing of the picture is left "
            f"(alpha_bar = 0), where eps says nothing of x_0; train PDAE over a model without it"
        )
    facts: dict[str, Any] = {"T": config.get("num_train_timesteps", 1000)}
    name, betas = config.get("beta_schedule"), config.get("trained_betas")
    if name is None and betas is None:
        raise ValueError(
            f"{where}: {listed([config.get('_class_name', 'the scheduler')])} has no betas "
            f"(beta_schedule or trained_betas): only models of betas come in from diffusers, and "
            f"consistency models from OpenAI's own files"
        )
    if betas is not None:
        facts |= {"schedule": GIVEN, "betas": tuple(map(float, betas)), "T": len(betas)}
    elif name in SCHEDULES:
        ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
        facts["schedule"] = schedule_of(SCHEDULES[name], facts["T"], *ends)
    else:
        raise ValueError(
            f"{where}: beta_schedule = {listed([name])} is not supported, only "
            f"{', '.join(SCHEDULES)} and trained_betas"
        )
    # Before there was prediction_type.
    of_old = "epsilon" if config.get("predict_epsilon", True) else "sample"
    predicts = config.get("prediction_type", of_old)
    if predicts not in PREDICTS:
        raise ValueError(
            f"{where}: prediction_type = {listed([predicts])} is not supported, only "
            f"{', '.join(PREDICTS)}"
        )
    return Facts(where, facts | {"predicts": PREDICTS[predicts]})


def schedule_of(name: str, T: int, first: float, last: float) -> str:
    """A schedule by its name, and its ends where the name alone has others."""
    if name == "cosine":
        return name
    if name == "linear":
        return linear_named(T, first, last)
    usual = math.isclose(first, 1e-4, rel_tol=1e-9) and math.isclose(last, 0.02, rel_tol=1e-9)
    return name if usual else f"{name}:{float(first)!r},{float(last)!r}"


def from_monai(config: Config, where: str) -> Facts:
    """Facts of the arguments of MONAI's `DiffusionModelUNet`, under "network" or by themselves.

    Also those of its scheduler, where they stand there: num_train_timesteps, schedule,
    prediction_type, beta_start and beta_end.
    """
    inner = config.get("network", config.get("network_def"))
    config = {**config, **inner} if isinstance(inner, Mapping) else config
    if config.get("spatial_dims", 2) != 2:
        raise ValueError(
            f"{where}: spatial_dims = {config['spatial_dims']}: only networks of pictures come in"
        )
    if config.get("with_conditioning"):
        raise ValueError(
            f"{where}: with_conditioning: the network is conditioned on something else than "
            f"classes, and only unconditional ones come in"
        )
    if config.get("include_fc", True) is False:
        raise ValueError(f"{where}: include_fc = False is not supported")
    widths = config.get("channels", config.get("num_channels"))
    levels = config.get("attention_levels", (False, False, True, True))
    blocks = config.get("num_res_blocks", 2)
    if widths is None:
        raise ValueError(f"{where}: it has no channels: give DiffusionModelUNet's arguments")
    blocks = {blocks} if isinstance(blocks, int) else set(blocks)
    if len(blocks) != 1:
        raise ValueError(f"{where}: num_res_blocks must be the same at each level")
    heads = config.get("num_head_channels", 8)
    heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    places = [k for k, one in enumerate(levels) if one] + [len(widths) - 1]  # and the middle
    sizes = {heads[k] for k in places}
    counts = {widths[k] / heads[k] for k in places if heads[k]}
    if len(sizes) == 1:
        facts: dict[str, Any] = {"heads": 1, "head_channels": sizes.pop()}
    elif len(counts) == 1:
        facts = {"heads": int(counts.pop()), "head_channels": 0}
    else:
        raise ValueError(
            f"{where}: num_head_channels = {heads}: neither as many heads nor as many channels a "
            f"head at each level is not supported"
        )
    facts |= {
        "base": widths[0],
        "mult": mult_of(widths),
        "blocks": blocks.pop(),
        "norm_groups": config.get("norm_num_groups", 32),
        "norm_eps": config.get("norm_eps", 1e-6),
        "attention_levels": tuple(k for k, one in enumerate(levels) if one),
        "dropout": 0.0,
    }
    if "image_size" in config:
        facts["image_size"] = config["image_size"]
    if "num_train_timesteps" in config or "schedule" in config:
        facts |= _monai_scheduler(config, where)
    return Facts(where, facts)


def _monai_scheduler(config: Config, where: str) -> dict[str, Any]:
    T, name = config.get("num_train_timesteps", 1000), config.get("schedule", "linear_beta")
    names = {f"{name}_beta": name for name in ("linear", "scaled_linear", "sigmoid")}
    names["cosine"] = "cosine"
    if name not in names:
        raise ValueError(
            f"{where}: schedule = {listed([name])} is not supported, only {', '.join(names)}"
        )
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    schedule = {"schedule": schedule_of(names[name], T, *ends)}
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in PREDICTS:
        raise ValueError(f"{where}: prediction_type = {listed([predicts])} is not supported")
    return schedule | {"T": T, "predicts": PREDICTS[predicts]}


def from_ddim(config: Config, where: str) -> Facts:
    """Facts of DDIM's or SDEdit's config.yml, sections "model" and "diffusion"."""
    model, diffusion = config.get("model"), config.get("diffusion")
    if not isinstance(model, Mapping) or not isinstance(diffusion, Mapping) or "ch" not in model:
        raise NotAConfig("it has no sections model (with ch) and diffusion: not DDIM's config.yml")
    T = diffusion.get("num_diffusion_timesteps", 1000)
    names = {"linear": "linear", "quad": "scaled_linear"}
    name = diffusion.get("beta_schedule", "linear")
    if name not in names:
        raise ValueError(
            f"{where}: beta_schedule = {listed([name])} is not supported, only {', '.join(names)}"
        )
    ends = diffusion.get("beta_start", 1e-4), diffusion.get("beta_end", 0.02)
    facts: dict[str, Any] = {
        "base": model["ch"],
        "T": T,
        "schedule": schedule_of(names[name], T, *map(float, ends)),
        "dropout": model.get("dropout", 0.0),
    }
    data = config.get("data")
    size = data.get("image_size") if isinstance(data, Mapping) else None
    return Facts(where, facts | ({"image_size": size} if size else {}))
