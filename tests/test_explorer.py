"""The explorer as a person uses it, in headless Chromium, on shipped and on converted models."""

import contextlib
import dataclasses
import io
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
from helpers import DIGITS_ARCH, ROOT
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import pdae_jax
from benchmarks.explorer import BROWSER, QUIET
from pdae_jax.commands import explore
from pdae_jax.convert.conversion import convert, export
from pdae_jax.data.dataset import Data
from pdae_jax.images import to_uint8
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir import shipped

LONG = 120_000  # milliseconds: a program may be compiled first

in_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: install chromium")


@contextlib.contextmanager
def served(*line):
    """The address of an explorer that a command line starts; ends as Ctrl-C does."""
    command = [sys.executable, "-m", "pdae_jax", "explore", *map(str, line), "--browser=False"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said = process.stdout.readline()
        assert re.fullmatch(
            r"The explorer is at http://127\.0\.0\.1:\d+ - Ctrl-C ends it\n", said
        ), said + process.stderr.read()
        yield said.split()[4]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors, errors


@pytest.fixture(scope="module")
def emoji_at():
    with served("emoji", "--n=120", "--port=0") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser
        browser.close()


class Person:
    """One who looks at the page; every request of it and every error is noted."""

    def __init__(self, browser, address, **how):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000}, **how)
        self.page.set_default_timeout(LONG)
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]")
        self.rest()

    def see(self, selector):
        return expect(self.page.locator(selector))

    def point(self, x=0.5, y=0.5):
        """Clicks the point of the map that is next to a place that has some."""
        box = self.page.locator("#map").bounding_box()
        for radius in np.linspace(0, 0.3, 16):
            for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
                at = x + radius * np.cos(angle), y + radius * np.sin(angle)
                self.page.mouse.move(
                    box["x"] + box["width"] * at[0], box["y"] + box["height"] * at[1]
                )
                if self.page.locator("#hover").is_visible():
                    self.page.mouse.down()
                    self.page.mouse.up()
                    return
        raise AssertionError("no point of the map was found")

    def around(self, left, top, right, bottom):
        """Draws around a part of the map."""
        box, mouse = self.page.locator("#map").bounding_box(), self.page.mouse
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 0.01)]
        for k, (x, y) in enumerate(corners):
            mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=4)
            if k == 0:
                mouse.down()
        mouse.up()

    def mode(self, name):
        self.page.check(f"[name=mode][value={name}]")

    def drag(self, key, amount):
        """Moves a slider there, and lets it go."""
        slider = self.page.locator(f'[data-key="{key}"] input')
        before = self.page.locator("#edited").get_attribute("src")
        slider.fill(str(amount))
        slider.dispatch_event("change")
        expect(self.page.locator("#edited")).not_to_have_attribute("src", before, timeout=LONG)
        self.rest()

    def rest(self):
        """Until nothing is computed any more, and the picture is no preview."""
        for _ in range(3):  # one answer may be followed by the next question
            self.see("body").to_have_attribute("data-asking", "0", timeout=LONG)
            self.page.wait_for_timeout(60)
        self.see("#edited").not_to_have_attribute("data-preview", "1")
        self.see("#busy").to_be_hidden()

    def pixels(self, selector="#edited"):
        """A picture that is shown, [H, W, 3]."""
        uri = self.page.locator(selector).get_attribute("src")
        with urllib.request.urlopen(uri) as stream:
            return np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"), np.float32)

    def save(self):
        with self.page.expect_download() as download:
            self.page.click("#save")
        with zipfile.ZipFile(download.value.path()) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def leaves(self):
        """Nothing was asked of another machine, and no script failed."""
        elsewhere = [
            url for url in self.asked if not re.match(r"http://127\.0\.0\.1:|data:|blob:", url)
        ]
        assert not elsewhere and not self.errors
        self.page.close()


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 1e-9))


