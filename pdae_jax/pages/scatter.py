"""Scatter plots: a point for each picture, in a choice of planes and of colours, without scripts.

Radio buttons and CSS's :has() choose. The points are a radio group themselves: the arrow keys go
from one to the next, and the one under the pointer or in focus shows its picture.
"""

import base64
import hashlib
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from pdae_jax.pages.markup import figure, inline, number, plain

PLOT = 8, 5  # width and height of the plot, as in style.css
MANY = 400  # points, which are drawn smaller
COLOURED = 8  # categories, the most frequent; the others are grey
STEPS = 10  # of colour, of numbers
ENDS = (2.0, 98.0)  # percentiles of numbers that have the first and the last colour
MOST_OF_PNG = 2**20  # bytes of all pictures, above which they are JPEG
SHAPES = ("50%", "0deg"), ("1px", "0deg"), ("1px", "45deg")  # circle, square, diamond
SHOWN = 96  # screen pixels of a picture


@dataclass(frozen=True, eq=False)
class Plane:
    """Where the points are: [N, 2], x to the right and y up, in one scale."""

    name: str
    points: np.ndarray
    x_label: str = ""
    y_label: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.points)
        if len(shape) != 2 or shape[1] != 2 or not shape[0] or not np.isfinite(self.points).all():
            raise ValueError(
                f"plane {self.name!r}: points must be finite [N, 2], not empty, got {shape}"
            )


@dataclass(frozen=True, eq=False)
class Colouring:
    """What colours mean: values [N].

    names: of the categories, where a value is the index of one, and -1 is not known; () where
    values are numbers, and NaN is not known.
    """

    name: str
    values: np.ndarray
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        bad = values.ndim != 1 or len(self.names) and not (
            values.dtype.kind in "iu" and ((values >= -1) & (values < len(self.names))).all()
        )  # fmt: skip
        if bad:
            raise ValueError(
                f"colouring {self.name!r}: values must be [N], of {len(self.names)} categories "
                f"whole numbers from -1, got {values.dtype} of shape {values.shape}"
            )


@dataclass(frozen=True, eq=False)
class Scatter:
    """N points in one or several planes, coloured by one or several things, with their pictures.

    words: of each point a title and what else is known of it. pictures: uint8 [N, h, w, 1 or 3],
    small; or None.
    """

    planes: Sequence[Plane]
    colourings: Sequence[Colouring]
    words: Sequence[tuple[str, str]]
    pictures: np.ndarray | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.planes or not self.colourings:
            raise ValueError("Scatter needs at least one plane and one colouring")
        counts = {f"plane {plane.name!r}": len(plane.points) for plane in self.planes}
        counts |= {f"colouring {one.name!r}": len(one.values) for one in self.colourings}
        if self.pictures is not None:
            counts["pictures"] = len(self.pictures)
            shape, dtype = np.shape(self.pictures), self.pictures.dtype
            if len(shape) != 4 or shape[3] not in (1, 3) or dtype != np.uint8:
                raise ValueError(f"pictures must be uint8 [N, h, w, 1 or 3], got {dtype} {shape}")
        for what, n in counts.items():
            if n != len(self.words):
                raise ValueError(f"{what} is of {n} points, and there are {len(self.words)} words")


class Kind(NamedTuple):
    """One colour of a colouring: in CSS; what it means, and how many points have it; their shape,
    one of `SHAPES`, and whether only their edge is drawn."""

    colour: str
    name: str
    points: int
    shape: int = 0
    hollow: bool = False

    @property
    def style(self) -> str:
        """The CSS of its points."""
        radius, turn = SHAPES[self.shape]
        fill = "transparent" if self.hollow else self.colour
        edge = self.colour if self.hollow else "var(--page)"
        over = int(not self.hollow)
        return f"--p:{fill};--edge:{edge};--r:{radius};--turn:{turn};--over:{over}"


