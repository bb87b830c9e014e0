"""Chooses the sizes of a training by the pictures, the machine, and the hours that it may take."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epy

from pdae_jax.networks.architecture import ADM_64, ADM_128, Architecture
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.fields import described
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # a config, which has `Wishes`, needs no JAX
    from pdae_jax.cost import duration
    from pdae_jax.runtime import machine as machine_lib
    from pdae_jax.runtime import sharding
    from pdae_jax.training import memory

SIZES = ("", "small", "paper")


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a person may say of the sizes; ValueError where it is wrong."""

    sizes: str = described("", "sizes of everything: small, paper, or empty: by what is there")
    hours: float = described(3.0, "hours that all stages together may take")

    def __post_init__(self) -> None:
        nearest(self.sizes, SIZES, "sizes")
        if not self.hours > 0:
            raise ValueError(f"hours must be above 0, got {self.hours}")


class Pictures(NamedTuple):
    """How many pictures are trained on and held out, and how they are.

    side: the shorter one of a typical picture, in pixels. binary: the attributes that are yes or
    no.
    """

    train: int
    held_out: int
    side: int
    channels: int
    binary: tuple[str, ...] = ()


class Tier(NamedTuple):
    """A size of networks; fewest: pictures that training its diffusion model must see."""

    sizes: str
    side: int
    fewest: int


# Each costs 4 to 10 times as much a picture as the one before. The first two are those of
# configs/emoji.py; the first is taken whatever time there is. The last is the paper's, with 10,000
# steps of its batch at least.
TIERS = (Tier("small", 32, 100_000), Tier("small", 64, 320_000), Tier("paper", 64, 1_280_000))
TIMES = 250  # that the diffusion model sees each picture, where time allows
MOST = 12_800_000  # pictures that it sees at most: 100,000 steps of the paper's batch
SHARE = {"dpm": 1.0, "pdae": 1.4}  # of these pictures: a code takes longer to learn
SCORED = 180  # held-out pictures, at most, in a report that nobody has set
MEMORY = 0.7  # share of the free memory that is asked for: estimates err, and others take some
SETTINGS = (
    "batch_size accumulate steps learning_rate decay warmup clip ema log_every health_every "
    "pictures_every save_every"
).split()
NETWORK = (
    "image_shape patch base mult blocks attention heads z_size encoder_widths latent_layers "
    "latent_hidden"
).split()
# Of a config; a resumed run keeps all of its model's.
FIELDS = (
    "stages",
    "precision",
    *(f"model.{field.name}" for field in dataclasses.fields(Architecture)),
    *(f"{stage}.{name}" for stage in SHARE for name in SETTINGS),
    "latent.steps",
)


class Plan(NamedTuple):
    """A choice: the networks, and how they are trained.

    wanted, affordable: pictures that the diffusion model should see, and for which there is time.
    """

    arch: Architecture
    precision: str
    settings: dict[str, Settings]  # of the stages on pictures
    latent_steps: int
    wanted: int
    affordable: float

    def fields(self) -> dict[str, Any]:
        """{dotted name: value} of all of `FIELDS` but the stages."""
        values = {f"model.{name}": value for name, value in self.arch.to_dict().items()}
        for stage, settings in self.settings.items():
            values |= {f"{stage}.{name}": getattr(settings, name) for name in SETTINGS}
        return values | {"precision": self.precision, "latent.steps": self.latent_steps}

    def memory(self, devices: int) -> int:
        """Bytes that the largest step takes on each device."""
        return max(
            need(stage, self.arch, self.precision, settings.remat).of(settings, devices)
            for stage, settings in self.settings.items()
        )


def stages(pictures: Pictures, pretrained: str = "") -> tuple[str, ...]:
    """What is done where nobody says: all that the pictures and their attributes allow."""
    dpm = () if pretrained else ("dpm",)
    classifier = ("classifier",) if pictures.binary else ()
    # Pictures that are new need the latent model, and on codes it is cheap.
    return (*dpm, "pdae", "latent", *classifier, "report")


