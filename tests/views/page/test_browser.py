"""The page in a real Chromium: what somebody clicks, types and sees, and that nothing comes from anywhere else."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.environment import unmeasured
from tests.shell import Shell
from tests.views.edited import edit, running
from tests.views.page.caches import PIXEL, entry, fill, key_of, run_with_files, study
from tests.views.page.serving import Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

ROOT = Path(__file__).parents[3]


ENDED = "net::ERR_CONNECTION_REFUSED"
"""What Chromium says of a server that a test has ended."""


GROUPS = ("", "arguments.", "results.")
ROW = "#rows [data-key]"
POINT = "#chart .dots circle"
TIP = "#chart [aria-label='tip'] tspan:not(:empty)"
BAND = "#chart [aria-label='area'] path"


class Visit:
    """Somebody who looks at the page, and what the browser had to say meanwhile.

    Attributes:
        asked: the URLs that the browser has asked for.
        complaints: errors of scripts, and what the policy has stopped.
        expected: a complaint that belongs to the test.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.expected = ENDED
        context.on("request", lambda request: self.asked.append(request.url))
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.hear(said.type, said.text))

    def hear(self, kind: str, text: str) -> None:
        if kind == "error" and self.expected not in text:
            self.complaints.append(text)

    def ignore_complaints(self) -> None:
        """Ignore those so far, and those that the browser has yet to tell."""
        self.expected = ""
        self.complaints.clear()

    def open(self, url: str) -> Page:
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready]")
        return self.page

    def choose(self, function: str) -> None:
        self.page.click(f"button[title='{function}']")
        expect(self.page.locator(".function[aria-current]")).to_have_attribute("title", function)
        expect(self.page.locator("h1")).to_have_text(function.rpartition(".")[2])
        self.settled()

    def settled(self) -> None:
        """Wait until what was asked for is shown."""
        expect(self.page.locator(".is-loading")).to_have_count(0)

    def tip(self) -> list[str]:
        """The lines beside the point that is pointed at; each begins with a space of no width."""
        return [line.strip("\u200b") for line in self.page.locator(TIP).all_text_contents()]

    def column(self, name: str) -> list[str]:
        """The cells of a column, without its group where no other column has the name."""
        fields = ", ".join(f"[tabulator-field='{group}{name}']" for group in GROUPS)
        return self.page.locator(f"#rows .tabulator-cell:is({fields})").all_inner_texts()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A visit with a new profile, in which nothing failed and nothing foreign was asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(40_000)
    visit = Visit(context)
    yield visit
    context.close()
    hosts = {urlsplit(url).hostname for url in visit.asked if urlsplit(url).scheme not in {"data", "blob"}}
    assert hosts <= {"127.0.0.1"}
    assert visit.complaints == []


@pytest.fixture
def seen(shared: Served, visit: Visit) -> Visit:
    """A visit to the cache of a study, at its sweep, that changes nothing."""
    visit.open(shared.url)
    visit.choose("study.train")
    return visit


@pytest.fixture
def changing(served: Served, visit: Visit) -> Visit:
    """A visit to a cache of the test's own."""
    visit.open(served.url)
    visit.choose("study.train")
    return visit


def expect(place: Locator) -> Any:
    from playwright.sync_api import expect as expected

    expected.set_options(timeout=40_000)
    return expected(place)


def expect_rows(page: Page, first: str, last: str, total: str) -> None:
    """Wait for the page of a table with these rows."""
    expect(page.locator("#rows .range")).to_have_text(f"{first}\N{EN DASH}{last} of {total}")


def test_the_list_at_the_left_tells_of_each_function(seen: Visit) -> None:
    texts = seen.page.locator(".function").all_inner_texts()
    train = next(text for text in texts if text.startswith("train"))
    for part in ("study", "60 entries", "0% hits", "0 s saved"):
        assert part in train
    expect(seen.page.locator("h1")).to_have_text("train")
    assert "60" in seen.page.locator(".figures").inner_text()
    seen.choose("study.report.title")
    expect(seen.page.locator("h1")).to_have_text("title")
    assert sorted(seen.column("result")) == [f"Page {number}" for number in range(5)]


def test_the_token_goes_from_the_address_and_comes_back_with_no_one(changing: Visit, served: Served) -> None:
    token = served.url.partition("token=")[2]
    assert token not in changing.page.url
    assert token not in changing.page.content()
    assert changing.page.evaluate("document.cookie") == ""
    (cookie,) = changing.page.context.cookies()
    path = urlsplit(changing.page.url).path
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", path)


