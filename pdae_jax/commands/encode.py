"""z of all pictures as tables: parquet, npz, h5ad, h5, or tables for GWAS."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epy

import pdae_jax
from pdae_jax.commands import project
from pdae_jax.commands.context import BATCH_SIZE, Context, Result, in_lines, picture_rows
from pdae_jax.commands.options import Labelled, Page, Precision, option
from pdae_jax.pages.page import Part, Rendered, Section, Table, rendered
from pdae_jax.runtime.choices import nearest

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.tasks import encoding, projection

NAMED = 100  # broken pictures, on the page
MAPPED, SHOWN, ACROSS = 500, 40, 10  # pictures on the map, and beside it, in a row
THUMBNAIL = 48  # pixels, at most
FORMATS = ("parquet", "npz", "h5ad", "h5", "gwas")  # of workdir.code_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Labelled):
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
    numbers = {"pictures": found.pictures, "broken": broken, "numbers in z": found.z_size}
    sections = [Section("Codes", parts)]
    if found.pictures >= projection.LEAST:
        shown, warning = looks(context, key)
        return Result([*sections, *shown], numbers, warning=warning)
    return Result(sections, numbers)


def looks(
    context: Context[Options], cache_key: dict[str, Any]
) -> tuple[Sequence[Section | Rendered], str]:
    """Some of the pictures, a map of their codes, and a warning where they are unlike the training.

    As they were for the same table.
    """
    key = cache_key | {"pdae_jax": pdae_jax.__version__}
    if not context.options.save and (kept := context.output.kept(key)):
        return [Rendered(*section) for section in kept["sections"]], kept["warning"]
    data = context.data()
    source = data.open("all", context.model.value_range)
    tolerant = dataclasses.replace(data, max_broken=1.0)  # of these few more may be broken
    taken = projection.take(context.model, tolerant, source, MAPPED, THUMBNAIL)
    places = projection.evenly(SHOWN, len(taken.thumbnails))
    rows = [("", row) for row in in_lines(taken.thumbnails[places], ACROSS)]
    pictures = picture_rows(
        context, rows, f"{len(places)} of the pictures, as the encoder sees them, taken evenly."
    )
    found = project.map_of(context, source, taken)
    sections = [Section("Pictures", [pictures]), Section("Map of the codes", found.parts)]
    shown = [dataclasses.astuple(rendered(section)) for section in sections]
    warning = context.unlike_the_training()
    context.output.keep(key, {"sections": shown, "warning": warning, "files": []})
    return sections, warning
