"""Each worker has its share of the threads that BLAS, OpenMP and similar libraries start."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

import numpy  # noqa: F401 - forked workers and threads find its BLAS loaded
import pytest
import threadpoolctl

from bencher_job import BencherJobError, Executors, cached_job
from bencher_job._cores import InnerThreads, cores
from bencher_job._executors.pool import SlotPool
from bencher_job._executors.threads import ThreadPool
from tests.environment import load_openmp

load_openmp()  # which forked workers and threads find loaded

PATIENCE = 60.0
METHODS = ["spawn", "forkserver", "fork"]
VARIABLES = tuple(InnerThreads.of(1, 1).variables)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def found() -> dict[str, int]:
    """Load libraries, and return the number of threads of each."""
    importlib.import_module("numpy")
    load_openmp()
    libraries = threadpoolctl.threadpool_info()
    assert {library["user_api"] for library in libraries} == {"blas", "openmp"}
    return {library["filepath"]: library["num_threads"] for library in libraries}


def limited(number: int) -> dict[str, int]:
    """Return the number of threads of each library of this process under a limit."""
    return {path: min(before, number) for path, before in found().items()}


def variables() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("workers", [1, cores()])
def test_a_worker_process_has_its_share(method, workers):
    share = cores() // workers
    with SlotPool(workers, start_method=method) as pool:
        threads = pool.submit(found).result(PATIENCE)
    if method == "fork":
        assert threads == limited(share)
    else:
        assert set(threads.values()) == {share}


def test_polars_has_its_share():
    def pool_size() -> int:
        import polars

        return polars.thread_pool_size()

    with SlotPool(cores()) as pool:
        assert pool.submit(pool_size).result(PATIENCE) == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_number_that_is_wanted_goes_before_all(method, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with SlotPool(1, start_method=method, inner_threads=1) as pool:
        assert set(pool.submit(found).result(PATIENCE).values()) == {1}
        assert pool.submit(variables).result(PATIENCE) == dict.fromkeys(VARIABLES, "1")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("spawn", "OMP_NUM_THREADS"),
        ("forkserver", "OMP_NUM_THREADS"),
        ("fork", "OMP_NUM_THREADS"),
        ("fork", "OPENBLAS_NUM_THREADS"),
    ],
)
def test_what_the_user_has_set_stays(script, method, name):
    out = script.run(
        f"""
        import json, threadpoolctl, warnings, numpy
        from tests.environment import load_openmp
        from bencher_job._executors.pool import SlotPool

        def found():
            import numpy
            load_openmp()
            return {{each["internal_api"]: each["num_threads"] for each in threadpoolctl.threadpool_info()}}

        if __name__ == "__main__":
            warnings.simplefilter("ignore")
            load_openmp()
            with SlotPool(64, start_method={method!r}) as pool:
                reported = found(), pool.submit(found).result()
            open("out.json", "w").write(json.dumps(reported))
        """,
        **{name: "2"},
    )
    here, there = out
    assert there["openblas"] == here["openblas"]
    assert there["openmp"] == (here["openmp"] if name == "OMP_NUM_THREADS" else 1)


def test_blas_that_was_told_less_before_a_fork_keeps_to_it():
    with threadpoolctl.threadpool_limits(1, "blas"), SlotPool(1, start_method="fork") as pool:
        assert pool.submit(found).result(PATIENCE) == found()


def test_a_pool_in_a_worker_divides_the_share_of_the_worker():
    def nested(workers: int) -> dict[str, str]:
        with SlotPool(workers) as pool:
            return pool.submit(variables).result(PATIENCE)

    with SlotPool(1, inner_threads=7) as pool:
        for workers, share in ((1, 7), (2, 3), (9, 1)):
            assert pool.submit(nested, workers).result(PATIENCE) == dict.fromkeys(VARIABLES, str(share))


def test_what_a_job_sets_stays_in_the_workers_of_its_own_pool():
    def nested() -> dict[str, str]:
        os.environ["POLARS_MAX_THREADS"] = "5"
        with SlotPool(1, start_method="fork") as pool:
            return pool.submit(variables).result(PATIENCE)

    with SlotPool(1, inner_threads=2) as pool:
        assert pool.submit(nested).result(PATIENCE) == {
            **dict.fromkeys(VARIABLES, "2"),
            "POLARS_MAX_THREADS": "5",
        }


def test_a_worker_that_replaces_another_has_its_share_too():
    with SlotPool(1, max_tasks_per_worker=1, inner_threads=3) as pool:
        reported = [pool.submit(lambda: (os.getpid(), variables())).result(PATIENCE) for _ in range(3)]
    assert len({pid for pid, _ in reported}) == 3
    assert all(each == dict.fromkeys(VARIABLES, "3") for _, each in reported)


def test_the_initializer_finds_it():
    def prepare() -> None:
        os.environ["FOUND"] = os.environ["OMP_NUM_THREADS"]

    with SlotPool(1, initializer=prepare, inner_threads=3) as pool:
        assert pool.submit(lambda: os.environ["FOUND"]).result(PATIENCE) == "3"


def test_this_process_and_its_other_children_stay_as_they_are():
    before = dict(os.environ)
    with SlotPool(1) as pool:
        pool.submit(found).result(PATIENCE)
    assert dict(os.environ) == before


@pytest.mark.parametrize("executor", ["multiprocessing", "threads"])
def test_workers_are_shared_by_those_who_want_as_many_threads(executor):
    one, same, other = (
        cached_job(executor=executor, inner_threads=number)(function)
        for number, function in ((2, abs), (2, round), (1, abs))
    )
    assert one.cache.executor is same.cache.executor
    assert one.cache.executor is not other.cache.executor
    for each in (one, same, other):
        each.cache.close()


class TestThreads:
    def test_a_thread_has_its_share_and_gives_it_back(self):
        before = found()
        for workers in (1, cores()):
            with ThreadPool(workers) as pool:
                assert pool.submit(found).result(PATIENCE) == limited(cores() // workers)
                assert found() == before

    def test_jobs_at_once_have_theirs_and_the_last_gives_it_back(self):
        before = found()
        barrier = threading.Barrier(2)
        leave = [threading.Event(), threading.Event()]

        def meet(number: int) -> list[dict[str, int]]:
            barrier.wait(PATIENCE)
            reported = [found()]
            leave[number].wait(PATIENCE)
            return [*reported, found()]

        for order in ((0, 1), (1, 0)):
            with ThreadPool(2, inner_threads=1) as pool:
                futures = [pool.submit(meet, number) for number in (0, 1)]
                for number in order:
                    leave[number].set()
                    assert all(set(reported.values()) == {1} for reported in futures[number].result(PATIENCE))
            assert found() == before
            for event in leave:
                event.clear()

    def test_the_program_can_limit_its_own_while_threads_wait(self):
        before = found()
        with ThreadPool(2, inner_threads=1) as pool:
            pool.submit(found).result(PATIENCE)
            with threadpoolctl.threadpool_limits(1):
                assert set(found().values()) == {1}
            assert found() == before

    def test_a_job_that_fails_gives_it_back(self):
        before = found()
        with ThreadPool(1, inner_threads=1) as pool:
            assert isinstance(pool.submit(divmod, 1, 0).exception(PATIENCE), ZeroDivisionError)
        assert found() == before

    def test_what_the_program_has_limited_stays(self):
        def blas() -> dict[str, int]:
            libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
            return {library["filepath"]: library["num_threads"] for library in libraries}

        with threadpoolctl.threadpool_limits(1, user_api="blas"), ThreadPool(1) as pool:
            assert pool.submit(blas).result(PATIENCE) == blas() == dict.fromkeys(blas(), 1)

    def test_jobs_run_without_threadpoolctl(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "threadpoolctl", None)
        with ThreadPool(1) as pool:
            assert pool.submit(abs, -1).result(PATIENCE) == 1


@pytest.mark.parametrize(
    "options", [{"executor": "threads"}, {"executor": "multiprocessing", "start_method": "fork"}]
)
def test_a_number_that_cannot_be_kept_is_refused(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(
        BencherJobError, match=r"inner_threads=2 needs the package threadpoolctl in .*pip install"
    ):
        cached_job(inner_threads=2, **options)(abs)(-1)


@pytest.mark.parametrize(
    ("options", "error", "reported"),
    [
        (
            {"executor": "threads", "inner_threads": 0},
            ValueError,
            "inner_threads=0 leaves a worker no thread",
        ),
        ({"executor": "multiprocessing", "inner_threads": True}, TypeError, "int or None, not bool"),
        ({"executor": "scoop", "inner_threads": "2"}, TypeError, "int or None, not str"),
        (
            {"executor": "tcp://127.0.0.1:1", "inner_threads": 2},
            ValueError,
            "inner_threads=2 has no effect on",
        ),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(options: dict[str, Any], error, reported):
    with pytest.raises(error, match=reported):
        cached_job(**options)(abs)


def test_the_executor_of_a_factory_gives_shares_as_well():
    with Executors.factory("multiprocessing") as pool:
        assert pool.submit(variables).result(PATIENCE) == dict.fromkeys(VARIABLES, "1")