def test_without_the_token_the_page_says_what_to_open(served: Served, visit: Visit) -> None:
    visit.expected = "403 (Forbidden)"
    response = visit.page.goto(f"http://{served.host}/")
    assert response is not None
    assert response.status == 403
    assert "Open the URL that bencher-job serve printed" in visit.page.inner_text("body")


FILLING = """
    import random, sys
    from pathlib import Path
    from tests.views.page.caches import entry, fill

    chance = random.Random(1)
    fill(
        Path(sys.argv[1]),
        *(
            entry(
                number,
                "large.f",
                {"model": ("svm", "forest")[number % 2], "seed": number},
                {"loss": chance.random() + (number == 37_777)},
                seconds=number / 1000,
            )
            for number in range(40_000)
        ),
    )
"""


def test_forty_thousand_rows_are_sorted_filtered_and_paged(visit: Visit, tmp_path: Path) -> None:
    environment = {**unmeasured(), "PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)])}
    words = [sys.executable, "-c", textwrap.dedent(FILLING), str(tmp_path / "c" / "fcache")]
    subprocess.run(words, env=environment, cwd=ROOT, check=True, timeout=120)
    with serving(tmp_path / "c", is_measured=False) as server:
        page = visit.open(server.url)
        expect_rows(page, "1", "50", "40,000")
        page.click("[data-sort='arguments.seed']")
        visit.settled()
        assert visit.column("seed") == [str(number) for number in range(50)]
        page.click("button[data-page='last']")
        expect_rows(page, "39,951", "40,000", "40,000")
        assert visit.column("seed")[-1] == "39999"
        page.click("button[data-page='prev']")
        expect_rows(page, "39,901", "39,950", "40,000")
        assert visit.column("seed")[0] == "39900"
        page.click("[data-sort='results.loss']")
        expect(page.locator(f"{ROW} [tabulator-field='arguments.seed']").first).to_have_text("37777")
        page.fill("[data-column='arguments.model']", "svm")
        expect(page.locator(".tools")).to_contain_text("20,000 entries found")
        page.fill("[data-column='seconds']", "<0.1")
        expect_rows(page, "1", "50", "50")
        assert {int(seed) for seed in visit.column("seed")} == set(range(0, 100, 2))
        page.click("text=Show all")
        expect_rows(page, "1", "50", "40,000")
        page.click("#tab-plot")
        expect(page.locator("#caption")).to_contain_text("20,000 of 40,000 entries, one of every 2")


def test_sorting_goes_both_ways_and_stands_in_the_address(seen: Visit) -> None:
    button = "[data-sort='results.accuracy']"
    seen.page.click(button)
    expect(seen.page.locator(".tabulator-col[aria-sort='descending'] .sort")).to_have_text("accuracy")
    best = seen.column("accuracy")
    seen.page.click(button)
    expect(seen.page.locator(".tabulator-col[aria-sort='ascending'] .sort")).to_have_text("accuracy")
    assert seen.column("accuracy") == sorted(seen.column("accuracy"))
    seen.page.go_back()
    expect(seen.page.locator(".tabulator-col[aria-sort='descending'] .sort")).to_have_text("accuracy")
    seen.page.reload()
    seen.page.wait_for_selector(".tabulator-col[aria-sort='descending'] .sort")
    assert seen.column("accuracy") == best


def test_filters_and_search_narrow_and_a_wrong_one_says_how(seen: Visit) -> None:
    page = seen.page
    page.fill("[data-column='arguments.model']", "svm")
    page.fill("[data-column='results.accuracy']", ">0.5")  # before the one before is asked for
    expect_rows(page, "1", "9", "9")
    assert set(seen.column("model")) == {"svm"}
    seen.expected = "422 (Unprocessable"  # the browser says that it was no filter
    page.fill("[data-column='arguments.c']", ">")
    expect(page.locator("#filter-problem")).to_contain_text("nothing to compare with")
    page.fill("[data-column='arguments.c']", "")
    expect(page.locator("#filter-problem")).to_be_hidden()
    page.click("text=Show all")
    expect_rows(page, "1", "50", "60")
    page.fill("#search", "nothing like it")
    expect(page.locator(".none-left")).to_contain_text("No entry passes")
    page.click(".none-left button")
    expect_rows(page, "1", "50", "60")


def test_a_result_is_plotted_over_an_argument_in_colours(seen: Visit) -> None:
    page = seen.page
    page.click("#tab-plot")
    expect(page.locator("#chart")).to_have_attribute(
        "aria-label", "accuracy over c, coloured by model: 60 points. The table has the same entries."
    )
    assert page.locator(".legend-item").all_inner_texts() == ["boosting", "forest", "svm"]
    expect(page.locator("#log-x")).to_be_checked()
    expect(page.locator(POINT)).to_have_count(60)
    page.click(".legend-item:has-text('svm')")
    expect(page.locator("#chart")).to_have_attribute(
        "aria-label", "accuracy over c, coloured by model: 40 points. The table has the same entries."
    )
    page.select_option("#choose-x", "arguments.seed")
    page.select_option("#choose-y", "seconds")
    page.select_option("#choose-color", "results.epochs")
    expect(page.locator("#chart")).to_have_attribute(
        "aria-label", "seconds over seed, coloured by epochs: 60 points. The table has the same entries."
    )
    page.select_option("#choose-color", "arguments.c")
    expect(page.locator(".legend h3")).to_have_text("c")
    assert page.locator(".legend-item").all_inner_texts() == ["0.01", "0.1", "1.0", "10.0"]
    page.select_option("#choose-color", "results.epochs")
    page.reload()
    expect(page.locator("#chart")).to_have_attribute(
        "aria-label", "seconds over seed, coloured by epochs: 60 points. The table has the same entries."
    )


def test_a_point_tells_what_it_is_and_opens_its_entry(visit: Visit, tmp_path: Path) -> None:
    fill(tmp_path / "c" / "fcache", *(entry(n, "f", {"x": n}, {"y": n * n}) for n in range(3)))
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.click("#tab-plot")
        page.locator(POINT).last.hover()
        assert visit.tip() == ["y 4", "x 2"]
        page.locator(POINT).last.click()
        expect(page.locator("#record")).to_contain_text(key_of(2))


def test_points_are_reached_by_the_keyboard(visit: Visit, tmp_path: Path) -> None:
    fill(tmp_path / "c" / "fcache", *(entry(n, "f", {"x": n}, {"y": -n}) for n in range(5)))
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.click("#tab-plot")
        expect(page.locator(POINT)).to_have_count(5)
        page.focus("#log-y" if page.locator("#log-y").is_enabled() else "#choose-band")
        for _ in range(4):
            if page.evaluate("document.activeElement.tagName") == "circle":
                break
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.ariaLabel") == "y 0, x 0"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.ariaLabel") == "y -2, x 2"
        assert visit.tip() == ["y -2", "x 2"]
        page.keyboard.press("Enter")
        expect(page.locator("#record")).to_contain_text(key_of(2))
        page.keyboard.press("End")
        assert page.evaluate("document.activeElement.ariaLabel") == "y -4, x 4"


