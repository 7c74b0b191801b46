"""Calls from an event loop, and cached coroutine functions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ._errors import BencherJobError
from ._future import JobFuture
from ._job import Job
from ._loops import Strand, running_loop, until_ended

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Errand"]


R = TypeVar("R")


class Errand:
    """A job that a thread makes and begins.

    Attributes:
        future: the future of the job; all that goes wrong on the way is its exception.
        work: what the thread does.
    """

    def __init__(
        self,
        make: Callable[[], Job],
        begin: Callable[[Job], JobFuture[Any]],
        strand: Strand,
        runs_in: AbstractEventLoop | None,
    ) -> None:
        self._make = make
        self._begin = begin
        self._lock = threading.Lock()
        self._is_made = threading.Event()
        self._job: Job | None = None
        self._problem: BaseException | None = None
        self._is_withdrawn = False
        self._begun: JobFuture[Any] | None = None
        self.future: JobFuture[Any] = _FutureOfErrand.of(self, runs_in)
        self.work = strand.aside(self._run)

    def _run(self) -> None:
        try:
            self._job = self._make()
            self._is_made.set()
            if not self._is_withdrawn:
                self._pass_on(self._begin(self._job))
        except BaseException as problem:  # noqa: BLE001 - it is the future's
            if self._job is None:
                self._problem = problem
            self.future.fail(problem)
        finally:
            self._is_made.set()

    def _note_begun(self, begun: JobFuture[Any]) -> bool:
        with self._lock:
            self._begun = begun
            return self._is_withdrawn

    def _pass_on(self, begun: JobFuture[Any]) -> None:
        if self._note_begun(begun):
            begun.cancel()
            self.future.took_along = begun.took_along
        begun.add_done_callback(self.future.follow)

    def withdraw(self) -> bool:
        """Let nothing begin; False if it has begun already."""
        with self._lock:
            self._is_withdrawn = self._is_withdrawn or self._begun is None
            return self._begun is None

    def cancel(self) -> bool:
        """Withdraw, or cancel the job if it has begun as far as that is possible; whether it was."""
        if self.withdraw():
            return True
        begun = cast("JobFuture[Any]", self._begun)
        is_cancelled = begun.cancel()
        self.future.took_along = begun.took_along
        return is_cancelled

    def job(self) -> Job:
        """Give the job, once it is made.

        Raises:
            BaseException: why it could not be made.
        """
        self._is_made.wait()
        if self._problem is not None:
            raise self._problem
        return self._job  # type: ignore[return-value]


class _FutureOfErrand(JobFuture[R]):
    """The future of a job that a thread makes."""

    _errand: Errand
    _cached = False
    _runs_in: AbstractEventLoop | None

    @classmethod
    def of(cls, errand: Errand, runs_in: AbstractEventLoop | None) -> _FutureOfErrand[R]:
        """Make the future of an errand, whose job runs in an event loop or elsewhere."""
        future = cls._unresolved(lambda _: errand.cancel())
        future._errand, future._runs_in = errand, runs_in  # noqa: SLF001 - its own class
        return future

    @property
    def job(self) -> Job:  # type: ignore[override]
        """The job, once it is made."""
        return self._errand.job()

    @property
    def cached(self) -> bool:
        """Whether the result was remembered, once that has been looked up, which takes about as long as a hit."""
        if not self.done():
            wait([self._errand.work])
        return self._cached

    @cached.setter
    def cached(self, cached: bool) -> None:
        self._cached = cached

    def result(self, timeout: float | None = None) -> R:
        """Give the value, once it is there; not in the event loop that the job runs in, which would stand still."""
        self._refuse_to_stop_its_loop()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Give what the function raised, or None, once it has ended; raises as `result` otherwise."""
        self._refuse_to_stop_its_loop()
        return super().exception(timeout)

    async def end(self) -> None:
        """Cancel it, once the thread is done with it, and wait until the run has ended that it takes along."""
        self._errand.withdraw()
        await until_ended(self._errand.work)
        await super().end()

    def _refuse_to_stop_its_loop(self) -> None:
        if self._runs_in is not None and not self.done() and running_loop() is self._runs_in:
            raise BencherJobError(
                f"{self.job!r} runs in this event loop, which would stand still for ever if it waited here. Await the "
                f"future."
            )
