"""The architecture of one model's networks: sizes alone, no code that computes.

Stored beside every checkpoint as `model.json`, so that a directory says by itself how to rebuild
its networks. See `Architecture`; `configs/` has the paper's.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from pdae_jax.runtime.fields import REQUIRED, described


class Block(NamedTuple):
    """One entry of the UNet's down or up path, numbered as in guided-diffusion's files."""

    channels: int  # put out
    level: int = 0
    place: int = 0  # within the level
    skip: int = 0  # up path: channels of the skip connection that is concatenated
    kind: str = "res"  # down path: "conv" (the first), "res" or "down"
    attention: bool = False
    resample: str = ""  # how a "down" gets smaller; up path: how the next level is reached after it

    @property
    def conditioned(self) -> bool:
        """Whether it is a residual block, which t enters (on the way down)."""
        return self.kind == "res" or self.kind == "down" and self.resample == "residual"


PRECISIONS = ("float32", "bfloat16")  # of the networks' computation
MOST_TIMES = 100_000  # tables of them are kept


class Group(NamedTuple):
    """A group of parameters."""

    objective: str  # that trains it, and in whose folder it is saved
    fields: tuple[str, ...] = ()  # of `Architecture`, which its arrays were trained for
    from_codes: bool = False  # computed from codes, so that no code depends on it
    distilled: bool = False  # computed from the networks that give codes, likewise

    @property
    def derived(self) -> bool:
        """Whether no code depends on it, and it is stale once what gives codes has changed."""
        return self.from_codes or self.distilled


DPM_FIELDS = (
    "image_shape patch base mult blocks stem embedding_width attention attention_up heads heads_up "
    "head_channels qkv_order condition down up middle middle_scale norm_groups norm_eps "
    "group_channels frequencies frequency_shift reads predicts learned_variance schedule T betas"
)
GROUPS = {
    "dpm": Group("dpm", tuple(DPM_FIELDS.split())),
    "encoder": Group("pdae", ("z_size", "encoder_widths", "encoder_heads")),
    "gradient": Group("pdae", ("z_size",)),
    "shifted": Group("distill", ("z_size",), distilled=True),
    "fewstep": Group("fewstep", ("z_size",), distilled=True),
    "latent": Group(
        "latent", ("z_size", "latent_layers", "latent_hidden", "latent_time"), from_codes=True
    ),
    "classifier": Group("classifier", from_codes=True),
    "statistics": Group("statistics", from_codes=True),  # of any codes that are normalised
    "fewshot": Group("fewshot_classifier", from_codes=True),
}


def group_of(name: str) -> Group:
    """A group by its name; one that nothing here trains, such as a metric's, stands by itself."""
    return GROUPS.get(name, Group(name))


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


