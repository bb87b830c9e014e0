"""The options of commands: small dataclasses, of which each field is a flag.

A command's own `Options` is composed of those here and adds its own; `flags.py` has absl read them.
"""

import dataclasses
import math
import shlex
from collections.abc import Sequence
from typing import Any, Self

from pdae_jax.networks.architecture import PRECISIONS
from pdae_jax.protocol import PROTOCOLS, REVERSIBLE, SOLVERS, SPACINGS, THRESHOLDS, WAYS, Protocol
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.fields import described
from pdae_jax.runtime.paths import local
from pdae_jax.value_range import FORMS, parse


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] = (),
    path: bool = False,
) -> Any:
    """A field of an `Options`: its default, what --help says of it, and what it may be.

    path: it names a file or folder, which must be there.
    """
    limits = {"at_least": at_least, "at_most": at_most, "choices": choices, "path": path}
    return described(default, help, **limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one command; ValueError where one is not what it may be."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            limits = field.metadata
            value: Any = getattr(self, field.name)
            if value is None:  # not given, and others decide
                continue
            if limits["choices"]:
                nearest(value, limits["choices"], field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
                raise ValueError(f"{field.name} must be finite, got {value}")
            if limits["path"] and value and not local(str(value)).exists():
                raise ValueError(f"{field.name}: no such file or folder: {value}")
            if limits["at_least"] is not None and value < limits["at_least"]:
                raise ValueError(f"{field.name} must be at least {limits['at_least']}, got {value}")
            if limits["at_most"] is not None and value > limits["at_most"]:
                raise ValueError(f"{field.name} must be at most {limits['at_most']}, got {value}")

    def check(self, T: int) -> None:
        """Raises ValueError where a model of T times has fewer than are asked for."""
        for name in ("steps", "invert_steps"):
            steps = getattr(self, name, 0) or 0
            if steps > T:
                raise ValueError(f"{name} = {steps} is more than the model's T = {T}")
        for t in getattr(self, "times", ()):
            if not 0 <= t < T:
                raise ValueError(f"times must be from 0 to {T - 1}, got {t}")

    def ignored(self) -> str:
        """Words on an option that the others make pointless; "" where there is none."""
        return ""

    @classmethod
    def out_of(cls, other: "Options", **changes: Any) -> Self:
        """The options of another command as far as this one has them, with changes."""
        own = {field.name for field in dataclasses.fields(cls)}
        shared = {name: value for name, value in vars(other).items() if name in own}
        return cls(**shared | changes)

    def changed(self) -> dict[str, Any]:
        """The options that are not the default, {name: value}."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def flags(self) -> str:
        """The command-line flags that set what is not the default."""
        return shlex.join(f"--{name}={_text(value)}" for name, value in self.changed().items())


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# What several commands have in common, in the order in which they combine them.


FIGURES = ("pdf", "png", "svg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page(Options):
    """Of commands that write a page."""

    save: tuple[str, ...] = option(
        (), "figures of the page to save beside it: pdf, svg (vectors), png; or several"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.save:
            nearest(name, FIGURES, "save")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision(Options):
    precision: str = option("float32", "precision of the networks", choices=PRECISIONS)


OF_IMAGES = ("range", "axes", "channels", "slices")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Options):
    images: str = option(
        "",
        "picture, folder or glob, or several comma-separated, or table:FILE; else the run's "
        "own pictures",
    )
    range: str = option("", f"their values that are black and white: {FORMS}; else the model's")
    axes: str = option("", "their axes where files tell none, such as CYX; else the run's")
    channels: tuple[int, ...] = option((), "their channels taken, in this order; else the run's")
    slices: str = option("", "their slices of volumes, AXIS:FROM:TO; else the run's")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse(self.range)
        for name in OF_IMAGES:
            if getattr(self, name) and not self.images:
                raise ValueError(
                    f"{name} = {_text(getattr(self, name))} is of --images=PATH, which is not given"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(Images):
    labels: str = option("", "table of labels of --images (docs/tables.md)", path=True)
    group: str = option("", "their groups: a column of the table, parent (folder) or file")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("labels", "group"):
            if getattr(self, name) and not self.images:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is of --images=PATH, which is not given"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count(Options):
    n: int = option(0, "number of pictures; 0: as many as suit the command", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken(Count):
    """Of commands that show pictures: the first ones, or spread over all."""

    every: int = option(1, "every so many-th picture is taken", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seed(Options):
    seed: int = option(0, "random seed", at_least=0, at_most=2**32 - 1)


EITHER_WAY = (*SOLVERS, *REVERSIBLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding(Options):
    protocol: str = option(
        "fast", f"how all sampling goes: {', '.join(PROTOCOLS)}", choices=[*PROTOCOLS]
    )
    steps: int | None = option(None, "steps of decoding; else the protocol's", at_least=1)
    solver: str | None = option(
        None, f"solver: {', '.join(EITHER_WAY)}; else the protocol's", choices=EITHER_WAY
    )
    spacing: str | None = option(
        None, f"spacing of the times: {', '.join(SPACINGS)}; else the protocol's", choices=SPACINGS
    )
    threshold: str | None = option(
        None, f"threshold of x_0: {', '.join(THRESHOLDS)}; else the protocol's", choices=THRESHOLDS
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inversion(Options):
    invert_steps: int | None = option(
        None, "steps of inferring x_T; else the protocol's", at_least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing(Options):
    temperature: float | None = option(
        None,
        "size of the x_T drawn, 0 for none; else the protocol's, and 1 of what is generated",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation(Options):
    latent_steps: int | None = option(
        None, "DDIM steps of the latent model; else the protocol's", at_least=1
    )
    stop: float = option(
        0.3, "share of the times, the small ones, that go without z", at_least=0, at_most=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentNoise(Options):
    clamp: bool = option(True, "whether to clamp the latent model's first noise to [-1, 1]")
    clip: bool = option(False, "whether to clip normalised z at every step, as the original does")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times(Options):
    times: tuple[int, ...] = option((), "times t to show, from 0 to T - 1; none: five")


def protocol_by(options: Options) -> Protocol:
    """The protocol that the options name, with what they set of it.

    Raises ValueError where a reversible solver would decode in other steps than it inferred.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    protocol = PROTOCOLS[given.get("protocol", "fast")]
    how = {name: given[name] for name in ("solver", "spacing", "threshold") if name in given}
    steps = {"steps": given["steps"]} if "steps" in given else {}
    up = how | ({"steps": given["invert_steps"]} if "invert_steps" in given else {})
    own = {name: given[name] for name in ("temperature", "latent_steps") if name in given}
    invert = dataclasses.replace(protocol.invert, **up)
    few = protocol.draw.network == "fewstep"  # trained for its own way and steps
    decode = dataclasses.replace(protocol.decode, **how, **({} if few else steps))
    draw = dataclasses.replace(protocol.draw, **({} if few else how), **steps)
    stopped = dataclasses.replace(protocol.stopped, **how, **({} if few else steps))
    if invert.solver in REVERSIBLE:
        if "invert_steps" in given and given.get("steps", invert.steps) != invert.steps:
            raise ValueError(
                f"{invert.solver} decodes in the steps that it inferred x_T in, invert_steps = "
                f"{invert.steps}, and steps = {given['steps']}: leave one out"
            )
        invert = decode = dataclasses.replace(invert, **steps)
    ways = dict(zip(WAYS, (invert, decode, draw, stopped), strict=True))
    return dataclasses.replace(protocol, **ways, **own)
