"""The x_0 that one step implies, without and with G: Figures 1 to 3."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows
from pdae_jax.commands.options import Images, Page, Precision, Seed, Taken, Times
from pdae_jax.pages.page import Section, Table, Text

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import one_step, reconstruction

WORDS = (
    "A picture is made noisy to time t, and the model guesses it back in a single step, without z "
    "and with it. The noisier it is, the more of the guess must come from z."
)
SHOWN = (0.1, 0.3, 0.5, 0.7, 0.9)  # of T, where no times are asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Seed, Taken, Times):
    pass


def run(context: Context[Options]) -> Result:
    """One-step x_0 at several t."""
    images, times = context.pictures(), times_of(context.options, context.model.arch.T)
    found = one_step.denoise(context.model, images, times, seed=context.options.seed)
    rows, errors = [("original", images)], []
    for k, t in enumerate(times):
        both = {"without_G": found.bare[k], "with_G": found.shifted[k]}
        rows += [
            (f"x_t, t = {t}", found.x_t[k]),
            ("x_0 without G", found.bare[k]),
            ("x_0 with G", found.shifted[k]),
        ]
        mse = {name: reconstruction.scores(images, x)["mse"] for name, x in both.items()}
        errors.append({"t": int(t), **mse})
    table = Table(
        ["t", "MSE without G", "MSE with G"],
        [[e["t"], e["without_G"], e["with_G"]] for e in errors],
    )
    pictures = picture_rows(context, rows, "The x_0 that a single step implies, at several t.")
    grids = {"denoise": [row for _, row in rows]}
    return Result([Section("One step", [Text(WORDS), pictures, table])], {"mse": errors}, grids)


def times_of(options: Times, T: int) -> np.ndarray:
    """The times asked for, or five."""
    return np.array(options.times or np.multiply(SHOWN, T - 1)).astype(int)
