"""The explanation of how a call flows names the files and functions that such a call passes through."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import bencher_job
from bencher_job import cached_job

PACKAGE = Path(bencher_job.__file__).parent
PAGE = PACKAGE.parent / "docs" / "explanation" / "flow.md"

pytestmark = pytest.mark.given_folders


def accuracy(model: str, c: float = 1.0, *, seed: int = 0) -> dict[str, float]:
    time.sleep(0.06)  # long enough for a lease between machines
    return {"score": len(model) * c + seed}


def passed(call: Callable[[], object]) -> set[str]:
    """The files of the package that a call passes through in this process, and its functions."""
    seen: set[str] = set()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            file = frame.f_code.co_filename.removeprefix(f"{PACKAGE}/")
            seen.update((file, frame.f_code.co_qualname, frame.f_code.co_qualname.partition(".<")[0]))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


def named(title: str) -> set[str]:
    """The files and functions in the tables of a section, without what happens in workers."""
    section = re.search(rf"^### {title}\n(.*?)(?=^##)", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    rows = [row for row in section.splitlines() if row.startswith("| ") and not row.startswith("| worker")]
    files = {file for row in rows for file in re.findall(r"`(\w[\w/]+\.py)`", row)}
    return files | {name for row in rows for name in re.findall(r"`([A-Z]\w+\.\w+)`", row)}


def hit(tmp_path: Path) -> set[str]:
    function = cached_job(cache_dir=tmp_path)(accuracy)
    function("svm", c=2.0)
    seen = passed(lambda: function("svm", c=2.0))
    function.cache.close()
    return seen | passed(lambda: function("svm", c=2.0))


def miss(tmp_path: Path, **options: Any) -> set[str]:
    made: list[Any] = []

    def call() -> None:
        made.append(cached_job(cache_dir=tmp_path, **options)(accuracy))
        made[0]("svm", c=2.0)

    seen = passed(call)
    made[0].cache.close()  # before its folders are removed
    return seen


def pooled_miss(tmp_path: Path) -> set[str]:
    return miss(tmp_path, executor="multiprocessing", max_workers=1, max_tasks_per_worker=71)


def shared_hit(tmp_path: Path) -> set[str]:
    first = cached_job(cache_dir=tmp_path / "a", shared=tmp_path)(accuracy)
    first("svm", c=2.0)
    first.cache.close()
    return miss(tmp_path / "b", shared=tmp_path)


def explained(tmp_path: Path) -> set[str]:
    function = cached_job(cache_dir=tmp_path)(accuracy)
    function("svm", c=2.0)
    seen = passed(lambda: function.explain("svm", c=3.0))
    function.cache.close()
    return seen


@pytest.mark.parametrize(
    ("title", "go"),
    [
        ("A hit", hit),
        ("A miss in this thread", miss),
        ("A miss in a pool", pooled_miss),
        ("A hit in a shared store", shared_hit),
        ("Explain", explained),
    ],
)
def test_a_call_passes_through_what_the_page_names(
    title: str, go: Callable[[Path], set[str]], tmp_path: Path
) -> None:
    assert len(named(title)) > 5
    rows_of_others = {"_shared/rows.py", "_shared/objects.py"}
    assert named(title) - rows_of_others - go(tmp_path) == set()
