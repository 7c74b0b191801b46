"""What counts by content is read where its key was made, in whatever folder a job runs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from bencher_job import FutureCache, Job, JobFunctionCache, cached_job

pytestmark = pytest.mark.usefixtures("shared_workers")

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders with a file of the same name; the first is the current one."""
    made = tmp_path / "first", tmp_path / "second"
    for folder in made:
        folder.mkdir()
        (folder / "data").write_text(folder.name)
        (folder / "more").write_text(f"more of the {folder.name}")
    monkeypatch.chdir(made[0])
    return made


def text(path: Any) -> str:
    return Path(path).read_text()


def both(paths: list[Any]) -> list[str]:
    return [text(path) for path in paths]


def by_default(path: str = "data", /, *, other: Path = Path("more")) -> list[str]:
    return both([path, other])


def all_of(*paths: str) -> list[str]:
    return both(list(paths))


def forwarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("function", "names", "args", "found"),
    [
        (text, "path", ["data"], "{}"),
        (text, "path", [Path("data")], "{}"),
        (forwarded(text), "path", ["data"], "{}"),
        (both, "paths", [["data", Path("more")]], ["{}", "more of the {}"]),
        (by_default, ["path", "other"], [], ["{}", "more of the {}"]),
        (forwarded(by_default), ["path", "other"], [], ["{}", "more of the {}"]),
        (all_of, "paths", ["more", "data"], ["more of the {}", "{}"]),
    ],
)
def test_a_worker_reads_the_file_that_the_key_is_of(
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    names: Any,
    args: list[Any],
    found: Any,
) -> None:
    expected = found if isinstance(found, list) else [found]
    with JobFunctionCache(
        function, executor="multiprocessing", by_content=names, overwrite=True, max_workers=1
    ) as cache:
        for folder in folders:  # the worker stays in the first
            monkeypatch.chdir(folder)
            value = cache.submit_call(tuple(args), {}).result()
            assert (value if isinstance(found, list) else [value]) == [
                each.format(folder.name) for each in expected
            ]


@FORKS
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_neither_the_start_method_nor_who_owns_the_workers_matters(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as adopted:
        ours: dict[str, Any] = {"executor": "multiprocessing", "max_workers": 1, "start_method": method}
        for options in (ours, {"executor": adopted}):
            read = cached_job(by_content="path", overwrite=True, **options)(text)
            for folder in folders:
                monkeypatch.chdir(folder)
                assert read("data") == folder.name
            monkeypatch.chdir(folders[0])
            read.cache.close()


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
def test_a_job_that_begins_later_reads_what_was_current_when_it_was_asked_for(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    first, second = folders
    read = cached_job(by_content="path", executor=executor)(text)

    async def in_loop() -> str:
        future = read.submit("data")
        monkeypatch.chdir(second)
        return await future

    assert asyncio.run(in_loop()) == "first"
    monkeypatch.chdir(first)
    assert read("more") == "more of the first"
    monkeypatch.chdir(second)
    assert list(read.map(["data"])) == ["second"]
    assert [row["result"] for row in read.sweep({"path": ["data", "more"]}).run().results] == [
        "second",
        "more of the second",
    ]
    read.cache.close()


def test_calls_that_are_read_ahead_read_what_was_current_then(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = cached_job(by_content="paths")(both).map([["data"], ["more"], ["data", "more"]])
    assert next(calls) == ["first"]
    assert next(calls) == ["more of the first"]  # and the third is read with it
    monkeypatch.chdir(folders[1])
    assert next(calls) == ["first", "more of the first"]


def test_a_job_of_ones_own_of_a_cached_function_reads_it_as_well(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = cached_job(by_content="path")(text)
    with FutureCache("multiprocessing", max_workers=1) as cache:
        for folder in folders:
            monkeypatch.chdir(folder)
            assert cache.submit(Job("read", read, {"path": "data"})).result() == folder.name


def test_the_key_is_that_of_the_absolute_path(folders: tuple[Path, Path]) -> None:
    read = cached_job(by_content="path")(text)
    assert read.key("data") == read.key(folders[0] / "data") != read.key(folders[1] / "data")
    read("data")
    assert read.is_cached(folders[0] / "data")


def test_a_folder_that_is_gone_is_told_of_as_ever(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folders[0] / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(TypeError, match="by_content"):
        cached_job(by_content="path", cache_dir=folders[0])(text).submit("data")
