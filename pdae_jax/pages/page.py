"""One HTML file that shows a run: pictures, curves, tables, and how they were made.

    write("report.html", "PDAE on digits", {"SSIM": 0.993}, [
        Section("Reconstructions", [Pictures([("original", x), ("from z alone", y)])]),
        Section("Training", [Curves({"PDAE": (steps, loss)}, x_label="step", log_y=True)])])

The file stands alone: pictures are PNG data URIs, charts inline SVG, and a content policy in its
head forbids the browser to load anything else. It follows the reader's light or dark mode and
fits a phone. The same input gives the same bytes. Arrays, strings and numbers come in; this
module knows nothing of models, configs or training.

Every text is plain; `code` in backticks is set as code. Constructors raise ValueError (a part
of no known kind: TypeError) on what could not be shown, so that a mistake surfaces where the
figure is described.
"""

import base64
import html
import io
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Pictures:
    """A grid of pictures, one labelled row after another.

    rows: (label, images), images uint8 [n, H, W, C], C 1 (grey) or 3 (RGB). Rows may differ in n
    and in size. Neighbouring rows of the same label share one label.
    columns: headings, as many as the longest row has pictures; or none.
    scale: screen pixels per picture pixel; None enlarges small pictures to about 72 and shows
    larger ones as they are. On a narrow screen pictures shrink, down to half, before they scroll.
    """

    rows: Sequence[tuple[str, np.ndarray]]
    columns: Sequence[str | float] = ()
    caption: str = ""
    scale: int | None = None

    def __post_init__(self):
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
class Curves:
    """A line chart of any number of series.

    series: name -> (x, y), two [n] arrays of numbers. NaN and infinity, and with `log_y` also
    y <= 0, leave a gap. Long series are thinned to what a screen can show; every extreme stays.
    ordered: the series are steps of one scale (time ranges, sizes), coloured as a ramp.
    smooth: draw the mean over this many neighbouring points, and the points themselves faintly
    behind it; for noisy losses. 1 draws the points alone.
    """

    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    x_label: str = ""
    y_label: str = ""
    caption: str = ""
    log_y: bool = False
    ordered: bool = False
    smooth: int = 1

    def __post_init__(self):
        if not self.series:
            raise ValueError("Curves needs at least one series")
        for name, (x, y) in self.series.items():
            if np.ndim(x) != 1 or np.shape(x) != np.shape(y):
                raise ValueError(
                    f"series {name!r}: x and y must be [n] arrays of one length, got "
                    f"shapes {np.shape(x)} and {np.shape(y)}"
                )
        if self.smooth < 1:
            raise ValueError(f"smooth must be at least 1, got {self.smooth}")


@dataclass(frozen=True, eq=False)
class Table:
    """A table; the first column names the rows. Cells are strings, numbers, or None for a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    caption: str = ""

    def __post_init__(self):
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


Part = Pictures | Curves | Table | Text


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it, in order."""

    title: str
    parts: Sequence[Part]

    def __post_init__(self):
        for part in self.parts:
            if not isinstance(part, Part):
                raise TypeError(
                    f"section {self.title!r}: a part must be Pictures, Curves, Table "
                    f"or Text, got {type(part).__name__}"
                )


