"""An imported model's architecture: facts from the shapes of its tensors, and from elsewhere.

Widths, levels and attention places are in the shapes. Heads, the order of the qkv channels, a
bare UNet's image size and its schedule are not: they come from the file itself, config.yml, a
Lightning file's hyper_parameters, a flag or the known defaults, and each is printed.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pdae_jax.convert.dialects import GUIDED, Dialect
from pdae_jax.convert.unet_facts import Shapes, count, of_unet
from pdae_jax.networks.architecture import FIELDS, Architecture
from pdae_jax.schedule import GIVEN, SCHEDULES


class Facts(NamedTuple):
    """Facts from one source, whose name is printed: field of `Architecture` -> value.

    explicit: given by the user, so not to be overruled, nor to overrule, in silence. hint: of a
    file's name, and counts where nothing else tells.
    """

    source: str
    values: dict[str, Any]
    explicit: bool = False
    hint: bool = False


# Sources with a part of their own.
OWN = "the file's own architecture"
FLAG = "a flag"

# Origins of a fact that somebody or something told, and of one that was guessed.
FROM = "from "
PUBLISHED = "as published models like it have"
NOTHING = "assumed: nothing here tells"
MEASURED = "measured: it denoises the pictures best"
AGREED = "; the pictures agree"


class Told(NamedTuple):
    """A fact that no tensor shows: a field of `Architecture`, its value, and the value's origin."""

    field: str
    value: Any
    origin: str

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, tuple) and len(value) > 8:
            value = f"({value[0]:.6g}, {value[1]:.6g}, ... {value[-1]:.6g})"
        return f"{self.field} = {value}, {self.origin}"

    @classmethod
    def parse(cls, line: str) -> "Told":
        """The fact of a receipt's line; its value as text."""
        found = re.fullmatch(r"(\w+) = (\(.*?\)|[^,]*), (.*)", line, re.DOTALL)
        if found is None:
            raise ValueError(f"no fact in the line {line!r}; convert the model again")
        return cls(*found.groups())

    @property
    def assumed(self) -> bool:
        return self.origin in (PUBLISHED, NOTHING)

    @property
    def proven(self) -> bool:
        """By the pictures, or by the file, whose `export` knew the model."""
        return self.origin == MEASURED or self.origin.endswith((OWN, AGREED))


# Heads and image size of the paper's, Diff-AE's and ADM's models, by (base, mult).
KNOWN: dict[tuple[int, tuple[float, ...]], dict[str, Any]] = {
    (64, (1, 2, 4, 8)): {"heads": 4, "image_size": 64},
    (128, (1, 1, 2, 3, 4)): {"heads": 1, "image_size": 128},
    (64, (1, 2, 2, 4)): {"heads": 1, "image_size": 32},
    (256, (1, 1, 2, 3, 4)): {"heads": 4, "head_channels": 0, "image_size": 128},
    (192, (1, 2, 3, 4)): {
        "head_channels": 64,
        "qkv_order": "new",
        "schedule": "cosine",
        "image_size": 64,
    },
    (256, (1, 1, 2, 2, 4, 4)): {"head_channels": 64, "image_size": 256},
    (256, (0.5, 1, 1, 2, 2, 4, 4)): {"head_channels": 64, "image_size": 512},
}
# What no tensor shows, and what it is in ADM: of each model, and of each project's code.
DEFAULTS: dict[str, Any] = {
    name: FIELDS[name].default
    for name in "heads head_channels qkv_order schedule T predicts dropout encoder_heads".split()
}
CODE: dict[str, Any] = {
    name: FIELDS[name].default
    for name in (
        "heads_up reads betas norm_groups norm_eps group_channels frequencies frequency_shift "
        "middle_scale"
    ).split()
} | {"strided": "conv"}  # how "down" is where the tensors show a convolution
# What is so in all of a project's models. Queries, keys and values that are apart become "new".
OF_PROJECT: dict[str, dict[str, Any]] = {
    "diffusers": {"qkv_order": "new"},
    "MONAI": {"qkv_order": "new"},
    "DDIM": {
        "qkv_order": "new",
        "heads": 1,
        "head_channels": 0,
        "norm_eps": 1e-6,
        "frequencies": "sin_cos",
        "frequency_shift": 1.0,
        "strided": "conv_right",
    },
    "EDM": {
        "qkv_order": "legacy",
        "head_channels": 64,
        "heads": 1,
        "group_channels": 4,
        "reads": "quarter_log_sigma",
        "predicts": "edm",
        "schedule": "karras",
    },
}


