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
    skip: int = 0  # up path: channels of the skip connection that is concatenated
    kind: str = "res"  # down path: "conv" (the first), "res" or "down"
    attention: bool = False
    upsample: bool = False  # up path: followed by an up-sampling residual block


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
    "image_shape patch base mult blocks attention heads head_channels qkv_order learned_variance "
    "schedule T"
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


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of a diffusion model, its encoder and gradient estimator, and the latent model.

    Height and width must be divisible by patch 2^(levels - 1). Of a patch of several pixels the
    first level, of the UNet and of G, works on maps of H / patch by W / patch with patch^2 C
    channels; the encoder sees the picture as it is. `encoder_widths` that are derived leave maps
    of 4 x 4: 5 layers at 128 px, 4 at 64 px. qkv_order: "legacy" is [head][q,k,v][c], "new"
    [q,k,v][head][c]. learned_variance makes 2 C output channels (ADM's).
    """

    image_shape: tuple[int, int, int] = described(
        REQUIRED, "height, width and channels that pictures are brought to"
    )
    patch: int = described(1, "pixels a side that the UNet takes as one")
    base: int = described(128, "channels of the UNet's first level")
    mult: tuple[int, ...] = described((1, 1, 2, 3, 4), "factor of the channels of each level")
    blocks: int = described(2, "residual blocks a level")
    attention: tuple[int, ...] = described(
        (16,), "shorter sides of the UNet's own maps that have self-attention"
    )
    heads: int = described(1, "attention heads")
    head_channels: int = described(0, "channels of an attention head; 0: heads counts")
    qkv_order: str = described("legacy", "order of attention's channels: legacy (the paper), new")
    dropout: float = described(0.1, "dropout of the residual blocks while they are trained")
    learned_variance: bool = described(False, "whether the diffusion model predicts its variance")
    schedule: str = described("linear", "noise schedule: linear, cosine or constant")
    T: int = described(1000, "number of times of the noise schedule")
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
        for name in ("image_shape", "mult", "attention", "encoder_widths"):
            values = getattr(self, name)
            if not (isinstance(values, tuple) and all(map(_counts, values))):
                raise ValueError(
                    f"{name} must be whole numbers above 0, such as (1, 2), got {values!r}"
                )
        if len(self.image_shape) != 3:
            raise ValueError(
                f"image_shape must be (height, width, channels), got {self.image_shape}"
            )
        if not self.mult:
            raise ValueError("mult is empty; it needs one factor a level, such as (1, 2, 4)")
        if not _counts(self.patch):
            raise ValueError(f"patch must be a whole number of at least 1, got {self.patch!r}")
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
        if not (self.head_channels == 0 or _counts(self.head_channels)):
            raise ValueError(
                f"head_channels must be 0 (heads counts) or a whole number above it, "
                f"got {self.head_channels!r}"
            )
        if self.qkv_order not in ("legacy", "new"):
            raise ValueError(f'qkv_order must be "legacy" or "new", got {self.qkv_order!r}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.encoder_widths:
            object.__setattr__(self, "encoder_widths", self._derived_encoder_widths())
        if any(width % self.encoder_heads for width in self.encoder_widths):
            raise ValueError(
                f"encoder_heads = {self.encoder_heads} must divide every one of "
                f"encoder_widths = {self.encoder_widths}"
            )
        for level, factor in enumerate(self.mult):
            if self._attends(level):
                self.heads_of(factor * self.base)
        self.heads_of(self.mult[-1] * self.base)  # the middle always attends

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
        """Width of the time embedding, and of z's: 4 base."""
        return 4 * self.base

    def heads_of(self, channels: int) -> int:
        if self.head_channels:
            if channels % self.head_channels:
                raise ValueError(
                    f"{channels} channels do not divide into heads of head_channels = "
                    f"{self.head_channels}"
                )
            return channels // self.head_channels
        if channels % self.heads:
            raise ValueError(
                f"{channels} channels do not divide into {self.heads} attention heads; "
                f"choose heads that divide every width with attention"
            )
        return self.heads

    @staticmethod
    def encoder_attends(height: int, width: int) -> bool:
        """Whether the encoder has attention on a map of this size: the first of 16 down to 9."""
        return 8 < min(height, width) <= 16

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """The shorter side of each level's maps, of which `attention` names some."""
        finest = min(self.image_shape[:2]) // self.patch
        return tuple(finest // 2**level for level in range(len(self.mult)))

    def _attends(self, level: int) -> bool:
        return self.map_sizes[level] in self.attention

    def down_path(self) -> list[Block]:
        """The blocks of the way down, first to last."""
        path = [Block(self.base, kind="conv")]
        for level, factor in enumerate(self.mult):
            width = factor * self.base
            path += [Block(width, attention=self._attends(level))] * self.blocks
            if level < len(self.mult) - 1:
                path.append(Block(width, kind="down"))
        return path

    def up_path(self) -> list[Block]:
        """The blocks of the way up, first to last: one more a level than on the way down."""
        skips = [block.channels for block in self.down_path()]
        path = []
        for level, factor in reversed(list(enumerate(self.mult))):
            for i in range(self.blocks + 1):
                path.append(
                    Block(
                        factor * self.base,
                        skip=skips.pop(),
                        attention=self._attends(level),
                        upsample=level > 0 and i == self.blocks,
                    )
                )
        return path

    def down_conditions(self) -> list[int]:
        """Channels of each residual block of the way down: the widths its conditions have."""
        return [block.channels for block in self.down_path() if block.kind != "conv"]

    def up_conditions(self) -> list[int]:
        """The same for the middle block and the way up (the UNet's, and the estimator's)."""
        widths = [self.mult[-1] * self.base] * 2
        for block in self.up_path():
            widths += [block.channels] * (2 if block.upsample else 1)
        return widths

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# The paper's diffusion models (Table 1).
ADM_64: dict[str, Any] = dict(image_shape=(64, 64, 3), base=64, mult=(1, 2, 4, 8), heads=4)
ADM_128: dict[str, Any] = dict(image_shape=(128, 128, 3), base=128, mult=(1, 1, 2, 3, 4), heads=1)
