"""Pictures from the latent model."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, in_lines, picture_rows
from pdae_jax.commands.options import (
    Count,
    Decoding,
    Drawing,
    Generation,
    LatentNoise,
    Page,
    Precision,
    Seed,
    option,
)
from pdae_jax.images import Scaled, to_uint8
from pdae_jax.pages.page import Section, Text

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax import samplers
    from pdae_jax.workdir import chunk_cache

SHOWN = 64  # pictures, of however many
CHUNK_ROWS = 256
WORDS = (
    "Pictures of nothing that exists: a second, small diffusion model, of codes, draws each z, and "
    "it is decoded."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Seed, Count, Decoding, Drawing, Generation, LatentNoise):
    samples: str = option(
        "npz",
        "how to save all pictures: npz of 8 bits, units (npy in the units of the files), or folder "
        "of PNGs",
        choices=("npz", "units", "folder"),
    )


def run(context: Context[Options]) -> Result:
    """Any number of pictures, as ADM's npz or a folder of PNGs."""
    options, n, protocol = context.options, context.n(SHOWN), context.model.protocol
    model, in_units = context.model, options.samples == "units"
    model.need("latent")
    if in_units:  # before hours of generation, not after
        model.to_units(np.zeros((0, *model.arch.image_shape), np.float32))
    how = {name: getattr(options, name) for name in ("stop", "temperature", "clamp", "clip")}
    drawn = how | {"seed": options.seed}

    def generate(rows: range, advance: "chunk_cache.Advance") -> "chunk_cache.Arrays":
        rngs = samplers.keys(options.seed, rows)
        made = context.model.generate(len(rows), rng=rngs, **how)
        advance(len(rows))
        return {"images": model.to_units(made) if in_units else to_uint8(made)}

    chunks = context.output.chunks(
        "chunks", context.model_cache_key(**drawn, **context.sampling, units=in_units), CHUNK_ROWS
    )
    shown: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for chunk in chunks.run(n, generate, "generate"):
            some = chunk["images"][: SHOWN - len(shown)]
            units = model.value_range if in_units else None
            shown.extend(some if units is None else Scaled(some, units)[:])
            yield chunk["images"]

    shape = (n, *context.model.arch.image_shape)
    context.output.save_samples(images(), shape, options.samples)
    chunks.remove()
    rows = in_lines(np.stack(shown), 16)
    pictures = picture_rows(
        context,
        [("", row) for row in rows],
        f"z from the latent diffusion model ({protocol.latent_steps} steps), x_T at random, "
        f"decoded in {protocol.stopped if options.stop else protocol.draw}, below "
        f"{options.stop:.0%} of T without z.",
    )
    return Result(
        [Section("Generation", [Text(WORDS), pictures])], {"n": n} | drawn, {"generate": rows}
    )