def choose(
    pictures: Pictures,
    machine: "machine_lib.Machine",
    wishes: Wishes,
    given: Mapping[str, Any],
    parts: Mapping[str, int] | None = None,
) -> Plan:
    """The largest networks for which time and memory suffice.

    given: {dotted name: value} of fields that are settled; all others are chosen to suit them.
    parts: the fewest micro-batches of a stage: those that it was trained with.
    Raises ValueError where a step would not fit into memory, whatever its micro-batches.
    """
    best = None
    for tier in (tier for tier in TIERS if wishes.sizes in ("", tier.sizes)):
        arch = architecture(tier, pictures, given)
        if best and min(arch.image_shape[:2]) < tier.side:  # its networks are for larger pictures
            break
        wanted, affordable = pictures_to_see(tier, arch, pictures, machine, wishes)
        if best and affordable < tier.fewest:
            break
        precision = given.get("precision", precision_on(machine.is_cpu))
        settings = {
            stage: settings_of(
                stage,
                tier,
                arch,
                precision,
                SHARE[stage] * min(wanted, affordable) if wishes.sizes != "paper" else wanted,
                machine,
                given,
                (parts or {}).get(stage, 1),
            )
            for stage in SHARE
        }
        latent = latent_steps(arch, pictures, machine, wishes)
        plan = Plan(arch, precision, settings, latent, wanted, affordable)
        if best and plan.memory(machine.devices) > MEMORY * machine.memory:
            break
        best = plan
    assert best is not None  # the first is always taken
    check_memory(best, machine)
    return best


def pictures_to_see(
    tier: Tier,
    arch: Architecture,
    pictures: Pictures,
    machine: "machine_lib.Machine",
    wishes: Wishes,
) -> tuple[int, float]:
    """How many pictures the diffusion model should see, and for how many there is time."""
    if wishes.sizes == "paper":  # a size is asked for, not a time
        return MOST, math.inf
    seconds = wishes.hours * 3600 - len(SHARE) * duration.COMPILING
    seconds -= duration.report_seconds(arch, machine, min(pictures.held_out, SCORED))
    seconds = max(seconds, wishes.hours * 1800)  # a long report leaves half of the time
    each = sum(
        share * duration.example_seconds(stage, arch, machine) for stage, share in SHARE.items()
    )
    return min(max(TIMES * pictures.train, tier.fewest), MOST), seconds / each


