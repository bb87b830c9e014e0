"""One HTML file that shows a run: pictures, curves, tables, and how they were made.

    write("report.html", "PDAE on digits", {"SSIM": 0.993}, [
        Section("Reconstructions", [Pictures([("original", x), ("from z alone", y)])]),
        Section("Training", [Curves({"PDAE": (steps, loss)}, x_label="step", log_y=True)])])

The file stands alone: pictures are PNG data URIs, charts inline SVG, and a content policy in its
head forbids the browser to load anything else. It follows the reader's light or dark mode and
fits a phone. The same input gives the same bytes. Arrays, strings and numbers come in; this
module knows nothing of models, configs or training.

Every text is plain; `code` in backticks is set as code. Constructors raise ValueError (for a part
of no known kind TypeError) on what could not be shown, so that a mistake surfaces where the figure
is described.
"""

import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from pdae_jax.pages import chart, scatter
from pdae_jax.pages.chart import Curves
from pdae_jax.pages.colours import style_sheet
from pdae_jax.pages.markup import figure, inline, number, paragraphs, plain
from pdae_jax.pages.scatter import Scatter

__all__ = [
    "Curves",
    "Part",
    "Pictures",
    "Rendered",
    "Scatter",
    "Section",
    "Table",
    "Text",
    "render",
    "rendered",
    "write",
]


@dataclass(frozen=True, eq=False)
class Pictures:
    """A grid of pictures, one labelled row after another.

    rows: (label, images), images uint8 [n, H, W, C], C 1 (grey) or 3 (RGB). Rows may differ in n
    and in size. Neighbouring rows of the same label share one label.
    columns: headings, as many as the longest row has pictures; or none.
    scale: screen pixels per picture pixel; None enlarges small pictures to about 96 and shows
    larger ones as they are. On a narrow screen pictures shrink, down to half, before they scroll.
    legend: (name, colour) of what colours mean, red, green and blue from 0 to 1.
    """

    rows: Sequence[tuple[str, np.ndarray]]
    columns: Sequence[str | float] = ()
    caption: str = ""
    scale: int | None = None
    legend: Sequence[tuple[str, tuple[float, float, float]]] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("Pictures needs at least one row")
        for label, images in self.rows:
            shape, dtype = np.shape(images), getattr(images, "dtype", type(images).__name__)
            if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape or dtype != np.uint8:
                raise ValueError(
                    f"row {label!r}: images must be uint8 [n, H, W, 1 or 3], not empty"
                    f"; got {dtype} of shape {shape}"
                )
        longest = max(len(images) for _, images in self.rows)
        if len(self.columns) not in (0, longest):
            raise ValueError(f"{len(self.columns)} column headings for rows of up to {longest}")
        if self.scale is not None and self.scale < 1:
            raise ValueError(f"scale must be at least 1, or None, got {self.scale}")


@dataclass(frozen=True, eq=False)
class Table:
    """A table; the first column names the rows. Cells are strings, numbers, or None for a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"row of {len(row)} cells under {len(self.header)} headings: {list(row)!r}"
                )


@dataclass(frozen=True, eq=False)
class Text:
    """Paragraphs, parted by an empty line, then `command`, if any, set as a block of code."""

    text: str = ""
    command: str = ""


Part = Pictures | Curves | Scatter | Table | Text


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it, in order."""

    title: str
    parts: Sequence[Part]

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, Part):
                raise TypeError(
                    f"section {self.title!r}: a part must be Pictures, Curves, Scatter, Table "
                    f"or Text, got {type(part).__name__}"
                )


@dataclass(frozen=True)
class Rendered:
    """A section as a page has it, to be kept and shown on a later one: see `rendered`."""

    title: str
    html: str


def rendered(section: Section) -> Rendered:
    return Rendered(section.title, "".join(_render(part) for part in section.parts))


def write(
    path: str | os.PathLike,
    title: str,
    summary: Mapping[str, str | float],
    sections: Sequence[Section | Rendered],
    lead: str = "",
    verdict: tuple[bool, str] | None = None,
) -> None:
    """Writes `render`'s page to `path`, whole or not at all; folders are made as needed."""
    text = render(title, summary, sections, lead, verdict)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def render(
    title: str,
    summary: Mapping[str, str | float],
    sections: Sequence[Section | Rendered],
    lead: str = "",
    verdict: tuple[bool, str] | None = None,
) -> str:
    """Renders the page as a string.

    title, then lead (paragraphs on what this is), verdict (good or not, and why), summary (name ->
    headline number, shown as cards), and sections, which a line of links leads to.
    """
    cards = "".join(
        f"<div><dt>{inline(name)}</dt><dd>{inline(number(value))}</dd></div>\n"
        for name, value in summary.items()
    )
    links = "".join(
        f'<a href="#s{i}">{inline(section.title)}</a>\n' for i, section in enumerate(sections, 1)
    )
    body = "".join(
        f'<section id="s{i}">\n<h2>{inline(section.title)}</h2>\n{section.html}</section>\n'
        for i, section in enumerate(
            (one if isinstance(one, Rendered) else rendered(one) for one in sections), 1
        )
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{plain(title)}</title>\n<style>\n{style_sheet()}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{inline(title)}</h1>\n{paragraphs(lead)}{_verdict(verdict)}"
        + (f"<dl>\n{cards}</dl>\n" if cards else "")
        + (f"<nav>\n{links}</nav>\n" if len(sections) > 2 else "")
        + f"</header>\n{body}</main>\n</body>\n</html>\n"
    )


