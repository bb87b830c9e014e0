"""The mode `evaluate`: the paper's Tables 3 and 4 for one's own model, as JSON and a Markdown row."""

from pathlib import Path

from pdae_jax.commands.context import Context, Result
from pdae_jax.pages.page import Section, Table
from pdae_jax.tasks import evaluation as evaluate_lib
from pdae_jax.workdir import checkpoints as checkpoint

FID_PICTURES = 50_000


def evaluate(context: Context) -> Result:
    """Scores of reconstruction over held-out pictures, and FID of generation where it can be had."""
    options, model, metrics = context.options, context.model, context.metrics()
    data, source = context.data(), context.source()
    found = evaluate_lib.reconstruction(
        model,
        source,
        context.shared / "reconstruction",
        metrics,
        n=context.n(len(source)),
        made_from=context.made_from(),
        steps=options.steps,
        invert_steps=options.invert_steps,
        seed=options.seed,
        workers=data.workers,
        max_broken=data.max_broken,
    )
    missing = metrics.missing(model.arch.image_shape)
    if "latent" not in model.params:
        missing["FID"] = "needs a latent model: train the config's :latent variant"
    fid, against = (None, "") if "FID" in missing else _fid(context, metrics)

    weights = ", ".join(
        f"{name} {step:,}" for name, step in checkpoint.latest_steps(context.workdir).items()
    )
    numbers = {
        "reconstruction": found.means,
        "fid": fid,
        "missing": missing,
        "n": found.n,
        "broken": found.broken,
        "steps": options.steps,
        "invert_steps": options.invert_steps,
        "seed": options.seed,
        "weights": weights,
        "data": source.name,
        "reference": against,
    }
    (context.out / "row.md").write_text(_row(context, numbers))
    metric = list(next(iter(found.means.values())))
    parts = [
        Table(
            ["decoded from", *(name.upper() for name in metric)],
            [[name, *scores.values()] for name, scores in found.means.items()],
            caption=f"Means over {found.n:,} pictures of {source.name}, pixels in [0, 1]; "
            f"{options.steps} DDIM steps, x_T inferred in {options.invert_steps}.",
        )
    ]
    if fid is not None:
        parts.append(Table(["FID", "against"], [[fid, against]]))
    if missing:
        parts.append(Table(["not measured", "what it needs"], [[k, v] for k, v in missing.items()]))
    alone, inferred = found.means[evaluate_lib.ALONE], found.means[evaluate_lib.INFERRED]
    headline = {
        f"{metric}, {name}": scores[metric.lower()]
        for metric in ("MSE", "SSIM")
        for name, scores in (("z alone", alone), ("inferred x_T", inferred))
    }
    return Result(
        [Section("Scores", parts)],
        numbers,
        headline=headline | ({} if fid is None else {"FID": fid}),
    )


def _fid(context: Context, metrics) -> tuple[float, str]:
    options, data = context.options, context.data()
    n = context.n(FID_PICTURES)
    if options.reference:
        against = Path(options.reference).name
        reference = evaluate_lib.reference(Path(options.reference).expanduser(), metrics)
    else:
        source = context.source("train")
        against = f"{min(n, len(source)):,} training pictures of {source.name}"
        reference = evaluate_lib.data_reference(
            context.model,
            source,
            context.shared / "reference",
            metrics,
            n=n,
            made_from=context.made_from(),
            workers=data.workers,
            max_broken=data.max_broken,
        )
    fid = evaluate_lib.generation(
        context.model,
        context.shared / "generation",
        metrics,
        n=n,
        made_from=context.model_made_from(),
        reference=reference,
        steps=options.steps,
        latent_steps=options.latent_steps,
        stop=options.stop,
        seed=options.seed,
    )
    return fid, f"{n:,} generated against {against}"


def _row(context: Context, numbers: dict) -> str:
    """The row, under a heading to go with it."""
    means = numbers["reconstruction"]
    cells = {
        "model": context.workdir.name,
        "weights (step, EMA)": numbers["weights"],
        "data": numbers["data"],
        "n": f"{numbers['n']:,}",
        "steps, inference": f"{numbers['steps']}, {numbers['invert_steps']}",
        "seed": str(numbers["seed"]),
    }
    alone, inferred = means[evaluate_lib.ALONE], means[evaluate_lib.INFERRED]
    for metric in alone:
        cells[f"{metric.upper()}, z / inferred"] = f"{alone[metric]:.4g} / {inferred[metric]:.4g}"
    cells["FID"] = (
        "" if numbers["fid"] is None else f"{numbers['fid']:.2f} ({numbers['reference']})"
    )
    return (
        "\n".join(
            f"| {' | '.join(row)} |" for row in (cells.keys(), ["---"] * len(cells), cells.values())
        )
        + "\n"
    )
