"""What a cache asks of whatever runs its jobs: submit, receive, release."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._errors import BencherJobError, WorkerLost
from .._processes import renew_after_fork
from .base import Executors, Outcome, run_inline, told

if TYPE_CHECKING:
    from .._job import Job
    from .._loops import Caller

__all__ = ["Engine", "SerialEngine", "SharedEngine", "SharedExecutors", "failed", "unsendable"]


class Engine(ABC):
    """What runs the jobs of a `FutureCache`; it may be used from several threads at once.

    Attributes:
        name: the member of `Executors`, or the class name of an adopted executor.
    """

    name: str
    ends_jobs = False
    """Whether it ends a job whose time is over, with a `JobTimeout`."""
    shares_arguments = False
    """Whether a job runs with the very objects that it is submitted with, which others may change meanwhile."""
    asks_to_begin = False
    """Whether it asks a job's `start` before it begins the job."""
    _own_errors: tuple[type[BaseException], ...] = (BencherJobError,)

    def __init__(self) -> None:
        self._labels: weakref.WeakKeyDictionary[Future[Any], Job] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    @abstractmethod
    def executor(self) -> concurrent.futures.Executor | None:
        """The executor itself, made when it is first asked for; None where jobs run in line."""

    @property
    def workers(self) -> int | None:
        """How many jobs run at once, where the executor says."""
        for name in ("max_workers", "_max_workers"):  # concurrent.futures keeps it private
            number = getattr(self.executor, name, None)
            if isinstance(number, int):
                return number
        return None

    def submit(self, job: Job) -> Future[Any]:
        """Start a job; what is wrong with the job itself ends in its future.

        Raises:
            BencherJobError: when the engine can't take jobs, with the remedy.
        """
        try:
            future = self._submit(job)
        except RuntimeError as refusal:
            raise self._refused(refusal) from refusal
        self._note_label(future, job)
        return future

    def _note_label(self, future: Future[Any], job: Job) -> None:
        self._labels[future] = job

    def _label_of(self, future: Future[Any]) -> Job | None:
        return self._labels.get(future)

    @abstractmethod
    def _submit(self, job: Job) -> Future[Any]: ...

    def _refused(self, refusal: RuntimeError) -> BencherJobError:
        """Say why the executor takes no job: whatever runs in it, a job's own exceptions don't come this way."""
        if isinstance(refusal, concurrent.futures.BrokenExecutor):
            return WorkerLost(f"{self.name} is broken and takes no more jobs: {refusal}")
        return BencherJobError(
            f"{self.name} takes no more jobs: {refusal}. If it was shut down, pass an executor that stays open as long "
            f"as the function is called, or let the library make one: executor='multiprocessing' or 'threads'."
        )

    def submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        """Start jobs that come together; none is started when it raises.

        Raises:
            BencherJobError: when the engine can't take jobs, with the remedy.
        """
        futures = [self.submit(job) for job in jobs[:1]]
        for job in jobs[1:]:
            try:
                futures.append(self.submit(job))
            except BencherJobError as error:  # it has broken meanwhile, as those before will find out
                futures.append(failed(error))
        return futures

    def join(self, future: Future[Any], caller: Caller | None) -> None:  # noqa: B027 - most engines don't care
        """Be told who waits for a job, in an event loop or elsewhere."""

    def has_begun(self, future: Future[Any]) -> bool:
        """Whether a job runs already, as far as the executor tells: it may still wait in a queue of its own."""
        return future.running() or future.done()

    def end(self, future: Future[Any]) -> bool:
        """End a job, also one that runs already where the executor can; whether it could."""
        return future.cancel()

    def receive(self, future: Future[Any]) -> Outcome:
        """Tell how the job of a done future ended; it never raises.

        A job that was cancelled on purpose has ended with a `CancelledError`. What the engine itself failed
        with is a `WorkerLost`: the job's own exceptions don't come this way.
        """
        job = self._label_of(future)
        try:
            problem = future.exception()
        except CancelledError:
            return Outcome(
                error=CancelledError() if self._was_asked_to_cancel(future) else self._lost(job, None)
            )
        if problem is None:
            return self._opened(future.result(), job)
        if isinstance(problem, self._own_errors):
            return Outcome(error=problem)
        return Outcome(error=self._lost(job, problem))

    def _opened(self, result: Any, job: Job | None) -> Outcome:
        try:
            return self._open(result, job)
        except BaseException as problem:  # noqa: BLE001 - a foreign executor can give anything for a report
            return Outcome(error=self._lost(job, problem))

    def _open(self, result: Any, job: Job | None) -> Outcome:
        from .entry import open_report

        return open_report(result, job)

    def _was_asked_to_cancel(self, future: Future[Any]) -> bool:  # noqa: ARG002 - some engines cancel by themselves
        return True

    def _lost(self, job: Job | None, problem: BaseException | None) -> WorkerLost:
        from .entry import describe

        label = describe(job)
        reason = "the engine cancelled it" if problem is None else told(problem)
        lost = WorkerLost(f"{self.name} lost {label}: {reason}", job=label)
        lost.__cause__ = problem
        return lost

    @abstractmethod
    def release(self) -> None:
        """Give the engine back: a shared one ends with its last user, an adopted one is left alone."""


