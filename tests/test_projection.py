"""z in two dimensions: the projections, the plot of them, and the page."""

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from helpers import run_command
from PIL import Image
from test_pages import Page

import pdae_jax
from pdae_jax.commands import project
from pdae_jax.commands.page_command import run_page
from pdae_jax.data import open_source
from pdae_jax.data.source import Source
from pdae_jax.pages.page import Scatter, Section, render
from pdae_jax.pages.scatter import COLOURED, STEPS, Colouring, Plane, _places
from pdae_jax.tasks import encoding, projection
from pdae_jax.workdir.workdir import Workdir


@pytest.fixture
def rng():
    return np.random.Generator(np.random.PCG64(0))


# The projections.


def test_principal_components_are_those_of_a_known_ellipse(rng):
    """z of known directions and variances, which are found but for their signs."""
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    z = rng.standard_normal((5000, 7)) * np.sqrt([9, 4, 1, 0.5, 0.3, 0.1, 0.1]) @ turn.T
    points, shares = projection.principal(z)
    np.testing.assert_allclose(shares, [9 / 15, 4 / 15], rtol=0.05)
    true = (z - z.mean(0)) @ turn[:, :2]
    for k in range(2):
        assert abs(np.corrcoef(points[:, k], true[:, k])[0, 1]) > 0.99
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-9)
    np.testing.assert_array_equal(points, projection.principal(z)[0])


@pytest.mark.parametrize("shape", [(20, 1), (3, 5), (2, 1)])
def test_little_z_still_has_two_dimensions(rng, shape):
    points, shares = projection.principal(rng.standard_normal(shape))
    assert points.shape == (shape[0], 2) and np.isfinite(points).all() and shares.sum() <= 1 + 1e-9
    same, none = projection.principal(np.ones(shape))
    assert not same.any() and not none.any()


def test_umap_keeps_groups_apart_and_is_the_same_for_a_seed(rng):
    which = np.arange(60) % 3
    z = rng.standard_normal((60, 8)).astype(np.float32) + 20 * np.eye(8)[which]
    points = projection.umap(z, seed=1)
    far = np.linalg.norm(points[:, None] - points, axis=-1)
    same = which[:, None] == which
    assert far[same].max() < far[~same].min()
    np.testing.assert_array_equal(points, projection.umap(z, seed=1))
    with pytest.raises(ValueError, match="at least 16 pictures, got 15"):
        projection.umap(z[:15])


# The plot.


def page_of(scatter):
    text = render("t", {}, [Section("s", [scatter])])
    return text, Page(text)


def scatter_of(n=30, **changes):
    rng = np.random.default_rng(0)
    given = {
        "planes": [Plane("PCA", rng.standard_normal((n, 2)), "one", "two")],
        "colourings": [Colouring("kind", np.arange(n) % 3, ["cat", "dog", "fish"])],
        "words": [(f"{k}.png", f"number {k}") for k in range(n)],
        "pictures": rng.integers(0, 256, (n, 6, 5, 3), np.uint8),
    }
    return Scatter(**given | changes)


def points_of(page):
    """Of each point its classes and its style."""
    return [
        (e[1]["class"], dict(part.split(":") for part in e[1]["style"].split(";")))
        for e in page.all("label")
        if "style" in e[1]
    ]


def legend_of(page, k=0):
    """The legend of a colouring as {name: count}."""
    (start,) = [i for i, e in enumerate(page.elements) if e[1].get("class") == f"by by{k}"]
    found, name = {}, ""
    for tag, _, text in page.elements[start + 1 :]:
        if tag == "ul":
            break
        if tag == "li":
            name = text.strip()
        if tag == "small" and name is not None:
            found[name], name = text, None
    return found


def test_points_stand_where_they_are_in_one_scale():
    points = np.array([[0, 0], [2, 0], [0, 1], [2, 1.0]])
    found = _places(points)
    x, y = found.T
    assert x[0] == x[2] < x[1] == x[3] and y[0] == y[1] > y[2] == y[3]  # y is up
    assert found.min() >= 0 and found.max() <= 100
    np.testing.assert_allclose((x[1] - x[0]) * 8, 2 * (y[0] - y[2]) * 5)  # a plot of 8 to 5
    scatter = scatter_of(4, planes=[Plane("PCA", points)])
    places = [style for _, style in points_of(page_of(scatter)[1])]
    np.testing.assert_allclose([float(p["--x0"]) for p in places], x, atol=0.01)
    np.testing.assert_allclose([float(p["--y0"]) for p in places], y, atol=0.01)
    assert np.isfinite(_places(np.ones((5, 2)))).all()


