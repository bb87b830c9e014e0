"""Both interpolations between pictures: Figures 8 to 10."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows
from pdae_jax.commands.options import Decoding, Images, Inversion, Page, Precision, Taken, option
from pdae_jax.images import grid, to_pil, visible
from pdae_jax.pages.page import Section, Text

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import interpolation

ON_PAPER = 6  # of the animation's weights


WORDS = (
    "From one picture to another by way of their codes: what lies between is a picture too, where "
    "the mean of the pixels would be both at once."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Taken, Decoding, Inversion):
    frames: int = option(16, "frames of the animation", at_least=2)


def run(context: Context[Options]) -> Result:
    """Between neighbouring pictures, on paper and animated."""
    options, images = context.options, context.pictures(6)
    if len(images) < 2:
        raise ValueError("an interpolation needs two pictures or more, got 1")
    images = images[: len(images) // 2 * 2]
    first, second = images[0::2], images[1::2]
    weights = np.linspace(0, 1, options.frames)
    found = interpolation.interpolate(context.model, first, second, weights)
    first, second = visible(first), visible(second)
    kinds = [visible(kind) for kind in found]
    shown = np.linspace(0, options.frames - 1, min(ON_PAPER, options.frames)).round().astype(int)
    rows = [
        (label, np.concatenate([first[i : i + 1], kind[i, shown], second[i : i + 1]]))
        for i in range(len(first))
        for label, kind in zip(("of codes", "of trajectories"), kinds, strict=True)
    ]
    context.output.save_animation("interpolate", frames(first, second, kinds))
    pictures = picture_rows(
        context,
        rows,
        "Between the two originals at the ends: z along a line, or the gradient estimator's output "
        "along a line at every step; x_T along a great circle.",
        columns=("from", *(f"{weights[k]:.1f}" for k in shown), "to"),
    )
    grids = {"interpolate": [row for _, row in rows]}
    return Result([Section("Interpolation", [Text(WORDS), pictures])], {"pairs": len(first)}, grids)


def frames(first: np.ndarray, second: np.ndarray, kinds: list[np.ndarray]) -> list:
    """An animation there and back: a row for each pair, with the originals at the ends."""
    there = [
        grid(
            [
                np.stack([first[i], *(kind[i, k] for kind in kinds), second[i]])
                for i in range(len(first))
            ]
        )
        for k in range(kinds[0].shape[1])
    ]
    zoom = max(1, 96 // first.shape[2])
    return [to_pil(frame, zoom) for frame in [*there, *there[-2:0:-1]]]
