"""Pictures with an attribute changed: Figure 11."""

import dataclasses
import zipfile
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows
from pdae_jax.commands.options import Decoding, Images, Inversion, Page, Precision, Taken, option
from pdae_jax.images import visible
from pdae_jax.pages.page import Part, Section, Table, Text
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.paths import local

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax import latent
    from pdae_jax.tasks import manipulation
    from pdae_jax.workdir import code_table


WORDS = (
    "An attribute is a direction in z: one step along it, and the same picture has more of the "
    "attribute; against it, less. The rest should stay as it was."
)
LOGIT = (
    "A logit is how sure a linear classifier of z is that a picture has the attribute: 0 is "
    "undecided, +2 is 88 % sure, -2 is 12 %. So the first change should be large and upward, and "
    "the others' small."
)
WAYS = ("classifier", "matched")
BY = (
    "the attribute's direction: classifier, as in the paper, or matched, the mean difference of "
    "training pictures alike in all other attributes"
)
INFERRED = "whether to decode from each picture's own x_T, which keeps detail, or from z alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Taken, Decoding, Inversion):
    attribute: str = option("", "attribute to change")
    keep: tuple[str, ...] = option((), "attributes to hold still")
    direction: str = option(
        "", ".npy of a direction in normalised z, instead of an attribute", path=True
    )
    by: str = option("classifier", BY, choices=WAYS)
    inferred: bool = option(True, INFERRED)
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
        if self.by == "matched" and (self.direction or self.keep):
            return "--by=matched, which holds all other attributes, with --direction or --keep"
        if self.invert_steps is not None and not self.inferred:
            return "--invert_steps with --inferred=false, which infers no x_T"
        return ""


def run(context: Context[Options]) -> Result:
    """z moved along an attribute's direction or a given one, and decoded."""
    options, images = context.options, context.pictures()
    direction, words = direction_of(context)
    context.statistics()
    edited = manipulation.manipulate(
        context.model, images, direction, options.strengths, inferred=options.inferred
    )
    shown = visible(images), visible(edited)
    rows = [np.concatenate([first[None], row]) for first, row in zip(*shown, strict=True)]
    numbers: dict[str, Any] = {"attribute": words, "strengths": list(options.strengths)}
    pictures = picture_rows(
        context,
        [("", row) for row in rows],
        columns=["original", *(f"{s:+.1f}" for s in options.strengths)],
        caption=f"Towards and away from {words}: z moved along its direction, decoded from "
        + ("each picture's own x_T." if options.inferred else "z alone."),
    )
    parts: list[Part] = [Text(WORDS), pictures]
    headline = {}
    if options.attribute in context.workdir.attributes and "classifier" in context.model.params:
        changes = logit_changes(context, images, edited)
        numbers |= changes
        headline = {f"logit of {options.attribute}, by its edit": changes["logit_change"]}
        table = [
            [options.attribute, changes["logit_change"]],
            ["the others, mean absolute", changes["others_mean_absolute_change"]],
        ]
        caption = (
            f"Of the pictures edited by {options.strengths[-1]:+.1f}, encoded again; means over "
            f"{len(images)}. {LOGIT}"
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
    codes = context.codes("train") if options.by == "matched" else None
    if not options.attribute:
        names = ", ".join(codes.attributes if codes else context.attributes())
        raise ValueError(
            f"which attribute? give --attribute=NAME, one of {names}, or --direction=FILE.npy"
        )
    if codes:
        return matched_direction(codes, options.attribute)
    direction = context.model.direction(options.attribute, options.keep)
    held = f", with {', '.join(options.keep)} held" if options.keep else ""
    return direction, options.attribute + held


def matched_direction(codes: "code_table.Codes", attribute: str) -> tuple[Any, str]:
    """The direction between training pictures that differ in an attribute, and words for it."""
    if not codes.attributes:
        raise ValueError("--by=matched goes by the labels of the training pictures: there are none")
    k = codes.attributes.index(nearest(attribute, codes.attributes, "attribute"))
    found, some = codes.labels[:, k], f"of the {len(codes.z)} training pictures"
    for y, words in ((1, "has"), (0, "lacks")):
        if not (found == y).any():
            raise ValueError(f"--by=matched cannot tell {attribute!r}: none {some} {words} it")
    try:
        direction, pairs = latent.matched_direction(codes.z, codes.labels, k)
    except ValueError as error:
        raise ValueError(
            f"--by=matched cannot tell {attribute!r}: {error}; take --by=classifier"
        ) from None
    return (
        direction,
        f"{attribute}, by the means of pictures matched in the rest ({pairs:.0f} pairs)",
    )


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
