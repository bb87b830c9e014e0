"""The explorer's latency: from a slider to the picture on the screen, in headless Chromium.

    python -m benchmarks.explorer                               # the model that ships
    python -m benchmarks.explorer --workdir runs/mine --moves 50
    python -m benchmarks.explorer --picture docs/explorer.png   # and a picture of the page

Needs Chromium, and `pip install '.[explore]' playwright`.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence

from playwright.sync_api import Page, sync_playwright

from benchmarks import where_and_when

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# No service of the browser's own may ask for anything either.
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# Of one movement: the time until the next picture is decoded and in place.
MEASURE = """([slider, amount, event]) => new Promise((done) => {
  const picture = document.getElementById("edited"), start = performance.now();
  picture.addEventListener("load", () => done(performance.now() - start), { once: true });
  slider.value = amount;
  slider.dispatchEvent(new Event(event, { bubbles: true }));
})"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default="emoji", help="the model (default emoji, that ships)")
    parser.add_argument("--moves", type=int, default=20, help="movements that are timed")
    parser.add_argument("--picture", help="a file to which a picture of the page is written")
    args = parser.parse_args(argv)
    if BROWSER is None:
        sys.exit("no Chromium here: install chromium")
    command = [sys.executable, "-m", "pdae_jax", "explore", args.workdir, "--browser=False"]
    explorer = subprocess.Popen([*command, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert explorer.stdout is not None
        words = explorer.stdout.readline().split()
        if len(words) < 5:
            sys.exit("the explorer did not start")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
            page = browser.new_page(viewport={"width": 1400, "height": 1050})
            page.set_default_timeout(300_000)
            page.goto(words[4])
            page.wait_for_selector("body[data-ready]")
            measure(page, args.moves)
            if args.picture:
                page.screenshot(path=args.picture)
            browser.close()
    finally:
        explorer.terminate()
        explorer.wait()
    print(f"\n{args.workdir} on {where_and_when()}, {args.moves} moves")


def measure(page: Page, moves: int) -> None:
    """Prints the table, and leaves the page with a picture edited."""
    rest(page)
    opened = [time_to_open(page, k) for k in range(max(3, moves // 4))][1:]
    shown = page.locator('[data-key="attribute yellow skin"]')
    slider = (shown if shown.count() else page.locator("#sliders .slider")).locator("input").first
    handle = slider.element_handle()
    previews, finals = [], []
    for k in range(moves + 2):  # the first two compile
        amount = round(3 * (k + 1) / (moves + 2), 1)
        previews.append(page.evaluate(MEASURE, [handle, amount, "input"]))
        finals.append(page.evaluate(MEASURE, [handle, amount, "change"]))
    rest(page)
    print("| | median | slowest |\n| --- | --- | --- |")
    for name, times in (
        ("preview", previews[2:]),
        ("final picture", finals[2:]),
        ("a picture is opened", opened),
    ):
        print(f"| {name} | {statistics.median(times):.0f} ms | {max(times):.0f} ms |")


def time_to_open(page: Page, k: int) -> float:
    """Milliseconds from a click on a neighbour to the reconstruction with its x_T."""
    milliseconds = page.evaluate(
        """(k) => new Promise((done) => {
          const exact = document.getElementById("exact"), start = performance.now();
          exact.addEventListener("load", () => done(performance.now() - start), { once: true });
          document.querySelectorAll("#neighbours button")[k % 8].click();
        })""",
        k,
    )
    rest(page)
    return milliseconds


def rest(page: Page) -> None:
    """Waits until nothing is computed."""
    for _ in range(3):
        page.wait_for_selector('body[data-asking="0"]')
        page.wait_for_timeout(100)
    page.wait_for_selector("#neighbours button")


if __name__ == "__main__":
    main()
