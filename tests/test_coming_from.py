"""Each call of another library that the documentation translates runs there, and so does its translation here."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bencher_job import FutureCache, cached_job

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
ROW = re.compile(r"^\| `([^`]+)`[^|]*\| (?:`([^`]+)`)?[^|]*\|$", re.MULTILINE)
FUNCTION = "def square(x, verbose=False):\n    return x * x\n"

LIBRARIES = {
    "functools": (),
    "joblib": ("Memory", "Parallel", "delayed", "expires_after"),
    "diskcache": (),
    "cachier": ("cachier", "disable_caching"),
    "bencher": (),
}
"""Each library that is translated, and the names that its rows use without the library's own."""

SECTIONS = {"bencher": ("from-holobench.md", "## What each call becomes")}
"""The page and the heading of a library that has a page of its own."""


def rows(library: str) -> list[tuple[str, str]]:
    """The rows of a library's table: its call, and ours where there is one."""
    page, heading = SECTIONS.get(library, ("coming-from.md", f"## From {library}"))
    _, _, rest = (PAGES / page).read_text().partition(heading)
    assert rest, library
    section, _, _ = rest.partition("\n## ")
    found = ROW.findall(section)
    assert len(found) == section.count("\n| ") - 1, "a row of the table isn't understood"
    return found


def run(code: str, namespace: dict[str, Any]) -> Any:
    """Run a cell of a table: a decorator decorates the function, an expression gives its value."""
    tree = ast.parse(f"{code}\n{FUNCTION}" if code.startswith("@") else code)
    if isinstance(tree.body[-1], ast.Expr):
        return eval(code, namespace)
    exec(compile(tree, "<cell>", "exec"), namespace)
    return None


def agree(theirs: Any, ours: Any) -> bool:
    return type(theirs) is not type(ours) or theirs == ours


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_call_and_its_translation_run_and_agree(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = pytest.importorskip(library)
    request.addfinalizer(getattr(module, "enable_caching", lambda: None))  # cachier's last row turns it off
    monkeypatch.chdir(tmp_path)
    there = {library: module, "timedelta": timedelta, "__name__": "study"}
    there |= {name: getattr(module, name) for name in LIBRARIES[library]}
    here = {"cached_job": cached_job, "FutureCache": FutureCache, "timedelta": timedelta, "__name__": "study"}
    for names in (there, here):
        exec(FUNCTION, names)
    for theirs, ours in rows(library):
        given = run(theirs, there)
        if ours and not ours.startswith("BENCHER_JOB"):
            assert agree(given, run(ours, here)), (theirs, ours)
