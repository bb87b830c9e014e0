"""Modes that show what z does to a picture: Figures 1 to 10 and 13."""

import numpy as np

from pdae_jax.commands.context import Context, Result, picture
from pdae_jax.images import grid, to_uint8, visible
from pdae_jax.pages.page import Curves, Pictures, Section, Table
from pdae_jax.tasks import one_step
from pdae_jax.tasks.interpolation import interpolate as interpolate_pictures
from pdae_jax.tasks.reconstruction import reconstruct as reconstruct_pictures
from pdae_jax.tasks.reconstruction import scores

GAP_TIMES = 40
SHOWN_TIMES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # of T, where none are asked for
GRID_WEIGHTS = 6  # of an interpolation on paper


def reconstruct(context: Context) -> Result:
    """Figures 5 to 7: from z alone with several x_T, with the inferred x_T, by DDPM."""
    options, images = context.options, context.pictures()
    parts = reconstruct_pictures(
        context.model,
        images,
        steps=options.steps,
        ddpm=options.ddpm,
        invert_steps=options.invert_steps,
        seed=options.seed,
    )
    rows = [("original", images)]
    rows += [("z alone, x_T random", to_uint8(decoded)) for decoded in parts.from_z]
    rows.append(("z and inferred x_T", to_uint8(parts.inferred)))
    measured = {
        "z alone": scores(images, parts.from_z[0]),
        "z, inferred x_T": scores(images, parts.inferred),
    }
    if parts.ddpm is not None:
        rows.append(("z alone, DDPM", to_uint8(parts.ddpm)))
        measured["z alone, DDPM"] = scores(images, parts.ddpm)
    ddpm = " (the last row: all DDPM steps)" if parts.ddpm is not None else ""
    return Result(
        [
            Section(
                "Reconstruction",
                [
                    _rows(
                        rows,
                        f"Decoded in {options.steps} DDIM steps{ddpm}. What the rows from z alone "
                        f"share is what z says; what differs is x_T's. x_T is inferred in "
                        f"{options.invert_steps} steps.",
                    ),
                    _scores(
                        measured, f"Means over these {len(images)} pictures, pixels in [0, 1]."
                    ),
                ],
            )
        ],
        measured,
        {"reconstruct": [row for _, row in rows]},
    )


