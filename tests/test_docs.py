"""The documentation is whole: each page can be reached, each public name is told, and what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bencher_job
import bencher_job.testing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
INDEXES = [path for path in PAGES if path.name == "index.md"]
PROSE = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

LANGUAGES = {"python", "console", "sh", "text", "toml", "make"}
"""What stands after the backticks of a block that is shown; `python` is what the tests run."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def contents(index: Path) -> list[Path]:
    """The pages that an index lists in its table of contents, in order."""
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```", index.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.strip() for table in tables for line in table.splitlines()]
    return [(index.parent / f"{line}.md").resolve() for line in lines if line and not line.startswith(":")]


def test_each_page_is_listed_by_the_index_of_its_folder_or_the_first_one() -> None:
    listed = [page for index in INDEXES for page in contents(index)]
    assert sorted(listed) == [page for page in PAGES if page != DOCS / "index.md"]


@pytest.mark.parametrize("folder", ["how-to", "explanation", "reference"])
def test_each_page_of_a_folder_stands_in_its_index(folder: str) -> None:
    pages = {page for page in PAGES if page.parent == DOCS / folder and page.name != "index.md"}
    assert set(contents(DOCS / folder / "index.md")) == pages


def test_each_file_of_the_package_has_its_row_for_contributors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    package = ROOT / "bencher_job"
    rows = {path.name for path in package.glob("*.py")} - {"__main__.py", "_version.py"}
    rows |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert {name for name in rows if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_the_modules_that_a_page_names_are_there(page: Path) -> None:
    for file in re.findall(r"`(_\w+(?:/\w+)?\.py)`", page.read_text()):
        assert (ROOT / "bencher_job" / file).is_file(), file


@pytest.mark.parametrize("index", INDEXES, ids=named)
def test_an_index_says_of_each_page_what_it_is_for(index: Path) -> None:
    text = index.read_text()
    for page in contents(index):
        assert f"]({page.relative_to(index.parent)})\n: " in text, page


def test_each_public_name_is_in_the_api_reference() -> None:
    pages = "".join((DOCS / "reference" / name).read_text() for name in ("api.md", "errors.md"))
    directives = r"^\.\. auto(?:class|function|exception|data):: ([\w.]+)"
    documented = {name.rpartition(".")[2] for name in re.findall(directives, pages, re.MULTILINE)}
    public = {*bencher_job.__all__, *bencher_job.testing.__all__}
    assert public - documented == set()


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    for file, test in re.findall(r"`(tests/[\w/]+\.\w+)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / file).is_file(), file
        assert f"def {test}(" in (ROOT / file).read_text() or not test, (file, test)


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_each_block_is_of_a_kind_that_is_run_or_plainly_not_python(page: Path) -> None:
    begun = re.findall(r"^`{3,}(.*)$", page.read_text(), re.MULTILINE)[::2]
    assert {kind for kind in begun if not kind.startswith("{")} <= LANGUAGES


def test_pictures_are_small() -> None:
    pictures = [
        path for kind in ("png", "webp", "svg", "gif", "jpg") for path in ROOT.glob(f"docs/**/*.{kind}")
    ]
    large = [path for path in pictures if "_build" not in path.parts and path.stat().st_size > 150_000]
    assert pictures
    assert large == []


def test_the_tables_of_figures_are_those_of_the_saved_run() -> None:
    command = [sys.executable, ROOT / "bench" / "page.py", ROOT / "bench" / "figures.json"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert (DOCS / "explanation" / "figures.inc").read_text() == made
