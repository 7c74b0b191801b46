from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from multiprocessing import get_context

import psutil
import pytest

from bencher_job import BencherJobError, Executors, FutureCache, Job, Ray, Slurm, WorkerLost, cached_job
from bencher_job._executors import engine, engine_for, inside_worker, run_inline
from bencher_job._executors.pool import SlotPool
from bencher_job._options import PoolOptions
from tests.environment import unmeasured

PATIENCE = 60.0


def job_of(function, *positional, **kwargs):
    return Job("name", function, kwargs, "key", positional=positional)


def outcome_of(engine, job):
    future = engine.submit(job)
    future.exception(PATIENCE)
    return engine.receive(future)


class EngineContract:
    """The contract of all engines. Subclasses define the fixture `engine`."""

    def test_gives_the_value(self, engine):
        outcome = outcome_of(engine, job_of(lambda x: x * 2, 21))

        assert outcome.error is None
        assert outcome.value == 42
        assert outcome.place.host == os.uname().nodename

    def test_gives_the_functions_own_exception(self, engine):
        def fail():
            raise LookupError("a", 1)

        outcome = outcome_of(engine, job_of(fail))

        assert type(outcome.error) is LookupError
        assert outcome.error.args == ("a", 1)

    def test_runs_jobs_inside_a_worker(self, engine):
        assert outcome_of(engine, job_of(inside_worker)).value is True
        assert inside_worker() is False

    def test_a_cancelled_job_ends_with_a_cancelled_error(self, engine):
        gate = [engine.submit(job_of(time.sleep, 0.2)) for _ in range(4)]
        waiting = [engine.submit(job_of(abs, -1)) for _ in range(20)]

        assert waiting[-1].cancel()

        assert isinstance(engine.receive(waiting[-1]).error, CancelledError)
        assert [f.exception(PATIENCE) for f in gate] == [None] * 4


@pytest.mark.usefixtures("shared_workers")
class TestPoolEngine(EngineContract):
    @pytest.fixture
    def engine(self):
        engine = engine_for("multiprocessing")
        yield engine
        engine.release()

    def test_a_dead_worker_names_the_job(self, engine):
        error = outcome_of(engine, job_of(os._exit, 3)).error

        assert type(error) is WorkerLost
        assert error.job == "job 'name', _exit(3)"
        assert error.exit_code == 3

    def test_what_cannot_be_packed_ends_in_the_outcome(self, engine):
        error = outcome_of(engine, job_of(id, threading.Lock())).error

        assert type(error) is BencherJobError
        assert "job 'name', id(" in str(error)

    def test_a_killed_job_ends_with_a_cancelled_error(self, engine, until):
        future = engine.submit(job_of(time.sleep, 600))
        assert until(future.running)

        engine.executor.kill(future)
        future.exception(PATIENCE)

        assert isinstance(engine.receive(future).error, CancelledError)


class TestThreads(EngineContract):
    @pytest.fixture
    def engine(self):
        with ThreadPoolExecutor(2) as executor:
            yield engine_for(executor)

    def test_nothing_is_pickled(self, engine):
        lock = threading.Lock()

        assert outcome_of(engine, job_of(lambda: lock)).value is lock


class TestOwnThreads(EngineContract):
    @pytest.fixture
    def engine(self):
        engine = engine_for("threads")
        yield engine
        engine.release()

    def test_nothing_is_pickled(self, engine):
        lock = threading.Lock()

        assert outcome_of(engine, job_of(lambda: lock)).value is lock


class TestProcessPoolExecutor(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls):
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
            yield engine_for(executor)

    def test_a_broken_pool_is_a_lost_worker(self):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            engine = engine_for(executor)
            error = outcome_of(engine, job_of(os._exit, 3)).error

            assert type(error) is WorkerLost
            assert "BrokenProcessPool" in str(error)
            with pytest.raises(WorkerLost, match="takes no more jobs"):
                engine.submit(job_of(abs, -1))


