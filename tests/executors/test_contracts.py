"""Each executor passes the contracts of `bencher_job.testing`; clusters have their own test files."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context

import pytest

from bencher_job import Executors, JobFunctionCache
from bencher_job._executors.pool import SlotPool
from bencher_job.testing import ExecutorContract, LostWorkerContract

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class TestSerial(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return Executors.SERIAL


class TestThreads(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return Executors.THREADS


@pytest.mark.usefixtures("shared_workers")
class TestMultiprocessing(ExecutorContract, LostWorkerContract):
    @pytest.fixture
    def executor(self):
        return Executors.MULTIPROCESSING


class TestSlotPool(ExecutorContract, LostWorkerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        with SlotPool(2) as executor:
            yield executor


class TestThreadPoolExecutor(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        with ThreadPoolExecutor(2) as executor:
            yield executor


@FORKS
class TestProcessPoolExecutor(ExecutorContract):
    @pytest.fixture(params=["fork", "spawn"], scope="class")
    @classmethod
    def executor(cls, request):
        with ProcessPoolExecutor(2, mp_context=get_context(request.param)) as executor:
            yield executor


@FORKS
class TestLostWorkersOfProcessPoolExecutor(LostWorkerContract):
    @pytest.fixture(params=["fork", "spawn"])
    def executor(self, request):
        with ProcessPoolExecutor(2, mp_context=get_context(request.param)) as executor:
            yield executor


class SilentFuture(Future):
    """Never runs, as far as it says, and refuses to be cancelled, as Parsl's."""

    def cancel(self):
        raise NotImplementedError("Cancel not implemented")


class SilentExecutor(Executor):
    def __init__(self):
        self.pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))

    def submit(self, fn, /, *args, **kwargs):
        future = SilentFuture()

        def end(done):
            error = done.exception()
            future.set_result(done.result()) if error is None else future.set_exception(error)

        self.pool.submit(fn, *args, **kwargs).add_done_callback(end)
        return future


class TestSilentExecutor(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        executor = SilentExecutor()
        yield executor
        executor.pool.shutdown()


class TestLoky(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        loky = pytest.importorskip("loky", reason="loky is not installed")
        with loky.ProcessPoolExecutor(2) as executor:
            yield executor


class TestLostWorkersOfLoky(LostWorkerContract):
    @pytest.fixture
    def executor(self):
        loky = pytest.importorskip("loky", reason="loky is not installed")
        with loky.ProcessPoolExecutor(2) as executor:
            yield executor


class TestReusableLoky(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        loky = pytest.importorskip("loky", reason="loky is not installed")
        executor = loky.get_reusable_executor(max_workers=2)
        yield executor
        executor.shutdown()


@pytest.mark.parametrize("name", ["serial", "threads", "multiprocessing"])
def test_one_thread_commits(name, tmp_path):
    """Commits never block a thread of the executor, which other jobs need."""
    with JobFunctionCache(math.sqrt, executor=name, cache_dir=tmp_path) as cache:
        store, threads = cache.cache, set()
        put_many = store.put_many

        def put_from_here(*args, **kwargs):
            threads.add(threading.current_thread())
            return put_many(*args, **kwargs)

        store.put_many = put_from_here
        wait([cache.submit_call((number,), {}) for number in range(50)], 60.0)
        del store.put_many
        assert len(store) == 50
    (thread,) = threads
    assert thread is threading.current_thread() or thread.name.startswith("bencher_job-writer")
