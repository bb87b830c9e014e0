"""What a model's tensors tell of its architecture, and where the rest is learned from.

Widths, levels and attention places are in the shapes. Heads, the order of the qkv channels, a
bare UNet's image size and its schedule are not: they come from the file itself, config.yml, a
Lightning file's hyper_parameters, a flag or the known defaults, and each is said aloud.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pdae_jax.networks.architecture import Architecture

Shapes = Mapping[str, tuple[int, ...]]


class Told(NamedTuple):
    """Facts from one place; `where` is said aloud."""

    where: str
    facts: dict[str, Any]
    asked: bool = False  # by the person: not to be overruled, nor to overrule, in silence


# Heads and image size of the paper's, Diff-AE's and ADM's models, by (base, mult).
KNOWN = {
    (64, (1, 2, 4, 8)): {"heads": 4, "image_size": 64},
    (128, (1, 1, 2, 3, 4)): {"heads": 1, "image_size": 128},
    (64, (1, 2, 2, 4)): {"heads": 1, "image_size": 32},
    (256, (1, 1, 2, 3, 4)): {"heads": 4, "head_channels": 0, "image_size": 128},
}
DEFAULTS = {
    "heads": 1,
    "head_channels": 0,
    "qkv_order": "legacy",
    "schedule": "linear",
    "T": 1000,
    "dropout": 0.1,
    "encoder_heads": 4,
}


def architecture(
    networks: Mapping[str, Shapes], told: list[Told]
) -> tuple[Architecture, list[str]]:
    """The networks' architecture, and a line for each thing that their shapes do not tell.

    networks: shapes by name ("unet" or "decoder", and "encoder", "latent", "classifier",
    "statistics"). told: places that know more, best first. Raises ValueError where networks or
    places contradict each other or the shapes.
    """
    shown: dict[str, Any] = {}
    for name, shapes in networks.items():
        for field, value in READERS[name](shapes).items():
            if shown.setdefault(field, value) != value:
                raise ValueError(
                    f"the {name} has {field} = {value} and another network "
                    f"{shown[field]}: they do not belong to one model"
                )
    for place in told:
        for field in place.facts.keys() & shown.keys():
            if place.facts[field] != shown[field]:
                raise ValueError(
                    f"{field} is {shown[field]} by the tensors and "
                    f"{place.facts[field]} by {place.where}: they do not belong "
                    f"together"
                )
    known = {**_guesses(shown), **KNOWN.get((shown["base"], shown["mult"]), {})}
    lines = []

    def learn(field: str):
        said = [place for place in told if field in place.facts]
        if said:
            first, value = said[0], said[0].facts[field]
            for other in said[1:]:
                if other.facts[field] != value and (first.asked or other.asked):
                    raise ValueError(
                        f"{field} is {value} by {first.where} and "
                        f"{other.facts[field]} by {other.where}; leave one out"
                    )
            whence = f"from {first.where}"
        elif field in known:
            value, whence = known[field], "as published models like it have"
        else:
            value, whence = DEFAULTS.get(field), "assumed: nothing here tells"
        if value is None:
            raise ValueError(f"nothing tells the {field}: give it, as in --{field}=128")
        lines.append(f"{field} = {value}, {whence}")
        return value

    if any(place.asked and "heads" in place.facts for place in told):
        known["head_channels"] = 0  # heads by number, then
    fields = {name: shown[name] for name in ("base", "mult", "blocks", "learned_variance")}
    fields |= {name: learn(name) for name in DEFAULTS if name != "encoder_heads"}
    if "encoder" in networks:
        fields["encoder_heads"] = learn("encoder_heads")
    size = shown["image_size"] if "image_size" in shown else learn("image_size")
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    shorter = min(height, width)
    fields |= {name: shown[name] for name in OPTIONAL & shown.keys()}
    arch = Architecture(
        image_shape=(height, width, shown["channels"]),
        attention=tuple(shorter // 2**level for level in shown["attention_levels"]),
        **fields,
    )
    return arch, lines


OPTIONAL = {"z_size", "encoder_widths", "latent_layers", "latent_hidden", "latent_time"}


def _guesses(shown: dict) -> dict:
    """By the conventions of guided-diffusion: attention up to 32 x 32 (16 x 16 where at one size
    alone), and 64 channels a head where the variance is learned."""
    guesses = {}
    if shown["attention_levels"]:
        finest = 32 if len(shown["attention_levels"]) > 1 else 16
        guesses["image_size"] = finest * 2 ** shown["attention_levels"][0]
    if shown["learned_variance"]:
        guesses["head_channels"] = 64
    return guesses


def _unet(shapes: Shapes) -> dict:
    """The way up tells levels and blocks: one extra residual block where it goes a level up."""
    base, channels = shapes["time_embed.0.weight"][1], shapes["input_blocks.0.0.weight"][1]
    ups = sorted(
        int(found[1])
        for found in (
            re.fullmatch(r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight", key) for key in shapes
        )
        if found
    )
    outs = _count("output_blocks.", shapes)
    blocks = ups[0] if ups else outs - 1
    levels = len(ups) + 1
    starts = [1 + level * (blocks + 1) for level in range(levels)]
    try:
        widths = [shapes[f"input_blocks.{k}.0.out_layers.3.weight"][0] for k in starts]
    except KeyError as error:
        raise ValueError(
            f"not the UNet of guided-diffusion with residual up- and down-sampling: "
            f"{error.args[0]!r} is missing"
        ) from error
    if any(width % base for width in widths):
        raise ValueError(
            f"widths {widths} that are not multiples of the base {base} are not supported"
        )
    out = shapes["out.2.weight"][0]
    if out not in (channels, 2 * channels):
        raise ValueError(
            f"the UNet reads {channels} channels and puts out {out}, neither as many "
            f"nor, with a learned variance, twice as many"
        )
    return {
        "base": base,
        "channels": channels,
        "blocks": blocks,
        "mult": tuple(width // base for width in widths),
        "attention_levels": tuple(
            level
            for level, k in enumerate(starts)
            if any(key.startswith(f"input_blocks.{k}.1.") for key in shapes)
        ),
        "learned_variance": out == 2 * channels,
    }


def _count(prefix: str, shapes: Shapes) -> int:
    """How many layers "PREFIXk.*" there are; ValueError where they are not numbered 0, 1, 2 ..."""
    numbers = {key.split(".")[1] for key in shapes if key.startswith(prefix)}
    for k in range(len(numbers)):
        if str(k) not in numbers:
            raise ValueError(
                f"{prefix}{k} is missing, though there are {len(numbers)} of {prefix}*"
            )
    return len(numbers)


def _decoder(shapes: Shapes) -> dict:
    return _unet(shapes) | {"z_size": shapes["label_emb.weight"][1]}


def _encoder(shapes: Shapes) -> dict:
    """The last layer reads the last map, whose size says how large the picture was."""
    layers = sorted(
        (int(key.split(".")[1]), shape)
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) in (2, 4)
    )
    convolutions = [shape for _, shape in layers if len(shape) == 4]
    z_size, flat = layers[-1][1]
    side = math.isqrt(flat // convolutions[-1][0])
    facts = {
        "z_size": z_size,
        "channels": convolutions[0][1],
        "encoder_widths": tuple(shape[0] for shape in convolutions),
    }
    if side * side * convolutions[-1][0] == flat:  # else not square: another place must tell
        facts["image_size"] = side * 2 ** len(convolutions)
    return facts


def _latent(shapes: Shapes) -> dict:
    layers = _count("layers.", shapes)
    return {
        "z_size": shapes["layers.0.linear.weight"][1],
        "latent_layers": layers,
        "latent_hidden": shapes["layers.0.linear.weight"][0],
        "latent_time": shapes["time_embed.0.weight"][1],
    }


READERS = {
    "unet": _unet,
    "decoder": _decoder,
    "encoder": _encoder,
    "latent": _latent,
    "classifier": lambda shapes: {"z_size": shapes["weight"][1]},
    "statistics": lambda shapes: {"z_size": shapes["mean"][0]},
}


OWN = "the file's own architecture"


def from_architecture(values: dict) -> Told:
    """A file written by `to_torch` carries its whole architecture."""
    names = {field.name for field in dataclasses.fields(Architecture)}
    values = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in names
    }
    height, width, channels = values.pop("image_shape")
    levels = [int(math.log2(min(height, width) // size)) for size in values.pop("attention")]
    return Told(
        OWN,
        values
        | {
            "image_size": height if height == width else (height, width),
            "channels": channels,
            "attention_levels": tuple(sorted(levels)),
        },
    )


class NotAConfig(ValueError):
    """A readable file that is of something else."""


def from_config(config: Any) -> Told:
    """The PDAE authors' config.yml: the UNet's settings, wherever in it they stand."""
    found = _find(config, "base_channel")
    if found is None:
        raise NotAConfig("it has no base_channel: not a UNet's config.yml")
    facts = _renamed(
        found,
        {
            "base_channel": "base",
            "input_channel": "channels",
            "channel_multiplier": "mult",
            "dropout": "dropout",
            "num_residual_blocks_of_a_block": "blocks",
        },
    )
    if found.get("head_channel", -1) > 0:
        facts["head_channels"] = found["head_channel"]
    elif "num_heads" in found:
        facts |= {"heads": found["num_heads"], "head_channels": 0}
    if "use_new_attention_order" in found:
        facts["qkv_order"] = "new" if found["use_new_attention_order"] else "legacy"
    if "attention_resolutions" in found:  # there as rates of down-sampling
        facts["attention_levels"] = tuple(
            sorted(int(math.log2(rate)) for rate in found["attention_resolutions"])
        )
    sizes = _find(config, "image_size")
    if sizes:
        facts["image_size"] = sizes["image_size"]
    return Told("config.yml", facts)


def from_hyper_parameters(values: Mapping) -> Told:
    """A Diff-AE Lightning file's hyper_parameters."""
    facts = _renamed(
        values,
        {
            "net_ch": "base",
            "net_ch_mult": "mult",
            "img_size": "image_size",
            "net_num_res_blocks": "blocks",
            "dropout": "dropout",
            "T": "T",
            "net_beatgans_attn_head": "heads",
            "beta_scheduler": "schedule",
        },
    )
    if values.get("net_attn") and "img_size" in values:  # there as sizes of the map
        levels = {int(math.log2(values["img_size"] // size)) for size in values["net_attn"]}
        facts["attention_levels"] = tuple(sorted(levels))
    return Told("hyper_parameters", facts)


def _renamed(values: Mapping, names: dict[str, str]) -> dict:
    return {
        ours: tuple(values[theirs]) if isinstance(values[theirs], (list, tuple)) else values[theirs]
        for theirs, ours in names.items()
        if isinstance(values.get(theirs), (int, float, str, list, tuple))
    }


def _find(tree: Any, key: str) -> Mapping | None:
    """The first mapping in a nested one, which may contain itself, that has `key`."""
    seen, waiting = set(), [tree]
    while waiting:
        tree = waiting.pop(0)
        if isinstance(tree, Mapping) and id(tree) not in seen:
            seen.add(id(tree))
            if key in tree:
                return tree
            waiting += tree.values()
    return None