class Fickle(Executor):
    """An executor that ends its futures by a given function."""

    def __init__(self, end):
        self.end = end

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.end(future)
        return future


@pytest.mark.parametrize(
    ("end", "reported"),
    [
        (lambda future: future.cancel(), "cancelled it"),
        (lambda future: future.set_exception(CancelledError()), "CancelledError"),
        (lambda future: future.set_exception(BrokenExecutor("gone")), "gone"),
        (lambda future: future.set_exception(OSError("net")), "net"),
    ],
)
def test_what_an_engine_fails_with_is_a_lost_worker(end, reported):
    engine = engine_for(Fickle(end))

    error = engine.receive(engine.submit(job_of(abs, -1))).error

    assert type(error) is WorkerLost
    assert reported in str(error)
    assert error.job == "job 'name', abs(-1)"


def test_serial_runs_here():
    engine = engine_for(Executors.SERIAL)

    assert engine.executor is None
    assert outcome_of(engine, job_of(os.getpid)).value == os.getpid()
    assert outcome_of(engine, job_of(inside_worker)).value is False


def test_an_inline_run_keeps_an_interrupt_as_error():
    def interrupt():
        raise KeyboardInterrupt

    assert isinstance(run_inline(job_of(interrupt)).error, KeyboardInterrupt)


def test_names_are_those_of_executors_in_any_case():
    assert engine_for("Serial").name == engine_for(Executors.SERIAL).name == "SERIAL"
    with pytest.raises(
        ValueError, match=r"'dask' is neither an executor's name nor an address\. Use one of SERIAL"
    ):
        engine_for("dask")


@pytest.mark.parametrize("spec", [None, 3, ThreadPoolExecutor])
def test_anything_else_is_refused(spec):
    with pytest.raises(TypeError, match=r"^executor must be a member of Executors, .*, not \w+$"):
        engine_for(spec)


def test_users_with_the_same_settings_share_a_pool_until_the_last_releases_it():
    settings = PoolOptions(max_workers=3)  # a size that no other test uses
    one, other = engine_for("multiprocessing", settings), engine_for("multiprocessing", settings)
    pid = outcome_of(one, job_of(os.getpid)).value
    assert one.executor is other.executor

    one.release()
    assert outcome_of(other, job_of(abs, -1)).value == 1
    other.release()

    assert not psutil.pid_exists(pid)
    assert outcome_of(one, job_of(abs, -1)).value == 1
    one.release()


def test_an_adopted_executor_is_not_shut_down():
    with SlotPool(1) as pool, ThreadPoolExecutor(1) as threads:
        for executor in (pool, threads):
            engine_for(executor).release()
            assert executor.submit(abs, -1).result(PATIENCE) == 1


def test_making_an_engine_imports_and_starts_nothing():
    code = (
        "import sys, bencher_job; from bencher_job._executors import engine_for;"
        "light = [m for m in ('multiprocessing', 'psutil', 'cloudpickle', 'scoop') if m in sys.modules];"
        "engine_for('multiprocessing'); import threading, psutil;"
        "print(light, threading.active_count(), psutil.Process().children())"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=unmeasured()) == "[] 1 []\n"


def test_scoop_outside_of_scoop_says_how_to_start():
    engine = engine_for("scoop")

    with pytest.raises(BencherJobError, match=r"python -m scoop -n 3 script\.py"):
        engine.submit(job_of(abs, -1))
    with pytest.raises(BencherJobError, match="python -m scoop"):
        Executors.factory("scoop")


def test_scoop_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scoop", None)

    with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[scoop\]'"):
        engine_for("scoop").submit(job_of(abs, -1))


def _fork():
    child = os.fork()
    return child or "the child's"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")),
        lambda: ThreadPoolExecutor(1),
    ],
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_a_job_forks_is_no_second_worker(make):
    with make() as executor:
        engine = engine_for(executor)
        child = outcome_of(engine, job_of(_fork)).value
        pid = outcome_of(engine, job_of(os.getpid)).value

        assert outcome_of(engine, job_of(os.waitpid, child, 0)).value == (child, 0)
        assert outcome_of(engine, job_of(os.getpid)).value == pid