def _verdict(verdict: tuple[bool, str] | None) -> str:
    if verdict is None:
        return ""
    good, sentence = verdict
    return f'<p class="verdict {"good" if good else "bad"}">{inline(sentence)}</p>\n'


def _render(part: Part) -> str:
    render: Callable[..., str] = _RENDER[type(part)]
    return render(part)


def _text(part: Text) -> str:
    block = part.command.strip("\n")
    return paragraphs(part.text) + (
        f"<pre><code>{html.escape(block)}</code></pre>\n" if block else ""
    )


def _table(table: Table) -> str:
    # Numbers stand to the right, and so does the heading over nothing else.
    def kind(cells: Sequence[str | float | None]) -> str:
        return "" if any(isinstance(cell, str) for cell in cells) else ' class="number"'

    head = "".join(
        f'<th scope="col"{kind([row[i] for row in table.rows])}>{inline(name)}</th>'
        for i, name in enumerate(table.header)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row"{kind([cell])}>{inline(number(cell))}</th>'
            if i == 0
            else f"<td{kind([cell])}>{inline(number(cell))}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in table.rows
    )
    return figure(
        "table",
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n",
        table.caption,
    )


def _pictures(grid: Pictures) -> str:
    longest = max(len(images) for _, images in grid.rows)
    labelled = any(label for label, _ in grid.rows)
    # A table for its meaning, laid out as a CSS grid: so pictures shrink together on a phone, and
    # the label moves from the side of its rows to above them.
    widths = [np.shape(images)[2] * _zoom(grid, images) for _, images in grid.rows]
    out = ""
    if grid.columns:
        out += (
            "<thead><tr>"
            + ('<td class="corner"></td>' if labelled else "")
            + "".join(f'<th scope="col">{inline(number(name))}</th>' for name in grid.columns)
            + "</tr></thead>\n"
        )
    out += "<tbody>\n"
    for label, group in groupby(grid.rows, key=lambda row: row[0]):
        group = list(group)
        for i, (_, images) in enumerate(group):
            out += "<tr>"
            if labelled and i == 0:
                out += (
                    f'<th scope="rowgroup" rowspan="{len(group)}" style="--rows:{len(group)}">'
                    f"{inline(label)}</th>"
                )
            for j, image in enumerate(images):
                heading = grid.columns[j] if grid.columns else f"{j + 1} of {len(images)}"
                again = f"row {i + 1}" if len(group) > 1 else ""
                alt = ", ".join(str(word) for word in (label, again, heading) if word != "")
                out += f"<td>{_img(image, alt, _zoom(grid, images))}</td>"
            out += "<td></td>" * (longest - len(images)) + "</tr>\n"
    style = f"--n:{longest};--width:{max(widths)}px;--least:{min(max(widths), 72) // 2}px"
    return figure(
        "pictures",
        f"{_legend(grid)}"
        f'<div class="scroll"><table class="{"labelled" * labelled}" '
        f'style="{style}">\n{out}</tbody></table></div>\n',
        grid.caption,
    )


def _legend(grid: Pictures) -> str:
    items = ""
    for name, colour in grid.legend:
        red, green, blue = (round(255 * part) for part in colour)
        mark = f'<span class="mark" style="background:rgb({red},{green},{blue})"></span>'
        items += f"<li>{mark}{inline(name)}</li>"
    return f'<ul class="legend">{items}</ul>\n' if items else ""


def _zoom(grid: Pictures, images: np.ndarray) -> int:
    return grid.scale or max(1, 96 // max(np.shape(images)[1:3]))


def _img(image: np.ndarray, alt: str, zoom: int) -> str:
    """An <img> of image, uint8 [H, W, C], each of its pixels `zoom` screen pixels wide."""
    image = np.ascontiguousarray(image)
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
        stream, "PNG", optimize=True
    )
    data = base64.b64encode(stream.getvalue()).decode()
    height, width = image.shape[:2]
    crisp = ' class="crisp"' if zoom > 1 else ""
    return (
        f'<img{crisp} width="{width * zoom}" height="{height * zoom}" alt="{plain(alt)}" '
        f'src="data:image/png;base64,{data}">'
    )


_RENDER: dict[type, Callable[..., str]] = {
    Pictures: _pictures,
    Curves: chart.render,
    Scatter: scatter.render,
    Table: _table,
    Text: _text,
}