class SerialEngine(Engine):
    """Runs each job in the thread that submits it."""

    name = str(Executors.SERIAL)
    executor = None
    workers = 1

    def _submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(run_inline(job))
        return future

    def _open(self, result: Any, job: Job | None) -> Outcome:  # noqa: ARG002 - it has not been packed
        outcome: Outcome = result
        return outcome

    def release(self) -> None:
        """Do nothing: nothing is held."""


def failed(error: BaseException) -> Future[Any]:
    """Make the future of a job that could not be started."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def unsendable(label: object, problem: BaseException) -> Future[Any]:
    """Make the future of a job that could not be packed."""
    from .entry import describe

    error = BencherJobError(
        f"{describe(label)} can't be sent to a worker: {told(problem)}. "
        f"cloudpickle must be able to pickle its function and arguments; make what it can't in the function."
    )
    error.__cause__ = problem
    return failed(error)


E = TypeVar("E", bound=concurrent.futures.Executor)


class SharedExecutors(Generic[E]):
    """Executors of one kind, by their settings, and how many use each.

    Attributes:
        end_unasked: whether one ends with its last user, even if that is dropped without giving it back.
    """

    def __init__(self, *, end_unasked: bool = False) -> None:
        self.end_unasked = end_unasked
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have none, as in a forked child, whose parent has the workers."""
        self._lock = threading.Lock()
        self._shared: dict[Hashable, tuple[E, int]] = {}
        self._dropped: deque[tuple[Hashable, E]] = deque()

    def acquire(self, settings: Hashable, make: Callable[[], E]) -> E:
        """Give the executor of these settings, made if nobody uses one yet."""
        with self._lock:
            executor, users = self._shared.get(settings) or (make(), 0)
            self._shared[settings] = executor, users + 1
        self._release_dropped()
        return executor

    def release(self, settings: Hashable, executor: E) -> None:
        """Give an executor back, which ends with its last user."""
        with self._lock:
            is_last = self._is_last(settings, executor)
        if is_last:
            executor.shutdown()
        self._release_dropped()

    def drop(self, settings: Hashable, executor: E) -> None:
        """Give an executor back in a finalizer, which may interrupt any thread, even one that holds the lock."""
        self._dropped.append((settings, executor))
        self._release_dropped()

    def _release_dropped(self) -> None:
        """Give back what was dropped, unless a thread holds the lock, which then does it."""
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                settings, executor = self._dropped.popleft()
                is_last = self._is_last(settings, executor)
            except IndexError:  # another thread has given it back
                continue
            finally:
                self._lock.release()
            if is_last:
                executor.shutdown(wait=False)

    def _is_last(self, settings: Hashable, executor: E) -> bool:
        """Count a user less; whether it was the last one."""
        shared, users = self._shared.get(settings, (None, 0))
        if shared is not executor:
            return False
        if users > 1:
            self._shared[settings] = executor, users - 1
            return False
        del self._shared[settings]
        return True


class SharedEngine(Engine, Generic[E]):
    """Runs jobs on an executor that it shares with others, or on one that its user made and keeps."""

    def __init__(self, adopted: E | None, among: SharedExecutors[E]) -> None:
        super().__init__()
        self._adopted = adopted
        self._among = among
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Be without a shared executor, as a forked child is: it is its parent's."""
        self._lock = threading.Lock()
        self._shared: E | None = None
        self._end: weakref.finalize[..., SharedEngine[E]] | None = None

    @abstractmethod
    def _make(self) -> E: ...

    @abstractmethod
    def _key(self) -> Hashable:
        """What is the same for all who share an executor."""

    @property
    def executor(self) -> E:
        """The executor, shared by all that want the same and made when the first of them asks."""
        if self._adopted is not None:
            return self._adopted
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
        """Give the shared executor back, which ends with its last user."""
        with self._lock:
            shared, self._shared = self._shared, None
            if self._end is not None:
                self._end.detach()
        if shared is not None:
            self._among.release(self._key(), shared)
