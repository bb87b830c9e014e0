"""The posterior-mean gap, and the share that G closes: Figure 4."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result
from pdae_jax.commands.options import Images, Page, Precision, Seed, Taken, option
from pdae_jax.pages.page import Curves, Section, Text

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import one_step

TIMES = 40
WORDS = (
    "At every step the frozen diffusion model must guess which picture lies under the noise; the "
    "gap is how far its guess is from the truth. z tells it more: the share that is closed is 0 % "
    "where z says nothing, and 100 % where it says all."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Seed, Taken):
    uniform: bool = option(
        False, "noise from [0, 1) instead of Gaussian, as the original's measure has it"
    )


def run(context: Context[Options]) -> Result:
    """The distance of mu_theta from the true posterior mean over t, without and with G."""
    options, images = context.options, context.pictures(64)
    times = np.unique(np.linspace(0, context.model.arch.T - 1, TIMES).astype(int))
    found = one_step.gap(context.model, images, times, seed=options.seed, uniform=options.uniform)
    context.output.write_columns("gap", ["t", "without_G", "with_G"], times, *found[1:])
    curves = Curves(
        {"without G": (times, found.bare), "with G": (times, found.shifted)},
        x_label="t",
        y_label="squared distance",
        log_y=True,
        caption=f"Mean of |mu~(x_t, x_0) - mu(x_t)|^2 over {len(images)} pictures; G closes "
        f"{found.closed:.0%} of it, summed over t.",
    )
    numbers = {"closed": found.closed, "pictures": len(images)}
    headline = {"share of the gap that z closes": found.closed}
    return Result(
        [Section("Posterior-mean gap", [Text(WORDS), curves])], numbers, headline=headline
    )
