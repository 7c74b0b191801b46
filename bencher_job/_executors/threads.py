"""Run jobs in threads of this process, for functions that release the GIL.

    submit -> queue -> a thread: calls the function, nothing is pickled

The threads are daemons, so an interrupted program ends at once.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._cores import InnerThreads, check_threads_can_be_limited, threads_limited
from .._light_future import LightFuture
from .._loops import is_coroutine_function
from .._options import PoolOptions
from .engine import Outcome, as_worker, leave_if_forked, run_inline

if TYPE_CHECKING:
    from .._job import Job


@dataclass(frozen=True, slots=True)
class _ThreadTask:
    future: Future[Any]
    call: Callable[[], Any]

    def run(self, inner: InnerThreads) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            with threads_limited(inner):
                result = self.call()
        except BaseException as error:  # noqa: BLE001 - any exception concerns this call only
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


_Tasks = queue.SimpleQueue[_ThreadTask | None]


class ThreadPool(concurrent.futures.Executor):
    """Run calls in threads of this process, which start as calls come, up to `max_workers`.

    Unlike `ThreadPoolExecutor`, it does not wait for its threads at exit, so wait for the futures that you need.
    `inner_threads` is how many threads BLAS and OpenMP may start in each thread, by default its share of the cores. The
    limit needs threadpoolctl; without it there is none.
    """

    def __init__(self, max_workers: int | None = None, *, inner_threads: int | None = None) -> None:
        settings = PoolOptions(max_workers=max_workers, inner_threads=inner_threads)
        check_threads_can_be_limited(inner_threads, "in threads")
        self.max_workers = settings.size
        self._inner = settings.inner()
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._tasks: _Tasks = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._is_shut_down = False
        weakref.finalize(self, _dismiss, self.pid, self._tasks, self._threads).atexit = False

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut_down else f"{len(self._threads)} of {self.max_workers} threads"
        return f"<{type(self).__name__}: {state}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a thread.

        Raises:
            RuntimeError: after `shutdown`, or in a forked child of the process that made the pool.
        """
        if self.pid != os.getpid():
            raise RuntimeError(
                "This pool belongs to the parent of this process. Make a new one after a fork."
            )
        task = _ThreadTask(LightFuture(), lambda: fn(*args, **kwargs))
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._tasks.put(task)
            if len(self._threads) < self.max_workers and not self._idle.acquire(blocking=False):
                self._add_thread()
        return task.future

    def submit_jobs(self, jobs: Sequence[Job], timeout: float | None = None) -> list[Future[Any]]:
        """Start jobs, whose futures get `Outcome`s. Coroutines are cancelled after `timeout` seconds."""
        return [self.submit(run_in_thread, job, timeout) for job in jobs]

    def _add_thread(self) -> None:
        thread = threading.Thread(
            target=_work, args=(self._tasks, self._idle, self._inner), name="bencher_job-thread", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls, finish or cancel the waiting ones, then end the threads."""
        if self.pid != os.getpid():
            return
        with self._lock:
            first, self._is_shut_down = not self._is_shut_down, True
            if cancel_futures:
                _cancel_waiting(self._tasks)
            if first or cancel_futures:
                _dismiss(self.pid, self._tasks, self._threads)
        if wait:
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()


def _work(tasks: _Tasks, idle: threading.Semaphore, inner: InnerThreads) -> None:
    while True:
        try:
            task = tasks.get_nowait()
        except queue.Empty:
            idle.release()
            task = tasks.get()
        if task is None:
            return
        task.run(inner)
        del task  # keep no reference while waiting


def _dismiss(pid: int, tasks: _Tasks, threads: list[threading.Thread]) -> None:
    if pid == os.getpid():
        for _ in threads:
            tasks.put(None)


def _cancel_waiting(tasks: _Tasks) -> None:
    try:
        while True:
            task = tasks.get_nowait()
            if task is not None and task.future.cancel():
                task.future.set_running_or_notify_cancel()
    except queue.Empty:
        pass


def run_in_thread(job: Job, timeout: float | None = None) -> Outcome:
    """Run a job in this thread as a worker, so that cached functions which it calls run inline.

    A coroutine is cancelled after `timeout` seconds. A plain function cannot be ended and has no timeout.
    """
    pid = os.getpid()
    if job.start is not None and not job.start.begin([job.start])[0]:
        return Outcome(error=CancelledError())
    if job.may_change:
        job.note_changes()
    with as_worker():
        outcome = run_inline(job) if timeout is None else _run_in_time(job, timeout)
    leave_if_forked(pid, outcome.error)
    return outcome


def _run_in_time(job: Job, timeout: float) -> Outcome:
    if not is_coroutine_function(job.function):
        return run_inline(job)
    from .entry import run_coroutine  # slow to import

    return run_coroutine(job, timeout)
