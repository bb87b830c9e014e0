"""Pictures from z alone and from z with the inferred x_T: Figures 5 to 7."""

import dataclasses

from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows, score_table
from pdae_jax.commands.options import Count, Decoding, Images, Inversion, Precision, Seed, option
from pdae_jax.images import to_uint8
from pdae_jax.pages.page import Section

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import reconstruction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Images, Seed, Count, Decoding, Inversion):
    ddpm: bool = option(True, "whether to decode by DDPM too, in all T steps")


def run(context: Context[Options]) -> Result:
    """From z alone with several x_T, with the inferred x_T, by DDPM."""
    options, images = context.options, context.pictures()
    found = reconstruction.reconstruct(
        context.model,
        images,
        steps=options.steps,
        ddpm=options.ddpm,
        invert_steps=options.invert_steps,
        seed=options.seed,
    )
    rows = [("original", images)]
    rows += [("z alone, x_T random", to_uint8(decoded)) for decoded in found.from_z]
    rows.append(("z and inferred x_T", to_uint8(found.inferred)))
    measured = {
        "z alone": reconstruction.scores(images, found.from_z[0]),
        "z, inferred x_T": reconstruction.scores(images, found.inferred),
    }
    ddpm = ""
    if found.ddpm is not None:
        rows.append(("z alone, DDPM", to_uint8(found.ddpm)))
        measured["z alone, DDPM"] = reconstruction.scores(images, found.ddpm)
        ddpm = " (the last row: all DDPM steps)"
    pictures = picture_rows(
        rows,
        f"Decoded in {options.steps} DDIM steps{ddpm}. The rows from z alone share what z says and "
        f"differ by their x_T. x_T is inferred in {options.invert_steps} steps.",
    )
    table = score_table(measured, f"Means over these {len(images)} pictures, pixels in [0, 1].")
    grids = {"reconstruct": [row for _, row in rows]}
    return Result([Section("Reconstruction", [pictures, table])], measured, grids)
