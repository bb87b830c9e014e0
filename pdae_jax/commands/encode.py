"""A table of z of all pictures."""

import dataclasses

from etils import epy

from pdae_jax.commands.context import BATCH_SIZE, Context, Result
from pdae_jax.commands.options import Labelled, Precision, option
from pdae_jax.pages.page import Part, Section, Table

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import encoding

NAMED = 100  # broken pictures, on the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Labelled):
    keep_broken: bool = option(False, "whether broken pictures get rows, of NaN")


def run(context: Context[Options]) -> Result:
    """Codes of all given pictures, or of the run's whole data set, as npz and parquet."""
    codes = encoding.encode(
        context.model,
        context.data(),
        "all",
        context.output.code_table(),
        context.cache_key(keep_broken=context.options.keep_broken),
        batch_size=BATCH_SIZE,
        keep_broken=context.options.keep_broken,
    )
    context.output.write_parquet(codes)
    context.output.write_broken(codes.broken)
    broken, encoded = len(codes.broken), len(codes.without_broken().z)
    rows = [
        ["pictures", str(encoded)],
        ["broken", str(broken)],
        ["numbers in z", str(codes.z.shape[1])],
        ["attributes", ", ".join(codes.attributes) or "none"],
    ]
    caption = (
        "Two files beside this page: z, labels, attributes and where each picture is as npz, and "
        "the same as columns of a parquet table."
    )
    parts: list[Part] = [Table(["", ""], rows, caption=caption)]
    if broken:
        kept = "rows of NaN" if context.options.keep_broken else "no row"
        caption = f"Could not be read, and have {kept} in the tables; all are in broken.tsv."
        named = [list(map(str, row)) for row in codes.broken[:NAMED]]
        parts.append(Table(["broken picture", "reason"], named, caption=caption))
    numbers = {"pictures": encoded, "broken": broken, "z": codes.z.shape[1]}
    return Result([Section("Codes", parts)], numbers)
