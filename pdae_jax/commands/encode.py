"""A table of z of all pictures."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import BATCH_SIZE, Context, Result
from pdae_jax.commands.options import Labelled, Precision
from pdae_jax.pages.page import Section, Table

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import encoding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Labelled):
    pass


def run(context: Context[Options]) -> Result:
    """Codes of all given pictures, or of the run's whole data set, as npz and parquet."""
    codes = encoding.encode(
        context.model,
        context.data(),
        "all",
        context.output.code_table(),
        context.cache_key(),
        batch_size=BATCH_SIZE,
    )
    context.output.write_parquet(codes)
    broken = int(np.isnan(codes.z).any(1).sum())
    rows = [
        ["pictures", str(len(codes.z))],
        ["broken", str(broken)],
        ["numbers in z", str(codes.z.shape[1])],
        ["attributes", ", ".join(codes.attributes) or "none"],
    ]
    caption = (
        "Two files beside this page: z, labels, attributes and where each picture is as npz, and "
        "the same as columns of a parquet table."
    )
    numbers = {"pictures": len(codes.z), "broken": broken, "z": codes.z.shape[1]}
    return Result([Section("Codes", [Table(["", ""], rows, caption=caption)])], numbers)
