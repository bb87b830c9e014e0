"""What the shapes of a UNet's tensors show of its architecture, in any project's names."""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pdae_jax.convert.dialects import GUIDED, Dialect

Shapes = Mapping[str, tuple[int, ...]]


def of_unet(shapes: Shapes, dialect: Dialect = GUIDED) -> dict[str, Any]:
    """Fields of `Architecture`, and the levels that have attention in place of its sizes.

    attention_levels, attention_up_levels: counted from the finest. "down" has "conv" however it
    pads. Raises ValueError where the tensors are no such UNet's, LookupError where one is missing.
    """
    if dialect is GUIDED:
        levels = _numbered(shapes)
    else:
        levels = _by_level(shapes, dialect)
    time_in, base = shapes[f"{dialect.time[0]}.weight"]
    stem = dialect.stem.format(size=levels.pop("size"))
    first, channels = shapes[f"{stem}.weight"][:2]
    out = shapes[f"{dialect.out}.weight"][0]
    if out not in (channels, 2 * channels):
        raise ValueError(
            f"the UNet reads {channels} channels and puts out {out}, neither as many "
            f"nor, with a learned variance, twice as many"
        )
    widths = levels.pop("widths")
    ratio = levels.pop("projected") / widths[0]
    if ratio not in (1, 2):
        raise ValueError(
            f"t's projection has {ratio:g} numbers a channel, neither a shift nor scale and shift"
        )
    return levels | {
        "base": base,
        "patch": 1,  # no other project has another
        "channels": channels,
        "stem": 0 if first == base else first,
        "embedding_width": 0 if time_in == 4 * base else time_in,
        "mult": mult_of(widths, base),
        "condition": "scale_shift" if ratio == 2 else "shift",
        "learned_variance": out == 2 * channels,
    }


def mult_of(widths: Sequence[int], base: int = 0) -> tuple[float, ...]:
    """The levels' channels as factors of the base, or else of the first level's."""
    return tuple(_factor(width, base or widths[0]) for width in widths)


def _factor(width: int, base: int) -> float:
    return width // base if width % base == 0 else width / base


def _alike(words: list[str]) -> tuple[str, ...]:
    """A word for each step between levels; one where all are the same, or there is no step."""
    return tuple(words) if len(set(words)) > 1 else (words[0] if words else "residual",)


def _numbered(shapes: Shapes) -> dict[str, Any]:
    """Levels and blocks from guided-diffusion's numbers: the way up shows where a level ends."""
    ups: dict[int, str] = {}
    for key in shapes:
        found = re.fullmatch(r"output_blocks\.(\d+)\.[12]\.(in_layers\.0|conv)\.weight", key)
        if found:
            ups[int(found[1])] = "conv" if found[2] == "conv" else "residual"
    outs = count("output_blocks.", shapes)
    blocks = min(ups) if ups else outs - 1
    starts = [1 + level * (blocks + 1) for level in range(len(ups) + 1)]
    for k in starts:
        if f"input_blocks.{k}.0.out_layers.3.weight" not in shapes:
            raise ValueError(
                f"not guided-diffusion's UNet: 'input_blocks.{k}.0.out_layers.3.weight' is missing"
            )
    per_level = blocks + 1
    return {
        "size": 0,
        "blocks": blocks,
        "widths": [shapes[f"input_blocks.{k}.0.out_layers.3.weight"][0] for k in starts],
        "projected": shapes["input_blocks.1.0.emb_layers.1.weight"][0],
        "attention_levels": tuple(
            level
            for level, k in enumerate(starts)
            if any(key.startswith(f"input_blocks.{k}.1.") for key in shapes)
        ),
        "attention_up_levels": tuple(
            level
            for level in range(len(starts))
            if f"output_blocks.{(len(starts) - 1 - level) * per_level}.1.qkv.weight" in shapes
        ),
        "down": _alike(
            [
                "conv" if f"input_blocks.{k + blocks}.0.op.weight" in shapes else "residual"
                for k in starts[:-1]
            ]
        ),
        "up": _alike([ups[k] for k in sorted(ups, reverse=True)]),
        "middle": "attention",
    }


