"""The posterior-mean gap, and the share that G closes: Figure 4."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result
from pdae_jax.commands.options import Count, Images, Precision, Seed, option
from pdae_jax.pages.page import Curves, Section

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import one_step

TIMES = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Images, Seed, Count):
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
    headline = {"gap closed": found.closed}
    return Result([Section("Posterior-mean gap", [curves])], numbers, headline=headline)
