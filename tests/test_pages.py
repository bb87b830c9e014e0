"""Pages: what is in the page is what was put in, and the page needs nothing else."""

import base64
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pdae_jax.pages.chart import _runs
from pdae_jax.pages.page import Curves, Pictures, Section, Table, Text, render, write

VOID = {"meta", "img", "link", "br", "path"}  # path is closed in place


class Page(HTMLParser):
    """Elements as (tag, attributes, text directly inside); every tag must be closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag, **attributes):
        return [
            e
            for e in self.elements
            if e[0] == tag and all(e[1].get(k.rstrip("_")) == v for k, v in attributes.items())
        ]

    def texts(self, tag, **attributes):
        return [e[2] for e in self.all(tag, **attributes)]


def page(*parts, summary=None, lead="", title="t"):
    return Page(render(title, summary or {}, [Section("s", parts)], lead))


def pixels(element):
    kind, data = element[1]["src"].split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def stretches(p):
    """The charts' lines: per path a list of strokes, each an array [n, 2] of canvas points."""
    return [
        [
            np.array([point.split() for point in re.sub("h.1$", "", stroke).split("L")], float)
            for stroke in path[1]["d"].split("M")[1:]
        ]
        for path in p.all("path")
        if set(path[1]) == {"d"}
    ]


