"""The model that ships, at work: what a diffusion autoencoder does, on one page."""

import dataclasses

from pdae_jax.commands import report
from pdae_jax.commands.context import Context, Result
from pdae_jax.commands.options import option

OUT = "pdae_demo"  # the folder of the page, where no other is given

LEAD = """This is a diffusion autoencoder at work, on emoji of people that it has never seen. A
diffusion model was trained to remove noise from pictures, and frozen. PDAE then trained an encoder,
which writes each picture as a code z of a few hundred numbers, and a network that steers the frozen
model by z towards the picture.

z turns out to be meaningful: similar people have similar codes, and a straight line in z changes a
skin tone, a gender or the hair, and little else. Below, pictures are rebuilt from their codes,
changed, mixed, and made from nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(report.Options):
    every: int = option(16, "every so many-th of the pictures is shown", at_least=1)
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


def run(context: Context[Options]) -> Result:
    """The report of the model that ships, its sections that tell most, in a minute or two."""
    result = report.run(context)
    result.title, result.lead = "A diffusion autoencoder at work", LEAD
    return result