def test_every_picture_is_on_the_sheet_at_its_points_place():
    scatter = scatter_of()
    text, page = page_of(scatter)
    data = re.search(r"url\(data:image/png;base64,([^)]*)\)", text)[1]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    for element, picture in zip(page.all("i"), scatter.pictures, strict=True):
        u, v = (int(part.split(":")[1]) for part in element[1]["style"].split(";"))
        np.testing.assert_array_equal(sheet[6 * v : 6 * v + 6, 5 * u : 5 * u + 5], picture)
    assert page.texts("b") == [title for title, _ in scatter.words]
    assert not page_of(scatter_of(pictures=None))[1].all("i")


def test_a_page_of_a_thousand_pictures_is_below_five_megabytes():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1000, 32, 32, 3), np.uint8)  # worse than any picture
    colourings = [
        Colouring(f"label {k}", rng.integers(0, 2, 1000), ["no", "yes"]) for k in range(40)
    ]
    planes = [Plane(name, rng.standard_normal((1000, 2))) for name in ("PCA", "UMAP")]
    words = [(f"some/folder/picture{k:04d}.png", "a label, another one") for k in range(1000)]
    text, _ = page_of(Scatter(planes, colourings, words, noise))
    assert "data:image/jpeg" in text and len(text) < 5e6


def test_nothing_but_data_is_loaded_and_there_is_no_script():
    text, page = page_of(scatter_of())
    assert not page.all("script") and not re.search(r"https?:", text)
    assert set(re.findall(r"url\((.{5})", text)) == {"data:"}
    assert render("t", {}, [Section("s", [scatter_of()])]) == text  # the same every time


def test_the_most_frequent_categories_are_coloured_and_counted():
    counts = [1, 9, 8, 7, 6, 5, 4, 3, 2, 2]
    values = np.repeat(np.arange(10), counts)
    values = np.append(values, [-1, -1])
    names = [f"<kind {k}>" for k in range(10)]
    _, page = page_of(scatter_of(len(values), colourings=[Colouring("kind", values, names)]))
    legend = legend_of(page)
    assert list(legend) == [*names[1:9], "2 others", "not known"]
    assert list(legend.values()) == ["9", "8", "7", "6", "5", "4", "3", "2", "3", "2"]
    classes = [of for of, _ in points_of(page)]
    assert classes[0] == classes[46] == f"k0-{COLOURED}" and classes[1] == "k0-0"
    assert classes[-1] == f"k0-{COLOURED + 1}"


def test_colours_and_shapes_tell_categories_apart():
    text, _ = page_of(scatter_of(16, colourings=[Colouring("a", np.arange(16) % 8, [*"abcdefgh"])]))
    styles = re.findall(r"\.k0-\d\{([^}]*)\}", text)
    assert len(styles) == len(set(styles)) == 8
    colours = re.findall(r"--[cs]\d: (#\w+)", text)  # seven and a grey, light and dark, and two
    assert len(colours) == len(set(colours)) == 18


def test_numbers_become_steps_of_a_scale():
    values = np.append(np.linspace(5, 25, 101), np.nan)
    _, page = page_of(scatter_of(102, colourings=[Colouring("age", values)]))
    steps = [int(of.removeprefix("k0-")) for of, _ in points_of(page)]
    assert (np.diff(steps[:-1]) >= 0).all() and set(steps[:-1]) == set(range(STEPS))
    assert steps[-1] == STEPS and legend_of(page)["not known"] == "1"
    (low,) = [e[2] for e in page.all("li", class_="scale")]
    assert low.startswith("5.400") and "24.60" in low  # 2 % and 98 %
    one = page_of(scatter_of(5, colourings=[Colouring("same", np.full(5, 3.0))]))[1]
    assert {of for of, _ in points_of(one)} == {"k0-0"}
    none = page_of(scatter_of(5, colourings=[Colouring("none", np.full(5, np.nan))]))[1]
    assert legend_of(none) == {"not known": "5"}


