"""Modes on z itself: tables of codes, probes, edits."""

import numpy as np
from sklearn.decomposition import PCA

from pdae_jax import data as data_lib
from pdae_jax import latent
from pdae_jax.commands.context import Context, Result
from pdae_jax.images import to_uint8, visible
from pdae_jax.pages.page import Pictures, Section, Table
from pdae_jax.tasks import linear_probe as probe_lib
from pdae_jax.tasks import manipulation as manipulate_lib
from pdae_jax.workdir import code_table as codes_lib


def encode(context: Context) -> Result:
    """The table of z: codes.npz and, where pyarrow is installed, codes.parquet."""
    table = context.encode(context.shared)
    codes_lib.write_parquet(table, context.out / "codes.parquet")
    broken = int(np.isnan(table.z).any(1).sum())
    rows = [
        ["pictures", str(len(table.z))],
        ["broken", str(broken)],
        ["numbers in z", str(table.z.shape[1])],
        ["attributes", ", ".join(table.attributes) or "none"],
    ]
    return Result(
        [
            Section(
                "Codes",
                [
                    Table(
                        ["", ""],
                        rows,
                        caption="codes.npz has z, labels, "
                        "attributes and where each picture is; codes.parquet "
                        "the same as columns.",
                    )
                ],
            )
        ],
        {"pictures": len(table.z), "broken": broken, "z": table.z.shape[1]},
    )


def manipulate(context: Context) -> Result:
    """Figure 11: z moved along an attribute's direction or a given one, from the picture's x_T."""
    options, images = context.options, context.pictures()
    if options.direction:
        direction = _direction(options.direction, context.model.arch.z_size)
        words = f"the direction in {options.direction}"
    else:
        if not options.attribute:
            raise ValueError(
                f"which attribute? give --attribute=NAME, one of "
                f"{', '.join(context.attributes())}, or --direction=FILE.npy"
            )
        fixed = [context.attribute(name) for name in options.keep]
        k = context.attribute(options.attribute)  # which a model without a classifier does not have
        direction = latent.direction(context.model.params["classifier"], k, fixed)
        words = options.attribute + (f", with {', '.join(options.keep)} held" if fixed else "")
    context.statistics()
    edited = manipulate_lib.manipulate(
        context.model,
        images,
        direction,
        options.strengths,
        steps=options.steps,
        invert_steps=options.invert_steps,
    )
    rows = [np.concatenate([images[i : i + 1], to_uint8(edited[i])]) for i in range(len(images))]
    numbers = {"attribute": words, "strengths": list(options.strengths)}
    parts = [
        Pictures(
            [("", visible(row)) for row in rows],
            columns=["original", *(f"{s:+.1f}" for s in options.strengths)],
            caption=f"Towards and away from {words}: z moved along its direction, decoded "
            f"from each picture's own x_T.",
        )
    ]
    headline = {}
    if "classifier" in context.model.params and not options.direction:
        moved = _moved(context, images, edited)
        numbers |= moved
        headline = {f"{options.attribute}: logit's change": moved["logit_change"]}
        parts.append(
            Table(
                ["logit", "change"],
                [
                    [options.attribute, moved["logit_change"]],
                    ["the others, mean absolute", moved["others_mean_absolute_change"]],
                ],
                caption=f"Of the pictures edited by {options.strengths[-1]:+.1f}, encoded again; means "
                f"over {len(images)}.",
            )
        )
    return Result([Section("Manipulation", parts)], numbers, {"manipulate": rows}, headline)


def _moved(context: Context, images, edited) -> dict:
    """How far the edited pictures' own codes moved: the attribute's logit, and the others'."""

    def logits(x):
        z = latent.normalise(context.statistics(), context.model.encode(x))
        return np.asarray(latent.logits(context.model.params["classifier"], z))

    before = logits(images)
    after = logits(np.asarray(edited[:, -1]))  # the strongest edit, encoded again
    k = context.attribute(context.options.attribute)
    change = after - before
    return {
        "logit_change": float(change[:, k].mean()),
        "others_mean_absolute_change": float(np.abs(np.delete(change, k, 1)).mean()),
    }


def _direction(path: str, d: int) -> np.ndarray:
    try:
        direction = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is no .npy of a direction: {str(error).splitlines()[0]}"
        ) from error
    if direction.shape != (d,) or not np.linalg.norm(direction) > 0:
        raise ValueError(
            f"{path} must hold {d} numbers, not all 0; its shape is {list(direction.shape)}"
        )
    return direction / np.linalg.norm(direction)


def probe(context: Context) -> Result:
    """What a linear model reads out of z, of the pixels and of as many principal components."""
    train, test = context.codes("train"), context.codes("test")
    if not train.attributes:
        raise ValueError(
            "the data has no attributes to probe: give a table of them when training, "
            "--config.data.attributes=FILE.csv"
        )
    features = {"z": (train.z, test.z)}
    pixels = [
        _pixels(context, split, len(table.z)) for split, table in (("train", train), ("test", test))
    ]
    if pixels[0] is not None:
        pca = PCA(min(train.z.shape[1], *pixels[0].shape), random_state=0).fit(pixels[0])
        features |= {
            "pixels": tuple(pixels),
            "principal components": tuple(map(pca.transform, pixels)),
        }
    found = {
        name: probe_lib.probe(
            a, train.labels, b, test.labels, train.attributes, seed=context.options.seed
        )
        for name, (a, b) in features.items()
    }
    means = {name: probe_lib.mean_scores(one) for name, one in found.items()}
    names = list(dict.fromkeys(key for mean in means.values() for key in mean))
    rows = [
        [one.attribute, f"{one.positives:.3g}"]
        + [
            f"{one.scores[n].value:.3f} [{one.scores[n].low:.3f}, {one.scores[n].high:.3f}]"
            if n in one.scores
            else ""
            for n in names
        ]
        for one in found["z"]
    ]
    return Result(
        [
            Section(
                "Probes",
                [
                    Table(
                        ["features", *names],
                        [
                            [name, *(mean.get(n, float("nan")) for n in names)]
                            for name, mean in means.items()
                        ],
                        caption=f"Linear models fitted on {len(train.z):,} training pictures, scored on "
                        f"{len(test.z):,} held-out ones; means over attributes.",
                    ),
                    Table(
                        ["attribute", "share", *names],
                        rows,
                        caption="From z, with 95 % bootstrap intervals.",
                    ),
                ],
            )
        ],
        {
            "means": means,
            "attributes": {
                one.attribute: {n: s._asdict() for n, s in one.scores.items()} for one in found["z"]
            },
        },
    )


def _pixels(context: Context, split: str, n: int, most: int = 2 * 10**8):
    """The pictures of a split as rows of pixels, [N, H W C]; None where that is too much memory."""
    arch, data = context.model.arch, context.given or context.trained()
    if n * int(np.prod(arch.image_shape)) > most:
        return None
    with data_lib.batches(
        data.open(split),
        size=arch.image_shape[:2],
        channels=arch.image_shape[2],
        batch_size=256,
        max_broken=data.max_broken,
    ) as batches:
        return (
            np.concatenate(
                [
                    batch["image"][batch["mask"]].reshape(int(batch["mask"].sum()), -1)
                    for batch in batches
                ]
            ).astype(np.float32)
            / 255
        )
