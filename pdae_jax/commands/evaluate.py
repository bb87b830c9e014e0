"""SSIM, LPIPS, MSE and FID, as JSON and a Markdown row: Tables 3 and 4."""

import dataclasses
from pathlib import Path
from typing import Any

from etils import epy

from pdae_jax.commands.context import Context, Result, score_table
from pdae_jax.commands.options import (
    Count,
    Decoding,
    Drawing,
    Generation,
    Images,
    Inversion,
    Page,
    Precision,
    Seed,
    option,
)
from pdae_jax.pages.page import Part, Section, Table, Text
from pdae_jax.runtime.paths import local

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.metrics import measure
    from pdae_jax.tasks import evaluation
    from pdae_jax.workdir import samples_npz
    from pdae_jax.workdir import workdir as workdir_lib

FID_PICTURES = 50_000
WORDS = (
    "How far decoded pictures are from the originals. MSE: the mean squared difference of pixels, "
    "0 where there is none. SSIM: the likeness of edges and textures, 1 where they are the same. "
    "LPIPS: the difference as a network that knows photographs sees it, 0 where there is none. "
    "FID: how far generated pictures as a whole are from real ones; less is better."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Seed, Count, Decoding, Inversion, Drawing, Generation):
    metrics: str = option("", "directory of the converted weights of LPIPS and FID", path=True)
    reference: str = option(
        "", "ADM's .npz for FID to compare with; else the run's training pictures", path=True
    )

    def ignored(self) -> str:
        if self.reference and not self.metrics:
            return "--reference without --metrics=DIR, which FID needs"
        return ""


def run(context: Context[Options]) -> Result:
    """Scores of reconstruction over held-out pictures, and FID where it can be had."""
    options, model, protocol = context.options, context.model, context.model.protocol
    metrics = metrics_of(options.metrics)
    if options.reference:  # before hours of scores, not after
        with samples_npz.open_reference(local(options.reference)):
            pass
    data, source = context.data(), context.source()
    key = context.cache_key(
        **context.sampling,
        seed=options.seed,
        metrics=identity_of(metrics, options.metrics),
    )
    found = evaluation.reconstruction(
        model,
        data,
        source,
        metrics,
        context.output.chunks("reconstruction", key, evaluation.CHUNK_ROWS),
        n=context.n(len(source)),
        seed=options.seed,
    )
    missing = metrics.missing(model.arch.image_shape)
    if "latent" not in model.params:
        missing["FID"] = "needs a latent model: train the config's :latent variant"
    fid, against = (None, "") if "FID" in missing else fid_of(context, metrics)

    steps = context.workdir.latest_steps.items()
    numbers = {
        "reconstruction": found.means,
        "fid": fid,
        "missing": missing,
        "n": found.n,
        "broken": found.broken,
        "protocol": context.sampling["protocol"],
        "seed": options.seed,
        "weights": ", ".join(f"{name} {step:,}" for name, step in steps),
        "data": source.name,
        "reference": against,
    }
    context.output.write_markdown("row", markdown_row(context.workdir.name, numbers))
    parts: list[Part] = [
        Text(WORDS),
        score_table(
            found.means,
            f"Means over {found.n:,} pictures of {source.name}, pixels in [0, 1]. z alone: "
            f"{protocol.draw} from x_T of temperature {protocol.temperature:g}; x_T inferred in "
            f"{protocol.invert} and decoded in {protocol.decode}.",
        ),
    ]
    if fid is not None:
        parts.append(Table(["FID", "against"], [[fid, against]]))
    if missing:
        rows = [[metric, remedy] for metric, remedy in missing.items()]
        parts.append(Table(["not measured", "what it needs"], rows))
    kinds = {"z alone": evaluation.ALONE, "inferred x_T": evaluation.INFERRED}
    headline = {
        f"{metric}, {name}": found.means[kind][metric.lower()]
        for metric in ("MSE", "SSIM")
        for name, kind in kinds.items()
    }
    headline |= {} if fid is None else {"FID": fid}
    return Result([Section("Scores", parts)], numbers, headline=headline)


def metrics_of(folder: str) -> "measure.Metrics":
    """The metrics whose weights are in a folder; without one those that need none."""
    if not folder:
        return measure.Metrics()
    there = workdir_lib.Workdir(folder)
    groups = [group for group in there.groups if group in measure.GROUPS]
    if not groups:
        raise ValueError(
            f"no metric weights in {there}: import the files with tools/convert_torch_weights.py "
            f"(docs/checkpoints.md)"
        )
    return measure.Metrics(there.weights(groups))


def identity_of(metrics: "measure.Metrics", folder: str) -> dict[str, Any]:
    """The metrics' part of a cache key: which there are, and where their weights are from."""
    return {"groups": sorted(metrics.params), "folder": str(Path(folder).resolve())}


def fid_of(context: Context[Options], metrics: "measure.Metrics") -> tuple[float, str]:
    """FID of generated pictures, and words on what they are compared with."""
    options, output = context.options, context.output
    n, size = context.n(FID_PICTURES), evaluation.CHUNK_ROWS
    weights = identity_of(metrics, options.metrics)
    if options.reference:
        against = Path(options.reference).name
        reference = reference_of(local(options.reference), metrics)
    else:
        data = context.data()
        source = data.open("all" if context.given else "train", context.model.value_range)
        against = f"{min(n, len(source)):,} training pictures of {source.name}"
        chunks = output.chunks("reference", context.cache_key(metrics=weights), size)
        reference = evaluation.data_reference(context.model, data, source, metrics, chunks, n=n)
    drawn = {name: getattr(options, name) for name in ("stop", "temperature", "seed")}
    key = context.model_cache_key(**drawn, **context.sampling, metrics=weights)
    fid = evaluation.generation(
        context.model,
        metrics,
        output.chunks("generation", key, size),
        n=n,
        reference=reference,
        **drawn,
    )
    return fid, f"{n:,} generated against {against}"


def reference_of(path: Path, metrics: "measure.Metrics") -> "evaluation.Reference":
    """Mean and covariance of the features of ADM's reference file: as stored, or its pictures'."""
    with samples_npz.open_reference(path) as file:
        return file.moments or evaluation.pictures_reference(file.pictures, metrics)


def markdown_row(model: str, numbers: dict[str, Any]) -> str:
    """The row, under a heading to go with it."""
    means = numbers["reconstruction"]
    decode, invert = (numbers["protocol"][way] for way in ("decode", "invert"))
    cells = {
        "model": model,
        "weights (step, EMA)": numbers["weights"],
        "data": numbers["data"],
        "n": f"{numbers['n']:,}",
        "steps, inference": f"{decode['steps']}, {invert['steps']} ({decode['solver']})",
        "seed": str(numbers["seed"]),
    }
    alone, inferred = means[evaluation.ALONE], means[evaluation.INFERRED]
    for metric in alone:
        cells[f"{metric.upper()}, z / inferred"] = f"{alone[metric]:.4g} / {inferred[metric]:.4g}"
    fid = numbers["fid"]
    cells["FID"] = "" if fid is None else f"{fid:.2f} ({numbers['reference']})"
    rows = (cells.keys(), ["---"] * len(cells), cells.values())
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
