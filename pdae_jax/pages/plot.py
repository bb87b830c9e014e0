"""A page's figures as files for a paper: PDF and SVG, whose lines and words are vectors, or PNG.

matplotlib draws them, in the pages' light colours. A picture of a grid stays what it is, pixel by
pixel, in a PDF or SVG too.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.formats.errors import require
from pdae_jax.pages import chart, scatter
from pdae_jax.pages.chart import Curves
from pdae_jax.pages.colours import rgb
from pdae_jax.pages.page import Pictures, Section
from pdae_jax.pages.scatter import Scatter

WIDTH = 6.3  # inches, the text of an A4 page
DPI = 300  # of a PNG
MOST = 0.9  # inches of a picture of a grid
MARKERS = ("o", "s", "D")  # scatter.SHAPES
STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # words stay words, for who edits the figure
    "svg.fonttype": "none",
    "svg.hashsalt": "pdae_jax",  # the same figure gives the same bytes
}

Draw = Callable[[Path, str], None]  # to a path, as "pdf", "svg" or "png"


def figures(section: Section) -> Iterator[tuple[str, Draw]]:
    """(name, draw) of each figure of a section, named after it; tables and words have none.

    Raises DataError where matplotlib is not installed.
    """
    drawn: list[tuple[str, Callable[[], Any]]] = []
    for part in section.parts:
        if isinstance(part, Pictures):
            drawn.append(("", lambda part=part: _pictures(part)))
        elif isinstance(part, Curves):
            drawn.append(("", lambda part=part: _curves(part)))
        elif isinstance(part, Scatter):
            drawn += [
                (f"-{plane.name}-by-{one.name}", lambda plane=plane, one=one: _scatter(plane, one))
                for plane in part.planes
                for one in part.colourings
            ]
    for k, (suffix, make) in enumerate(drawn, 1):
        number = f"-{k}" if not suffix and len(drawn) > 1 else ""
        name = re.sub(r"[^\w=.-]+", "-", f"{section.title}{suffix}{number}").strip("-").lower()
        yield name, lambda path, kind, make=make: _save(make, path, kind)


def _save(make: Callable[[], Any], path: Path, kind: str) -> None:
    matplotlib = require("matplotlib", "figures")
    with matplotlib.rc_context(STYLE):
        drawing = make()
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        drawing.savefig(path, format=kind, dpi=DPI, metadata=undated, bbox_inches="tight")


def _figure(width: float, height: float, layout: str | None = "constrained") -> Any:
    return require("matplotlib.figure", "figures").Figure((width, height), layout=layout)


def _curves(curves: Curves) -> Any:
    drawing = _figure(WIDTH, 2.6)
    axes = drawing.subplots()
    for i, (name, (x, y)) in enumerate(curves.series.items()):
        x, y = np.asarray(x, float), np.asarray(y, float)
        css, dash = chart.line_style(i, len(curves.series), curves.ordered)
        colour, style = rgb(css), {"": "-", "6 4": "--"}.get(dash, ":")
        few = "o" if len(x) <= chart.FEW else ""
        if curves.smooth > 1:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.6)
            y = chart.smoothed(y, curves.smooth)
        axes.plot(x, y, style, color=colour, label=name, marker=few, markersize=3)
    axes.set(xlabel=curves.x_label, ylabel=curves.y_label)
    axes.set(xscale="log" if curves.log_x else "linear", yscale="log" if curves.log_y else "linear")
    if len(curves.series) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def _scatter(plane: scatter.Plane, colouring: scatter.Colouring) -> Any:
    drawing = _figure(WIDTH, WIDTH * 0.62)
    axes = drawing.subplots()
    kinds, which = scatter.kinds_of(colouring)
    points = np.asarray(plane.points, float)
    size = 6 if len(points) > scatter.MANY else 14
    for j, kind in enumerate(kinds):
        x, y = points[which == j].T
        axes.scatter(
            x,
            y,
            s=size,
            marker=MARKERS[kind.shape],
            facecolors="none" if kind.hollow else [rgb(kind.colour)],
            edgecolors=[rgb(kind.colour)] if kind.hollow else "white",
            linewidths=0.3,
            label=f"{kind.name} ({kind.points:,})",
        )
    axes.set(xlabel=plane.x_label, ylabel=plane.y_label)
    axes.set_aspect("equal", "datalim")
    axes.legend(title=colouring.name, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def _pictures(grid: Pictures) -> Any:
    """Each row as high as its pictures, labels on the left, column headings on top."""
    longest = max(len(images) for _, images in grid.rows)
    labels = [label for label, _ in grid.rows]
    left = 0.075 * max(len(line) for label in labels for line in _lines(label)) + 0.1
    cell = min(MOST, (WIDTH - left) / longest)
    gap = 0.04
    heights = [cell * images.shape[1] / images.shape[2] for _, images in grid.rows]
    drawing = _figure(left + longest * cell, sum(heights) + 0.3, layout=None)
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if grid.columns:
        for j, name in enumerate(grid.columns):
            word = name if isinstance(name, str) else f"{name:g}"
            axes.text(left + (j + 0.5) * cell, -0.06, word, ha="center", va="bottom", fontsize=7)
    top, number = 0.0, 0
    for label, rows in groupby(grid.rows, key=lambda row: row[0]):
        start = top
        for _, images in rows:
            for j, image in enumerate(images):
                across = left + j * cell
                axes.imshow(
                    np.broadcast_to(image, (*image.shape[:2], 3)),
                    extent=(across, across + cell - gap, top + heights[number] - gap, top),
                    interpolation="none",
                )
            top, number = top + heights[number], number + 1
        words = "\n".join(_lines(label))
        axes.text(0, (start + top) / 2, words, ha="left", va="center", fontsize=7)
    axes.set_xlim(0, left + longest * cell)
    axes.set_ylim(top, -0.2 * bool(grid.columns))
    if grid.legend:
        _legend(axes, grid.legend)
    axes.set_aspect("equal")
    return drawing


def _legend(axes: Any, legend: Sequence[tuple[str, Any]]) -> None:
    patches = require("matplotlib.patches", "figures")
    marks = [patches.Patch(color=colour, label=name) for name, colour in legend]
    axes.legend(handles=marks, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, fontsize=7)


def _lines(label: str) -> list[str]:
    """A label in lines of about 16 characters."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) >= 16:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
