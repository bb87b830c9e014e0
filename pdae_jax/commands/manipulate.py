"""Pictures with an attribute changed: Figure 11."""

import dataclasses
import zipfile
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows
from pdae_jax.commands.options import Count, Decoding, Images, Inversion, Precision, option
from pdae_jax.images import visible
from pdae_jax.pages.page import Part, Section, Table
from pdae_jax.runtime.paths import local

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import manipulation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Images, Count, Decoding, Inversion):
    attribute: str = option("", "attribute to change")
    keep: tuple[str, ...] = option((), "attributes to hold still")
    direction: str = option(
        "", ".npy of a direction in normalised z, instead of an attribute", path=True
    )
    strengths: tuple[float, ...] = option(
        (-0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5), "strengths of the edits, about -0.5 to 0.5"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths:
            raise ValueError("strengths are empty: give one or more, such as -0.5,0.5")

    def ignored(self) -> str:
        if self.direction and (self.attribute or self.keep):
            return "--attribute and --keep with --direction=FILE.npy"
        return ""


def run(context: Context[Options]) -> Result:
    """z moved along an attribute's direction or a given one, from the picture's own x_T."""
    options, images = context.options, context.pictures()
    direction, words = direction_of(context)
    context.statistics()
    edited = manipulation.manipulate(context.model, images, direction, options.strengths)
    shown = visible(images), visible(edited)
    rows = [np.concatenate([first[None], row]) for first, row in zip(*shown, strict=True)]
    numbers: dict[str, Any] = {"attribute": words, "strengths": list(options.strengths)}
    pictures = picture_rows(
        context,
        [("", row) for row in rows],
        columns=["original", *(f"{s:+.1f}" for s in options.strengths)],
        caption=f"Towards and away from {words}: z moved along its direction, decoded from each "
        f"picture's own x_T.",
    )
    parts: list[Part] = [pictures]
    headline = {}
    if "classifier" in context.model.params and not options.direction:
        changes = logit_changes(context, images, edited)
        numbers |= changes
        headline = {f"{options.attribute}: logit's change": changes["logit_change"]}
        table = [
            [options.attribute, changes["logit_change"]],
            ["the others, mean absolute", changes["others_mean_absolute_change"]],
        ]
        caption = (
            f"Of the pictures edited by {options.strengths[-1]:+.1f}, encoded again; means over "
            f"{len(images)}."
        )
        parts.append(Table(["logit", "change"], table, caption=caption))
    title = f"Manipulation: {words.partition(',')[0]}"
    return Result([Section(title, parts)], numbers, {"manipulate": rows}, headline)


def direction_of(context: Context[Options]) -> tuple[Any, str]:
    """The direction in normalised z, [d], and words for it."""
    options = context.options
    if options.direction:
        direction = read_direction(options.direction, context.model.arch.z_size)
        return direction, f"the direction in {options.direction}"
    if not options.attribute:
        names = ", ".join(context.attributes())
        raise ValueError(
            f"which attribute? give --attribute=NAME, one of {names}, or --direction=FILE.npy"
        )
    direction = context.model.direction(options.attribute, options.keep)
    held = f", with {', '.join(options.keep)} held" if options.keep else ""
    return direction, options.attribute + held


def logit_changes(
    context: Context[Options], images: np.ndarray, edited: np.ndarray
) -> dict[str, float]:
    """Changes of the edited pictures' own codes: the attribute's logit, and the others'."""

    model = context.model
    # The strongest edit, encoded again.
    change = model.logits(model.encode(edited[:, -1], (-1, 1))) - model.logits(model.encode(images))
    k = context.attribute(context.options.attribute)
    return {
        "logit_change": float(change[:, k].mean()),
        "others_mean_absolute_change": float(np.abs(np.delete(change, k, 1)).mean()),
    }


def read_direction(path: str, d: int) -> np.ndarray:
    try:
        direction = np.load(local(path), allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no .npy of a direction: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(direction, np.ndarray) or direction.dtype.kind not in "fiu":
        raise ValueError(f"{path} is no .npy of a direction: it holds no array of numbers")
    if direction.shape != (d,) or not np.linalg.norm(direction) > 0:
        raise ValueError(
            f"{path} must hold {d} numbers, not all 0; its shape is {list(direction.shape)}"
        )
    return direction / np.linalg.norm(direction)