def images(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def rng():
    return np.random.Generator(np.random.PCG64(0))


# ---- pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_bit_for_bit(rng, channels):
    x = images(rng, 4, 8, 6, channels)
    found = page(Pictures([("original", x)])).all("img")
    assert len(found) == 4
    for element, expected in zip(found, x):
        np.testing.assert_array_equal(
            pixels(element), expected[..., 0] if channels == 1 else expected
        )


@pytest.mark.parametrize(
    "side, scale, shown",
    [(8, None, 96), (32, None, 96), (64, None, 64), (128, None, 128), (128, 2, 256), (8, 4, 32)],
)
def test_small_pictures_are_enlarged_by_a_whole_factor_and_crisp(rng, side, scale, shown):
    p = page(Pictures([("", images(rng, 1, side, side, 3))], scale=scale))
    ((_, attributes, _),) = p.all("img")
    assert attributes["width"] == attributes["height"] == str(shown)
    assert (attributes.get("class") == "crisp") == (shown > side)


def test_every_picture_says_what_it_is(rng):
    x = images(rng, 2, 8, 8, 1)
    p = page(Pictures([("from z", x), ("from z", x), ("ddpm", x)], columns=["0", "1"]))
    assert [e[1]["alt"] for e in p.all("img")] == [
        "from z, row 1, 0",
        "from z, row 1, 1",
        "from z, row 2, 0",
        "from z, row 2, 1",
        "ddpm, 0",
        "ddpm, 1",
    ]
    assert page(Pictures([("", x)])).all("img")[1][1]["alt"] == "2 of 2"


def test_neighbouring_rows_of_one_label_share_it(rng):
    x = images(rng, 1, 8, 8, 1)
    p = page(Pictures([(label, x) for label in "abbba"]))
    labels = p.all("th", scope="rowgroup")
    assert [(e[2], e[1]["rowspan"]) for e in labels] == [("a", "1"), ("b", "3"), ("a", "1")]


def test_shorter_rows_are_filled_up_and_columns_head_the_longest(rng):
    long, short = images(rng, 3, 8, 8, 1), images(rng, 1, 16, 16, 3)
    p = page(Pictures([("long", long), ("short", short)], columns=[0, 0.5, 1], caption="c"))
    assert len(p.all("td")) == 1 + 3 + 3  # the corner, then two full rows
    assert p.texts("th", scope="col") == ["0", "0.5000", "1"]
    assert p.texts("figcaption") == ["c"]
    with pytest.raises(ValueError, match="2 column headings for rows of up to 3"):
        Pictures([("long", long)], columns=["a", "b"])


def test_pictures_refuse_what_is_not_a_batch_of_uint8(rng):
    x = images(rng, 2, 8, 8, 3)
    for bad in (x / 255, x[0], x[..., :2], x[:0], [1, 2], x.transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="row 'r': images must be uint8"):
            Pictures([("r", bad)])
    with pytest.raises(ValueError, match="at least one row"):
        Pictures([])
    with pytest.raises(ValueError, match="scale must be at least 1"):
        Pictures([("r", x)], scale=0)


# ---- curves


def test_a_line_spans_the_plot_and_keeps_its_shape():
    ((line,),) = stretches(page(Curves({"a": (np.array([0, 1, 4]), np.array([0, 10, 5]))})))
    np.testing.assert_allclose(line, [[0, 1000], [250, 0], [1000, 500]])


def test_log_scale_places_decades_evenly():
    y = 10.0 ** np.arange(-4, 1)
    p = page(Curves({"a": (np.arange(5), y)}, log_y=True))
    ((line,),) = stretches(p)
    np.testing.assert_allclose(np.diff(line[:, 1]), np.diff(line[:, 1])[0], atol=0.11)
    assert p.texts("span", class_="y") == ["0.0001", "0.001", "0.01", "0.1", "1"]


@pytest.mark.parametrize(
    "hole, log_y", [(np.nan, False), (np.inf, False), (0.0, True), (-1.0, True)]
)
def test_what_cannot_be_drawn_is_a_gap(hole, log_y):
    y = np.array([hole, 1, 2, hole, hole, 3, hole, 4, 5, 6])
    p = page(Curves({"a": (np.arange(10), y)}, log_y=log_y))
    (strokes,) = stretches(p)
    assert [len(stroke) for stroke in strokes] == [2, 1, 3]
    assert "nan" not in "".join(e[1].get("d", "") for e in p.elements)


def test_long_series_are_thinned_but_keep_every_extreme(rng):
    x, y = np.arange(100_000.0), rng.normal(size=100_000)
    y[31_415], y[27_182] = 40, -40  # spikes of a single step
    x[:50] = np.nan
    (run,) = _runs(x, y)
    assert run.shape[1] <= 802
    assert {(31_415, 40), (27_182, -40)} <= set(zip(*run))
    assert run[0, 0] == 50 and run[0, -1] == 99_999
    assert (np.diff(run[0]) > 0).all()


def test_smoothing_draws_the_mean_over_the_faint_points():
    y = np.array([0, 3, 0, np.nan, 3, 3.0])
    p = page(Curves({"a": (np.arange(6), y)}, smooth=3))
    assert len(p.all("path", class_="faint")) == 1
    first, second = stretches(p)[0]
    top = np.concatenate([first, second])[:, 1]
    # means over 2, 3, 2 and, beyond the gap, 2 and 2 values
    np.testing.assert_allclose(3 * (1 - top / 1000), [1.5, 1, 1.5, 3, 3], atol=1e-3)


def test_many_series_are_told_apart_and_all_named():
    series = {f"loss <{i}>": (np.arange(3), np.arange(3) + i) for i in range(20)}
    p = page(Curves(series))
    marks = {
        (e[1].get("style"), dashed[1].get("stroke-dasharray"))
        for e, dashed in zip(
            p.all("g"),
            [e for e in p.all("path") if e[1]["d"][0] == "M" and "class" not in e[1]][20:],
        )
    }
    assert len(marks) == 20
    assert sorted(p.texts("li")) == sorted(p.texts("title")[1:]) == sorted(series)
    ramp = page(Curves(series, ordered=True)).all("g")
    assert len({e[1]["style"] for e in ramp}) == 20


def test_names_stand_at_the_ends_of_lines_apart_from_each_other():
    p = page(
        Curves(
            {
                name: (np.arange(2), np.array([0, end]))
                for name, end in {"low": 0.0, "high": 1.0, "next": 0.99, "third": 0.98}.items()
            }
        )
    )
    assert p.texts("li") == ["high", "next", "third", "low"]
    tops = [int(re.search(r"\d+", e[1]["style"])[0]) for e in p.all("li")]
    assert min(np.diff(tops)) >= 19 and tops[-1] == 280


@pytest.mark.parametrize(
    "y",
    [
        [],
        [np.nan, np.nan],
        [0.0, 0.0],
        [7.0],
        [1e-300, 2e-300],
        [1.0, 1.0 + 1e-16],
        [1e12, 3e12],
        [-5, -2],
    ],
)
@pytest.mark.parametrize("log_y", [False, True])
def test_degenerate_series_still_give_a_chart(y, log_y):
    p = page(Curves({"a": (np.arange(len(y)), np.array(y))}, log_y=log_y, smooth=5))
    assert len(p.texts("span", class_="y")) >= 2
    drawable = [v for v in y if np.isfinite(v) and (v > 0 or not log_y)]
    assert p.texts("li") == ["a" if drawable else "a (no values)"]


def test_curves_refuse_series_that_do_not_match():
    with pytest.raises(ValueError, match=r"'a': x and y must be .* \(3,\) and \(2,\)"):
        Curves({"a": (np.zeros(3), np.zeros(2))})
    with pytest.raises(ValueError, match="at least one series"):
        Curves({})


# ---- tables, text, numbers


@pytest.mark.parametrize(
    "value, shown",
    [
        (0.9934123, "0.9934"),
        (6.0712e-5, "6.071e-5"),
        (1.0, "1"),
        (0.0, "0"),
        (49664, "49,664"),
        (12345.6, "12,346"),
        (-0.25, "−0.2500"),
        (float("nan"), "–"),
        (None, "–"),
        (float("inf"), "∞"),
        (np.float32(0.1), "0.1000"),
        (np.int64(3), "3"),
        (np.array(2.5), "2.500"),
        (True, "True"),
        ("1e-05 s", "1e-05 s"),
        (3e20, "3.000e20"),
    ],
)
def test_numbers_read_well(value, shown):
    p = page(Table(["name", "value"], [["a", value]]), summary={"n": value})
    assert p.texts("td") == [shown] and p.texts("dd") == [shown]


def test_numbers_stand_right_and_words_left():
    p = page(Table(["", "n", "mixed"], [["a", 1, "x"], ["b", None, 2.5]]))
    assert [e[1].get("class") for e in p.all("th", scope="col")] == [None, "number", None]
    assert [e[1].get("class") for e in p.all("td")] == ["number", None, "number", "number"]
    with pytest.raises(ValueError, match="row of 1 cells under 2 headings"):
        Table(["a", "b"], [[1]])


def test_paragraphs_code_and_commands():
    p = page(Text("one `x < 1`\nstill one\n\ntwo", command="a --b\n  c `d`\n"))
    assert p.texts("p") == ["one \nstill one", "two"]
    assert p.texts("code") == ["x < 1", "a --b\n  c `d`"]


def test_sections_refuse_what_they_cannot_show():
    with pytest.raises(TypeError, match="section 's': a part must be .* got str"):
        Section("s", ["a paragraph"])


# ---- the page


def everything(rng, word="x"):
    x = images(rng, 2, 8, 8, 3)
    return {
        "title": word,
        "summary": {word: word},
        "lead": word,
        "sections": [
            Section(
                word,
                [
                    Pictures([(word, x)], [word, word], word),
                    Table([word], [[word]], word),
                    Curves({word: (np.arange(3), np.arange(3))}, word, word, word),
                    Text(word, word),
                ],
            )
            for _ in range(3)
        ],
    }


def test_any_text_is_shown_as_it_is(rng):
    word = """</style><script>alert("1 & 'one'")</script>"""
    p = Page(render(**everything(rng, word)))
    assert not p.all("script")
    for tag in ("title", "h1", "h2", "dt", "dd", "p", "th", "li", "figcaption", "code", "a"):
        assert word in p.texts(tag), tag
    assert p.all("img")[0][1]["alt"] == f"{word}, {word}"
    assert word in p.all("svg", role="img")[0][1]["aria-label"]


def test_the_page_loads_nothing_from_outside(rng):
    text = render(**everything(rng))
    p = Page(text)
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'src="data:[^"]*"', "", text))
    assert not p.all("script") and not p.all("link")
    for _, attributes, _ in p.elements:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    policy = p.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][1]["content"]
    assert policy.startswith("default-src 'none'")
    ids = [e[1]["id"] for e in p.all("section")]
    assert [e[1]["href"] for e in p.all("a")] == ["#" + i for i in ids]


def test_the_file_is_the_page_and_is_the_same_every_time(tmp_path):
    path = tmp_path / "new" / "report.html"
    for _ in range(2):
        contents = everything(np.random.Generator(np.random.PCG64(1)), "x_T ≈ 0")
        write(path, **contents)
        assert path.read_text(encoding="utf-8") == render(**contents)
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write(path, "new", {}, [])
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]
