"""The Engine contract: submit a job, receive its outcome, release the executor."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .._errors import BencherJobError, WorkerLost
from .._light_future import LightFuture
from .._processes import renew_after_fork
from .base import Outcome, error_text, run_inline

if TYPE_CHECKING:
    from .._job import Job
    from .._loops import Caller
    from .scheduler import Scheduler

__all__ = [
    "AdoptedExecutor",
    "CallFuture",
    "Engine",
    "ExecutorSource",
    "SharedExecutor",
    "SharedExecutors",
    "failed",
    "run_here",
    "submit_jobs",
    "unsendable",
]

E = TypeVar("E", bound=concurrent.futures.Executor)


class CallFuture(LightFuture[Any]):
    """The future of a call in a worker, with the scheduler that runs it and the call's job."""

    def __init__(self, scheduler: Scheduler, job: Job | None = None) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.job = job

    def give_up(self) -> None:
        """End the call with `WorkerLost` if no worker can run any of the calls."""
        if (reason := self.scheduler.stuck()) is not None:
            self.scheduler.lose(self, f"{reason}. The cache was closed, or the program ended")


class ExecutorSource(Protocol):
    """Where an engine gets its executor from."""

    @property
    def executor(self) -> Any:
        """The executor, made at first use; None where jobs run inline."""

    def release(self) -> None:
        """Release the executor."""


class Engine:
    """Run the jobs of a `FutureCache`. Engines are thread-safe.

    An engine is made of data: what runs the jobs, and what it can do.

    Attributes:
        name: the member of `Executors`, or the class name of an adopted executor.
        ends_jobs: whether it ends a job that exceeds its timeout, with a `JobTimeout`.
        shares_arguments: whether a job gets the submitted argument objects themselves, which the caller may change
            while it runs.
        asks_to_begin: whether it calls `begin` of a job's `start` before it begins the job. Otherwise a job needs its
            lease when it is submitted.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[Any, Sequence[Job]], list[Future[Any]]],
        source: ExecutorSource,
        *,
        ends_jobs: bool = False,
        shares_arguments: bool = False,
        asks_to_begin: bool = False,
    ) -> None:
        self.name = name
        self.ends_jobs = ends_jobs
        self.shares_arguments = shares_arguments
        self.asks_to_begin = asks_to_begin
        self._start = start
        self._source = source
        self._labels: weakref.WeakKeyDictionary[Future[Any], Job] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def executor(self) -> Any:
        """The executor, made at first use; None where jobs run inline."""
        return self._source.executor

    @property
    def workers(self) -> int | None:
        """How many jobs run at once, or None if the executor does not say."""
        if self.executor is None:
            return 1
        for name in ("max_workers", "_max_workers"):  # concurrent.futures keeps it private
            number = getattr(self.executor, name, None)
            if isinstance(number, int):
                return number
        return None

    def submit(self, job: Job) -> Future[Any]:
        """Start a job. An error of the job itself goes into its future.

        Raises:
            BencherJobError: if the engine cannot take jobs. The message names the remedy.
        """
        return self.submit_many([job])[0]

    def submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        """Start several jobs. If it raises, no job has started.

        Raises:
            BencherJobError: if the engine cannot take jobs. The message names the remedy.
        """
        try:
            futures = self._start(self._source.executor, jobs)
        except RuntimeError as refusal:
            raise self._refused(refusal) from refusal
        for job, future in zip(jobs, futures, strict=True):
            if not isinstance(future, CallFuture):
                self._labels[future] = job
        return futures

    def _refused(self, refusal: RuntimeError) -> BencherJobError:
        """Make the error for an executor that takes no job. A job's own exceptions do not come this way."""
        if isinstance(refusal, concurrent.futures.BrokenExecutor):
            return WorkerLost(f"{self.name} is broken and takes no more jobs: {refusal}")
        return BencherJobError(
            f"{self.name} takes no more jobs: {refusal}. If it was shut down, pass an executor that stays open as long "
            f"as the function is called, or let the library make one: executor='multiprocessing' or 'threads'."
        )

    def join(self, future: Future[Any], caller: Caller | None) -> None:
        """Register a waiter for the job: its event loop, or None for a thread."""

    def has_begun(self, future: Future[Any]) -> bool:
        """Whether a job has begun, as the executor reports it; the job may still wait in the executor's own queue."""
        return future.running() or future.done()

    def end(self, future: Future[Any]) -> bool:
        """Cancel a job, or end it if it runs and the engine can. Return whether it was ended."""
        return future.scheduler.kill(future) if isinstance(future, CallFuture) else future.cancel()

    def receive(self, future: Future[Any]) -> Outcome:
        """Return the outcome of a done future. Never raises.

        A cancelled job ends with `CancelledError`. A failure of the engine itself becomes a `WorkerLost`: the job's own
        exceptions do not come this way.
        """
        is_ours = isinstance(future, CallFuture)
        if isinstance(future, CallFuture) and (run_result := future.peek()) is not None:
            from .entry import open_result  # slow to import

            return open_result(run_result, future.job)
        job = future.job if isinstance(future, CallFuture) else self._labels.get(future)
        try:
            problem = future.exception()
            if problem is None:
                return self._open(future.result(), job)
        except CancelledError:
            is_wanted = getattr(future.cancel, "was_called", True)
            return Outcome(error=CancelledError() if is_wanted else self._lost(job, None))
        except Exception as error:  # noqa: BLE001 - a foreign executor can return anything
            return Outcome(error=self._lost(job, error))
        is_own = isinstance(problem, BencherJobError) or (is_ours and isinstance(problem, CancelledError))
        return Outcome(error=problem if is_own else self._lost(job, problem))

    def _open(self, result: Any, job: Job | None) -> Outcome:
        if isinstance(result, Outcome):  # of a job that ran in this process
            return result
        from .entry import RunResult, open_result

        return open_result(RunResult.of_parts(result), job)

    def _lost(self, job: Job | None, problem: BaseException | None) -> WorkerLost:
        from .entry import describe

        label = describe(job)
        reason = "the engine cancelled it" if problem is None else error_text(problem)
        lost = WorkerLost(f"{self.name} lost {label}: {reason}", job=label)
        lost.__cause__ = problem
        return lost

    def release(self) -> None:
        """Release the executor. A shared one is shut down with its last user, an adopted one stays open."""
        self._source.release()


