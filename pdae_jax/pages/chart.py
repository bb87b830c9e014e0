"""Line charts as inline SVG."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pdae_jax.pages.markup import figure, inline, minus, plain


@dataclass(frozen=True, eq=False)
class Curves:
    """A line chart of any number of series.

    series: name -> (x, y), two [n] arrays of numbers. NaN and infinity, and with `log_x` or `log_y`
    also what is not above 0, leave a gap. Long series are thinned to what a screen can show; every
    extreme stays.
    ordered: the series are steps of one scale (time ranges, sizes), coloured as a ramp.
    smooth: draw the mean over this many neighbouring points, and the points themselves faintly
    behind it; for noisy losses. 1 draws the points alone.
    """

    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    x_label: str = ""
    y_label: str = ""
    caption: str = ""
    log_x: bool = False
    log_y: bool = False
    ordered: bool = False
    smooth: int = 1

    def __post_init__(self) -> None:
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


FEW = 24  # points of a line, at most, that are shown as measurements
_HEIGHT, _GAP = 280, 19  # of a plot, and between the labels at its lines' ends, in screen pixels
_COLOURS, _DASHES = 8, ("", "6 4", "1.5 4")


def render(chart: Curves) -> str:
    """Renders the chart as HTML."""
    # The SVG holds lines alone, on a 1000 x 1000 canvas stretched to whatever width there is (the
    # strokes do not stretch). All words are HTML over it, so they keep their size on a phone.
    scale_x, scale = (_log10 if log else np.asarray for log in (chart.log_x, chart.log_y))
    raw = {
        name: (scale_x(np.asarray(x, float)), np.asarray(y, float))
        for name, (x, y) in chart.series.items()
    }
    faint = {name: _runs(x, scale(y)) for name, (x, y) in raw.items()}
    lines = (
        faint
        if chart.smooth == 1
        else {name: _runs(x, scale(smoothed(y, chart.smooth))) for name, (x, y) in raw.items()}
    )
    points = [run for runs in faint.values() for run in runs]
    xs, ys = np.concatenate(points, axis=1) if points else (np.arange(2.0), np.arange(2.0))
    (x_0, x_1), (y_0, y_1) = _span(xs), _span(ys)
    x_values = _log_ticks(x_0, x_1) if chart.log_x else _ticks(x_0, x_1)
    x_ticks = np.log10(x_values) if chart.log_x else x_values
    if chart.log_y:
        margin = 0.04 * (y_1 - y_0)
        y_0, y_1 = y_0 - margin, y_1 + margin
        values = _log_ticks(y_0, y_1)
        y_ticks = np.log10(values)
    else:
        step = np.diff(_ticks(y_0, y_1))[0]
        y_0, y_1 = math.floor(y_0 / step + 1e-9) * step, math.ceil(y_1 / step - 1e-9) * step
        values = y_ticks = _ticks(y_0, y_1)

    def across(x: float) -> float:
        return 1000 * (x - x_0) / (x_1 - x_0)

    def down(y: float) -> float:
        return 1000 * (y_1 - y) / (y_1 - y_0)

    def path(runs: list[np.ndarray]) -> str:
        # A lone point is a line of no length, which round caps make a dot.
        return "".join(
            "M"
            + "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in run.T)
            + "h.1" * (run.shape[1] == 1)
            for run in runs
        )

    behind, svg = "", ""
    ends: list[tuple[float, str, str, str]] = []
    for i, (name, runs) in enumerate(lines.items()):
        colour, dash = line_style(i, len(lines), chart.ordered)
        if chart.smooth > 1:
            behind += f'<path class="faint" style="color:{colour}" d="{path(faint[name])}"/>\n'
        svg += f'<g style="color:{colour}"><title>{plain(name)}</title>'
        svg += f'<path d="{path(runs)}"' + (f' stroke-dasharray="{dash}"' if dash else "") + "/>"
        if sum(run.shape[1] for run in runs) <= FEW:
            svg += f'<path class="dots" d="{path([p[:, None] for run in runs for p in run.T])}"/>'
        svg += "</g>\n"
        end = down(runs[-1][1][-1]) if runs else 1000
        ends.append((end, name + " (no values)" * (not runs), colour, dash))
    rules = "".join(f'<path class="rule" d="M0 {down(y):.1f}H1000"/>' for y in y_ticks)
    y_words, x_words = _tick_labels(values), _tick_labels(x_values)
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
    return figure(
        "curves",
        (
            f'<div class="chart{" direct" * direct}" style="{style}">\n'
            + _axis_label("y-label", chart.y_label)
            + f'{legend}<div class="plot"><svg viewBox="0 0 1000 1000" '
            f'preserveAspectRatio="none" role="img" aria-label="{plain(alt)}">\n{rules}\n'
            f"{behind}{svg}</svg>{words}</div>\n"
            + _axis_label("x-label", chart.x_label)
            + "</div>\n"
        ),
        chart.caption,
    )


def line_style(i: int, n: int, ordered: bool) -> tuple[str, str]:
    """The CSS colour and dashes of the i-th of n lines."""
    if ordered:  # from blue over purple and red to orange
        hue = (230 + 150 * i / max(1, n - 1)) % 360
        return f"hsl({hue:.0f} 68% var(--ramp))", ""
    return f"var(--c{i % _COLOURS})", _DASHES[i // _COLOURS % len(_DASHES)]


def _axis_label(kind: str, text: str) -> str:
    return f'<div class="{kind}">{inline(text)}</div>\n' if text else ""


def _legend(ends: list[tuple[float, str, str, str]]) -> tuple[str, bool, int]:
    """Makes the legend from ends (height 0 to 1000, name, colour, dash).

    Returns (list as HTML, direct, width in characters). direct: each name can stand at the end of
    its line; else, and on a phone, they stand on top.
    """
    ends = sorted(ends)
    longest = max(len(name) for _, name, _, _ in ends)
    items = "".join(
        f'<li style="--top:{top:.0f}px"><svg width="18" height="10" style="color:{colour}" '
        f'aria-hidden="true"><path d="M1 5H17" stroke-dasharray="{dash or "none"}"/></svg>'
        f"{inline(name)}</li>\n"
        for top, (_, name, colour, dash) in zip(
            _spread([end[0] / 1000 * _HEIGHT for end in ends]), ends
        )
    )
    return (f"<ul>\n{items}</ul>\n", longest <= 28 and len(ends) * _GAP <= _HEIGHT, longest + 5)


def _log10(y: np.ndarray) -> np.ndarray:
    return np.log10(y, where=y > 0, out=np.full(y.shape, np.nan))


def smoothed(y: np.ndarray, window: int) -> np.ndarray:
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
    return [minus(f"{tick / size:.7g}") + (unit if tick else "") for tick in ticks]


def _spread(tops: list[float]) -> list[float]:
    """Ascending positions moved apart to `_GAP`, and kept inside the plot where they fit."""
    out: list[float] = []
    for top in tops:
        out.append(max(top, out[-1] + _GAP) if out else top)
    limit: float = _HEIGHT
    for i in reversed(range(len(out))):
        out[i] = min(out[i], limit)
        limit = out[i] - _GAP
    return out