class Unloadable:
    """An object that ends the program that unpickles it."""

    def __init__(self, end):
        self.end = end

    def __reduce__(self):
        return _end, (self.end, os.getpid())


def _end(error, pid):
    if os.getpid() != pid:
        raise error
    return Unloadable(error)


class WordlessError(Exception):
    def __str__(self):
        raise SystemExit(5)


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), WordlessError()])
def test_whatever_unpickling_raises_here_is_an_error_of_the_library(end):
    engine = engine_for("multiprocessing")

    value = outcome_of(engine, job_of(Unloadable, end))
    error = outcome_of(
        engine, job_of(exec, "raise ValueError(unloadable(end))", {"unloadable": Unloadable, "end": end})
    )
    engine.release()

    assert type(value.error) is BencherJobError
    assert type(end).__name__ in str(value.error)
    assert value.error.__cause__ is not None
    assert isinstance(error.error, BencherJobError)


def _move_away():
    os.uname = lambda: os.uname_result(("Plan9", "elsewhere", "4.2-generic", "", "mips"))
    engine._PYTHON = "3.99.1"


def test_a_record_tells_where_the_job_ran_and_not_who_asked(tmp_path):
    spawn = get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=spawn, initializer=_move_away) as executor,
        FutureCache(executor, cache_dir=tmp_path) as cache,
    ):
        pid = cache.submit(job_of(os.getpid)).result(PATIENCE)
        (record,) = cache.records()

    reported = record.host, record.pid, record.python, record.platform
    assert reported == ("elsewhere", pid, "3.99.1", "Plan9-4.2-mips")


def test_what_is_no_report_is_a_lost_worker():
    engine = engine_for(Fickle(lambda future: future.set_result("no report")))

    error = engine.receive(engine.submit(job_of(abs, -1))).error

    assert type(error) is WorkerLost
    assert error.job == "job 'name', abs(-1)"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThreadPoolExecutor(1),
        lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")),
        lambda: SlotPool(1),
        lambda: Executors.factory("threads"),
    ],
    ids=["ThreadPoolExecutor", "ProcessPoolExecutor", "SlotPool", "ThreadPool"],
)
def test_an_executor_that_was_shut_down_is_told_with_the_remedy(make):
    executor = make()
    executor.shutdown()
    engine = engine_for(executor)
    for submit in (lambda: engine.submit(job_of(abs, -1)), lambda: engine.submit_many([job_of(abs, -1)])):
        with pytest.raises(
            BencherJobError, match=r"after shutdown.*pass an executor that stays open"
        ) as caught:
            submit()
        assert isinstance(caught.value.__cause__, RuntimeError)

    function = cached_job(executor=executor)(abs)
    for ask in (lambda: function(-1), lambda: function.submit(-1), lambda: list(function.map([-1]))):
        with pytest.raises(BencherJobError, match=f"{type(executor).__name__} takes no more jobs"):
            ask()
    assert not function.cache.is_in_flight(function.key(-1))


@pytest.mark.parametrize(
    "executor", ["threads", "multiprocessing", "scoop", ThreadPoolExecutor(1), ProcessPoolExecutor(1)]
)
def test_patience_is_refused_where_no_queue_tells_of_workers(executor):
    """Nothing starts in these executors."""
    with pytest.raises(
        ValueError, match=r"patience=5 has no effect on executor=.*use executor='slurm', 'ray'"
    ):
        cached_job(executor=executor, patience=5)(abs)


@pytest.mark.parametrize(
    "executor", ["serial", "slurm", "ray", Slurm(2), Ray(num_cpus=2), "tcp://127.0.0.1:8786"]
)
def test_patience_is_taken_where_jobs_may_wait_or_none_ever_do(executor):
    cached_job(executor=executor, patience=5)(abs)
