"""The contract of executors."""

from __future__ import annotations

import math
import os
import platform
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import chdir
from pathlib import Path
from typing import Any, Final

from .._cache import FutureCache
from .._decorator import cached_job
from .._errors import BencherJobError, CacheWarning, JobTimeout, WorkerLost
from .._function_cache import JobFunctionCache
from .._job import Job
from .._media import gen_path
from .tools import CallCounter, in_threads

__all__ = ["ExecutorContract", "LostWorkerContract"]


PATIENCE: Final = 60.0
"""Seconds after which an expected event counts as missing."""


def _cache_of(function: Callable[..., Any], executor: Any, folder: Path) -> JobFunctionCache:
    return JobFunctionCache(function, executor=executor, cache_dir=folder / "cache")


class ExecutorContract:
    """The tests that every executor must pass. Provide the fixture `executor`: anything that `executor=` takes."""

    def test_a_job_runs_and_is_remembered(self, executor: Any, tmp_path: Path) -> None:
        """The value is the function's, and a second cache with the same store doesn't run it."""
        counter = CallCounter(tmp_path / "calls")
        for _ in range(2):
            with _cache_of(_counted, executor, tmp_path) as cache:
                assert cache.call(counter=counter, value=[1, 2]).result(PATIENCE) == [1, 2]
        assert counter.count == 1

    def test_a_result_is_kept_though_nobody_reads_it(self, executor: Any, tmp_path: Path) -> None:
        """Commits happen as jobs complete."""
        with _cache_of(math.sqrt, executor, tmp_path) as cache:
            wait([cache.submit_call((number,), {}) for number in range(10)], PATIENCE)
            assert len(cache.cache) == 10

    def test_none_is_a_result(self, executor: Any, tmp_path: Path) -> None:
        """None is remembered like any other value."""
        counter = CallCounter(tmp_path / "calls")
        with _cache_of(_counted, executor, tmp_path) as cache:
            for _ in range(2):
                assert cache.call(counter=counter, value=None).result(PATIENCE) is None
        assert counter.count == 1

    def test_large_arguments_and_results_arrive(self, executor: Any, tmp_path: Path) -> None:
        """Values too large for one message or one batch arrive complete."""
        large = os.urandom(6_000_000)
        with _cache_of(_counted, executor, tmp_path) as cache:
            counter = CallCounter(tmp_path / "calls")
            assert cache.call(counter=counter, value=large).result(PATIENCE) == large

    def test_an_exception_is_the_functions_own_and_not_remembered(
        self, executor: Any, tmp_path: Path
    ) -> None:
        """Its type, arguments and traceback reach the caller; the next call runs the function again."""
        counter = CallCounter(tmp_path / "calls")
        with _cache_of(_failing, executor, tmp_path) as cache:
            for _ in range(2):
                error = cache.call(counter=counter).exception(PATIENCE)
                assert type(error) is ZeroDivisionError
                assert error.args == ("division by zero, on purpose",)
                assert "in _failing\n" in "".join(traceback.format_exception(error))
        assert counter.count == 2

    def test_closures_and_lambdas_run(self, executor: Any, tmp_path: Path) -> None:
        """A function that is not in a module reaches the worker."""
        offset = 40
        with _cache_of(lambda x: x + offset, executor, tmp_path) as cache:
            assert cache.call(x=2).result(PATIENCE) == 42

    def test_the_key_is_the_same_on_every_executor(self, executor: Any, tmp_path: Path) -> None:
        """A result computed on this executor is a hit for the calling thread."""
        counter = CallCounter(tmp_path / "calls")
        for runs_on in (executor, "SERIAL"):
            with _cache_of(_counted, runs_on, tmp_path) as cache:
                future = cache.call(counter=counter, value=1)
                assert future.result(PATIENCE) == 1
        assert future.cached

    def test_the_record_tells_where_the_job_ran(self, executor: Any, tmp_path: Path) -> None:
        """The record has the executor, and the worker's machine, process and Python."""
        with _cache_of(_whereabouts, executor, tmp_path) as cache:
            told = cache.call().result(PATIENCE)
            (record,) = cache.records()
            assert record.executor == cache.executor_type
        assert (record.host, record.pid, record.python, record.platform.partition("-")[0]) == told

    def test_one_key_runs_once_for_all_who_ask_at_once(self, executor: Any, tmp_path: Path) -> None:
        """Eight threads that call a running job share its one run, but no object of its value."""
        counter = CallCounter(tmp_path / "calls")
        with _cache_of(_slow, executor, tmp_path) as cache:
            values = in_threads(8, lambda _: cache.call(counter=counter).result(PATIENCE))
        assert values == [{"slow": True}] * 8
        assert len({id(value) for value in values}) == 8
        assert counter.count == 1

    def test_many_short_jobs_from_many_threads_run_once_each(self, executor: Any, tmp_path: Path) -> None:
        """Jobs sent together get their own values, or their own exceptions."""
        counter = CallCounter(tmp_path / "calls")
        with _cache_of(_odd, executor, tmp_path) as cache:

            def ask(thread: int) -> list[Any]:
                futures = [cache.call(counter=counter, x=50 * thread + number) for number in range(50)]
                return [future.exception(PATIENCE) or future.result() for future in futures]

            values = [value for part in in_threads(4, ask) for value in part]
        assert [value for value in values if isinstance(value, int)] == list(range(1, 200, 2))
        assert [error.args for error in values if isinstance(error, ValueError)] == [
            (x,) for x in range(0, 200, 2)
        ]
        assert counter.count == 200

    def test_a_relative_path_leads_to_the_file_that_the_key_is_of(
        self, executor: Any, tmp_path: Path
    ) -> None:
        """The current folder of a worker doesn't matter."""
        folders = [tmp_path / "first", tmp_path / "second"]
        options: Any = {"executor": executor, "cache_dir": tmp_path / "cache", "by_content": ["path"]}
        with JobFunctionCache(_text_of, **options) as cache:
            for folder in folders:
                folder.mkdir()
                (folder / "data").write_text(folder.name, encoding="utf-8")
                with chdir(folder):
                    assert cache.call(path="data").result(PATIENCE) == folder.name
            for folder in folders:
                future = cache.call(path=folder / "data")
                assert (future.result(PATIENCE), future.cached) == (folder.name, True)

    def test_a_job_runs_where_it_was_called(self, executor: Any, tmp_path: Path) -> None:
        """In the caller's folder, with variables that have been set or deleted since the executor was started."""
        name = "BENCHER_JOB_CONTRACT_OF_EXECUTORS"
        with _cache_of(_where, executor, tmp_path) as cache:
            for number, value in enumerate(("first", "second", None)):
                (folder := tmp_path / str(number)).mkdir()
                os.environ.update({name: value}) if value is not None else os.environ.pop(name)
                with chdir(folder):
                    futures = [cache.call(name=name, number=4 * number + each) for each in range(4)]
                    found = {future.result(PATIENCE) for future in futures}
                assert found == {(str(folder), value)}

    def test_what_cannot_be_pickled_costs_its_own_job(self, executor: Any, tmp_path: Path) -> None:
        """Unpicklable results, exceptions, arguments and functions arrive if nothing is pickled, or raise an error."""
        lock = threading.Lock()
        with warnings.catch_warnings(), FutureCache(executor, cache_dir=tmp_path) as cache:
            warnings.simplefilter("ignore", CacheWarning)  # a result that arrives can't be stored
            jobs = [
                Job("result", threading.Lock, {}, "1"),
                Job("exception", _raising_a_lock, {}, "2"),
                Job("argument", id, {}, "3", positional=(lock,)),
                Job("function", lambda: lock, {}, "4"),
            ]
            futures = [cache.submit(job) for job in jobs]
            for future in futures:
                error = future.exception(PATIENCE)
                assert isinstance(error, BencherJobError | _LockedError | None)
            assert cache.submit(Job("power", pow, {"base": 2, "exp": 5}, "5")).result(PATIENCE) == 32

    def test_a_map_that_fails_raises_the_jobs_own_exception(self, executor: Any, tmp_path: Path) -> None:
        """The jobs behind it are cancelled, if the executor can."""
        counter = CallCounter(tmp_path / "calls")
        function = cached_job(executor=executor, cache_dir=tmp_path / "cache")(_odd)
        error: Exception | None = None
        try:
            list(function.map([counter] * 20, range(1, 21)))
        except Exception as raised:  # noqa: BLE001 - it is looked at below
            error = raised
        function.cache.close()
        assert type(error) is ValueError
        assert error.args == (2,)

    def test_time_counts_from_when_a_job_begins(self, executor: Any, tmp_path: Path) -> None:
        """One that takes longer than its timeout ends with `JobTimeout`, unless the executor refuses the option."""
        try:
            cache = FutureCache(executor, cache_dir=tmp_path, timeout=0.5)
        except ValueError:
            return
        job = Job("long", _wait_for, {}, "key", positional=(tmp_path / "go",))
        assert isinstance(cache.submit(job).exception(PATIENCE), JobTimeout)
        (tmp_path / "go").touch()

    def test_an_exit_ends_its_own_job(self, executor: Any, tmp_path: Path) -> None:
        """`SystemExit` in a job is its exception and ends no worker."""
        with FutureCache(executor, cache_dir=tmp_path) as cache:
            error = cache.submit(Job("exit", exit, {}, "1", positional=(3,))).exception(PATIENCE)
            assert isinstance(error, SystemExit)
            assert error.code == 3
            assert cache.submit(Job("power", pow, {"base": 2, "exp": 5}, "2")).result(PATIENCE) == 32

    def test_a_cached_job_inside_a_job_runs_there(self, executor: Any, tmp_path: Path) -> None:
        """It runs in line, whatever its own executor is, and is remembered like any other."""
        counter = CallCounter(tmp_path / "calls")
        runs_on: Any = executor if isinstance(executor, str) else "MULTIPROCESSING"
        inner = cached_job(executor=runs_on, cache_dir=tmp_path / "cache")(_in_process)
        with _cache_of(lambda x: inner(counter, x), executor, tmp_path) as cache:
            value, pid = cache.call(x=4).result(PATIENCE)
            (record,) = cache.records()
            assert (value, record.pid) == (8, pid)
            assert inner(counter, 4) == (value, pid)
        assert counter.count == 1

    def test_media_lie_in_a_folder_of_the_job(self, executor: Any, tmp_path: Path) -> None:
        """A file that a job writes still exists afterwards, and the entry's record has its folder."""
        with _cache_of(_writing, executor, tmp_path) as cache:
            path = Path(cache.call(text="hello").result(PATIENCE))
            (record,) = cache.records()
        assert path.read_text() == "hello"
        assert record.media is not None
        assert record.media in path.parts

    def test_a_job_without_a_cache_runs(self, executor: Any) -> None:
        """`cache_samples=False` stores nothing and computes everything."""
        with FutureCache(executor, cache_samples=False) as cache:
            assert cache.submit(Job("power", pow, {"base": 2, "exp": 5})).result(PATIENCE) == 32


