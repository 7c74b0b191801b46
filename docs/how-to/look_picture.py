"""Take the pictures of the page, light and dark: a study fills a cache, the page shows it, and Chromium looks at it.

It needs numpy, Pillow, playwright and Debian's chromium. `make pictures` runs it:

    python docs/how-to/look_picture.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

STUDY = '''
import matplotlib.figure
import numpy
from bencher_job import cached_job, gen_path


@cached_job(tag="nightly")
def error(degree, noise, seed=0):
    """Fit a polynomial to noisy points of a sine, and test it."""
    chance = numpy.random.default_rng(seed)
    x = numpy.sort(chance.uniform(-1, 1, 60))
    y = numpy.sin(3 * x) + chance.normal(0, noise, 60)
    fit = numpy.polynomial.Polynomial.fit(x[::2], y[::2], degree)
    train, test = (float(numpy.sqrt(numpy.mean((fit(x[part::2]) - y[part::2]) ** 2))) for part in (0, 1))
    return {"test": test, "train": train, "coefficients": fit.coef}


@cached_job
def walk(steps, bias):
    """Walk at random, and write down where to."""
    path = numpy.cumsum(numpy.random.default_rng(steps).normal(bias, 1, steps))
    with open(gen_path("walk", suffix=".csv"), "w") as file:
        file.writelines(f"{place:.3f}\\n" for place in path)
    figure = matplotlib.figure.Figure((4, 2), layout="constrained")
    figure.subplots().plot(path)
    figure.savefig(gen_path("walk", suffix=".png"))
    return {"end": float(path[-1]), "furthest": float(abs(path).max())}


for _ in range(3):
    walk.sweep({"steps": [1000, 10_000, 100_000], "bias": [0, 0.01]}).run(progress=False)
for _ in range(5):
    error.sweep({"degree": range(1, 13), "noise": [0.05, 0.2, 0.5], "seed": range(8)}).run(progress=False)
'''
HERE = Path(__file__).parent
COLORS = 32


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "study.py")
        program.write_text(STUDY)
        subprocess.run([sys.executable, "-c", "import study"], cwd=folder, check=True)
        serve = [sys.executable, "-m", "bencher_job", "serve", "--no-browser"]
        with subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = next(line.strip() for line in server.stdout if "token=" in line)
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path="/usr/bin/chromium", args=["--no-sandbox"]
                )
                page = chromium.new_page(viewport={"width": 1200, "height": 720})
                page.goto(url)
                page.click("button[title='study.error']")
                page.click("[data-sort='results.test']")
                page.wait_for_selector("[aria-sort='descending']")
                page.click("[data-sort='results.test']")
                page.wait_for_selector("[aria-sort='ascending']")
                take(page, "look-table")
                page.click("#tab-plot")
                page.wait_for_selector("#chart circle")
                take(page, "look-plot")
                page.select_option("#choose-facet", "arguments.noise")
                page.wait_for_selector("#chart [aria-label='fx-axis tick label']")
                take(page, "look-facets")
                page.click("#tab-groups")
                page.wait_for_selector("#groups .tabulator-row")
                take(page, "look-groups")
                page.click("#tab-table")
                for row in (2, 5, 30):
                    page.click(f"#rows [data-key]:nth-child({row}) input")
                page.click("text=Compare")
                page.wait_for_selector(".compared")
                take(page, "look-compare")
                page.click("text=Back to the table")
                page.click("button[title='study.walk']")
                page.click("#rows [data-key]:nth-child(2)")
                page.wait_for_function("document.querySelector('.record img')?.naturalWidth > 0")
                take(page, "look-entry")
                page.keyboard.press("Escape")
                page.set_viewport_size({"width": 420, "height": 760})
                page.wait_for_selector("#rows [data-key]")
                take(page, "look-narrow")
                chromium.close()
            server.terminate()


def take(page: Page, name: str) -> None:
    """Take two pictures of few colours, which are small: light and dark."""
    page.evaluate("document.querySelector('.place').textContent = 'cachedir'")
    for scheme, ending in (("dark", "-dark"), ("light", "")):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(500)  # until everything has faded in
        picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
        path = HERE / f"{name}{ending}.png"
        picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
