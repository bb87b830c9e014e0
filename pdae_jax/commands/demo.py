"""The model that ships, at work: what a diffusion autoencoder does, on one page."""

import dataclasses

from pdae_jax.commands import manipulate, report
from pdae_jax.commands.context import Context, Result
from pdae_jax.commands.options import option

OUT = "pdae_demo"  # the folder of the page, where no other is given

LEAD = """This is a diffusion autoencoder at work, on emoji of people that it has never seen. A
diffusion model was trained to remove noise from pictures, and frozen. PDAE then trained an encoder,
which writes each picture as a code z of a few hundred numbers, and a network that steers the frozen
model by z towards the picture.

What z leaves open, the picture's finest detail, is in x_T, the noise that decoding starts from: it
can be inferred from a picture, and with both the picture comes back.

z turns out to be meaningful: similar people have similar codes, and a straight line in z changes a
skin tone, a gender or the hair, and little else. Below, pictures are rebuilt from their codes,
changed, mixed, and made from nothing; the changed ones are decoded from z alone, where one sees
what z says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(report.Options):
    every: int = option(16, "every so many-th picture is taken", at_least=1)
    temperature: float | None = option(
        0.3, "size of the x_T drawn of what is generated, 0 for none", at_least=0
    )
    sections: tuple[str, ...] = option(
        ("reconstruct", "manipulate", "interpolate", "generate", "project"),
        f"sections of the page: {', '.join(report.COMMANDS)}",
    )
    attributes: tuple[str, ...] = option(
        ("dark skin", "woman", "white hair"), "attributes to show edits of"
    )
    by: str = option("matched", manipulate.BY, choices=manipulate.WAYS)
    inferred: bool = option(False, manipulate.INFERRED)
    strengths: tuple[float, ...] = option(
        (-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6), "strengths of the edits, about -1 to 1"
    )


def run(context: Context[Options]) -> Result:
    """The report of the model that ships, its sections that tell most, in a minute or two."""
    result = report.run(context)
    model_and_data, *pictures, how_made = result.sections  # a stranger wants to see pictures first
    result.sections, result.headline = [*pictures, model_and_data, how_made], {}
    result.title, result.lead = "A diffusion autoencoder at work", LEAD
    return result