def render(scatter: Scatter) -> str:
    """Renders the plot as HTML."""
    own = _own_name(scatter)
    coloured = [kinds_of(one) for one in scatter.colourings]
    whole, columns, picture = _sheet(scatter.pictures)
    rules = [f"#{own} i{{background-image:url({whole});{picture}}}"] if whole else []
    for k, (kinds, _) in enumerate(coloured):
        chosen = f"#{own}:has(#{own}-c{k}:checked)"
        for j, kind in enumerate(kinds):
            default = f"#{own} .k{k}-{j}," if k == 0 else ""  # where a browser has no :has()
            rules.append(f"{default}{chosen} .k{k}-{j}{{{kind.style}}}")
        rules.append(f"{chosen} .by{k}{{display:flex}}")
    for m in range(1, len(scatter.planes)):
        chosen = f"#{own}:has(#{own}-m{m}:checked)"
        rules.append(f"{chosen} .points label{{--x:var(--x{m});--y:var(--y{m})}}")
        rules.append(f"{chosen} .in0,#{own}:not(:has(#{own}-m{m}:checked)) .in{m}{{display:none}}")
    choices = _choice(own, "m", "Axes", [plane.name for plane in scatter.planes])
    choices += _choice(own, "c", "Colour", [one.name for one in scatter.colourings])
    legends, labels, under = "", "", ""
    for k, (one, (kinds, _)) in enumerate(zip(scatter.colourings, coloured)):
        legends += _legend(k, one, kinds)
    for m, plane in enumerate(scatter.planes):
        labels += f'<div class="y-label in{m}">{inline(plane.y_label)}</div>\n'
        under += f'<div class="x-label in{m}">{inline(plane.x_label)}</div>\n'
    places = [_places(plane.points) for plane in scatter.planes]
    which = [of_points for _, of_points in coloured]
    points = "".join(
        _point(own, i, [place[i] for place in places], [some[i] for some in which], words, columns)
        for i, words in enumerate(scatter.words)
    )
    said = (
        f"{len(scatter.words):,} points, {' or '.join(plane.name for plane in scatter.planes)}; "
        f"arrow keys go from one to the next"
    )
    return figure(
        "scatter",
        f'<div id="{own}">\n<style>\n{"".join(f"{rule}{chr(10)}" for rule in rules)}</style>\n'
        f'<div class="choices">\n{choices}</div>\n{legends}{labels}'
        f'<div class="points{" many" * (len(scatter.words) > MANY)}" role="radiogroup" '
        f'aria-label="{plain(said)}">\n{points}</div>\n'
        f"{under}</div>\n",
        scatter.caption,
    )


def _own_name(scatter: Scatter) -> str:
    """A name for the CSS of this plot alone, the same for the same plot."""
    found = hashlib.sha1(usedforsecurity=False)
    for plane in scatter.planes:
        found.update(np.ascontiguousarray(plane.points).tobytes())
    for one in scatter.colourings:
        found.update(one.name.encode() + np.ascontiguousarray(one.values).tobytes())
    return f"p{found.hexdigest()[:8]}"


# Colours


def kinds_of(colouring: Colouring) -> tuple[list[Kind], np.ndarray]:
    """The colours of a colouring, and the index of each point's among them."""
    if len(colouring.names):
        return _categories(np.asarray(colouring.values), colouring.names)
    return _numbers(np.asarray(colouring.values, float))


def _categories(values: np.ndarray, names: Sequence[str]) -> tuple[list[Kind], np.ndarray]:
    """The most frequent categories in their own order, then all others, and what is not known."""
    counts = np.bincount(values[values >= 0], minlength=len(names))
    there = np.flatnonzero(counts).tolist()
    coloured = sorted(sorted(there, key=lambda k: -int(counts[k]))[:COLOURED])
    kinds = [
        Kind(f"var(--s{j})", names[k], int(counts[k]), j % len(SHAPES))
        for j, k in enumerate(coloured)
    ]
    which = np.full(len(values), -1)
    for j, k in enumerate(coloured):
        which[values == k] = j
    rest = len(there) - len(coloured)
    if rest:
        other = (values >= 0) & (which < 0)
        which[other] = len(kinds)
        kinds.append(Kind("var(--other)", f"{rest} others", int(other.sum())))
    return _with_unknown(kinds, which)


def _numbers(values: np.ndarray) -> tuple[list[Kind], np.ndarray]:
    """Steps of a scale from dark to light and from blue to orange."""
    finite = np.isfinite(values)
    which = np.full(len(values), -1)
    kinds = []
    if finite.any():
        low, high = np.percentile(values[finite], ENDS)
        width = high - low if high > low else 1.0
        steps = np.clip((values[finite] - low) / width * STEPS, 0, STEPS - 1).astype(int)
        which[finite] = steps
        counts = np.bincount(steps, minlength=STEPS)
        edges = low + width * np.arange(STEPS + 1) / STEPS
        kinds = [
            Kind(_ramp(j), f"{number(a)} to {number(b)}", int(counts[j]))
            for j, (a, b) in enumerate(zip(edges, edges[1:]))
        ]
    return _with_unknown(kinds, which)


def _ramp(step: int) -> str:
    share = step / (STEPS - 1)
    hue = (235 + 165 * share) % 360  # blue, purple, red, orange, yellow
    return f"hsl({hue:.0f} 75% calc(var(--ramp) + {-14 + 22 * share:.0f}%))"


def _with_unknown(kinds: list[Kind], which: np.ndarray) -> tuple[list[Kind], np.ndarray]:
    unknown = which < 0
    if not unknown.any():
        return kinds, which
    kind = Kind("var(--other)", "not known", int(unknown.sum()), hollow=True)
    return [*kinds, kind], np.where(unknown, len(kinds), which)