# What a field may be, for those that choose among words.
CHOICES = {
    "qkv_order": ("legacy", "new"),
    "condition": ("scale_shift", "shift"),
    "down": ("residual", "conv", "conv_right"),
    "up": ("residual", "conv"),
    "middle": ("attention", "bare_attention", "plain"),
    "frequencies": ("cos_sin", "sin_cos"),
    "reads": ("t", "t_of_1000", "quarter_log_sigma", "250_log_sigma"),
    "predicts": ("eps", "x_0", "v", "edm", "consistency"),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of a diffusion model, its encoder and gradient estimator, and the latent model.

    Height and width must be divisible by patch 2^(levels - 1). Of a patch of several pixels the
    first level, of the UNet and of G, works on maps of H / patch by W / patch with patch^2 C
    channels; the encoder sees the picture as it is. `encoder_widths` that are derived leave maps
    of 4 x 4: 5 layers at 128 px, 4 at 64 px. qkv_order: "legacy" is [head][q,k,v][c], "new"
    [q,k,v][head][c]. learned_variance makes 2 C output channels (ADM's).

    The defaults are ADM's blocks. Those of others are a few choices, which G, always of ADM's,
    does not share (`estimator`):
    condition: t enters as (1 + scale) h + shift after the second norm, or "shift", added before it.
    down, up: how the next level is reached, one for all levels or one each: "residual", a residual
    block; "conv", a convolution of stride 2, and one after every pixel was repeated; "conv_right"
    pads right and below only. middle: with "attention", "bare_attention" (without a norm) or
    "plain" (without any); middle_scale: its sums are divided by it. group_channels: a norm has
    fewer than norm_groups where a group would have fewer channels. frequencies: the order of the
    time embedding's halves, exp(-ln(10000) i / (half - frequency_shift)).
    reads: what the network is given for t: t, t 1000 / T, ln(sigma) / 4 or 250 ln(sigma),
    sigma = sqrt(1 / alpha_bar - 1). predicts: eps, x_0, v, or by EDM's (Karras et al. 2022) or
    consistency models' (Song et al. 2023) scalings x_0 (`Schedule.scalings`).
    """

    image_shape: tuple[int, int, int] = described(
        REQUIRED, "height, width and channels that pictures are brought to"
    )
    patch: int = described(1, "pixels a side that the UNet takes as one")
    base: int = described(128, "channels of the UNet's first level")
    mult: tuple[float, ...] = described((1, 1, 2, 3, 4), "factor of the channels of each level")
    blocks: int = described(2, "residual blocks a level")
    stem: int = described(0, "channels of the first convolution; 0: base")
    embedding_width: int = described(0, "width of the time embedding; 0: 4 base")
    attention: tuple[int, ...] = described(
        (16,), "shorter sides of the UNet's own maps that have self-attention"
    )
    attention_up: tuple[int, ...] = described((0,), "the same on the way up; 0: as on the way down")
    heads: int = described(1, "attention heads")
    heads_up: int = described(0, "attention heads on the way up; 0: as heads")
    head_channels: int = described(0, "channels of an attention head; 0: heads counts")
    qkv_order: str = described("legacy", "order of attention's channels: legacy (the paper), new")
    condition: str = described("scale_shift", "how t enters a residual block: scale_shift, shift")
    down: tuple[str, ...] = described(
        ("residual",), "how a level gets smaller: residual, conv, conv_right; one for all, or each"
    )
    up: tuple[str, ...] = described(
        ("residual",), "how a level gets larger: residual, conv; finest level first"
    )
    middle: str = described("attention", "the middle's: attention, bare_attention, plain")
    middle_scale: float = described(1.0, "what the middle's sums are divided by")
    norm_groups: int = described(32, "groups of the group norms")
    norm_eps: float = described(1e-5, "what the norms add to the variance")
    group_channels: int = described(1, "channels of a group of the norms, at least")
    frequencies: str = described("cos_sin", "halves of the time embedding: cos_sin, sin_cos")
    frequency_shift: float = described(0.0, "frequencies of t: exponent i / (half - this)")
    reads: str = described(
        "t", "what the UNet reads: t, t_of_1000, quarter_log_sigma, 250_log_sigma"
    )
    predicts: str = described(
        "eps", "what the UNet predicts: eps, x_0, v, or x_0 by the scalings of edm, consistency"
    )
    dropout: float = described(0.1, "dropout of the residual blocks while they are trained")
    learned_variance: bool = described(False, "whether the diffusion model predicts its variance")
    schedule: str = described(
        "linear", "noise schedule: linear, scaled_linear, cosine, sigmoid, constant, karras, given"
    )
    T: int = described(1000, "number of times of the noise schedule")
    betas: tuple[float, ...] = described((), "each beta_t, of the schedule that is given")
    z_size: int = described(512, "numbers in a code z")
    encoder_widths: tuple[int, ...] = described(
        (), "channels of the encoder's stride-2 convolutions; (): by the picture's size"
    )
    encoder_heads: int = described(4, "attention heads of the encoder")
    latent_layers: int = described(10, "layers of the latent model")
    latent_hidden: int = described(2048, "width of the latent model's layers")
    latent_time: int = described(64, "width of the latent model's time embedding")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # JSON and ConfigDict give lists: keep it hashable
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            elif isinstance(value, str) and field.name in ("down", "up"):
                object.__setattr__(self, field.name, (value,))
        for name in ("image_shape", "attention", "attention_up", "encoder_widths"):
            values = getattr(self, name)
            if name == "attention_up" and values == (0,):
                continue
            if not (isinstance(values, tuple) and all(map(_counts, values))):
                raise ValueError(
                    f"{name} must be whole numbers above 0, such as (1, 2), got {values!r}"
                )
        if not (isinstance(self.mult, tuple) and all(map(_positive, self.mult))):
            raise ValueError(f"mult must be numbers above 0, such as (1, 2), got {self.mult!r}")
        if len(self.image_shape) != 3:
            raise ValueError(
                f"image_shape must be (height, width, channels), got {self.image_shape}"
            )
        if not self.mult:
            raise ValueError("mult is empty; it needs one factor a level, such as (1, 2, 4)")
        if not _counts(self.patch):
            raise ValueError(f"patch must be a whole number of at least 1, got {self.patch!r}")
        self._check_choices()
        factor = self.patch * 2 ** (len(self.mult) - 1)
        for name, size in zip(("height", "width"), self.image_shape):
            if size % factor:
                low, high = size // factor * factor, -(-size // factor) * factor
                nearest = f"{low} or {high}" if low else f"{high}"
                raise ValueError(
                    f"image {name} {size} is not divisible by {factor}, as the "
                    f"{len(self.mult)} levels of mult = {self.mult}"
                    + (f" over patch = {self.patch}" if self.patch > 1 else "")
                    + f" need; use {nearest} pixels, or fewer levels"
                )
        for name in (
            "base",
            "blocks",
            "z_size",
            "T",
            "heads",
            "norm_groups",
            "group_channels",
            "encoder_heads",
            "latent_layers",
            "latent_hidden",
            "latent_time",
        ):
            if not _counts(getattr(self, name)):
                raise ValueError(
                    f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}"
                )
        if self.T > MOST_TIMES:
            raise ValueError(f"T must be at most {MOST_TIMES:,}, got {self.T:,}")
        for name in ("base", "latent_time"):
            if getattr(self, name) % 2:
                raise ValueError(
                    f"{name} must be even, half cosines and half sines of t, got "
                    f"{getattr(self, name)}"
                )
        for name, otherwise in (
            ("head_channels", "heads counts"),
            ("heads_up", "as heads"),
            ("stem", "base"),
            ("embedding_width", "4 base"),
        ):
            value = getattr(self, name)
            if not (value == 0 or _counts(value)):
                raise ValueError(
                    f"{name} must be 0 ({otherwise}) or a whole number above it, got {value!r}"
                )
        for name in ("norm_eps", "middle_scale"):
            if not _positive(getattr(self, name)):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")
        if not 0 <= self.frequency_shift < self.base // 2:
            raise ValueError(
                f"frequency_shift must be at least 0 and below base / 2 = {self.base // 2}, got "
                f"{self.frequency_shift!r}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.encoder_widths:
            object.__setattr__(self, "encoder_widths", self._derived_encoder_widths())
        if any(width % self.encoder_heads for width in self.encoder_widths):
            raise ValueError(
                f"encoder_heads = {self.encoder_heads} must divide every one of "
                f"encoder_widths = {self.encoder_widths}"
            )
        for path, up in ((self.down_path(), False), (self.up_path(), True)):
            for block in path:
                if block.attention:
                    self.heads_of(block.channels, up)
        if self.middle != "plain":
            self.heads_of(self.width(-1))

    def _check_choices(self) -> None:
        for name, words in CHOICES.items():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if one not in words:
                    raise ValueError(f"{name} must be {' or '.join(words)}, got {one!r}")
        steps = len(self.mult) - 1
        for name in ("down", "up"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) not in (1, steps):
                raise ValueError(
                    f"{name} must be one word, or one for each of {steps} steps between "
                    f"{steps + 1} levels, such as ('residual',), got {value!r}"
                )
        if (self.schedule == "given") != bool(self.betas) or len(self.betas) not in (0, self.T):
            raise ValueError(
                f"betas are {len(self.betas)} numbers, of schedule = {self.schedule!r} with T = "
                f"{self.T}: give T of them with schedule = 'given', and none with any other"
            )

    def _derived_encoder_widths(self) -> tuple[int, ...]:
        shorter = min(self.image_shape[:2])
        depth = max(1, int(math.log2(max(shorter, 8) / 4)))
        widest = 256 if shorter > 64 else 128
        return tuple(min(64 * 2**i, widest) for i in range(depth))

    @property
    def out_channels(self) -> int:
        return self.image_shape[2] * (2 if self.learned_variance else 1)

    @property
    def embedding(self) -> int:
        """Width of the time embedding, and of z's: 4 base, unless it has one of its own."""
        return self.embedding_width or 4 * self.base

    def width(self, level: int) -> int:
        """Channels of a level."""
        return round(self.mult[level] * self.base)

    @property
    def estimator(self) -> "Architecture":
        """G's: the same sizes in ADM's blocks, whatever those of the frozen model are."""
        adm = {name: FIELDS[name].default for name in ADM_BLOCKS}
        return dataclasses.replace(self, **adm)

    @property
    def is_adm(self) -> bool:
        """Whether the diffusion model's way up is of the blocks that G's is of."""
        return self.estimator == self

    def heads_of(self, channels: int, up: bool = False) -> int:
        if self.head_channels:
            if channels % self.head_channels:
                raise ValueError(
                    f"{channels} channels do not divide into heads of head_channels = "
                    f"{self.head_channels}"
                )
            return channels // self.head_channels
        heads = up and self.heads_up or self.heads
        if channels % heads:
            raise ValueError(
                f"{channels} channels do not divide into {heads} attention heads; "
                f"choose heads that divide every width with attention"
            )
        return heads

    @staticmethod
    def encoder_attends(height: int, width: int) -> bool:
        """Whether the encoder has attention on a map of this size: the first of 16 down to 9."""
        return 8 < min(height, width) <= 16

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """The shorter side of each level's maps, of which `attention` names some."""
        finest = min(self.image_shape[:2]) // self.patch
        return tuple(finest // 2**level for level in range(len(self.mult)))

    def down_path(self) -> list[Block]:
        """The blocks of the way down, first to last."""
        path = [Block(self.stem or self.base, kind="conv")]
        for level, size in enumerate(self.map_sizes):
            width, attends = self.width(level), size in self.attention
            path += [Block(width, level, i, attention=attends) for i in range(self.blocks)]
            if level < len(self.mult) - 1:
                how = self.down[level if len(self.down) > 1 else 0]
                path.append(Block(width, level, kind="down", resample=how))
        return path

    def up_path(self) -> list[Block]:
        """The blocks of the way up, first to last: one more a level than on the way down."""
        skips = [block.channels for block in self.down_path()]
        attention = self.attention if self.attention_up == (0,) else self.attention_up
        path = []
        for level, size in reversed(list(enumerate(self.map_sizes))):
            for i in range(self.blocks + 1):
                last = level > 0 and i == self.blocks
                path.append(
                    Block(
                        self.width(level),
                        level,
                        i,
                        skip=skips.pop(),
                        attention=size in attention,
                        resample=self.up[level - 1 if len(self.up) > 1 else 0] if last else "",
                    )
                )
        return path

    def down_conditions(self) -> list[int]:
        """Channels of each residual block of the way down: the widths its conditions have."""
        return [block.channels for block in self.down_path() if block.conditioned]

    def up_conditions(self) -> list[int]:
        """The same for the middle block and the way up (the UNet's, and the estimator's)."""
        widths = [self.width(-1)] * 2
        for block in self.up_path():
            widths += [block.channels] * (2 if block.resample == "residual" else 1)
        return widths

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


FIELDS = {field.name: field for field in dataclasses.fields(Architecture)}
# Those of the diffusion model's blocks that G does not share.
ADM_BLOCKS = "condition up middle middle_scale norm_groups norm_eps group_channels".split()

# The paper's diffusion models (Table 1).
ADM_64: dict[str, Any] = dict(image_shape=(64, 64, 3), base=64, mult=(1, 2, 4, 8), heads=4)
ADM_128: dict[str, Any] = dict(image_shape=(128, 128, 3), base=128, mult=(1, 1, 2, 3, 4), heads=1)
