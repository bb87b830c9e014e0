"""What sampling costs and gives: inversions by error over evaluations; the temperature of x_T."""

import dataclasses

import numpy as np
from etils import epy

from pdae_jax.commands.context import Context, Result, picture_rows
from pdae_jax.commands.options import Images, Page, Precision, Seed, Taken, option
from pdae_jax.pages.page import Curves, Section, Table, Text
from pdae_jax.protocol import INVERSIONS
from pdae_jax.runtime.choices import nearest

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.runtime import progress
    from pdae_jax.tasks import round_trip

SHOWN = 2  # draws of each temperature
SMALLEST = 1e-12  # error on the chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Page, Precision, Images, Seed, Taken):
    temperatures: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 0.75, 1.0), "temperatures of x_T to compare"
    )
    inversions: tuple[str, ...] = option(
        ("ddim", "dpm++2m", "bdia"),
        f"ways to infer x_T and decode it, of {', '.join(INVERSIONS)}",
    )
    inversion_steps: tuple[int, ...] = option((10, 20), "steps of each of them, either way")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError(f"temperatures must be 0 or more, got {self.temperatures}")
        if min(self.inversion_steps, default=1) < 1:
            raise ValueError(f"inversion_steps must be at least 1, got {self.inversion_steps}")
        for name in self.inversions:
            nearest(name, INVERSIONS, "inversion")


def run(context: Context[Options]) -> Result:
    """Inversions of many kinds, and z alone at several temperatures."""
    options, images, model = context.options, context.pictures(16), context.model
    ways = round_trip.inversions(model.arch.T, options.inversions, options.inversion_steps)
    trips = [round_trip.round_trip(model, images, *way) for way in progress.bar("inversions", ways)]
    warm = [
        round_trip.at_temperature(model, images, t, seed=options.seed)
        for t in progress.bar("temperatures", options.temperatures)
    ]
    scores = [found for found, _ in warm]
    numbers = {
        "pictures": len(images),
        "inversions": [
            trip._asdict() | {way: str(getattr(trip, way)) for way in ("invert", "decode")}
            for trip in trips
        ],
        "temperatures": [found._asdict() for found in scores],
    }
    paper, *others = trips
    good = [trip.evaluations for trip in others if trip.mse <= paper.mse]
    headline = {"times fewer evaluations": paper.evaluations / min(good)} if good else {}
    rows = [("original", images)]
    for found, out in warm:
        label = f"x_T at {found.temperature:g}"
        rows += [(label, one) for one in out[:SHOWN]]
    pictures = picture_rows(context, rows, WARMTH)
    sections = [
        Section(
            "Inversion: error against evaluations",
            [Text(COST), pareto(trips, images), table_of(trips)],
        ),
        Section("z alone: the temperature of x_T", [pictures, warmth(scores)]),
    ]
    return Result(sections, numbers, {"temperature": [row for _, row in rows]}, headline)


COST = (
    "The time of sampling is the number of evaluations, passes through the networks. Lower and "
    "further left is better: a smaller error for less of it."
)
WARMTH = (
    "From z alone, x_T drawn at several temperatures: 1 is what the diffusion model was trained "
    "for, at 0 there is one picture of each z."
)


def pareto(trips: "list[round_trip.Trip]", images: np.ndarray) -> Curves:
    """Error over evaluations, both ways, a line for each solver."""
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for trip in trips:
        x, y = lines.setdefault(trip.label, ([], []))
        x.append(trip.evaluations)
        y.append(max(trip.mse, SMALLEST))
    return Curves(
        {label: (np.array(x), np.array(y)) for label, (x, y) in lines.items()},
        x_label="evaluations of the noise: to infer x_T, and to decode it",
        y_label="MSE",
        log_x=True,
        log_y=True,
        caption=f"Pictures through z and their inferred x_T and back, {len(images)} of them, "
        f"pixels in [0, 1]; an error below {SMALLEST:g} is drawn there.",
    )


def table_of(trips: "list[round_trip.Trip]") -> Table:
    rows = [
        [
            f"{trip.label}: {trip.invert.steps} + {trip.decode.steps} steps",
            trip.evaluations,
            trip.mse,
            trip.std,
            trip.kurtosis,
            trip.neighbours,
            trip.edit,
            trip.interpolation,
        ]
        for trip in trips
    ]
    return Table(
        ["", "evaluations", "MSE", "std", "kurtosis", "neighbours", "edit", "interpolation"],
        rows,
        caption="Of x_T: standard deviation, kurtosis and correlation of neighbouring pixels; of "
        "normal noise 1, 3 and 0. Edit, interpolation: the distance, in standard deviations, of "
        "the code of a decoded picture from the z that it was decoded from, halfway to another "
        "picture's; from the picture's own x_T, and from halfway to the other's.",
    )


def warmth(scores: "list[round_trip.Warmth]") -> Table:
    return Table(
        ["temperature", "MSE", "SSIM", "sharpness", "diversity", "code"],
        [[f"{one.temperature:g}", *one[1:]] for one in scores],
        caption="Sharpness: mean difference of neighbouring pixels, over the originals'. "
        "Diversity: deviation of a pixel over draws. Code: distance of a picture's own code from "
        "its z, in standard deviations.",
    )
