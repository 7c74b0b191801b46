"""The future of a job."""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, MutableMapping
from concurrent.futures import CancelledError, Future, InvalidStateError, wait
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from . import _text
from ._context import refuse_inside
from ._errors import BencherJobError, warn_caller
from ._executors import error_text
from ._job import Job
from ._light_future import LightFuture
from ._loops import SerialQueue, await_in_thread, run_in_thread, running_loop, until_ended

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop


R = TypeVar("R")


class Settles(ABC):
    """A cache that stores the results of jobs, and then resolves the jobs' futures."""

    @abstractmethod
    def settle(self, future: JobFuture[Any], done: Future[Any]) -> None:
        """Handle the end of an engine's future. Must not block its thread."""

    @abstractmethod
    def keep(self, future: JobFuture[Any], value: Any) -> None:
        """Store a value and resolve the future with it, in this thread."""

    def resolves_here(self) -> bool:
        """Whether this thread is the one that resolves futures."""
        return False


class _ForeignCache(Settles):
    """Adapts a mutable mapping or a `diskcache.Cache`, which takes tags.

    Raises:
        TypeError: when the cache is neither.
    """

    def __init__(self, cache: Any) -> None:
        self._put: Callable[[Job, Any], object]
        if isinstance(cache, MutableMapping):
            self._put = lambda job, value: cache.__setitem__(job.job_key, value)
        elif _takes_tags(getattr(cache, "set", None)):
            self._put = lambda job, value: cache.set(job.job_key, value, tag=job.tag)
        else:
            raise TypeError(
                f"cache must be a FutureCache, a diskcache.Cache or a mutable mapping, not {type(cache).__name__}"
            )

    def settle(self, future: JobFuture[Any], done: Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._put(future.job, done.result())
        future.follow(done)

    def keep(self, future: JobFuture[Any], value: Any) -> None:
        self._put(future.job, value)
        future.resolve(value)


def _takes_tags(put: Any) -> bool:
    try:
        inspect.signature(put).bind("key", None, tag="")
    except (TypeError, ValueError):
        return False
    return True


class CancelledRun(Protocol):
    """A run that is being cancelled."""

    ended: Future[None] | None
    """Done when the run has ended."""

    def cancel(self) -> bool:
        """Cancel the run, again if it has not reacted."""


class JobFuture(LightFuture[R], Generic[R]):
    """The result of a job, now or later: an awaitable `concurrent.futures.Future`.

    Give it a result (`res`) or another future (`future`). With a `cache` (a `FutureCache`, a `diskcache.Cache` or any
    mutable mapping) the result is stored under the job's key before this future resolves; a `CacheWarning` says so
    if it can't be stored.

    Raises:
        TypeError: when neither or both of `res` and `future` are given, or the cache is of another type.

    Attributes:
        job: the job.
        cached: whether the result was remembered rather than computed; False while the job waits or runs. In an event
            loop, where a thread looks results up, reading it waits for that thread.

    >>> future = JobFuture(Job("sum", sum, {}, job_key="k", positional=([1, 2],)), res=3)
    >>> future.result(), future.cached
    (3, True)
    """

    cached = False
    cancelled_run: CancelledRun | None = None
    """The run that cancelling this future cancels, because nothing else waits for it."""
    _on_cancel: Callable[[JobFuture[R]], bool] | None = None
    _resolves_here: Callable[[], bool] | None = None
    _has_notified_cancel = False

    def __init__(
        self,
        job: Job,
        res: Any = ...,
        future: Future[Any] | None = None,
        cache: Any = None,
    ) -> None:
        if (res is ...) == (future is None):
            raise TypeError("JobFuture takes either a result (res=) or a future (future=), not both.")
        keeper = cache if cache is None or isinstance(cache, Settles) else _ForeignCache(cache)
        super().__init__()
        self.job = job
        if future is not None:
            self._on_cancel = lambda _: future.cancel()
            if keeper is None:
                future.add_done_callback(self.follow)
            else:
                self._resolves_here = keeper.resolves_here
                future.add_done_callback(lambda done: self._kept(done, lambda: keeper.settle(self, done)))
        elif keeper is None:
            self.cached = True
            self.set_result(res)
        else:
            given: Future[Any] = Future()
            given.set_result(res)
            self._kept(given, lambda: keeper.keep(self, res))

    def _kept(self, done: Future[Any], keep: Callable[[], None]) -> None:
        """Let a cache store the outcome of another future. If that fails, end as the other future did."""
        try:
            keep()
        except BaseException as problem:
            self.follow(done)
            if not isinstance(problem, Exception):
                raise
            warn_caller(
                f"The result of {self.job!r} can't be kept ({error_text(problem)}). The caller gets it."
            )

    @classmethod
    def pending(
        cls,
        job: Job | None,
        on_cancel: Callable[[JobFuture[R]], bool],
        resolves_here: Callable[[], bool] | None = None,
    ) -> Self:
        """Make a pending future, of a job that may be made later. `on_cancel` returns whether it is cancelled.

        `resolves_here` returns whether the calling thread is the one that will resolve it.
        """
        future = cls.__new__(cls)
        LightFuture.__init__(future)
        if job is not None:
            future.job = job
        future._on_cancel = on_cancel  # noqa: SLF001 - its own class
        future._resolves_here = resolves_here  # noqa: SLF001 - as above
        return future

    def follow(self, done: Future[R]) -> None:
        """End as another future did. An exception from reading it becomes the exception of this one."""
        value: Any = None
        error: BaseException | None
        try:
            if isinstance(done, JobFuture):
                self.cached = done.cached
            error = CancelledError() if done.cancelled() else done.exception()
            if error is None:
                value = done.result()
        except BaseException as problem:  # noqa: BLE001 - or this future would stay pending
            error = problem
        if error is None:
            self.resolve(value)
        else:
            self.fail(error)

    def resolve(self, value: R) -> None:
        """Set the result, unless the future was cancelled."""
        try:
            self.set_result(value)
        except InvalidStateError:
            return

    def fail(self, error: BaseException) -> None:
        """Set the exception, unless the future was cancelled. A `CancelledError` cancels the future."""
        if isinstance(error, CancelledError):
            self._give_up()
            return
        try:
            self.set_exception(error)
        except InvalidStateError:
            return

    def result(self, timeout: float | None = None) -> R:
        """Wait for the job, and return its result or raise its exception.

        Raises:
            TimeoutError: when the job has not ended after `timeout` seconds.
            BencherJobError: in a callback of a future, whose thread would wait for itself.
        """
        if timeout is None:
            self.refuse_to_wait_here()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job, and return its exception or None. Raises as `result` does."""
        if timeout is None:
            self.refuse_to_wait_here()
        return super().exception(timeout)

    def refuse_to_wait_here(self) -> None:
        """Raise if this is the thread that will resolve the future, where waiting would deadlock."""
        if self.done():
            return
        refuse_inside("To wait for a future")
        if self._resolves_here is not None and self._resolves_here():
            raise BencherJobError(
                f"{self.job!r} is running, and a callback of a future can't wait for it. Submit it, and continue in a "
                f"callback of its own future."
            )

    def cancel(self) -> bool:
        """Cancel the job if it has not started. Other waiters of the same job keep it going.

        Returns whether the future is cancelled.
        """
        if self.done():
            return self.cancelled()
        if self._on_cancel is not None and not self._on_cancel(self):
            return False
        return self._give_up()

    def _give_up(self) -> bool:
        if not super().cancel():
            return False
        with self._condition:
            has_notified, self._has_notified_cancel = self._has_notified_cancel, True
        if not has_notified:
            self.set_running_or_notify_cancel()
        return True

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        import asyncio  # slow to import, and already imported where a loop runs

        try:
            await self.until_done()
        except asyncio.CancelledError:
            run_in_thread(self.cancel)  # which may end a process
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    async def value_or_end(self) -> R:
        """Await the value. If the last waiter of a run is cancelled, wait for the end of the run too."""
        import asyncio

        try:
            await self.until_done()
        except asyncio.CancelledError:
            await self.end()
            raise
        return await self

    async def end(self) -> None:
        """Cancel the job from an event loop, and wait for the end of a run that this cancels."""
        await await_in_thread(self.cancel)  # which may end a process
        run = self.cancelled_run
        if run is not None and run.ended is not None:
            await until_ended(run.ended, run.cancel)

    async def until_done(self) -> None:
        """Wait in an event loop until the job has ended. Cancelling this wait cancels nothing else."""
        import asyncio

        if self.done():
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self.add_done_callback(lambda _: _wake(loop, waiter))
        await waiter

    def _repr_html_(self) -> str:
        return _text.joined(repr(self))

    def __repr__(self) -> str:
        state = "cached" if self.done() and self.cached else self._state.lower()
        return f"<JobFuture {state} of {self.job!r}>"


JobFuture.__module__ = "bencher_job"  # the package imports it on first use


def _wake(loop: AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    """Wake a waiter in an event loop, from any thread."""
    try:
        loop.call_soon_threadsafe(_resolve_waiter, waiter)
    except RuntimeError:  # the loop was closed, so nothing waits in it
        return


def _resolve_waiter(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class SubmittedFuture(JobFuture[R]):
    """The future of a job that a thread makes and starts, so that nothing blocks an event loop.

    An error on the way becomes its exception.
    """

    _begun: JobFuture[R] | None = None
    _is_withdrawn = False
    _cached = False

    def __init__(
        self,
        make: Callable[[], Job],
        begin: Callable[[Job], JobFuture[Any]],
        serial_queue: SerialQueue,
        runs_in: AbstractEventLoop | None,
    ) -> None:
        """Let a thread make a job and start it; `runs_in` is the event loop that the job runs in, if any."""
        LightFuture.__init__(self)
        self._lock, self._made, self._runs_in = threading.Lock(), LightFuture[Job](), runs_in
        self._work = serial_queue.submit(lambda: self._run(make, begin))

    def _run(self, make: Callable[[], Job], begin: Callable[[Job], JobFuture[Any]]) -> None:
        try:
            job = make()
        except BaseException as problem:  # noqa: BLE001 - it becomes the future's exception
            self._made.set_exception(problem)
            self.fail(problem)
            return
        self._made.set_result(job)
        try:
            if not self._is_withdrawn:
                begun = begin(job)
                if self._note_begun(begun):
                    self._cancel(begun)
                begun.add_done_callback(self.follow)
        except BaseException as problem:  # noqa: BLE001 - as above
            self.fail(problem)

    def _note_begun(self, begun: JobFuture[R]) -> bool:
        with self._lock:
            self._begun = begun
            return self._is_withdrawn

    def _cancel(self, begun: JobFuture[R]) -> bool:
        is_cancelled = begun.cancel()
        self.cancelled_run = begun.cancelled_run
        return is_cancelled

    def _withdraw(self) -> JobFuture[R] | None:
        """Keep the job from starting. Return its future if it has started already."""
        with self._lock:
            self._is_withdrawn = self._is_withdrawn or self._begun is None
            return self._begun

    def _on_cancel(self, _: JobFuture[R], /) -> bool:
        begun = self._withdraw()
        return begun is None or self._cancel(begun)

    @property
    def job(self) -> Job:  # type: ignore[override]
        """The job. Blocks until it is made."""
        return self._made.result()

    @property
    def cached(self) -> bool:
        """Whether the result was remembered. Blocks until it has been looked up, about as long as a hit takes."""
        if not self.done():
            wait([self._work])
        return self._cached

    @cached.setter
    def cached(self, cached: bool) -> None:
        self._cached = cached

    def refuse_to_wait_here(self) -> None:
        """Raise also in the event loop that runs the job, where waiting would deadlock."""
        if self._runs_in is not None and not self.done() and running_loop() is self._runs_in:
            raise BencherJobError(
                f"{self.job!r} runs in this event loop, so waiting for it here would deadlock. Await the future."
            )
        super().refuse_to_wait_here()

    async def end(self) -> None:
        """Cancel the job once the thread is done with it, and wait for the end of a run that this cancels."""
        self._withdraw()
        await until_ended(self._work)
        await super().end()