def _by_level(shapes: Shapes, dialect: Dialect) -> dict[str, Any]:
    """Levels and blocks from names that have them."""
    part, attending = dialect.residual, f"{dialect.attention.qkv[0]}.weight"
    down = places(shapes, dialect.down, f"{part.conv_out}.weight")
    if not down:
        raise ValueError(f"not {dialect.of}'s UNet: it has no {dialect.down}")
    levels = 1 + max(level for level, _ in down)
    blocks = collections.Counter(level for level, _ in down)
    if set(blocks.values()) != {blocks[0]} or len(blocks) != levels:
        raise ValueError(f"its levels have {dict(blocks)} residual blocks, not as many each")
    sizes = _sizes(shapes, dialect)
    size = sizes[0] if sizes else 0

    def name(form: str, level: int, place: int = 0) -> str:
        here = {"level": level, "up": levels - 1 - level, "place": place, "k": 0, "last": 1}
        return form.format(**here, size=size >> level, next=size >> level)

    def how(conv: str, residual: str, conv_level: int, residual_level: int) -> str:
        if conv and f"{name(conv, conv_level)}.weight" in shapes:
            return "conv"
        if residual and f"{name(residual, residual_level)}.{part.norm_in}.weight" in shapes:
            return "residual"
        raise ValueError(
            f"{dialect.of}'s UNet with no resampling at level {conv_level} is not supported"
        )

    below = 1 if sizes else 0  # EDM counts a resampling to the level that it leads to
    middle = name(dialect.middle[1], levels - 1)
    middle_norm = f"{middle}.{dialect.attention.norm}.weight"
    kinds = {True: "attention", False: "bare_attention"}
    return {
        "size": size,
        **({"image_size": size} if size else {}),
        "blocks": blocks[0],
        "widths": [down[level, 0][0] for level in range(levels)],
        "projected": shapes[f"{name(dialect.down, 0)}.{part.time}.weight"][0],
        "attention_levels": tuple(
            level
            for level in range(levels)
            if f"{name(dialect.down_attention, level)}.{attending}" in shapes
        ),
        "attention_up_levels": tuple(
            level
            for level in range(levels)
            if f"{name(dialect.up_attention, level)}.{attending}" in shapes
        ),
        "down": _alike(
            [
                how(dialect.down_conv, dialect.down_residual, level, level + below)
                for level in range(levels - 1)
            ]
        ),
        "up": _alike(
            [
                how(dialect.up_conv, dialect.up_residual, level, level - below)
                for level in range(1, levels)
            ]
        ),
        "middle": kinds[middle_norm in shapes] if f"{middle}.{attending}" in shapes else "plain",
    }


def places(shapes: Shapes, form: str, end: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """The shapes of the tensors FORM.END, by their level, from the finest, and place in it."""
    pattern = re.escape(form).replace(r"\{", "{").replace(r"\}", "}")
    sized = "{size}" in pattern
    pattern = pattern.replace("{size}", r"(?P<level>\d+)", 1).replace("{size}", r"(?P=level)")
    pattern = pattern.replace("{level}", r"(?P<level>\d+)").replace("{place}", r"(?P<place>\d+)")
    found = {}
    for key, shape in shapes.items():
        match = re.fullmatch(f"{pattern}\\.{re.escape(end)}", key)
        if match:
            found[int(match["level"]), int(match["place"])] = shape
    if sized and found:
        finest = max(side for side, _ in found)
        found = {(round(math.log2(finest / side)), k): shape for (side, k), shape in found.items()}
    return found


def _sizes(shapes: Shapes, dialect: Dialect) -> list[int]:
    """The sides of the maps, largest first, where the names have them."""
    if "{size}" not in dialect.stem:
        return []
    start, _, end = dialect.stem.partition("{size}x{size}")
    pattern = f"{re.escape(start)}(\\d+)x\\1{re.escape(end)}\\.weight"
    return sorted((int(m[1]) for key in shapes if (m := re.fullmatch(pattern, key))), reverse=True)


def count(prefix: str, shapes: Shapes) -> int:
    """Counts the layers "PREFIXk.*"; ValueError where they are not numbered 0, 1, 2 ..."""
    numbers = {key.split(".")[1] for key in shapes if key.startswith(prefix)}
    for k in range(len(numbers)):
        if str(k) not in numbers:
            raise ValueError(
                f"{prefix}{k} is missing, though there are {len(numbers)} of {prefix}*"
            )
    return len(numbers)
