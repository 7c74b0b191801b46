"""Knows what a `FutureCache` asks of whatever runs its jobs: submit, receive, release."""

from __future__ import annotations

import concurrent.futures
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from .._errors import BencherJobError, WorkerLost
from .base import Executors, Outcome, run_inline, told

if TYPE_CHECKING:
    from .._job import Job
    from .._loops import Caller

__all__ = ["Engine", "SerialEngine", "failed", "unsendable"]


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
        from .envelope import open_report

        return open_report(result, job)

    def _was_asked_to_cancel(self, future: Future[Any]) -> bool:  # noqa: ARG002 - some engines cancel by themselves
        return True

    def _lost(self, job: Job | None, problem: BaseException | None) -> WorkerLost:
        from .envelope import describe

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
    from .envelope import describe

    error = BencherJobError(
        f"{describe(label)} can't be sent to a worker: {told(problem)}. "
        f"cloudpickle must be able to pickle its function and arguments; make what it can't in the function."
    )
    error.__cause__ = problem
    return failed(error)
