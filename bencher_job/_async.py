"""Submit jobs from an event loop without blocking it: a thread makes and starts each job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ._errors import BencherJobError
from ._future import JobFuture
from ._job import Job
from ._light_future import LightFuture
from ._loops import SerialQueue, running_loop, until_ended

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["AsyncSubmit"]


R = TypeVar("R")


class AsyncSubmit:
    """A job that a thread makes and starts.

    Attributes:
        future: the future of the job; an error on the way becomes its exception.
        work: the future of the thread's work.
    """

    def __init__(
        self,
        make: Callable[[], Job],
        begin: Callable[[Job], JobFuture[Any]],
        serial_queue: SerialQueue,
        runs_in: AbstractEventLoop | None,
    ) -> None:
        self._make = make
        self._begin = begin
        self._lock = threading.Lock()
        self._job: LightFuture[Job] = LightFuture()
        self._is_withdrawn = False
        self._begun: JobFuture[Any] | None = None
        self.future: JobFuture[Any] = AsyncSubmitFuture.of(self, runs_in)
        self.work = serial_queue.submit(self._run)

    def _run(self) -> None:
        try:
            job = self._make()
        except BaseException as problem:  # noqa: BLE001 - it becomes the future's exception
            self._job.set_exception(problem)
            self.future.fail(problem)
            return
        self._job.set_result(job)
        try:
            if not self._is_withdrawn:
                self._pass_on(self._begin(job))
        except BaseException as problem:  # noqa: BLE001 - as above
            self.future.fail(problem)

    def _note_begun(self, begun: JobFuture[Any]) -> bool:
        with self._lock:
            self._begun = begun
            return self._is_withdrawn

    def _pass_on(self, begun: JobFuture[Any]) -> None:
        if self._note_begun(begun):
            begun.cancel()
            self.future.cancelled_run = begun.cancelled_run
        begun.add_done_callback(self.future.follow)

    def withdraw(self) -> bool:
        """Keep the job from starting; False if it has started already."""
        with self._lock:
            self._is_withdrawn = self._is_withdrawn or self._begun is None
            return self._begun is None

    def cancel(self) -> bool:
        """Withdraw, or cancel the job if it has started. Return whether it was cancelled."""
        if self.withdraw():
            return True
        begun = cast("JobFuture[Any]", self._begun)
        is_cancelled = begun.cancel()
        self.future.cancelled_run = begun.cancelled_run
        return is_cancelled

    def job(self) -> Job:
        """Wait until the job is made, and return it.

        Raises:
            BaseException: what making it raised.
        """
        return self._job.result()


class AsyncSubmitFuture(JobFuture[R]):
    """The future of a job that a thread makes and starts."""

    _submit: AsyncSubmit
    _cached = False
    _runs_in: AbstractEventLoop | None

    @classmethod
    def of(cls, submit: AsyncSubmit, runs_in: AbstractEventLoop | None) -> AsyncSubmitFuture[R]:
        """Make the future of a submission; `runs_in` is the event loop that the job runs in, if any."""
        future = cls.pending(None, lambda _: submit.cancel())
        future._submit, future._runs_in = submit, runs_in  # noqa: SLF001 - its own class
        return future

    @property
    def job(self) -> Job:  # type: ignore[override]
        """The job. Blocks until it is made."""
        return self._submit.job()

    @property
    def cached(self) -> bool:
        """Whether the result was remembered. Blocks until it has been looked up, about as long as a hit takes."""
        if not self.done():
            wait([self._submit.work])
        return self._cached

    @cached.setter
    def cached(self, cached: bool) -> None:
        self._cached = cached

    def result(self, timeout: float | None = None) -> R:
        """Return the value. Raises in the event loop that runs the job, where waiting would deadlock."""
        self._refuse_to_stop_its_loop()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the function raised, or None. Blocks and raises as `result` does."""
        self._refuse_to_stop_its_loop()
        return super().exception(timeout)

    async def end(self) -> None:
        """Cancel the job once the thread is done with it, and wait for the end of a run that this cancels."""
        self._submit.withdraw()
        await until_ended(self._submit.work)
        await super().end()

    def _refuse_to_stop_its_loop(self) -> None:
        if self._runs_in is not None and not self.done() and running_loop() is self._runs_in:
            raise BencherJobError(
                f"{self.job!r} runs in this event loop, so waiting for it here would deadlock. Await the future."
            )