def run_here(_executor: None, jobs: Sequence[Job]) -> list[Future[Any]]:
    """Run jobs in this thread."""
    futures = []
    for job in jobs:
        future: Future[Any] = Future()
        future.set_result(run_inline(job))
        futures.append(future)
    return futures


def submit_jobs(timeout: float | None) -> Callable[[Any, Sequence[Job]], list[Future[Any]]]:
    """Return what starts jobs on an executor of this package."""
    return lambda executor, jobs: executor.submit_jobs(jobs, timeout)


def failed(error: BaseException) -> Future[Any]:
    """Make a future that has failed with `error`."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def unsendable(label: object, problem: BaseException) -> Future[Any]:
    """Make the failed future of a job that cannot be pickled."""
    from .entry import describe

    error = BencherJobError(
        f"{describe(label)} can't be sent to a worker: {error_text(problem)}. "
        f"cloudpickle must be able to pickle its function and arguments. Create what it can't pickle in the function."
    )
    error.__cause__ = problem
    return failed(error)


class SharedExecutors(Generic[E]):
    """Executors of one class by their settings, with the number of users of each.

    Attributes:
        end_unasked: whether an executor is shut down when its last user is garbage-collected without a release.
    """

    def __init__(self, *, end_unasked: bool = False) -> None:
        self.end_unasked = end_unasked
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget all executors in a forked child: the workers belong to the parent."""
        self._lock = threading.Lock()
        self._shared: dict[Hashable, tuple[E, int]] = {}
        self._dropped: deque[tuple[Hashable, E]] = deque()

    def acquire(self, settings: Hashable, make: Callable[[], E]) -> E:
        """Return the executor of these settings and count one more user. Make it if it is missing."""
        with self._lock:
            executor, users = self._shared.get(settings) or (make(), 0)
            self._shared[settings] = executor, users + 1
        self._release_dropped()
        return executor

    def release(self, settings: Hashable, executor: E) -> None:
        """Count one user less, and shut the executor down after the last one."""
        with self._lock:
            is_last = self._is_last(settings, executor)
        if is_last:
            executor.shutdown()
        self._release_dropped()

    def drop(self, settings: Hashable, executor: E) -> None:
        """Release an executor from a finalizer, which may interrupt a thread that holds the lock."""
        self._dropped.append((settings, executor))
        self._release_dropped()

    def _release_dropped(self) -> None:
        """Release dropped executors, unless another thread holds the lock, which then does it."""
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                settings, executor = self._dropped.popleft()
                is_last = self._is_last(settings, executor)
            except IndexError:  # another thread has released it
                continue
            finally:
                self._lock.release()
            if is_last:
                executor.shutdown(wait=False)

    def _is_last(self, settings: Hashable, executor: E) -> bool:
        """Count one user less and return whether it was the last."""
        shared, users = self._shared.get(settings, (None, 0))
        if shared is not executor:
            return False
        if users > 1:
            self._shared[settings] = executor, users - 1
            return False
        del self._shared[settings]
        return True


class AdoptedExecutor:
    """An executor that the user made and keeps, or None where jobs run inline."""

    def __init__(self, executor: concurrent.futures.Executor | None) -> None:
        self.executor = executor

    def release(self) -> None:
        """Do nothing: the user shuts the executor down."""


class SharedExecutor(Generic[E]):
    """An executor shared by engines with the same settings, made at first use.

    `key` returns the settings; `make` makes the executor.
    """

    def __init__(self, among: SharedExecutors[E], key: Callable[[], Hashable], make: Callable[[], E]) -> None:
        self._among = among
        self._key = key
        self._make = make
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the shared executor in a forked child: it belongs to the parent."""
        self._lock = threading.Lock()
        self._shared: E | None = None
        self._end: weakref.finalize[..., SharedExecutor[E]] | None = None

    @property
    def executor(self) -> E:
        """The executor of these settings."""
        shared = self._shared
        if shared is None:
            with self._lock:
                if self._shared is None:
                    key = self._key()
                    self._shared = self._among.acquire(key, self._make)
                    if self._among.end_unasked:
                        self._end = weakref.finalize(self, self._among.drop, key, self._shared)
                        self._end.atexit = False
                shared = self._shared
        return shared

    def release(self) -> None:
        """Release the executor, which is shut down with its last user."""
        with self._lock:
            shared, self._shared = self._shared, None
            if self._end is not None:
                self._end.detach()
        if shared is not None:
            self._among.release(self._key(), shared)