def test_what_is_chosen_is_a_radio_button_and_points_are_one_group():
    planes = [Plane(name, np.random.default_rng(0).random((30, 2))) for name in ("PCA", "UMAP")]
    colourings = [Colouring(name, np.arange(30) % 2, ["no", "yes"]) for name in ("a", "b")]
    text, page = page_of(scatter_of(planes=planes, colourings=colourings))
    groups = {}
    for element in page.all("input", type="radio"):
        groups.setdefault(element[1]["name"].split("-")[1], []).append("checked" in element[1])
    assert groups["m"] == groups["c"] == [True, False] and len(groups["p"]) == 30
    assert not any(groups["p"])
    for k in range(2):
        assert f"-c{k}:checked) .by{k}" in text
    (whole,) = page.all("div", role="radiogroup")
    assert "30 points, PCA or UMAP" in whole[1]["aria-label"]
    ids = [e[1]["id"] for e in page.elements if "id" in e[1]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"planes": []}, "at least one plane"),
        ({"colourings": [Colouring("a", np.zeros(29))]}, "'a' is of 29 points, and there are 30"),
        ({"pictures": np.zeros((30, 4, 4, 2), np.uint8)}, "pictures must be uint8"),
    ],
)
def test_a_plot_refuses_what_it_cannot_show(changes, says):
    with pytest.raises(ValueError, match=says):
        scatter_of(**changes)


def test_planes_and_colourings_refuse_what_is_none():
    with pytest.raises(ValueError, match="'a': points must be finite"):
        Plane("a", np.array([[0, np.nan]]))
    with pytest.raises(ValueError, match="'a': values must be .* of 2 categories"):
        Colouring("a", np.array([0, 2]), ["no", "yes"])
    with pytest.raises(ValueError, match="'a': values must be"):
        Colouring("a", np.array([0.5]), ["no", "yes"])


# What points are coloured by.


class Known(Source):
    """Six pictures of which several things are known."""

    attributes = ("kind=cat", "kind=dog", "kind=fish", "age", "ill", "same")
    labels = np.array(  # pyright: ignore[reportAssignmentType]
        [
            [1, 0, 0, 3, 1, 7],
            [0, 1, 0, 4, 0, 7],
            [0, 0, 1, 5, 0, 7],
            [1, 0, 0, 6, np.nan, 7],
            [np.nan, np.nan, np.nan, np.nan, 1, 7],
            [0, 1, 0, 3.25, 0, 7],
        ],
        np.float32,
    )
    group = np.array(list("aabbcc"))
    split_of = np.array(["train"] * 4 + ["test"] * 2)


def test_points_are_coloured_by_classes_labels_split_and_groups():
    found = {one.name: one for one in project.colourings_of(Known(), Known.labels, np.arange(6))}
    assert list(found) == ["kind", "age", "ill", "split", "group"]  # of one value alone: none
    assert found["kind"].names == ["cat", "dog", "fish"]
    assert found["kind"].values.tolist() == [0, 1, 2, 0, -1, 1]
    assert found["ill"].values.tolist() == [1, 0, 0, -1, 1, 0] and not found["age"].names
    assert found["group"].values.tolist() == [0, 0, 1, 1, 2, 2]
    some = project.colourings_of(Known(), Known.labels[:2], np.arange(2))
    assert [one.name for one in some][-1] != "split" and "group" not in {one.name for one in some}
    words = project.words_of(Known.attributes, Known.labels)
    assert words[0] == "kind cat, age 3, ill, same 7" and words[4] == "ill, same 7"


def test_yes_and_no_that_exclude_each_other_are_one_label():
    source = Known()
    source.attributes = tuple("0123")
    labels = np.eye(4, dtype=np.float32)[[0, 3, 3, 1, 2]]
    source.group = source.split_of = np.zeros(0, str)
    found = project.colourings_of(source, labels, np.arange(5))
    assert [one.name for one in found] == ["label", *"0123"]
    assert found[0].values.tolist() == [0, 3, 3, 1, 2]


