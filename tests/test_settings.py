"""Where caches lie, and what is told where they can lie nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bencher_job import BencherJobError, CacheWarning, FutureCache, Job

pytestmark = pytest.mark.given_folders


def runs(**options: Any) -> int:
    with FutureCache(**options) as cache:
        result: int = cache.submit(Job("power", pow, {"base": 2, "exp": 10})).result()
        return result


@pytest.mark.parametrize("given", ["nul\0", "\ud800", 5, b"bytes", "~nobody of that name/x"])
def test_what_is_no_path_is_told_by_its_option(given: object) -> None:
    with pytest.raises(
        (BencherJobError, TypeError), match=r"^cache_dir(=.* is not the path of a folder| must be)"
    ):
        runs(cache_dir=given)


def test_a_variable_that_is_no_path_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHER_JOB_CACHE_DIR", "~nobody of that name/x")
    with pytest.raises(BencherJobError, match=r"^BENCHER_JOB_CACHE_DIR=.* is not the path of a folder"):
        runs()


@pytest.mark.parametrize("given", ["", ".", "..", "a/b", "/a", "a\0", 5, None])
def test_what_is_no_name_of_a_folder_is_told(given: object) -> None:
    with pytest.raises(
        (BencherJobError, TypeError), match=r"is not the name of a folder|cache_name must be a str"
    ):
        runs(cache_name=given)


def test_a_current_folder_that_is_gone_costs_the_memory_but_not_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.delenv("BENCHER_JOB_CACHE_DIR")
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.warns(CacheWarning, match="the current folder, .*, is gone"):
        assert runs() == 1024