class LostWorkerContract:
    """The tests that every executor with worker processes must pass.

    Provide the fixture `executor`: anything that `executor=` takes, new for each test, since it may not survive.
    """

    def test_a_job_whose_worker_dies_is_told_of_it(self, executor: Any, tmp_path: Path) -> None:
        """Its future ends with a `WorkerLost` that names it, and earlier results stay."""
        with _cache_of(_deadly, executor, tmp_path) as cache:
            assert cache.call(x=1).result(PATIENCE) == 1
            error = cache.call(x=0).exception(PATIENCE)
            assert type(error) is WorkerLost
            assert error.job is not None
            assert error.job.endswith("_deadly(x=0)")
            assert cache.call(x=1).cached

    def test_nothing_is_pending_for_good(self, executor: Any, tmp_path: Path) -> None:
        """Each job sent with one that kills its worker is stored and returns its value, or is lost too."""
        with _cache_of(_deadly, executor, tmp_path) as cache:
            futures = {x: _submitted(cache, x) for x in [*range(1, 10), 0, *range(10, 30)]}
            errors = {x: future.exception(PATIENCE) for x, future in futures.items() if future is not None}
            assert all(error is None or type(error) is WorkerLost for error in errors.values())
            values = {x: futures[x].result() for x, error in errors.items() if error is None}
            assert values == {x: x for x in values}
            assert {record.arguments["x"] for record in cache.records()} == set(values)

    def test_afterwards_a_job_runs_or_is_refused(self, executor: Any, tmp_path: Path) -> None:
        """It never hangs."""
        with _cache_of(_deadly, executor, tmp_path) as cache:
            assert isinstance(cache.call(x=0).exception(PATIENCE), WorkerLost)
            after = _submitted(cache, 1)
            assert after is None or isinstance(after.exception(PATIENCE), WorkerLost | None)