def made_again(files, folder):
    """The picture that the saved Python makes, run where it was unpacked."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "make.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return np.asarray(Image.open(folder / "again.png").convert("RGB"), np.float32)


@in_browser
def test_a_person_changes_a_skin_tone_and_takes_it_home(emoji_at, chromium, tmp_path):
    person = Person(chromium, emoji_at)
    person.see("#title").to_have_text("emoji")
    person.see("#opened").to_be_visible()  # one is open, for a start
    person.point(0.4, 0.4)
    person.see("#exact").to_have_attribute("src", re.compile("data:"), timeout=LONG)
    person.rest()
    person.see("#neighbours button").to_have_count(8)
    original = person.pixels("#original")
    assert psnr(person.pixels("#exact"), original) > 40 > psnr(person.pixels("#alone"), original)
    assert psnr(person.pixels(), original) > 40
    mark = person.page.locator('[data-key="attribute dark skin"] small')
    before = mark.inner_text()
    person.drag("attribute dark skin", 3)
    darker = person.pixels()
    assert darker.mean() < original.mean() - 2 and mark.inner_text() != before
    files = person.save()
    assert {"make.py", "picture.png", "picture.npy", "z.npy", "original.npy"} <= set(files)
    assert "model.edit(z, 'dark skin'" in files["make.py"].decode()
    saved = np.asarray(Image.open(io.BytesIO(files["picture.png"])).convert("RGB"), np.float32)
    np.testing.assert_array_equal(saved, darker)
    assert np.abs(made_again(files, tmp_path / "home") - saved).max() <= 1  # of 255
    person.page.check("#hold")
    person.rest()
    assert (person.pixels() != darker).any()
    person.leaves()


@in_browser
def test_undo_reset_and_compare(emoji_at, chromium):
    person = Person(chromium, emoji_at)
    person.see("#undo").to_be_disabled()
    person.point(0.6, 0.4)
    person.rest()
    first = person.pixels()
    person.drag("attribute woman", 2)
    second = person.pixels()
    person.drag("component 0", -2)
    third = person.pixels()
    assert (first != second).any() and (second != third).any()
    for button, picture in (("undo", second), ("undo", first), ("redo", second), ("redo", third)):
        before = person.page.locator("#edited").get_attribute("src")
        person.page.click(f"#{button}")
        person.see("#edited").not_to_have_attribute("src", before, timeout=LONG)
        person.rest()
        np.testing.assert_array_equal(person.pixels(), picture)
    person.page.locator("#compare").hover()
    person.page.mouse.down()
    np.testing.assert_array_equal(person.pixels(), person.pixels("#original"))
    person.page.mouse.up()
    np.testing.assert_array_equal(person.pixels(), third)
    person.page.click("#reset")
    person.see('[data-key="attribute woman"] output').to_have_text("0")
    person.see("#reset").to_be_disabled()
    person.rest()
    np.testing.assert_array_equal(person.pixels(), first)
    person.leaves()


@in_browser
def test_groups_of_the_map_have_a_direction(emoji_at, chromium):
    person = Person(chromium, emoji_at)
    person.point()
    person.rest()
    person.mode("first")
    person.around(0.02, 0.02, 0.45, 0.98)
    person.see("#between-groups").to_be_disabled()
    person.mode("second")
    person.around(0.55, 0.02, 0.98, 0.98)
    person.page.click("#between-groups")
    person.see('[data-key="group 0"] input').to_be_enabled()
    before = person.pixels()
    person.drag("group 0", 3)
    assert (person.pixels() != before).any()
    assert "group_0.npy" in person.save()
    person.page.click("#clear")
    person.see("#clear").to_be_disabled()
    person.leaves()


@in_browser
def test_towards_a_second_picture(emoji_at, chromium, tmp_path):
    person = Person(chromium, emoji_at)
    person.point(0.4, 0.5)
    person.rest()
    own = person.pixels("#original")
    person.mode("other")
    person.point(0.65, 0.35)
    person.see("#two").to_be_visible(timeout=LONG)
    other = person.pixels("#other")
    assert (own != other).any()
    nearer = []
    for weight in (0.01, 0.5, 1):
        before = person.page.locator("#edited").get_attribute("src")
        person.page.fill("#weight", str(weight))
        person.page.dispatch_event("#weight", "change")
        person.see("#edited").not_to_have_attribute("src", before, timeout=LONG)
        person.rest()
        nearer.append(psnr(person.pixels(), other))
    assert nearer[0] < nearer[1] < nearer[2] and nearer[2] > 35
    person.page.fill("#weight", "0.5")
    person.page.dispatch_event("#weight", "change")
    person.rest()
    files = person.save()
    assert {"original.npy", "other.npy"} <= set(files)
    assert np.abs(made_again(files, tmp_path / "home") - person.pixels()).max() <= 1
    person.page.click("#undo")
    person.rest()
    assert psnr(person.pixels(), other) == nearer[2]
    person.leaves()


@in_browser
def test_pictures_from_nothing_and_from_examples(emoji_at, chromium):
    person = Person(chromium, emoji_at)
    person.page.click("#generate")
    person.see("#made button").to_have_count(8, timeout=LONG)
    person.mode("examples")
    for k in range(10):
        person.point(0.35 + 0.03 * k, 0.3 + 0.04 * (k % 5))
    count = int(re.search(r"\d+", person.page.locator("#more").inner_text())[0])
    assert count >= 5  # the same point twice is none
    person.page.click("#more")
    person.see("#made button").not_to_have_count(8, timeout=LONG)
    person.page.locator("#made button").first.click()
    person.see("#opened").to_be_visible(timeout=LONG)
    person.rest()
    person.see("#original").to_be_hidden()
    person.drag("component 0", 2)
    assert 'np.load("original_z.npy")' in person.save()["make.py"].decode()
    person.leaves()


@in_browser
def test_uploads_and_errors_are_one_line(emoji_at, chromium, tmp_path):
    person = Person(chromium, emoji_at)
    (tmp_path / "notes.png").write_text("no picture")
    person.page.set_input_files("#file", tmp_path / "notes.png")
    person.see("#error").to_contain_text("notes.png", timeout=LONG)
    said = person.page.locator("#error").inner_text()
    assert "\n" not in said and str(tmp_path) not in said and "/tmp" not in said
    picture = next((shipped.folder() / "emoji" / "pictures").glob("*.png"))
    person.page.set_input_files("#file", picture)
    person.see("#stage-title").to_have_text(picture.name, timeout=LONG)
    person.see("#error").to_be_hidden()
    person.rest()
    assert psnr(person.pixels("#exact"), person.pixels("#original")) > 40
    person.leaves()


@in_browser
def test_by_keyboard_in_the_dark_and_on_a_phone(emoji_at, chromium, tmp_path):
    person = Person(chromium, emoji_at, color_scheme="dark")
    person.page.set_viewport_size({"width": 390, "height": 800})
    person.page.focus("#map")
    person.page.keyboard.press("ArrowRight")
    person.see("#hover").to_be_visible()
    person.page.keyboard.press("Enter")
    person.rest()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert person.page.evaluate(overflow) <= 0
    person.leaves()


@pytest.fixture(scope="module")
def converted(workdir, tmp_path_factory):
    """A model of grey digits, gone out to PyTorch and converted: it knows no pictures."""
    folder = tmp_path_factory.mktemp("converted")
    export(workdir, folder / "digits.pt")
    convert([folder / "digits.pt"], folder / "model", say=lambda *words: None)
    (folder / "pictures").mkdir()
    digits = Data("digits").open("test")
    for k in range(30):
        Image.fromarray(digits.image(k)[..., 0]).save(folder / "pictures" / f"{k:02d}.png")
    return folder / "model", folder / "pictures"


@in_browser
def test_a_converted_model_is_explored_with_given_pictures(converted, chromium, tmp_path):
    model, pictures = converted
    with served(model, f"--images={pictures}", "--port=0") as address:
        person = Person(chromium, address)
        person.point()
        person.rest()
        assert psnr(person.pixels("#exact"), person.pixels("#original")) > 40
        person.drag("component 1", 2.5)
        files, shown = person.save(), person.pixels()
        assert np.abs(made_again(files, tmp_path / "home") - shown).max() <= 1
        person.leaves()


@in_browser
def test_a_converted_model_without_pictures_opens_yours(converted, chromium):
    model, pictures = converted
    with served(model, "--port=0") as address:
        person = Person(chromium, address)
        person.see("#without-map").to_be_visible()
        person.page.set_input_files("#file", pictures / "07.png")
        person.see("#stage-title").to_have_text("07.png", timeout=LONG)
        person.rest()
        assert psnr(person.pixels("#exact"), person.pixels("#original")) > 40
        person.leaves()


@pytest.fixture(scope="module")
def of_five_channels(tmp_path_factory):
    """A model of pictures of 8 x 12 pixels and five channels, and their folder."""
    folder = tmp_path_factory.mktemp("five")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for k in range(40):
        blob = rng.random((1, 1, 5)) * np.linspace(0, 1, 12)[None, :, None] * np.ones((8, 1, 1))
        np.save(folder / "pictures" / f"{k:02d}.npy", blob.astype(np.float32))
    data = Data(f"folder:{folder / 'pictures'}", axes="YXC", range="0,1", flip=False)
    arch = dataclasses.replace(DIGITS_ARCH, image_shape=(8, 12, 5))
    settings = Settings(steps=2, batch_size=8, pictures_every=0, health_every=0, ema=0.5)
    for objective in ("dpm", "pdae"):
        assert train(folder / "model", objective, arch=arch, data=data, settings=settings)
    return folder / "model", folder / "pictures"


@in_browser
def test_five_channels_and_no_square(of_five_channels, chromium, tmp_path):
    """Each channel in its colour; both maps; a numbers file of all five goes home."""
    model, pictures = of_five_channels
    with served(model, f"--images={pictures}", "--port=0") as address:
        person = Person(chromium, address)
        names = person.page.locator("#plane option").all_inner_texts()
        assert any("UMAP" in name for name in names) and len(names) >= 2
        person.page.select_option("#plane", label=next(name for name in names if "UMAP" in name))
        person.point()
        person.rest()
        original = person.pixels("#original")
        assert original.shape[1] * 8 == original.shape[0] * 12
        assert psnr(person.pixels("#exact"), original) > 40
        person.drag("component 0", 2)
        files = person.save()
        assert np.load(io.BytesIO(files["picture.npy"])).shape == (8, 12, 5)
        assert np.abs(made_again(files, tmp_path / "home") - person.pixels()).max() <= 1
        person.leaves()


def test_another_page_can_neither_read_nor_ask(emoji_at):
    """A name that another site lets point here, and a request without the page's own header."""

    def status(path, **headers):
        data = b"{}" if path.startswith("/api") else None
        request = urllib.request.Request(emoji_at + path, data, headers)
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/") == 200 and status("/api/about", **{"X-Explorer": "1"}) == 200
    assert status("/", Host="evil.example") == 400
    assert status("/api/about") == status("/api/nothing", **{"X-Explorer": "1"}) == 403
    policy = urllib.request.urlopen(emoji_at).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    port = int(emoji_at.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(5)
        other.connect((socket.gethostbyname(socket.gethostname()), port)) or other.getpeername()
        if socket.gethostbyname(socket.gethostname()).startswith("127."):
            raise OSError("this host has no other address")


def test_a_port_that_is_taken_is_named():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1: .*; give another --port"):
            explore.listening(port)
    with explore.listening(0) as one, explore.listening(0) as other:  # the usual one, and another
        assert one.getsockname()[1] != other.getsockname()[1]


def test_moves_are_those_of_edit():
    """A slider at k standard deviations is `Model.edit` at the strength that its line says."""
    server = explore.serving("emoji", explore.Options(n=60))
    session, model = server.session, server.session.model
    picture = session.picture(session.open_point(3))
    moves = [explore.session_lib.Move("attribute", "woman", 2.0)]
    moves += [explore.session_lib.Move("component", 1, -1.5)]
    edit = explore.session_lib.Edit(tuple(moves))
    line = session.lines(picture, edit)
    strengths = [float(found) for found in re.findall(r", (-?[\d.]+)\)", line)]
    z = model.edit(picture.z, "woman", strengths[0])
    z = model.edit(z, session.components[1], strengths[1])
    np.testing.assert_allclose(session.moved(picture.z, edit), z, atol=1e-4)
    along = session.atlas.z @ session.components[1]
    shift = session._normalised(z) - session._normalised(
        model.edit(picture.z, "woman", strengths[0])
    )
    np.testing.assert_allclose(shift @ session.components[1], -1.5 * along.std(), rtol=1e-3)
    held = session.moved(picture.z, explore.session_lib.Edit(tuple(moves[:1]), hold=True))
    others = [k for k, name in enumerate(model.attributes) if name != "woman"]
    np.testing.assert_allclose(
        model.logits(held)[others], model.logits(picture.z)[others], atol=1e-2
    )
    assert (
        model.logits(held)[model.attributes.index("woman")]
        > model.logits(picture.z)[model.attributes.index("woman")]
    )
    image, _ = session.edited(picture)
    np.testing.assert_allclose(image, pdae_jax.load("emoji").reconstruct(picture.image), atol=1e-3)
    assert to_uint8(image).shape == (32, 32, 3)


def test_what_cannot_be_is_said_in_one_line():
    server = explore.serving("emoji", explore.Options(n=30))
    session = server.session
    with pytest.raises(ValueError, match="picture 7 is not open any more"):
        session.picture(7)
    with pytest.raises(ValueError, match="the point must be of the 30 points"):
        session.open_point(30)
    with pytest.raises(ValueError, match="the second group must be"):
        session.add_group([1], [])
    with pytest.raises(ValueError, match="same mean"):
        session.add_group([1, 2], [2, 1])
    assert session.open_point(3) == session.open_point(3)  # and its x_T with it
    own = session.picture(session.open_point(3))
    assert 3 not in session.neighbours(own) and len(session.neighbours(own)) == 8
    odd = explore.session_lib.Picture("a\nimport os", own.image, own.z)
    assert "\nimport os" not in session.lines(odd)
    with pytest.raises(ValueError, match="65 pictures are asked for: 1 to 64"):
        session.generate(65, 0)
    with pytest.raises(ValueError, match="all pictures are examples"):
        session.few_shot(list(range(30)), 1, 0)
