"""Pictures from z alone and from z with the inferred x_T: Figures 5 to 7."""

import dataclasses
from typing import Any

from etils import epy

from pdae_jax.commands.context import (
    Context,
    Result,
    channel_names,
    picture_rows,
    score_table,
    single_channels,
)
from pdae_jax.commands.options import (
    Decoding,
    Images,
    Inversion,
    Page,
    Precision,
    Seed,
    Taken,
    option,
)
from pdae_jax.pages.page import Part, Section, Table, Text

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import reconstruction


WORDS = (
    "Each column is one picture. From z alone one sees what its code has kept, and with z and the "
    "inferred x_T nearly all of it, however well or badly the model is trained."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Seed, Taken, Decoding, Inversion):
    ddpm: bool | None = option(
        None,
        "whether to decode by DDPM too, in all T steps; else as the paper did, by its protocol",
    )


def run(context: Context[Options]) -> Result:
    """From z alone with several x_T, with the inferred x_T, by DDPM."""
    options, images, protocol = context.options, context.pictures(), context.model.protocol
    found = reconstruction.reconstruct(
        context.model,
        images,
        ddpm=options.protocol == "paper" if options.ddpm is None else options.ddpm,
        seed=options.seed,
    )
    rows = [("original", images), ("z alone, x_T = 0", found.alone)]
    rows += [("z alone, x_T random", decoded) for decoded in found.from_z]
    rows.append(("z and inferred x_T", found.inferred))
    measured = {
        "z alone, x_T = 0": reconstruction.scores(images, found.alone),
        "z alone, x_T random": reconstruction.scores(images, found.from_z[0]),
        "z, inferred x_T": reconstruction.scores(images, found.inferred),
    }
    ddpm = ""
    if found.ddpm is not None:
        rows.append(("z alone, DDPM", found.ddpm))
        measured["z alone, DDPM"] = reconstruction.scores(images, found.ddpm)
        ddpm = " (the last row: all DDPM steps)"
    pictures = picture_rows(
        context,
        rows,
        f"From z alone in {protocol.draw}{ddpm}: the rows share what z says and differ by their "
        f"x_T. x_T is inferred in {protocol.invert}, and decoded in {protocol.decode}.",
    )
    table = score_table(measured, f"Means over these {len(images)} pictures, pixels in [0, 1].")
    grids = {"reconstruct": [row for _, row in rows]}
    numbers: dict[str, Any] = dict(measured)
    parts: list[Part] = [Text(WORDS), pictures, table]
    value_range = context.model.value_range
    if value_range and not value_range.eight_bit and not value_range.own:
        errors = {
            label: reconstruction.errors_in_units(value_range, images, decoded)
            for label, decoded in (("z alone", found.alone), ("inferred x_T", found.inferred))
        }
        numbers["rmse_in_units"] = {label: one.tolist() for label, one in errors.items()}
        names = channel_names(context)
        rows_of_units = [[name, *map(float, one)] for name, *one in zip(names, *errors.values())]
        caption = (
            f"Root mean squared error in the units of the files, whose values from {value_range} "
            f"are black to white."
        )
        header = ["", *(f"RMSE, {label}" for label in errors)]
        parts.append(Table(header, rows_of_units, caption=caption))
    some = [rows[0], rows[1], ("z and inferred x_T", found.inferred)]
    parts += single_channels(context, some)
    return Result([Section("Reconstruction", parts)], numbers, grids)