def architecture(
    networks: Mapping[str, Shapes], sources: list[Facts], dialect: Dialect = GUIDED
) -> tuple[Architecture, list[Told]]:
    """The networks' architecture, and each fact of it that their shapes do not show.

    networks: shapes by name ("unet" or "decoder", and "encoder", "latent", "classifier",
    "statistics"). sources: what else is known, best first. dialect: of the UNet's names. Raises
    ValueError where networks or sources contradict each other or the shapes.
    """
    for facts in sources:
        size = facts.values.get("image_size", 1)
        for side in size if isinstance(size, (tuple, list)) else (size,):
            if not isinstance(side, int) or side < 1:
                raise ValueError(
                    f"the image size {side!r}, from {facts.source}, must be a whole number above 0"
                )
    shown: dict[str, Any] = {}
    for name, shapes in networks.items():
        read = READERS[name]
        found = read(shapes, dialect) if name in ("unet", "decoder") else read(shapes)
        for field, value in found.items():
            if shown.setdefault(field, value) != value:
                raise ValueError(
                    f"the {name} has {field} = {value} and another network "
                    f"{shown[field]}: they do not belong to one model"
                )
    for facts in sources:
        for field in sorted(facts.values.keys() & shown.keys()):
            if facts.values[field] != shown[field]:
                raise ValueError(
                    f"{field} is {shown[field]} by the tensors and {facts.values[field]} by "
                    f"{facts.source}: they do not belong together"
                )
    published = _published(shown) if dialect is GUIDED else {}
    code = OF_PROJECT.get(dialect.project, {})
    told: list[Told] = []
    learnt: dict[str, Any] = {}

    def learn(field: str) -> Any:
        having = [facts for facts in sources if field in facts.values]
        having = [facts for facts in having if not facts.hint] or having
        if field == "schedule":
            having = _schedules(having)
        if having:
            first, value = having[0], having[0].values[field]
            for other in having[1:]:
                if other.values[field] != value and (first.explicit or other.explicit):
                    raise ValueError(
                        f"{field} is {value} by {first.source} and "
                        f"{other.values[field]} by {other.source}; leave one out"
                    )
            origin = FROM + first.source
        elif field in code:
            value, origin = code[field], f"as all of {dialect.project}'s are"
        elif field in published:
            value, origin = published[field], PUBLISHED
        else:
            value, origin = (DEFAULTS | CODE).get(field), NOTHING
        if value is None:
            raise ValueError(f"nothing tells the {field}: give it, as in --{field}=128")
        learnt[field] = value
        if field not in CODE or (value != CODE[field] if having else doubtful(field)):
            told.append(Told(field, value, origin))
        return value

    def doubtful(field: str) -> bool:
        """Whether models of one's own training may have another value than the project's code."""
        if dialect is not GUIDED:
            return False
        if field == "reads":  # improved-diffusion's default is rescaled, which T = 1000 is already
            return learnt["T"] != 1000
        own = any(facts.source == FLAG and "heads" in facts.values for facts in sources)
        return field == "heads_up" and own and bool(shown["attention_up_levels"])

    if any(facts.explicit and "heads" in facts.values for facts in sources):
        published["head_channels"] = 0  # heads by number, then
    fields = {name: shown[name] for name in SHOWN}
    fields |= {name: learn(name) for name in (*DEFAULTS, *CODE) if name != "encoder_heads"}
    strided = fields.pop("strided")
    fields["down"] = tuple(strided if how == "conv" else how for how in fields["down"])
    if fields["T"] == 1000 and fields["reads"] == "t_of_1000":
        fields["reads"] = "t"
    if "encoder" in networks:
        fields["encoder_heads"] = learn("encoder_heads")
    size = shown["image_size"] if "image_size" in shown else learn("image_size")
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    shorter = min(height, width)

    def sides(levels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shorter // 2**level for level in levels)

    fields |= {name: shown[name] for name in OPTIONAL & shown.keys()}
    down, up = sides(shown["attention_levels"]), sides(shown["attention_up_levels"])
    arch = Architecture(
        image_shape=(height, width, shown["channels"]),
        attention=down,
        attention_up=(0,) if up == down else up,
        **fields,
    )
    return arch, told


def _schedules(having: list[Facts]) -> list[Facts]:
    """The sources of a schedule's name, without those that a flag stands in for.

    A name that is none of `schedule.named` would fail in `pdae_jax.load`: ValueError, unless a flag
    says which of them is meant.
    """

    def odd_one(facts: Facts) -> bool:
        name = facts.values["schedule"]
        return not (isinstance(name, str) and name.partition(":")[0] in (*SCHEDULES, GIVEN))

    odd = [facts for facts in having if odd_one(facts)]
    if odd and (odd[-1].source == FLAG or having[-1].source != FLAG):
        raise ValueError(
            f"the schedule {odd[-1].values['schedule']!r}, from {odd[-1].source}, is none of those "
            f"here ({', '.join(SCHEDULES)}): where one of them is meant, name it with --schedule"
        )
    return [facts for facts in having if facts not in odd]


SHOWN = "base mult blocks stem embedding_width condition down up middle learned_variance".split()
OPTIONAL = {"z_size", "encoder_widths", "latent_layers", "latent_hidden", "latent_time"}


def _published(shown: dict[str, Any]) -> dict[str, Any]:
    """What published models of these shapes have; {} of blocks that none of them has.

    Of no known sizes ADM's conventions: attention up to 32 x 32 (16 x 16 where at one size alone),
    and 64 channels a head where the variance is learned.
    """
    if shown["down"] != ("residual",) or shown["condition"] != "scale_shift":
        return {}  # as guided-diffusion's own flags are: of somebody's own training
    known = KNOWN.get((shown["base"], shown["mult"]), {})
    of_adm = known.get("head_channels") == 64
    if known and of_adm == shown["learned_variance"]:
        return known
    guesses: dict[str, Any] = {}
    if shown["attention_levels"]:
        finest = 32 if len(shown["attention_levels"]) > 1 else 16
        guesses["image_size"] = finest * 2 ** shown["attention_levels"][0]
    if shown["learned_variance"]:
        guesses["head_channels"] = 64
    return guesses


def _decoder(shapes: Shapes, dialect: Dialect = GUIDED) -> dict[str, Any]:
    return of_unet(shapes, dialect) | {"z_size": shapes["label_emb.weight"][1]}


def _encoder(shapes: Shapes) -> dict[str, Any]:
    """The image size from the last layer, which reads the last map whole."""
    layers = sorted(
        (int(key.split(".")[1]), shape)
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) in (2, 4)
    )
    convolutions = [shape for _, shape in layers if len(shape) == 4]
    z_size, flat = layers[-1][1]
    side = math.isqrt(flat // convolutions[-1][0])
    facts: dict[str, Any] = {
        "z_size": z_size,
        "channels": convolutions[0][1],
        "encoder_widths": tuple(shape[0] for shape in convolutions),
    }
    if side * side * convolutions[-1][0] == flat:  # else not square: another source must tell
        facts["image_size"] = side * 2 ** len(convolutions)
    return facts


def _latent(shapes: Shapes) -> dict[str, Any]:
    layers = count("layers.", shapes)
    return {
        "z_size": shapes["layers.0.linear.weight"][1],
        "latent_layers": layers,
        "latent_hidden": shapes["layers.0.linear.weight"][0],
        "latent_time": shapes["time_embed.0.weight"][1],
    }


READERS: dict[str, Callable[..., dict[str, Any]]] = {
    "unet": of_unet,
    "decoder": _decoder,
    "encoder": _encoder,
    "latent": _latent,
    "classifier": lambda shapes: {"z_size": shapes["weight"][1]},
    "statistics": lambda shapes: {"z_size": shapes["mean"][0]},
}


def from_architecture(arch: Architecture) -> Facts:
    """Facts of a file that `export` wrote, which carries its whole architecture."""
    values = arch.to_dict()
    height, width, channels = values.pop("image_shape")
    # Some of the sizes are perhaps of no map; and the strides are as "down" says.
    down = values.pop("attention")
    up = values.pop("attention_up")

    def levels(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(k for k in range(len(arch.mult)) if min(height, width) // 2**k in sizes)

    ways = values.pop("down")
    if "conv_right" in ways:
        values["strided"] = "conv_right"
    for name in ("up", "stem", "embedding_width"):  # as the tensors show it
        values.pop(name)
    return Facts(
        OWN,
        values
        | {
            "image_size": height if height == width else (height, width),
            "channels": channels,
            "attention_levels": levels(down),
            "attention_up_levels": levels(down if up == (0,) else up),
        },
    )


class NotAConfig(ValueError):
    """A readable file that is no config of a model."""


def from_config(config: Any) -> Facts:
    """Facts of the PDAE authors' config.yml: the UNet's settings, wherever in it they stand."""
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
        orders = {False: "legacy", True: "new"}
        facts["qkv_order"] = orders[found["use_new_attention_order"]]
    if "attention_resolutions" in found:  # there as rates of down-sampling
        facts["attention_levels"] = tuple(
            sorted(int(math.log2(rate)) for rate in found["attention_resolutions"])
        )
    sizes = _find(config, "image_size")
    if sizes:
        facts["image_size"] = sizes["image_size"]
    diffusion = _find(config, "betas_type")
    if diffusion:
        facts |= _renamed(diffusion, {"betas_type": "schedule", "timesteps": "T"})
        if facts.get("schedule") == "linear":  # not rescaled there, whatever T is
            first = float(diffusion.get("linear_beta_start", 1e-4))
            last = float(diffusion.get("linear_beta_end", 0.02))
            facts["schedule"] = linear_named(facts.get("T", DEFAULTS["T"]), first, last)
    return Facts("config.yml", facts)


def from_hyper_parameters(values: Mapping[str, Any]) -> Facts:
    """Facts of a Diff-AE Lightning file's hyper_parameters."""
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
        whole = values["img_size"]
        levels = {int(math.log2(whole // size)) for size in values["net_attn"] if size <= whole}
        facts["attention_levels"] = tuple(sorted(levels))
    return Facts("hyper_parameters", facts)


def linear_named(T: int, first: float, last: float) -> str:
    """The name of a linear schedule by its ends: "linear" where they are that one's own."""
    own = math.isclose(first * T, 0.1, rel_tol=1e-9) and math.isclose(last * T, 20, rel_tol=1e-9)
    return "linear" if own else f"linear:{float(first)!r},{float(last)!r}"


def _renamed(values: Mapping[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Those of the values that `names` lists, under the field's name; lists as tuples."""
    found: dict[str, Any] = {}
    for name, field in names.items():
        value = values.get(name)
        if isinstance(value, (int, float, str, list, tuple)):
            found[field] = tuple(value) if isinstance(value, list) else value
    return found


def _find(tree: Any, key: str) -> Mapping[str, Any] | None:
    """The first mapping in a nested one, which may contain itself, that has `key`."""
    seen: set[int] = set()
    queue = [tree]
    while queue:
        tree = queue.pop(0)
        if isinstance(tree, Mapping) and id(tree) not in seen:
            seen.add(id(tree))
            if key in tree:
                return tree
            queue += tree.values()
    return None