# The command.


def test_project_shows_the_held_out_pictures(workdir, tmp_path):
    output = run_page("project", workdir, project.Options(n=40), out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "numbers.json").read_text())["numbers"]
    source = open_source("digits", "test")
    assert (record["pictures"], record["of"], record["umap"]) == (40, len(source), True)
    assert record["coloured_by"] == ["label", *"0123456789"]
    table = pd.read_csv(tmp_path / "out" / "project.csv")
    assert list(table) == ["path", "pca_1", "pca_2", "umap_1", "umap_2"]
    places = np.unique(np.linspace(0, len(source) - 1, 40).round().astype(int))
    assert list(table.path) == [source.path(i) for i in places]
    model = pdae_jax.load(workdir)
    z = model.encode(np.stack([source.image(i) for i in places]))
    points, shares = projection.principal(np.asarray(z / model.params["statistics"]["std"]))
    np.testing.assert_allclose(table[["pca_1", "pca_2"]], points, rtol=1e-3, atol=1e-4)
    assert record["variance"] == pytest.approx({"1": shares[0], "2": shares[1]}, rel=1e-3)
    page = Page(output.page.read_text())
    assert len(page.all("i")) == 40 and f"{shares[0]:.1%}" in output.page.read_text()


def test_project_of_given_pictures_and_their_table(workdir, tmp_path, capsys, monkeypatch):
    """Broken ones left out; without umap-learn PCA alone, which is said once."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = ["path,kind,age"]
    for k in range(30):
        Image.fromarray(np.full((40, 30), 8 * k, np.uint8)).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{'cat dog fish'.split()[k % 3]},{k}")
    (folder / "4.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    monkeypatch.setattr(projection, "umap_is_there", lambda: False)
    line = ["--mode=project", f"--workdir={workdir}", f"--images={folder}"]
    line += [f"--labels={tmp_path / 'labels.csv'}", f"--out={tmp_path / 'out'}"]
    assert run_command(*line) == 0
    assert (
        "no UMAP, which needs umap-learn: pip install 'pdae_jax[umap]'" in capsys.readouterr().err
    )
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())["numbers"]
    assert (numbers["pictures"], numbers["of"], numbers["umap"]) == (29, 30, False)
    assert numbers["coloured_by"][:2] == ["kind", "age"]
    text = (tmp_path / "out" / "index.html").read_text()
    assert "4.png, " not in text and "kind dog, age 7" in text


def test_too_few_pictures_are_one_line(workdir, tmp_path, capsys):
    for k in range(2):
        Image.fromarray(np.full((8, 8), 99 * k, np.uint8)).save(tmp_path / f"{k}.png")
    line = ["--mode=project", f"--workdir={workdir}", f"--images={tmp_path}"]
    assert run_command(*line, f"--out={tmp_path / 'out'}") == 2
    assert "has 2 picture(s) that can be read: a projection needs at" in capsys.readouterr().err
    assert run_command(*line, "--n=2") == 2
    assert "n must be at least 3, got 2" in capsys.readouterr().err


def test_an_imported_model_without_statistics_is_normalised_by_the_pictures(workdir, tmp_path):
    home, trained = Workdir.create(tmp_path / "imported"), Workdir(workdir)
    home.write_architecture(trained.architecture)
    home.save_weights(trained.weights(["dpm", "encoder", "gradient"]))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(5):
        Image.fromarray(np.full((8, 8), 50 * k, np.uint8)).save(folder / f"{k}.png")
    output = run_page("project", home, project.Options(images=str(folder)), out=tmp_path / "out")
    assert "own mean and standard deviation, as the model was imported" in output.page.read_text()


def test_thumbnails_are_small_and_visible():
    for shape, wanted in (
        ((3, 64, 128, 3), (16, 32, 3)),
        ((2, 20, 10, 1), (20, 10, 1)),
        ((2, 40, 40, 5), (32, 32, 3)),
        ((0, 40, 40, 1), None),
    ):
        found = encoding.thumbnails_of(np.zeros(shape, np.uint8), 32)
        assert found.dtype == np.uint8
        assert found.shape[1:] == wanted if wanted else len(found) == 0