def test_a_plot_shows_bands_and_facets(seen: Visit) -> None:
    page = seen.page
    page.click("#tab-plot")
    expect(page.locator(BAND)).to_have_count(3)  # of three models
    page.select_option("#choose-band", "none")
    expect(page.locator(BAND)).to_have_count(0)
    page.select_option("#choose-band", "sd")
    expect(page.locator(BAND)).to_have_count(3)
    page.select_option("#choose-facet", "tag")
    expect(page.locator("#chart [aria-label='fx-axis tick label'] text")).to_have_count(2)
    expect(page.locator(POINT)).to_have_count(60)
    expect(page.locator(BAND)).to_have_count(6)


SWEPT = """
    import sys
    from bencher_job import cached_job

    @cached_job(cache_dir=sys.argv[1])
    def score(model, c):
        return {"accuracy": c * len(model)}

    score.sweep({"model": ["svm", "forest"], "c": [0.5, 1.0, 2.0]}, repeats=2).run(progress=False)
"""


def test_a_sweep_with_repeats_is_plotted_over_what_was_swept_with_its_first_repeat(
    visit: Visit, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", textwrap.dedent(SWEPT), str(tmp_path / "c")]
    subprocess.run(words, env=unmeasured(), check=True, timeout=60)
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.wait_for_selector(ROW)
        assert sorted(visit.column("repeat")) == ["0"] * 6 + ["1"] * 6
        page.fill("[data-column='arguments.repeat']", "0")
        expect_rows(page, "1", "6", "6")
        page.click("text=Show all")
        page.click("#tab-plot")
        expect(page.locator("#chart")).to_have_attribute(
            "aria-label", "accuracy over c, coloured by model: 12 points. The table has the same entries."
        )


def test_an_int_a_float_and_a_bool_look_different(visit: Visit, tmp_path: Path) -> None:
    values = [1, 1.0, True, "1"]
    fill(
        tmp_path / "c" / "fcache", *(entry(n, "f", {"x": x, "n": n}, {"y": x}) for n, x in enumerate(values))
    )
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.click("[data-sort='arguments.n']")
        expect(page.locator(".tabulator-col[aria-sort='ascending'] .sort")).to_have_text("n")
        visit.settled()
        for column in ("x", "y"):
            assert visit.column(column) == ["1", "1.0", "True", "1"]
        page.click(f"{ROW}:nth-child(2)")
        expect(page.locator("#record .facts").first).to_contain_text("1.0")


def test_names_and_texts_that_look_like_markup_are_texts(visit: Visit, tmp_path: Path) -> None:
    name, text = "<img src=x onerror=alert(1)>.a", "<b>bold</b> & 'quoted'"
    fill(tmp_path / "c" / "fcache", *(entry(n, "f", {"x": text}, {name: n}) for n in range(3)))
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.wait_for_selector(ROW)
        assert visit.column("x") == [text] * 3
        assert sorted(visit.column(name.replace("'", "\\'"))) == ["0", "1", "2"]
        expect(page.locator(".sort", has_text=name)).to_be_visible()
        assert page.locator("main img, #rows b").count() == 0
        page.fill(f"[data-column='results.{name}']", ">0")
        expect_rows(page, "1", "2", "2")
        page.click("#tab-plot")
        expect(page.locator("#chart [aria-label='y-axis label']")).to_contain_text(name)
        page.click("#tab-groups")
        expect(page.locator("#group-count")).to_be_visible()
        assert page.locator("main img, #groups b").count() == 0


def test_what_is_typed_stays_while_entries_with_new_columns_come(changing: Visit, cache: Path) -> None:
    page = changing.page
    page.focus("[data-column='arguments.model']")
    for number, letter in enumerate("fores"):
        fill(
            cache / "fcache",
            entry(f"n{number}", "study.train", {"model": "svm", f"new{number}": 1}, {"more": 1}),
        )
        page.keyboard.type(letter)
        expect(page.locator(f"[data-column='arguments.new{number}']")).to_be_visible()
    assert page.evaluate("document.activeElement.dataset.column") == "arguments.model"
    expect(page.locator("[data-column='arguments.model']")).to_have_value("fores")
    expect_rows(page, "1", "20", "20")


def test_columns_are_chosen_and_stay_so(seen: Visit) -> None:
    page = seen.page
    page.click("summary:has-text('Columns')")
    page.uncheck(".menu-items label:has-text('seed') input")
    expect(page.locator("[data-sort='arguments.seed']")).to_be_hidden()
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(ROW)
    expect(page.locator("[data-sort='arguments.seed']")).to_be_hidden()
    expect(page.locator("[data-sort='arguments.model']")).to_be_visible()


def test_entries_are_grouped_with_mean_spread_and_count(seen: Visit) -> None:
    page = seen.page
    page.click("#tab-groups")
    expect(page.locator("#group-count")).to_have_text("12 groups of 60 entries")
    page.click("summary:has-text('Group by')")
    page.uncheck(".menu-items label:has-text('c') input")
    expect(page.locator("#group-count")).to_have_text("3 groups of 60 entries")
    rows = page.locator("#groups .tabulator-row")
    cells = [row.locator(".tabulator-cell").all_inner_texts() for row in rows.all()]
    assert [each[:3] for each in cells] == [
        ["boosting", "20", "0.508333"],
        ["forest", "20", "0.491667"],
        ["svm", "20", "0.475"],
    ]
    with page.expect_download() as downloading:
        page.click("#tools >> text=CSV")
    assert downloading.value.suggested_filename == "train-groups.csv"


def test_the_table_is_saved_as_csv_as_it_is_filtered(seen: Visit, tmp_path: Path) -> None:
    page = seen.page
    page.fill("[data-column='arguments.model']", "svm")
    expect_rows(page, "1", "20", "20")
    with page.expect_download() as downloading:
        page.click("#tools >> text=CSV")
    downloading.value.save_as(tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(rows) == 20
    assert {row["model"] for row in rows} == {"svm"}
    assert rows[0]["c"] in {"0.01", "0.1", "1.0", "10.0"}


def test_selected_entries_are_compared_side_by_side(visit: Visit, tmp_path: Path) -> None:
    program = """
        import sys
        from bencher_job import cached_job, gen_path

        @cached_job(cache_dir=sys.argv[1])
        def f(x, y=1):
            with open(gen_path("note", suffix=".txt"), "w") as file:
                file.write(f"note of {x}")
            return {"same": 1, "sum": x + CHANGED}

        f(float(sys.argv[2]))
    """
    for changed, x in (("1", "1"), ("10", "2")):
        (tmp_path / "study.py").write_text(textwrap.dedent(program).replace("CHANGED", changed))
        words = [sys.executable, "study.py", str(tmp_path / "c"), x]
        subprocess.run(words, env=unmeasured(), cwd=tmp_path, check=True, timeout=60)
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.select_option("#choose-code", "all")
        expect_rows(page, "1", "2", "2")
        page.click(f"{ROW}:nth-child(1) input")
        page.click(f"{ROW}:nth-child(2) input")
        page.click("text=Compare")
        expect(page.locator(".compared .differs", has_text="sum")).to_contain_text("12")
        expect(page.locator(".compared .differs th[scope=row]", has_text="same")).to_have_count(0)
        expect(page.locator(".compared .differs th[scope=row]").first).to_contain_text("x")
        expect(page.locator(".compared pre").first).to_have_text("note of 2.0")
        expect(page.locator(".changes")).to_contain_text("x + 1")
        assert page.locator(".changes .is-added").count()
        page.reload()
        expect(page.locator(".compared .differs", has_text="sum")).to_contain_text("2")
        page.click("text=Back to the table")
        expect_rows(page, "1", "2", "2")


def test_read_only_nothing_can_be_cleared(visit: Visit, cache: Path) -> None:
    with serving(cache, "--read-only") as server:
        page = visit.open(server.url)
        visit.choose("study.train")
        expect(page.locator("#place")).to_contain_text("read only")
        page.click(f"{ROW} input")
        expect(page.locator(".actions")).to_contain_text("Export")
        assert page.locator("text=Clear…").count() == 0
        server.begin()
        assert server.post("clear", store="fcache", keys=[key_of(1)]).status == 404
        assert server.get("rows", store="fcache", function="study.train").json()["total"] == 60


def test_running_jobs_are_listed_with_their_place_and_time(changing: Visit, cache: Path) -> None:
    page = changing.page
    program = """
        import sys
        from bencher_job import cached_job

        @cached_job(cache_dir=sys.argv[1])
        def long(x):
            sys.stdin.readline()
            return x

        long(1)
    """
    path = cache.parent / "study_of_long.py"
    path.write_text(textwrap.dedent(program))
    words = [sys.executable, str(path), str(cache)]
    with subprocess.Popen(words, env=unmeasured(), stdin=subprocess.PIPE, text=True) as running:
        place = page.locator("#running")
        for text in (
            "Running (1)",
            "study_of_long.py",
            f"{running.pid} on",
            os.uname().nodename,
            "since",
        ):
            expect(place).to_contain_text(text)
        running.communicate("go on\n", timeout=60)
    expect(place).to_have_count(0)


def test_before_the_first_answer_the_page_says_what_it_does(served: Served, visit: Visit) -> None:
    page = visit.page
    page.route("**/api/**", lambda route: None)  # which is never answered
    page.goto(served.url)
    expect(page.locator("h1")).to_have_text("Reading the cache …")
    expect(page.locator(".functions h2")).to_be_visible()


def test_a_record_shows_all_that_is_known_with_its_files(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "c" / "fcache"
    files = {
        "generic/plot-1.png": PIXEL,
        "generic/log-2.txt": b"<img src=x onerror=alert(1)> went well",
        "generic/drawing-3.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>document.title="ran"</script></svg>',
        "generic/page-4.html": b"<script>document.title='ran'</script>",
    }
    name = run_with_files(folder, key_of(1), files)
    value = {"score": 0.25, "note": "<script>document.title='ran'</script>", "curve": [1, 2]}
    fill(
        folder,
        entry(
            1, "study.f", {"x": "<b>bold</b>", "depth": None}, value, media=name, tag="nightly", seconds=90.0
        ),
    )
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.click(ROW)
        record = page.locator("#record")
        for text in (
            "<b>bold</b>",
            "None",
            "score",
            "0.25",
            "nightly",
            "90 s",
            "atlas",
            "3.11.7",
            "a1b2c3",
            key_of(1),
        ):
            expect(record).to_contain_text(text)
        pixel = record.locator("img[alt='generic/plot-1.png']")
        expect(record.locator("pre").first).to_contain_text("<img src=x onerror=alert(1)> went well")
        source = pixel.get_attribute("src")
        assert source is not None
        assert page.request.get(f"{page.url.partition('#')[0]}{source}").body() == PIXEL
        view = page.url.partition("#")[0]
        for file in ("drawing-3.svg", "page-4.html"):
            with page.context.new_page() as other:
                other.goto(f"{view}media/fcache/{key_of(1)}/generic/{file}")
                assert other.title() != "ran"
        assert "ran" not in page.title()
        page.keyboard.press("Escape")
        expect(record).to_be_hidden()
        assert page.evaluate("document.activeElement.dataset.key") == key_of(1)
    visit.ignore_complaints()  # that scripts of files were stopped


def test_pictures_are_seen(visit: Visit, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "c" / "fcache"
    Image.new("RGB", (40, 30), "green").save(tmp_path / "green.png")
    name = run_with_files(folder, key_of(1), {"generic/green.dat": (tmp_path / "green.png").read_bytes()})
    path = str(folder / "media" / name / "generic" / "green.dat")
    fill(folder, entry(1, "study.f", {}, path, media=name))
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.click(ROW)
        picture = page.locator("#record img")
        expect(picture).to_have_js_property("naturalWidth", 40)
        record = page.locator("#record").inner_text()
        assert record.index("green.dat") < record.index("Result")
        assert str(tmp_path) not in page.inner_text("main") + record
        assert "green.dat" in visit.column("result")[0]


def test_clearing_asks_first_and_removes_what_is_selected(changing: Visit, served: Served) -> None:
    page = changing.page
    page.click(f"{ROW}:nth-child(1) input")
    page.click(f"{ROW}:nth-child(3) input")
    expect(page.locator(".actions")).to_contain_text("2 selected")
    page.click(".actions >> text=Clear…")
    expect(page.locator("dialog h2")).to_have_text("Clear 2 entries?")
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    assert served.get("rows", store="fcache", function="study.train").json()["total"] == 60
    page.click(".actions >> text=Clear…")
    page.click("dialog button[value=yes]")
    expect(page.locator("#toast")).to_contain_text("2 entries cleared")
    expect_rows(page, "1", "50", "58")
    assert served.get("rows", store="fcache", function="study.train").json()["total"] == 58


def test_all_that_is_found_can_be_cleared_and_the_next_function_is_shown(
    changing: Visit, served: Served
) -> None:
    page = changing.page
    page.check("#page-box")
    expect(page.locator(".actions")).to_contain_text("50 selected")
    page.click("text=Select all 60")
    page.click(".actions >> text=Clear…")
    page.click("dialog button[value=yes]")
    expect(page.locator("h1")).to_have_text("title")
    assert [each["name"] for each in served.get("overview").json()["stores"][0]["functions"]] == [
        "study.report.title"
    ]


def test_what_is_selected_is_exported_after_a_question(changing: Visit, tmp_path: Path) -> None:
    page = changing.page
    page.fill("[data-column='arguments.model']", "svm")
    expect_rows(page, "1", "20", "20")
    page.check("#page-box")
    page.click(".actions >> text=Export…")
    with page.expect_download() as downloading:
        page.click("dialog button[value=yes]")
    assert downloading.value.suggested_filename == "train.tar"
    downloading.value.save_as(tmp_path / "train.tar")
    with tarfile.open(tmp_path / "train.tar") as tar:
        assert sum(name.endswith("entry.json") for name in tar.getnames()) == 20
    expect(page.locator("#toast")).to_contain_text("20 entries exported")


def test_it_refreshes_while_a_sweep_runs(changing: Visit, cache: Path) -> None:
    page = changing.page
    page.focus("[data-column='tag']")
    program = """
        import sys
        from bencher_job import cached_job

        @cached_job(cache_dir=sys.argv[1])
        def live(x):
            if x == 10:
                sys.stdin.readline()
            return x

        live.sweep({"x": range(30)}).run(progress=False)
    """
    path = cache.parent / "live.py"
    path.write_text(textwrap.dedent(program))
    words = [sys.executable, str(path), str(cache)]
    with subprocess.Popen(words, env=unmeasured(), stdin=subprocess.PIPE, text=True) as running:
        expect(page.locator(".function", has_text="live")).to_contain_text("10 entries")
        assert running.poll() is None
        assert page.evaluate("document.activeElement.dataset.column") == "tag"
        running.communicate("go on\n", timeout=60)
    expect(page.locator(".function", has_text="live")).to_contain_text("30 entries")
    fill(
        cache / "fcache",
        entry("new", "study.train", {"model": "svm", "c": 1.0, "seed": 99}, {"accuracy": 0.5}),
    )
    expect_rows(page, "1", "50", "61")
    expect(page.locator(".figures dd").first).to_have_text("61")


RECORDED = """
    async () => {
        const canvas = document.createElement("canvas");
        canvas.getContext("2d").fillRect(0, 0, 10, 10);
        const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: "video/webm" });
        const parts = [];
        recorder.ondataavailable = (event) => parts.push(event.data);
        const ended = new Promise((resolve) => { recorder.onstop = resolve; });
        recorder.start();
        const pen = canvas.getContext("2d");
        for (let frame = 0; frame < 15; frame += 1) {
            pen.fillStyle = `rgb(${frame * 16} 0 0)`;
            pen.fillRect(0, 0, 300, 150);
            await new Promise(requestAnimationFrame);
        }
        recorder.stop();
        await ended;
        return [...new Uint8Array(await new Blob(parts).arrayBuffer())];
    }
"""


def test_a_film_is_played(browser: Browser, visit: Visit, tmp_path: Path) -> None:
    with browser.new_page() as maker:
        film = bytes(maker.evaluate(RECORDED))
    folder = tmp_path / "c" / "fcache"
    name = run_with_files(folder, key_of(1), {"generic/film-1.webm": film})
    fill(folder, entry(1, "study.f", {}, 1, media=name))
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        page.click(ROW)
        playing = page.locator("#record video")
        expect(playing).to_have_js_property("videoWidth", 300)
        playing.evaluate("film => film.play()")
        expect(playing).to_have_js_property("ended", True)


def test_an_empty_cache_says_how_to_fill_it_and_fills_by_itself(visit: Visit, tmp_path: Path) -> None:
    with serving(tmp_path / "c") as server:
        page = visit.open(server.url)
        expect(page.locator("h1")).to_have_text("Nothing is remembered here yet")
        for text in (str(tmp_path / "c"), "@cached_job", "--cache-dir"):
            expect(page.locator(".empty")).to_contain_text(text)
        fill(tmp_path / "c" / "fcache", *study(3)[:3])
        expect(page.locator("h1")).to_have_text("train")
        server.end()
        expect(page.locator("#live")).to_have_text("no answer")


def test_another_start_makes_the_old_session_end_in_words(visit: Visit, cache: Path) -> None:
    with serving(cache) as server:
        visit.open(server.url)
        port = urlsplit(server.url).port
    with serving(cache, "--port", str(port)):
        expect(visit.page.locator("#live")).to_have_text("session ended")
        expect(visit.page.locator("#toast")).to_contain_text(
            "Open the URL that bencher-job serve printed last"
        )
    visit.ignore_complaints()


def test_everything_can_be_done_with_the_keyboard(seen: Visit) -> None:
    page = seen.page
    page.focus(ROW)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator(".actions")).to_contain_text("1 selected")
    second = page.locator(ROW).nth(1)
    expect(second).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.locator("#record")).to_be_visible()
    expect(page.locator("#record")).to_contain_text(second.get_attribute("data-key") or "")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#record")).to_contain_text(page.locator(ROW).nth(2).get_attribute("data-key") or "")
    page.keyboard.press("Escape")
    expect(page.locator("#record")).to_be_hidden()
    page.focus("#tab-table")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-groups")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-plot")).to_be_focused()
    expect(page.locator("#chart")).to_be_visible()