def _legend(k: int, colouring: Colouring, kinds: list[Kind]) -> str:
    """The legend of a colouring: its categories with counts, or its scale."""
    items = ""
    scale = [] if len(colouring.names) else [kind for kind in kinds if kind.name != "not known"]
    if scale:
        low, high = scale[0].name.split(" to ")[0], scale[-1].name.split(" to ")[1]
        marks = "".join(
            f'<span class="k{k}-{j}" title="{plain(kind.name)}: {kind.points}"></span>'
            for j, kind in enumerate(scale)
        )
        n = sum(kind.points for kind in scale)
        items = (
            f'<li class="scale">{low}<span class="steps">{marks}</span>{high} '
            f"<small>{n:,}</small></li>\n"
        )
    for j, kind in enumerate(kinds):
        if kind not in scale:
            items += (
                f'<li><span class="dot k{k}-{j}"></span>{inline(kind.name)} '
                f"<small>{kind.points:,}</small></li>\n"
            )
    title = plain(f"colours: {colouring.name}")
    name = f'<li class="printed">{inline(colouring.name)}:</li>\n'  # on paper nothing else says it
    return f'<ul class="by by{k}" aria-label="{title}">\n{name}{items}</ul>\n'


def _choice(own: str, kind: str, title: str, names: Sequence[str]) -> str:
    """Radio buttons; none where there is nothing to choose."""
    buttons = "".join(
        f'<label><input type="radio" name="{own}-{kind}" id="{own}-{kind}{k}"'
        f"{' checked' if k == 0 else ''} /><span>{inline(name)}</span></label>\n"
        for k, name in enumerate(names)
    )
    alone = " hidden" if len(names) == 1 else ""
    return f"<fieldset{alone}>\n<legend>{title}</legend>\n{buttons}</fieldset>\n"


# Points


def _places(points: np.ndarray) -> np.ndarray:
    """x and y in percent of the plot, from its top left, in one scale for both."""
    points = np.asarray(points, float)
    low, high = points.min(0), points.max(0)
    width, height = np.maximum(high - low, 1e-300)
    scale = min(94 / width, 94 / height * PLOT[1] / PLOT[0])
    middle = (low + high) / 2
    x = 50 + (points[:, 0] - middle[0]) * scale
    y = 50 - (points[:, 1] - middle[1]) * scale * PLOT[0] / PLOT[1]
    return np.stack([x, y], axis=1)


def _point(
    own: str,
    i: int,
    places: Sequence[np.ndarray],
    kinds: Sequence[int],
    words: tuple[str, str],
    columns: int,
) -> str:
    style = ";".join(f"--x{m}:{x:.2f};--y{m}:{y:.2f}" for m, (x, y) in enumerate(places))
    names = " ".join(f"k{k}-{j}" for k, j in enumerate(kinds))
    picture = f'<i style="--u:{i % columns};--v:{i // columns}"></i>' if columns else ""
    title, more = (html.escape(text) for text in words)
    more = f" <small>{more}</small>" if more else ""
    return (
        f'<label class="{names}" style="{style}"><input type="radio" name="{own}-p" />'
        f"<span>{picture}<b>{title}</b>{more}</span></label>\n"
    )


def _sheet(pictures: np.ndarray | None) -> tuple[str, int, str]:
    """All pictures as one, a data URI; its columns, and the CSS of what shows one of them."""
    if pictures is None:
        return "", 0, ""
    image, columns = sheet(pictures)
    rows, height, width = math.ceil(len(pictures) / columns), *pictures.shape[1:3]
    kind, data = "png", _encoded(image, "PNG", optimize=True)
    if len(data) > MOST_OF_PNG:
        kind, data = "jpeg", _encoded(image, "JPEG", quality=85, subsampling=0)
    zoom = SHOWN / max(height, width)
    css = (
        f"width:{width * zoom:.0f}px;height:{height * zoom:.0f}px;"
        f"background-size:{columns * width * zoom:.0f}px {rows * height * zoom:.0f}px;"
        f"background-position:calc(var(--u) * -{width * zoom:.0f}px) "
        f"calc(var(--v) * -{height * zoom:.0f}px)"
    )
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", columns, css


def sheet(pictures: np.ndarray) -> tuple[Image.Image, int]:
    """Pictures, uint8 [N, h, w, 1 or 3], as one, row by row; and its columns."""
    n, height, width, channels = pictures.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    whole = np.zeros((rows * columns, height, width, channels), np.uint8)
    whole[:n] = pictures
    whole = whole.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    whole = whole.reshape(rows * height, columns * width, channels)
    return Image.fromarray(whole[..., 0] if channels == 1 else whole), columns


def _encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()