def interpolate(context: Context) -> Result:
    """Figures 8 to 10: both interpolations between neighbouring pictures; also animated."""
    options, images = context.options, context.pictures(6)
    if len(images) < 2:
        raise ValueError("an interpolation needs two pictures or more, got 1")
    images = images[: len(images) // 2 * 2]
    first, second = images[0::2], images[1::2]
    weights = np.linspace(0, 1, options.frames)
    kinds = [
        to_uint8(kind)
        for kind in interpolate_pictures(
            context.model,
            first,
            second,
            weights,
            steps=options.steps,
            invert_steps=options.invert_steps,
        )
    ]
    shown = (
        np.linspace(0, options.frames - 1, min(GRID_WEIGHTS, options.frames)).round().astype(int)
    )
    rows = []
    for i in range(len(first)):
        for label, kind in zip(("of codes", "of trajectories"), kinds):
            rows.append(
                (label, np.concatenate([first[i : i + 1], kind[i, shown], second[i : i + 1]]))
            )
    _animate(context.out / "interpolate.gif", first, second, kinds)
    return Result(
        [
            Section(
                "Interpolation",
                [
                    _rows(
                        rows,
                        "Between the two originals at the ends: z along a line, or the gradient estimator's "
                        "output along a line at every step; x_T along a great circle.",
                        columns=["from", *(f"{weights[k]:.1f}" for k in shown), "to"],
                    )
                ],
            )
        ],
        {"pairs": len(first)},
        {"interpolate": [row for _, row in rows]},
    )


def _animate(path, first, second, kinds) -> None:
    """A GIF, there and back: a row for each pair, with the originals at the ends."""
    there = [
        grid(
            [
                np.stack([first[i], *(kind[i, k] for kind in kinds), second[i]])
                for i in range(len(first))
            ]
        )
        for k in range(kinds[0].shape[1])
    ]
    zoom = max(1, 96 // first.shape[2])
    frames = [picture(frame, zoom) for frame in [*there, *there[-2:0:-1]]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0)


def gap(context: Context) -> Result:
    """Figure 4: how far mu_theta is from the true posterior mean, and what G makes up."""
    images = context.pictures(64)
    times = np.unique(np.linspace(0, context.model.arch.T - 1, GAP_TIMES).astype(int))
    found = one_step.gap(
        context.model, images, times, seed=context.options.seed, uniform=context.options.uniform
    )
    lines = "\n".join(f"{t},{a:.8g},{b:.8g}" for t, a, b in zip(*found))
    (context.out / "gap.csv").write_text("t,without_G,with_G\n" + lines + "\n")
    return Result(
        [
            Section(
                "Posterior-mean gap",
                [
                    Curves(
                        {"without G": (times, found.bare), "with G": (times, found.shifted)},
                        x_label="t",
                        y_label="squared distance",
                        log_y=True,
                        caption=f"Mean of |mu~(x_t, x_0) - mu(x_t)|^2 over {len(images)} pictures; G closes "
                        f"{found.closed:.0%} of it, summed over t.",
                    )
                ],
            )
        ],
        {"closed": found.closed, "pictures": len(images)},
        headline={"gap closed": found.closed},
    )


def denoise(context: Context) -> Result:
    """Figures 1 to 3: one-step x_0, without and with G."""
    images, times = context.pictures(), _times(context)
    found = one_step.denoise(context.model, images, times, seed=context.options.seed)
    rows = [("original", images)]
    for k, t in enumerate(times):
        rows += [
            (f"x_t, t = {t}", to_uint8(found.x_t[k])),
            ("x_0 without G", to_uint8(found.bare[k])),
            ("x_0 with G", to_uint8(found.shifted[k])),
        ]
    errors = [
        {
            "t": int(t),
            **{
                name: scores(images, x[k])["mse"]
                for name, x in (("without_G", found.bare), ("with_G", found.shifted))
            },
        }
        for k, t in enumerate(times)
    ]
    return Result(
        [
            Section(
                "One step",
                [
                    _rows(rows, "What a single step takes x_0 to be, at several t."),
                    Table(
                        ["t", "MSE without G", "MSE with G"],
                        [[e["t"], e["without_G"], e["with_G"]] for e in errors],
                    ),
                ],
            )
        ],
        {"mse": errors},
        {"denoise": [row for _, row in rows]},
    )


def shift(context: Context) -> Result:
    """Figure 13: x_t, and G as a picture, over t."""
    images, times = context.pictures(), _times(context)
    found = one_step.denoise(context.model, images, times, seed=context.options.seed)
    rows = []
    for k, t in enumerate(times):
        scale = np.abs(found.gradient[k]).max() or 1.0
        rows += [
            (f"x_t, t = {t}", to_uint8(found.x_t[k])),
            (f"G, of +-{scale:.2g}", to_uint8(found.gradient[k] / scale)),
        ]
    return Result(
        [
            Section(
                "The shift",
                [
                    _rows(
                        rows,
                        "The gradient estimator's output, each row scaled to its largest value.",
                    )
                ],
            )
        ],
        {"times": times.tolist()},
        {"shift": [row for _, row in rows]},
    )


def _times(context: Context) -> np.ndarray:
    return np.array(context.options.times or SHOWN_TIMES * (context.model.arch.T - 1)).astype(int)


def _rows(rows, caption: str, columns=()) -> Pictures:
    return Pictures(
        [(label, visible(row)) for label, row in rows], columns=columns, caption=caption
    )


def _scores(measured: dict[str, dict[str, float]], caption: str) -> Table:
    names = list(next(iter(measured.values())))
    return Table(
        ["decoded from", *(name.upper() for name in names)],
        [[label, *(found.get(name) for name in names)] for label, found in measured.items()],
        caption=caption,
    )