def settings_of(
    stage: str,
    tier: Tier,
    arch: Architecture,
    precision: str,
    seen: float,
    machine: "machine_lib.Machine",
    given: Mapping[str, Any],
    fewest_parts: int,
) -> Settings:
    """How a stage is trained on so many pictures."""
    own = {
        name: given[f"{stage}.{name}"]
        for name in (*SETTINGS, "remat")
        if f"{stage}.{name}" in given
    }
    paper = tier.sizes == "paper"
    batch = own.get("batch_size", next_multiple(128 if paper else 64, machine.devices))
    steps = own.get("steps", two_digits(seen / max(batch, 1)))
    seconds = max(batch * duration.example_seconds(stage, arch, machine), duration.STEP)
    how = {"batch_size": batch, "steps": steps}
    how |= optimiser(paper, steps) | intervals(steps, seconds)
    if "accumulate" not in own:
        how["accumulate"] = micro_batches(
            need(stage, arch, precision, own.get("remat", False)),
            max(batch // machine.devices, 1),
            MEMORY * machine.memory,
            fewest_parts,
        )
    return Settings(**how | own)


def latent_steps(
    arch: Architecture, pictures: Pictures, machine: "machine_lib.Machine", wishes: Wishes
) -> int:
    """Steps of the latent model: a thousand times each code, in a twentieth of the time or less."""
    if wishes.sizes == "paper":
        return 100_000
    each = 256 * duration.example_seconds("latent", arch, machine)
    return two_digits(min(max(4 * pictures.train, 5000), 100_000, wishes.hours * 180 / each))


def architecture(tier: Tier, pictures: Pictures, given: Mapping[str, Any]) -> Architecture:
    """A tier's networks, for pictures no larger than they are, or of the next power of two."""
    side = min(tier.side, 2 ** math.ceil(math.log2(max(pictures.side, 8))))
    shape: Any = tuple(given.get("model.image_shape", (side, side, pictures.channels)))
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        return Architecture(image_shape=shape)  # which says what is wrong with it
    sizes = paper_network(shape) if tier.sizes == "paper" else small_network(shape)
    sizes["image_shape"] = shape
    for field in dataclasses.fields(Architecture):
        if f"model.{field.name}" in given:
            sizes[field.name] = given[f"model.{field.name}"]
    return Architecture(**sizes)


def paper_network(shape: tuple[int, ...]) -> dict[str, Any]:
    """The paper's network for about this size, with as many levels as its sides divide into."""
    sizes: dict[str, Any] = ADM_64 if min(shape[:2]) < 128 else ADM_128
    most = len(sizes["mult"])
    levels = max(n for n in range(1, most + 1) if n == 1 or divides(2 ** (n - 1), shape))
    return sizes | {"mult": sizes["mult"][:levels]}


def small_network(shape: tuple[int, ...]) -> dict[str, Any]:
    """A CPU's network: patches of larger pictures, so that maps have 32 pixels or less."""
    side = min(shape[:2])
    fitting = 1 if side < 32 else 2 if side < 128 else side // 32
    patch = max(n for n in range(1, fitting + 1) if divides(n, shape))
    maps = side // patch
    wanted = 2 if maps <= 16 else 3
    levels = max(n for n in range(1, wanted + 1) if n == 1 or divides(patch * 2 ** (n - 1), shape))
    deepest = maps // 2 ** (levels - 1)
    return dict(
        patch=patch,
        base=64,
        mult=(1, 2, 2)[:levels],
        blocks=1,
        attention=(deepest,) if deepest <= 16 else (),
        heads=4,
        z_size=min(128, max(math.prod(shape) // 2, 2)),
        latent_layers=6,
        latent_hidden=512,
    )


def divides(factor: int, shape: tuple[int, ...]) -> bool:
    """Whether a factor divides height and width."""
    return shape[0] % factor == shape[1] % factor == 0


def next_multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def two_digits(number: float) -> int:
    """Rounded down to two digits, and at least 1."""
    if number < 100:
        return max(int(number), 1)
    unit = 10 ** (int(math.log10(number)) - 1)
    return int(number // unit * unit)


def optimiser(paper: bool, steps: int) -> dict[str, Any]:
    """Rate, clip and average of so many steps: at their end the first weights count 1 % of it."""
    ema = Settings(steps=max(steps, 1)).average
    if paper:
        return {"ema": ema}
    return {
        "learning_rate": 1e-3,
        "decay": "cosine",
        "warmup": min(200, steps // 10),
        "clip": 1.0,
        "ema": ema,
    }


def intervals(steps: int, seconds: float) -> dict[str, int]:
    """Steps between what is shown and kept: a line a minute, a checkpoint every ten minutes.

    seconds: of a step.
    """
    return {
        "log_every": two_digits(min(steps / 100, 60 / seconds, 100)),
        "health_every": two_digits(min(steps / 20, 600 / seconds, 1000)),
        "pictures_every": two_digits(min(steps / 5, 3600 / seconds)),
        "save_every": two_digits(min(steps / 20, 600 / seconds)),
    }


@functools.cache
def need(stage: str, arch: Architecture, precision: str, remat: bool) -> "memory.Need":
    return memory.need(stage, arch, precision, remat)


def precision_on(cpu: bool) -> str:
    """XLA's CPU computes bfloat16 convolutions in float32, and no faster (docs/performance.md)."""
    return "float32" if cpu else "bfloat16"


def micro_batches(need: "memory.Need", batch: int, memory: float, fewest: int) -> int:
    """The fewest micro-batches, of those that divide a device's batch, that fit into memory.

    As many as there are pictures, where none fit.
    """
    return next(
        n
        for n in range(1, batch + 1)
        if batch % n == 0
        and (n == batch or n >= fewest and need.fixed + need.image * batch // n <= memory)
    )


def check_memory(plan: Plan, machine: "machine_lib.Machine") -> None:
    """Raises ValueError where a step would ask for more memory than is free."""
    for stage, settings in plan.settings.items():
        of_stage = need(stage, plan.arch, plan.precision, settings.remat)
        wanted = of_stage.of(settings, machine.devices)
        if wanted > machine.memory:
            advice = memory.advice(stage, settings, sharding.make_mesh(), plan.precision)
            raise ValueError(
                f"a step of {stage} with batch_size = {settings.batch_size} and accumulate = "
                f"{settings.accumulate} wants {wanted / 1e9:.1f} GB of memory, and "
                f"{machine.memory / 1e9:.1f} GB are free; {advice}, or the config's :small"
            )
