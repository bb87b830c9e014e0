"""Modes that make pictures from nothing: Figure 12 and what is below it."""

import shutil
import sys
from pathlib import Path

import numpy as np

from pdae_jax import latent
from pdae_jax.commands.context import Context, Options, Result, lines, pairs, picture
from pdae_jax.images import to_uint8, visible
from pdae_jax.pages.page import Pictures, Section, Table
from pdae_jax.runtime import processes
from pdae_jax.tasks.few_shot import few_shot_classifier
from pdae_jax.tasks.generation import generate as generate_pictures
from pdae_jax.tasks.generation import generate_codes_of_class
from pdae_jax.workdir import few_shot_record as fewshot_lib
from pdae_jax.workdir import samples_npz as sample_file
from pdae_jax.workdir.chunk_cache import Parts

GRID = 64  # pictures shown, of however many
PART_ROWS = 256


def generate(context: Context) -> Result:
    """Pictures from the latent model, any number, as samples.npz or a folder of PNGs."""
    options, n = context.options, context.n(GRID)
    context.model.need("latent")
    drawn = {
        "steps": options.steps,
        "latent_steps": options.latent_steps,
        "stop": options.stop,
        "clamp": options.clamp,
        "clip": options.clip,
        "seed": options.seed,
    }

    def make(rows, advance):
        made = generate_pictures(context.model, rows, **drawn)
        advance(len(rows))
        return {"images": to_uint8(made.images)}

    parts = Parts(context.shared / "parts", context.model_made_from() | drawn, size=PART_ROWS)
    shown: list[np.ndarray] = []

    def images():
        for part in parts.run(n, make, "generate"):
            shown.extend(part["images"][: GRID - len(shown)])
            yield part["images"]

    if options.save == "folder":
        _save_pngs(context.out / "samples", images())
    else:  # as ADM's evaluation reads it
        sample_file.write(
            context.out / "samples.npz", images(), (n, *context.model.arch.image_shape)
        )
    parts.remove()
    rows = lines(np.stack(shown), 16)
    return Result(
        [
            Section(
                "Generation",
                [
                    Pictures(
                        [("", visible(row)) for row in rows],
                        caption=f"z from the latent diffusion model ({options.latent_steps} steps), x_T at random, "
                        f"{options.steps} DDIM steps, the last {options.stop:.0%} of them without z.",
                    )
                ],
            )
        ],
        {"n": n} | drawn,
        {"generate": rows},
    )


def _save_pngs(folder: Path, parts) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # fewer than before would leave others behind
    folder.mkdir()
    number = 0
    for images in parts:
        for image in images:
            picture(visible(image)).save(folder / f"{number:06d}.png")
            number += 1


def fewshot(context: Context) -> Result:
    """Class-conditional generation from few labels, by rejection (Figure 12)."""
    options = context.options
    params, shots = _fit(context) if options.attribute else fewshot_lib.read(context.workdir)
    context.model.need("latent")
    accepted = generate_codes_of_class(
        context.model,
        params,
        context.n(GRID),
        latent_steps=options.latent_steps,
        clamp=options.clamp,
        clip=options.clip,
        seed=options.seed,
    )
    numbers = shots | {
        "wanted": context.n(GRID),
        "made": len(accepted.z),
        "drawn": accepted.drawn,
        "acceptance": accepted.rate,
    }
    if not len(accepted.z):
        print(
            f"fewshot: the classifier refused all {accepted.drawn} codes: give more labels, or "
            f"train the latent model longer",
            file=sys.stderr,
        )
        return Result([Section("Few-shot generation", [Table(["", ""], pairs(numbers))])], numbers)
    images = to_uint8(
        context.model.decode(accepted.z, steps=options.steps, rng=options.seed, stop=options.stop)
    )
    said = ""
    full = _full_classifier(context, shots["attribute"])
    if full:
        for name, z in (
            ("agreement", accepted.z),
            ("agreement_of_pictures", context.model.encode(images)),
        ):
            z = np.asarray(latent.normalise(context.statistics(), z))
            numbers[name] = float((z @ full["kernel"] + full["bias"] > 0).mean())
        said = (
            f" A classifier of all labels agrees with {numbers['agreement']:.0%} of them, and "
            f"with {numbers['agreement_of_pictures']:.0%} of the pictures, encoded again."
        )
    rows = lines(images[:GRID], 16)
    return Result(
        [
            Section(
                "Few-shot generation",
                [
                    Pictures(
                        [("", visible(row)) for row in rows],
                        caption=f"{shots['attribute']}, from {shots['labelled']} labelled and "
                        f"{shots['unlabelled']} unlabelled pictures: {accepted.rate:.1%} of the "
                        f"latent model's codes were taken.{said}",
                    ),
                    Table(["", ""], pairs(numbers)),
                ],
            )
        ],
        numbers,
        {"fewshot": rows},
        {f"few-shot {shots['attribute']}, agreed": numbers["agreement"]} if said else {},
    )


def fit_few_shot(workdir: Path, options: Options) -> None:
    """Fits the few-shot classifier that the options describe, and keeps it in workdir."""
    if not options.attribute:
        raise ValueError("which attribute? give --config.fewshot.attribute=NAME")
    classifier = _fit(Context(workdir, options, workdir / "codes" / "fewshot"))
    fewshot_lib.write(workdir, classifier)
    if processes.writes():
        print("fewshot: " + ", ".join(f"{k} {v}" for k, v in classifier.record.items()))


def _fit(context: Context) -> fewshot_lib.FewShot:
    options = context.options
    return fewshot_lib.fit(
        *_tables(context),
        options.attribute,
        options.positives,
        options.negatives,
        options.unlabelled,
        seed=options.seed,
    )


def _tables(context: Context):
    """Codes with the labels to choose from, and those that are taken for unlabelled."""
    if not context.options.labels:
        table = context.codes("train")
        return table, table
    mine = context.normalised(context.encode(context.shared / "codes"))
    return mine, context.codes("train") if context.options.unlabelled else mine


def _full_classifier(context: Context, attribute: str) -> dict | None:
    """A classifier of all labels that the run's data has for an attribute, or None."""
    if context.given is None and context.trained() is None:
        return None
    table = context.codes("train")
    if attribute not in table.attributes:
        return None
    y = table.labels[:, table.attributes.index(attribute)]
    known = np.isfinite(y)
    return few_shot_classifier(table.z[known], y[known])
