"""Figures as files: what is in the page is in the figure, as vectors where it can be."""

import re

import numpy as np
import pytest
from helpers import run_command
from PIL import Image

from pdae_jax.commands.options import FIGURES
from pdae_jax.formats.errors import DataError
from pdae_jax.pages import plot
from pdae_jax.pages.chart import Curves
from pdae_jax.pages.colours import rgb
from pdae_jax.pages.page import Pictures, Section, Table
from pdae_jax.pages.scatter import Colouring, Plane, Scatter


@pytest.fixture
def section():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    steps = np.arange(1, 30)
    return Section(
        "Some: figures",
        [
            Pictures([("first row", images), ("another", images[:2])], columns=("a", "b", "c")),
            Curves({"loss": (steps, 1 / steps)}, x_label="step", y_label="height", log_y=True),
            Table(["x"], [[1]]),
            Scatter(
                [Plane("PCA", rng.standard_normal((9, 2)), "left", "right")],
                [Colouring("kind", np.arange(9) % 3 - 1, ["cat", "dog"])],
                [("", "")] * 9,
            ),
        ],
    )


def drawn(section, folder, kind):
    paths = {}
    for name, draw in plot.figures(section):
        paths[name] = folder / f"{name}.{kind}"
        draw(paths[name], kind)
    return paths


def test_a_section_s_figures_are_named_after_it(section, tmp_path):
    assert list(drawn(section, tmp_path, "png")) == [
        "some-figures-1",
        "some-figures-2",
        "some-figures-pca-by-kind",
    ]
    with Image.open(tmp_path / "some-figures-2.png") as image:
        assert image.width > 5 * plot.DPI


def test_words_and_lines_are_vectors_and_pictures_stay_pixels(section, tmp_path):
    paths = drawn(section, tmp_path, "svg")
    pictures, curves, points = (path.read_text() for path in paths.values())
    for word in ("first row", "another", ">a<", ">c<"):
        assert word in pictures
    assert pictures.count("<image") == 5 and "<image" not in curves + points
    assert "height" in curves and "step" in curves
    for word in ("cat (3)", "dog (3)", "not known (3)", "left", "right"):
        assert word in points


@pytest.mark.parametrize("kind", FIGURES)
def test_the_same_figure_gives_the_same_bytes(section, tmp_path, kind):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for one, other in zip(
        drawn(section, tmp_path / "a", kind).values(), drawn(section, tmp_path / "b", kind).values()
    ):
        assert one.read_bytes() == other.read_bytes()
        if kind == "pdf":
            assert one.read_bytes().startswith(b"%PDF") and b"CreationDate" not in one.read_bytes()


def test_a_curve_s_points_are_where_they_were_given(tmp_path):
    """The path in the file, back in the data's coordinates, is the data's."""
    x, y = np.array([0.0, 1.0, 4.0]), np.array([3.0, 1.0, 2.0])
    path = drawn(Section("c", [Curves({"one": (x, y)})]), tmp_path, "svg")["c"]
    line = re.search(r'<path d="M ([^"]+)" clip-path[^>]+stroke: #2a6fdb', path.read_text())
    found = np.array(re.findall(r"-?\d+\.?\d*", line[1]), float).reshape(-1, 2)
    share = (found - found.min(0)) / np.ptp(found, axis=0)
    np.testing.assert_allclose(share[:, 0], x / 4, atol=1e-4)
    np.testing.assert_allclose(1 - share[:, 1], (y - 1) / 2, atol=1e-4)


@pytest.mark.parametrize(
    "css, expected",
    [
        ("#fff", (1, 1, 1)),
        ("#2a6fdb", (42 / 255, 111 / 255, 219 / 255)),
        ("var(--c0)", (42 / 255, 111 / 255, 219 / 255)),
        ("var(--s7)", (107 / 255, 74 / 255, 43 / 255)),
        ("hsl(120 100% 25%)", (0, 0.5, 0)),
        ("hsl(0 100% calc(var(--ramp) + -10%))", (0.8, 0, 0)),
    ],
)
def test_colours_are_the_light_style_sheet_s(css, expected):
    np.testing.assert_allclose(rgb(css), expected, atol=1e-6)


def test_without_matplotlib_a_line_says_what_to_install(section, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(DataError, match=r"pip install 'pdae_jax\[figures\]'"):
        drawn(section, tmp_path, "pdf")


def test_a_command_saves_the_figures_of_its_page(workdir, tmp_path, capsys):
    line = ["--mode=gap", f"--workdir={workdir}", "--n=2", f"--out={tmp_path / 'gap'}"]
    assert run_command(*line, "--save=pdf,svg") == 0
    there = {path.name for path in (tmp_path / "gap" / "figures").iterdir()}
    assert there == {"posterior-mean-gap.pdf", "posterior-mean-gap.svg"}
    assert run_command(*line, "--save=pfd") == 2
    assert "pdf" in capsys.readouterr().err
