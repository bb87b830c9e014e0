"""z of all pictures as tables: parquet, npz, h5ad, h5, or tables for GWAS."""

import dataclasses

from etils import epy

import pdae_jax
from pdae_jax.commands.context import BATCH_SIZE, Context, Result
from pdae_jax.commands.options import Labelled, Precision, option
from pdae_jax.pages.page import Part, Section, Table
from pdae_jax.runtime.choices import nearest

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import encoding

NAMED = 100  # broken pictures, on the page
FORMATS = ("parquet", "npz", "h5ad", "h5", "gwas")  # of workdir.code_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Labelled):
    format: tuple[str, ...] = option(
        ("parquet",), f"files to write: {', '.join(FORMATS)}, or several comma-separated"
    )
    thumbnails: bool = option(False, "whether the parquet file has the pictures, at most 64 px")
    keep_broken: bool = option(False, "whether broken pictures get rows, of NaN")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.format:
            raise ValueError(f"format names no file: give some of {', '.join(FORMATS)}")
        for name in self.format:
            nearest(name, FORMATS, "format")

    def ignored(self) -> str:
        if self.thumbnails and "parquet" not in self.format:
            return f"thumbnails are of parquet, and format is {','.join(self.format)}"
        return ""


def run(context: Context[Options]) -> Result:
    """Codes of all given pictures, or of the run's whole data set, written chunk by chunk.

    Any number of pictures; docs/codes.md says what is in the files, and how to open them.
    """
    options, value_range = context.options, context.model.value_range
    files = context.output.code_files(tuple(dict.fromkeys(options.format)))
    key = context.cache_key(keep_broken=options.keep_broken)
    if options.thumbnails:
        key["thumbnails"] = True
    found = encoding.stream(
        context.model,
        context.data(),
        "all",
        files,
        key,
        batch_size=BATCH_SIZE,
        keep_broken=options.keep_broken,
        thumbnails=options.thumbnails,
        record={
            "model": context.workdir.name,
            "checkpoints": context.workdir.contents,
            "range": str(value_range) if value_range else "",
            "command": context.line,
            "pdae_jax": pdae_jax.__version__,
        },
    )
    context.output.write_broken(found.broken)
    broken = len(found.broken)
    rows = [
        ["pictures", str(found.pictures)],
        ["broken", str(broken)],
        ["numbers in z", str(found.z_size)],
        ["attributes", ", ".join(found.attributes) or "none"],
        *([name, f"{size / 1e6:.1f} MB"] for name, size in files.sizes().items()),
    ]
    caption = (
        "The files beside this page hold a row of z for each picture, with its path within the "
        "data's folder, its labels, and its split and group where there are any; docs/codes.md "
        "says how to open them."
    )
    parts: list[Part] = [Table(["", ""], rows, caption=caption)]
    if broken:
        kept = "rows of NaN" if options.keep_broken else "no row"
        caption = f"Could not be read, and have {kept} in the tables; all are in broken.tsv."
        named = [list(one) for one in found.broken[:NAMED]]
        parts.append(Table(["broken picture", "reason"], named, caption=caption))
    numbers = {"pictures": found.pictures, "broken": broken, "z": found.z_size}
    return Result([Section("Codes", parts)], numbers)