FAULTS = Path(__file__).with_name("faults.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_and_everything_that_acts_has_a_name(
    browser: Browser, shared: Served, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": 1920, "height": 1080}, color_scheme=scheme)
    context.set_default_timeout(40_000)
    visit = Visit(context)
    page = visit.open(shared.url)
    visit.choose("study.train")
    page.fill("[data-column='arguments.c']", ">=0.1")
    expect_rows(page, "1", "45", "45")
    page.click(f"{ROW}:nth-child(2) input")
    page.click(ROW)
    expect(page.locator("#record")).to_contain_text("accuracy")
    faults = [page.evaluate(FAULTS)]
    page.click("#tab-groups")
    expect(page.locator("#group-count")).to_contain_text("9 groups")
    page.click("summary:has-text('Group by')")
    faults.append(page.evaluate(FAULTS))
    page.click("#tab-plot")
    expect(page.locator("#caption")).to_contain_text("45 entries")
    page.click(".legend-item:has-text('svm')")
    page.locator(POINT).last.hover()
    faults.append(page.evaluate(FAULTS))
    page.click("#tab-table")
    page.click(f"{ROW}:nth-child(1) input")
    page.click(f"{ROW}:nth-child(2) input")
    page.click("text=Compare")
    expect(page.locator(".compared")).to_contain_text("accuracy")
    faults.append(page.evaluate(FAULTS))
    context.close()
    assert faults == [[], [], [], []]


@pytest.mark.parametrize("width", [420, 1280, 1920])
def test_nothing_is_covered_or_cut_off_at_the_widths_of_usual_screens(
    browser: Browser, shared: Served, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    context.set_default_timeout(40_000)
    visit = Visit(context)
    page = visit.open(shared.url)
    visit.choose("study.train")
    page.click(ROW)
    expect(page.locator("#record")).to_contain_text("accuracy")
    table, record = page.locator("#rows").bounding_box(), page.locator("#record").bounding_box()
    assert table is not None
    assert record is not None
    assert table["x"] + table["width"] <= record["x"] or table["y"] + table["height"] <= record["y"]
    assert min(table["width"], record["width"]) >= 300
    page.keyboard.press("Escape")
    expect(page.locator("#record")).to_be_hidden()
    for tab, shown in (("#tab-table", ROW), ("#tab-groups", "#groups .tabulator-row"), ("#tab-plot", POINT)):
        page.click(tab)
        page.wait_for_selector(shown)
        fits = "(({ scrollWidth, scrollHeight }) => scrollWidth <= innerWidth && scrollHeight <= innerHeight)"
        if width < 900:  # where the page scrolls as a whole
            fits = "(({ scrollWidth }) => scrollWidth <= innerWidth)"
        assert page.evaluate(f"{fits}(document.documentElement)")
    context.close()


def test_versions_of_code_are_chosen_and_failed_jobs_read_and_cleared(visit: Visit, shell: Shell) -> None:
    for factor in (1, 2):
        edit(shell, factor)
    with serving(shell.folder / "cachedir") as server, running(shell):
        page = visit.open(server.url)
        visit.choose("study.score")
        expect(page.locator("#running")).to_contain_text("score(model='slow', c=1.0)")
        expect_rows(page, "1", "2", "2")
        new = visit.column("code")[0]
        expect(page.locator("#hidden-versions")).to_have_text("2 entries of 1 other version not shown")
        page.select_option("#choose-code", "all")
        expect_rows(page, "1", "4", "4")
        expect(page.locator("#hidden-versions")).to_have_count(0)
        page.select_option("#choose-code", index=1)
        expect_rows(page, "1", "2", "2")
        assert new not in visit.column("code")
        page.reload()
        expect_rows(page, "1", "2", "2")
        page.click("#tab-failed")
        expect(page.locator("#failed [data-key]")).to_have_count(1)
        page.select_option("#choose-code", "all")
        expect(page.locator("#failed [data-key]")).to_have_count(2)
        page.fill("#failed [data-column='error']", "no such")
        expect(page.locator("#failed [data-key]")).to_have_count(0)
        page.fill("#failed [data-column='error']", "no model")
        expect(page.locator("#failed [data-key]")).to_have_count(2)
        page.locator("#failed [data-key]").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator(".is-traceback")).to_contain_text("Traceback (most recent call last):")
        page.keyboard.press("Escape")
        page.click("#tools .is-danger")
        page.click(".question .danger")
        expect(page.locator("#toast")).to_contain_text("2 failed jobs cleared")
        expect(page.locator("#failed [data-key]")).to_have_count(0)
