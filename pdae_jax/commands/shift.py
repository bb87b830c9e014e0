"""x_t, and G as a picture, over t: Figure 13."""

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows
from pdae_jax.commands.denoise import Options, times_of
from pdae_jax.pages.page import Section, Text

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import one_step


WORDS = (
    "The shift is what z adds to a step of denoising: grey pixels stay as the frozen model would "
    "have them, lighter ones are pushed up and darker ones down, towards the picture that z is of."
)


def run(context: Context[Options]) -> Result:
    """The gradient estimator's output at several t."""
    images, times = context.pictures(), times_of(context.options, context.model.arch.T)
    found = one_step.denoise(context.model, images, times, seed=context.options.seed)
    rows = []
    for k, t in enumerate(times):
        scale = np.abs(found.gradient[k]).max() or 1.0
        rows += [
            (f"x_t, t = {t}", found.x_t[k]),
            (f"G, of +-{scale:.2g}", found.gradient[k] / scale),
        ]
    pictures = picture_rows(
        context, rows, "The gradient estimator's output, each row scaled to its largest value."
    )
    grids = {"shift": [row for _, row in rows]}
    return Result([Section("The shift", [Text(WORDS), pictures])], {"times": times.tolist()}, grids)