def write(
    path: str | os.PathLike,
    title: str,
    summary: Mapping[str, str | float],
    sections: Sequence[Section],
    lead: str = "",
) -> None:
    """Write `render`'s page to `path`, whole or not at all; folders are made as needed."""
    text = render(title, summary, sections, lead)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def render(
    title: str, summary: Mapping[str, str | float], sections: Sequence[Section], lead: str = ""
) -> str:
    """The page as a string.

    title, then lead (paragraphs on what this is), summary (name -> headline number, shown as
    cards), and sections, which a line of links leads to.
    """
    cards = "".join(
        f"<div><dt>{_inline(name)}</dt><dd>{_inline(_number(value))}</dd></div>\n"
        for name, value in summary.items()
    )
    links = "".join(
        f'<a href="#s{i}">{_inline(section.title)}</a>\n' for i, section in enumerate(sections, 1)
    )
    body = "".join(
        f'<section id="s{i}">\n<h2>{_inline(section.title)}</h2>\n'
        + "".join(_RENDER[type(part)](part) for part in section.parts)
        + "</section>\n"
        for i, section in enumerate(sections, 1)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{_plain(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{_inline(title)}</h1>\n{_paragraphs(lead)}"
        + (f"<dl>\n{cards}</dl>\n" if cards else "")
        + (f"<nav>\n{links}</nav>\n" if len(sections) > 2 else "")
        + f"</header>\n{body}</main>\n</body>\n</html>\n"
    )


# ---- text and numbers


def _inline(text: str) -> str:
    """Escaped text, with what stands in backticks as code."""
    parts = re.split(r"`([^`]+)`", str(text))
    return "".join(
        f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
        for i, part in enumerate(parts)
    )


def _plain(text: str) -> str:
    """Escaped text for attributes and titles, which have no markup."""
    return html.escape(str(text).replace("`", ""))


def _paragraphs(text: str) -> str:
    return "".join(
        f"<p>{_inline(part.strip())}</p>\n" for part in re.split(r"\n\s*\n", text) if part.strip()
    )


def _number(value) -> str:
    """A number as one reads it: whole numbers in full, others to four digits; strings as given."""
    value = value.item() if hasattr(value, "item") else value  # array scalars
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return "–" if value is None else str(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, numbers.Integral) or (value == int(value) and abs(value) < 1e6):
        return _minus(f"{int(value):,}")
    if 1e4 <= abs(value) < 1e7:
        return _minus(f"{value:,.0f}")
    return _minus(f"{value:#.4g}")


def _minus(text: str) -> str:
    """1e-05 as 1e-5, and a sign as wide as a digit where it leads."""
    return re.sub(r"^-", "−", re.sub(r"\.?(e[+-])0*", lambda m: m[1].replace("+", ""), text))


def _figure(kind: str, inner: str, caption: str) -> str:
    note = f"<figcaption>{_inline(caption)}</figcaption>\n" if caption else ""
    return f'<figure class="{kind}">\n{inner}{note}</figure>\n'


# ---- the parts


def _text(part: Text) -> str:
    block = part.command.strip("\n")
    return _paragraphs(part.text) + (
        f"<pre><code>{html.escape(block)}</code></pre>\n" if block else ""
    )


def _table(table: Table) -> str:
    def kind(cells):  # numbers stand to the right, and so does the heading over nothing else
        return "" if any(isinstance(cell, str) for cell in cells) else ' class="number"'

    head = "".join(
        f'<th scope="col"{kind([row[i] for row in table.rows])}>{_inline(name)}</th>'
        for i, name in enumerate(table.header)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row"{kind([cell])}>{_inline(_number(cell))}</th>'
            if i == 0
            else f"<td{kind([cell])}>{_inline(_number(cell))}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in table.rows
    )
    return _figure(
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
            + "".join(f'<th scope="col">{_inline(_number(name))}</th>' for name in grid.columns)
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
                    f"{_inline(label)}</th>"
                )
            for j, image in enumerate(images):
                heading = grid.columns[j] if grid.columns else f"{j + 1} of {len(images)}"
                again = f"row {i + 1}" if len(group) > 1 else ""
                alt = ", ".join(str(word) for word in (label, again, heading) if word != "")
                out += f"<td>{_img(image, alt, _zoom(grid, images))}</td>"
            out += "<td></td>" * (longest - len(images)) + "</tr>\n"
    style = f"--n:{longest};--width:{max(widths)}px;--least:{min(max(widths), 72) // 2}px"
    return _figure(
        "pictures",
        f'<div class="scroll"><table class="{"labelled" * labelled}" '
        f'style="{style}">\n{out}</tbody></table></div>\n',
        grid.caption,
    )


def _zoom(grid: Pictures, images: np.ndarray) -> int:
    return grid.scale or max(1, round(72 / max(np.shape(images)[1:3])))


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
        f'<img{crisp} width="{width * zoom}" height="{height * zoom}" alt="{_plain(alt)}" '
        f'src="data:image/png;base64,{data}">'
    )


_HEIGHT, _GAP = 280, 19  # of a plot, and between the labels at its lines' ends, in screen pixels
_COLOURS, _DASHES = 8, ("", "6 4", "1.5 4")


def _curves(chart: Curves) -> str:
    # The SVG holds lines alone, on a 1000 x 1000 canvas stretched to whatever width there is (the
    # strokes do not stretch). All words are HTML over it, so they keep their size on a phone.
    scale = _log10 if chart.log_y else np.asarray
    raw = {
        name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in chart.series.items()
    }
    faint = {name: _runs(x, scale(y)) for name, (x, y) in raw.items()}
    lines = (
        faint
        if chart.smooth == 1
        else {name: _runs(x, scale(_smooth(y, chart.smooth))) for name, (x, y) in raw.items()}
    )
    points = [run for runs in faint.values() for run in runs]
    xs, ys = np.concatenate(points, axis=1) if points else (np.arange(2.0), np.arange(2.0))
    (x_0, x_1), (y_0, y_1) = _span(xs), _span(ys)
    x_ticks = _ticks(x_0, x_1)
    if chart.log_y:
        margin = 0.04 * (y_1 - y_0)
        y_0, y_1 = y_0 - margin, y_1 + margin
        values = _log_ticks(y_0, y_1)
        y_ticks = np.log10(values)
    else:
        step = np.diff(_ticks(y_0, y_1))[0]
        y_0, y_1 = math.floor(y_0 / step + 1e-9) * step, math.ceil(y_1 / step - 1e-9) * step
        values = y_ticks = _ticks(y_0, y_1)

    def across(x):
        return 1000 * (x - x_0) / (x_1 - x_0)

    def down(y):
        return 1000 * (y_1 - y) / (y_1 - y_0)

    def path(runs):  # a lone point is a line of no length, which round caps make a dot
        return "".join(
            "M"
            + "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in run.T)
            + "h.1" * (run.shape[1] == 1)
            for run in runs
        )

    behind, svg, ends = "", "", []
    for i, (name, runs) in enumerate(lines.items()):
        colour, dash = f"var(--c{i % _COLOURS})", _DASHES[i // _COLOURS % len(_DASHES)]
        if chart.ordered:  # from blue over purple and red to orange
            hue = (230 + 150 * i / max(1, len(lines) - 1)) % 360
            colour, dash = f"hsl({hue:.0f} 68% var(--ramp))", ""
        if chart.smooth > 1:
            behind += f'<path class="faint" style="color:{colour}" d="{path(faint[name])}"/>\n'
        svg += f'<g style="color:{colour}"><title>{_plain(name)}</title>'
        svg += f'<path d="{path(runs)}"' + (f' stroke-dasharray="{dash}"' if dash else "") + "/>"
        if sum(run.shape[1] for run in runs) <= 24:  # few enough to be shown as measurements
            svg += f'<path class="dots" d="{path([p[:, None] for run in runs for p in run.T])}"/>'
        svg += "</g>\n"
        ends.append(
            (
                down(runs[-1][1][-1]) if runs else 1000,
                name + " (no values)" * (not runs),
                colour,
                dash,
            )
        )
    rules = "".join(f'<path class="rule" d="M0 {down(y):.1f}H1000"/>' for y in y_ticks)
    y_words, x_words = _tick_labels(values), _tick_labels(x_ticks)
    words = "".join(
        f'<span class="y" style="top:{down(y) / 10:.2f}%">{word}</span>'
        for y, word in zip(y_ticks, y_words)
    ) + "".join(
        f'<span class="x" style="left:{across(x) / 10:.2f}%">{word}</span>'
        for x, word in zip(x_ticks, x_words)
    )

    legend, direct, right = _legend(ends)
    style = (
        f"--height:{_HEIGHT}px;--left:{max(map(len, y_words), default=1) + 1}ch;--right:{right}ch"
    )
    alt = f"Line chart of {chart.y_label or 'values'} over {chart.x_label or 'x'}: " + ", ".join(
        chart.series
    )
    return _figure(
        "curves",
        (
            f'<div class="chart{" direct" * direct}" style="{style}">\n'
            + (f'<div class="y-label">{_inline(chart.y_label)}</div>\n' if chart.y_label else "")
            + f'{legend}<div class="plot"><svg viewBox="0 0 1000 1000" '
            f'preserveAspectRatio="none" role="img" aria-label="{_plain(alt)}">\n{rules}\n'
            f"{behind}{svg}</svg>{words}</div>\n"
            + (f'<div class="x-label">{_inline(chart.x_label)}</div>\n' if chart.x_label else "")
            + "</div>\n"
        ),
        chart.caption,
    )


def _legend(ends: list[tuple[float, str, str, str]]) -> tuple[str, bool, int]:
    """(list, direct, width in characters) for ends (height 0 to 1000, name, colour, dash).

    direct: each name can stand at the end of its line; else, and on a phone, they stand on top.
    """
    ends = sorted(ends)
    longest = max(len(name) for _, name, _, _ in ends)
    items = "".join(
        f'<li style="--top:{top:.0f}px"><svg width="18" height="10" style="color:{colour}" '
        f'aria-hidden="true"><path d="M1 5H17" stroke-dasharray="{dash or "none"}"/></svg>'
        f"{_inline(name)}</li>\n"
        for top, (_, name, colour, dash) in zip(
            _spread([end[0] / 1000 * _HEIGHT for end in ends]), ends
        )
    )
    return (f"<ul>\n{items}</ul>\n", longest <= 28 and len(ends) * _GAP <= _HEIGHT, longest + 5)


def _log10(y: np.ndarray) -> np.ndarray:
    return np.log10(y, where=y > 0, out=np.full(y.shape, np.nan))


def _smooth(y: np.ndarray, window: int) -> np.ndarray:
    """The mean of the finite values within window / 2 places; gaps stay gaps."""
    if not len(y):
        return y
    window = min(window, len(y))
    finite = np.isfinite(y)
    total = np.convolve(np.where(finite, y, 0.0), np.ones(window), "same")
    count = np.convolve(finite, np.ones(window), "same")
    return np.where(finite, total / np.maximum(count, 1), np.nan)


def _runs(x: np.ndarray, y: np.ndarray, most: int = 800) -> list[np.ndarray]:
    """The unbroken stretches of finite points, each [2, m], about `most` points in all.

    Thinned by keeping the lowest and highest point of each of `most` / 2 buckets: a spike of one
    step, which a stride or a mean would hide, stays as high as it was.
    """
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    runs = []
    for run in np.split(finite, np.flatnonzero(np.diff(finite) > 1) + 1):
        budget = max(2, most * len(run) // max(1, len(finite)))
        if len(run) > budget:
            buckets = np.array_split(run, max(1, budget // 2))
            keep = [b[pick(y[b])] for b in buckets for pick in (np.argmin, np.argmax)]
            run = np.unique([run[0], *keep, run[-1]])
        if len(run):
            runs.append(np.stack([x[run], y[run]]))
    return runs


def _span(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value; widened where they are all the same."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.5 * abs(low) or 0.5
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float) -> np.ndarray:
    """Three to seven round numbers within [low, high]: multiples of 1, 2 or 5 times 10^k."""
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
    ticks = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return ticks if len(ticks) > 1 else np.array([low, high])


def _log_ticks(low: float, high: float) -> np.ndarray:
    """Round values whose log10 is within [low, high]: decades, or finer where those are few."""
    first, last = math.floor(low), math.ceil(high)
    every = max(1, (last - first) // 6)
    for decades, factors in ((every, (1,)), (1, (1, 3)), (1, (1, 2, 5))):
        values = np.array([f * 10.0**k for k in range(first, last + 1, decades) for f in factors])
        values = values[(np.log10(values) >= low) & (np.log10(values) <= high)]
        if len(values) >= 3:
            return values
    return _ticks(10.0**low, 10.0**high)


def _tick_labels(ticks: np.ndarray) -> list[str]:
    """Short labels, of one unit: 0, 20k, 40k."""
    top = float(np.max(np.abs(ticks), initial=0))
    size, unit = next(
        (s for s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if 10 * s[0] <= top * 1.001), (1, "")
    )
    if top >= 1e12:
        size, unit = 1, ""
    return [_minus(f"{tick / size:.7g}") + (unit if tick else "") for tick in ticks]


def _spread(tops: list[float]) -> list[float]:
    """Ascending positions moved apart to `_GAP`, and kept inside the plot where they fit."""
    out = []
    for top in tops:
        out.append(max(top, out[-1] + _GAP) if out else top)
    limit = _HEIGHT
    for i in reversed(range(len(out))):
        out[i] = min(out[i], limit)
        limit = out[i] - _GAP
    return out


_RENDER = {Pictures: _pictures, Curves: _curves, Table: _table, Text: _text}

_CSS = """
:root { color-scheme: light dark;
  --page: #fff; --ink: #1c1e21; --soft: #646a73; --rule: #e3e5e8; --panel: #f5f6f7;
  --c0: #2a6fdb; --c1: #d9571c; --c2: #0f8a68; --c3: #9a43c0; --c4: #b07d00; --c5: #d12f6d;
  --c6: #0a8ba6; --c7: #737a84; --ramp: 50% }
@media (prefers-color-scheme: dark) { :root {
  --page: #15171a; --ink: #e6e7e9; --soft: #9aa1ab; --rule: #30343a; --panel: #1e2125;
  --c0: #6ea8ff; --c1: #ff8a57; --c2: #3ecfa3; --c3: #cc8cf0; --c4: #e3b341; --c5: #ff77a8;
  --c6: #4fc9e2; --c7: #a9b0ba; --ramp: 68% } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-text-size-adjust: 100% }
main { max-width: 64rem; margin: 0 auto; padding: 3rem 1.5rem 5rem }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .75rem }
h2 { font-size: 1.3rem; line-height: 1.3; letter-spacing: -.01em; margin: 0 0 .75rem }
section { margin-top: 2.5rem; padding-top: 2rem; border-top: 1px solid var(--rule) }
p { max-width: 42rem; margin: 0 0 1rem }
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--panel); border-radius: 4px; padding: .1em .3em }
pre { margin: 0 0 1rem; padding: .9rem 1.1rem; background: var(--panel); border-radius: 8px;
  overflow-x: auto }
pre code { padding: 0; background: none }
a { color: var(--c0) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0 0 }
dl div { background: var(--panel); border-radius: 8px; padding: .8rem 1rem;
  display: flex; flex-direction: column-reverse; justify-content: flex-end }
dt { color: var(--soft); font-size: .82rem; line-height: 1.35 }
dd { margin: 0 0 .15rem; font-size: 1.45rem; font-weight: 600; line-height: 1.25;
  letter-spacing: -.01em; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin-top: 1.5rem; font-size: .9rem }
nav a { text-decoration: none }
nav a:hover { text-decoration: underline }
figure { margin: 0 0 2rem }
figure:last-child { margin-bottom: 0 }
figcaption { max-width: 42rem; margin-top: .7rem; color: var(--soft); font-size: .88rem;
  line-height: 1.5 }
.scroll { overflow-x: auto; padding: 1px; margin: -1px }
.table table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums }
.table th, .table td { padding: .45rem 1.5rem .45rem 0; text-align: left; font-weight: 400;
  border-bottom: 1px solid var(--rule) }
.table th:last-child, .table td:last-child { padding-right: 0 }
.table thead th { color: var(--soft); font-size: .85rem; vertical-align: bottom }
.table .number { text-align: right; white-space: nowrap }
.pictures table { display: grid; gap: 6px; justify-content: start;
  grid-template-columns: repeat(var(--n), minmax(var(--least), var(--width))) }
.pictures table.labelled { grid-template-columns: fit-content(11rem)
  repeat(var(--n), minmax(var(--least), var(--width))) }
.pictures thead, .pictures tbody, .pictures tr { display: contents }
.pictures th, .pictures td { padding: 0; line-height: 1.3; font-size: .85rem; font-weight: 400 }
.pictures thead th { text-align: center; color: var(--soft); font-variant-numeric: tabular-nums }
.pictures tbody th { grid-row: span var(--rows); align-self: center; text-align: left;
  padding-right: .75rem }
.pictures img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 3px;
  box-shadow: 0 0 0 1px var(--rule) }
.crisp { image-rendering: pixelated }
.chart { position: relative; font-size: .82rem; line-height: 19px; padding-left: var(--left) }
.y-label { color: var(--soft); margin: 0 0 .7rem calc(-1 * var(--left)) }
.x-label { color: var(--soft); text-align: center; margin-top: 1.6rem }
.chart ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0;
  margin: 0 0 .8rem calc(-1 * var(--left)) }
.chart li svg { margin-right: .4rem; vertical-align: -1px }
.plot { position: relative; height: var(--height); margin-bottom: 1.8rem }
.plot + .x-label { margin-top: -.1rem }
.plot svg { display: block; width: 100%; height: 100%; overflow: visible }
.chart path { fill: none; stroke: currentColor; stroke-width: 1.75; stroke-linejoin: round;
  stroke-linecap: round; vector-effect: non-scaling-stroke }
.chart .rule { stroke: var(--rule); stroke-width: 1 }
.chart .faint { opacity: .25; stroke-width: 1 }
.chart .dots { stroke-width: 5.5 }
.plot span { position: absolute; color: var(--soft); white-space: nowrap;
  font-variant-numeric: tabular-nums }
.plot .y { right: calc(100% + .6rem); transform: translateY(-50%) }
.plot .x { top: calc(100% + .3rem); transform: translateX(-50%) }
@media (min-width: 641px) {
  .direct .plot, .direct .x-label { margin-right: var(--right) }
  .direct ul { display: block; position: absolute; right: 0; width: calc(var(--right) - .5rem);
    margin: 0 }
  .direct li { position: absolute; top: var(--top); transform: translateY(-50%);
    white-space: nowrap }
}
@media (max-width: 640px) {
  main { padding: 1.75rem 1rem 3rem }
  h1 { font-size: 1.6rem }
  dl { grid-template-columns: 1fr 1fr }
  dl div { padding: .65rem .8rem }
  dd { font-size: 1.2rem }
  .plot { margin-right: .75rem }
  .table th, .table td { padding-right: .9rem }
  .table tbody th { min-width: 8rem }
  .pictures table, .pictures table.labelled { gap: 4px;
    grid-template-columns: repeat(var(--n), minmax(var(--least), var(--width))) }
  .pictures .corner { display: none }
  .pictures tbody th { grid-column: 1 / -1; grid-row: auto; padding: .6rem 0 0;
    position: sticky; left: 0; justify-self: start }
}
@media print { figure, pre, dl { break-inside: avoid } }
"""