def _submitted(cache: JobFunctionCache, x: int) -> Any:
    try:
        return cache.call(x=x)
    except WorkerLost:  # the executor is broken and takes no more jobs
        return None


def _counted(counter: CallCounter, value: Any) -> Any:
    counter.tick()
    return value


def _failing(counter: CallCounter) -> None:
    counter.tick()
    raise ZeroDivisionError("division by zero, on purpose")


def _slow(counter: CallCounter) -> dict[str, bool]:
    counter.tick()
    time.sleep(0.3)
    return {"slow": True}


def _text_of(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")


def _where(name: str, number: int) -> tuple[str, str | None]:  # noqa: ARG001 - a job of its own for each
    return str(Path.cwd()), os.environ.get(name)


def _wait_for(path: Path) -> None:
    """Wait for a file beyond the time that a test waits, unless the test has ended and its folder is gone."""
    end = time.monotonic() + 2 * PATIENCE
    while path.parent.exists() and not path.exists() and time.monotonic() < end:
        time.sleep(0.05)


def _odd(counter: CallCounter, x: int) -> int:
    counter.tick()
    if x % 2 == 0:
        raise ValueError(x)
    return x


def _whereabouts() -> tuple[str, int, str, str]:
    return os.uname().nodename, os.getpid(), platform.python_version(), platform.system()


def _in_process(counter: CallCounter, x: int) -> tuple[int, int]:
    counter.tick()
    return 2 * x, os.getpid()


class _LockedError(Exception):
    def __init__(self) -> None:
        super().__init__("on purpose")
        self.lock = threading.Lock()


def _raising_a_lock() -> None:
    raise _LockedError


def _deadly(x: int) -> int:
    if x == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def _writing(text: str) -> str:
    path = gen_path("greeting", suffix=".txt")
    Path(path).write_text(text)
    return path
