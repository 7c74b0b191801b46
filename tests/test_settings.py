"""Where caches lie, and what is told where they can lie nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from bencher_job import BencherJobError, CacheWarning, FutureCache, Job
from bencher_job._options import cache_directory, store_directory


@pytest.fixture(autouse=True)
def plain_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let caches lie where they are asked to."""
    monkeypatch.setattr("bencher_job._options._override", None)
    monkeypatch.delenv("BENCHER_JOB_CACHE_DIR", raising=False)


@pytest.mark.parametrize("given", ["nul\0", "\ud800", 5, b"bytes", "~nobody of that name/x"])
def test_what_is_no_path_is_told_by_its_option(given: object) -> None:
    with pytest.raises(BencherJobError, match=r"^cache_dir=.* is not the path of a folder"):
        cache_directory(given)  # type: ignore[arg-type]


def test_a_variable_that_is_no_path_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHER_JOB_CACHE_DIR", "~nobody of that name/x")
    with pytest.raises(BencherJobError, match=r"^BENCHER_JOB_CACHE_DIR=.* is not the path of a folder"):
        cache_directory()


@pytest.mark.parametrize("given", ["", ".", "..", "a/b", "/a", "a\0", 5, None])
def test_what_is_no_name_of_a_folder_is_told(given: object) -> None:
    with pytest.raises(BencherJobError, match="is not the name of a folder"):
        store_directory(given)  # type: ignore[arg-type]


def test_a_current_folder_that_is_gone_costs_the_memory_but_not_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with FutureCache() as cache, pytest.warns(CacheWarning, match="the current folder, .*, is gone"):
        assert cache.submit(Job("power", pow, {"base": 2, "exp": 10})).result() == 1024
