"""The future of one job."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, MutableMapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from . import _text
from ._errors import BencherJobError, warn_caller
from ._executors import told
from ._inside import refuse_inside
from ._job import Job
from ._light_future import LightFuture
from ._loops import aside, in_thread, until_ended

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop

__all__ = ["InLineResult", "JobFuture", "Settles"]


R = TypeVar("R")


class Settles(ABC):
    """Keeps results under their jobs' keys, and then resolves the jobs' futures."""

    @abstractmethod
    def settle(self, future: JobFuture[Any], done: Future[Any]) -> None:
        """Be told, on a thread that must not be kept, that an engine's future is done."""

    @abstractmethod
    def keep(self, future: JobFuture[Any], value: Any) -> None:
        """Keep a value and resolve the future with it, in this thread."""

    def resolves_here(self) -> bool:
        """Whether this thread is the one that resolves futures."""
        return False


class _ForeignCache(Settles):
    """A cache that isn't ours: a mutable mapping, or a `diskcache.Cache`, which takes tags.

    Raises:
        TypeError: when it is neither.
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


class Ends(Protocol):
    """A run that is being ended."""

    landed: Future[None] | None
    """Done when nothing of it is left."""

    def end(self) -> bool:
        """Ask for its end, again if it has not been heard."""


class JobFuture(LightFuture[R], Generic[R]):
    """The result of a job, now or later: a `concurrent.futures.Future`, and awaitable.

    It is made of a result (`res`) or of another future (`future`). With a `cache` (a `FutureCache`, a `diskcache.Cache`
    or any mutable mapping) the result is kept under the job's key before this future resolves. Where it can't be kept,
    a `CacheWarning` says so.

    Raises:
        TypeError: when it is made of neither or both, or the cache is something else.

    Attributes:
        job: the job.
        cached: whether the result was remembered rather than computed. Of a future that is not done it is False,
            since its job waits or runs; in an event loop, where a thread looks results up, it waits for that thread.

    >>> future = JobFuture(Job("sum", sum, {}, job_key="k", positional=([1, 2],)), res=3)
    >>> future.result(), future.cached
    (3, True)
    """

    cached = False
    took_along: Ends | None = None
    """The run that ends as this future was cancelled, because nobody else waits for it."""
    _on_cancel: Callable[[JobFuture[R]], bool] | None = None
    _resolves_here: Callable[[], bool] | None = None
    _told_of_cancel = False

    def __init__(
        self,
        job: Job,
        res: Any = ...,
        future: Future[Any] | None = None,
        cache: Any = None,
    ) -> None:
        if (res is ...) == (future is None):
            raise TypeError("JobFuture takes either a result (res=) or a future (future=), and not both.")
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
        """Have a cache keep what another future has ended with; whatever goes wrong there, end as that one has."""
        try:
            keep()
        except BaseException as problem:
            self.follow(done)
            if not isinstance(problem, Exception):
                raise
            warn_caller(f"The result of {self.job!r} can't be kept ({told(problem)}). The caller gets it.")

    @classmethod
    def pending(
        cls,
        job: Job,
        on_cancel: Callable[[JobFuture[R]], bool],
        resolves_here: Callable[[], bool] | None = None,
    ) -> JobFuture[R]:
        """Make a future that somebody will resolve; `on_cancel` says whether it may still be cancelled.

        `resolves_here` says whether the thread that asks is the one that will resolve it.
        """
        future = cls.__new__(cls)
        LightFuture.__init__(future)
        future.job = job
        future._on_cancel = on_cancel  # noqa: SLF001 - its own class
        future._resolves_here = resolves_here  # noqa: SLF001 - as above
        return future

    @classmethod
    def _unresolved(cls, on_cancel: Callable[[JobFuture[R]], bool]) -> Self:
        future = cls.__new__(cls)
        LightFuture.__init__(future)
        future._on_cancel = on_cancel  # noqa: SLF001 - its own class
        return future

    def follow(self, done: Future[R]) -> None:
        """End as another future has ended; what asking it raises is the exception of this one."""
        value: Any = None
        error: BaseException | None
        try:
            if isinstance(done, JobFuture):
                self.cached = done.cached
            error = CancelledError() if done.cancelled() else done.exception()
            if error is None:
                value = done.result()
        except BaseException as problem:  # noqa: BLE001 - else this one would be pending for ever
            error = problem
        if error is None:
            self.resolve(value)
        else:
            self.fail(error)

    def resolve(self, value: R) -> None:
        """Set the result, unless the future was cancelled meanwhile."""
        try:
            self.set_result(value)
        except InvalidStateError:
            return

    def fail(self, error: BaseException) -> None:
        """Set the exception, unless the future was cancelled meanwhile; a cancelled run cancels it."""
        if isinstance(error, CancelledError):
            self._give_up()
            return
        try:
            self.set_exception(error)
        except InvalidStateError:
            return

    def result(self, timeout: float | None = None) -> R:
        """Give the result, or raise the job's exception, once it is there.

        Raises:
            TimeoutError: when it is not there after so many seconds.
            BencherJobError: in a callback of a future, whose thread would wait for itself.
        """
        if timeout is None:
            self.refuse_to_wait_here()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Give the job's exception, or None, once it has ended; else as `result`."""
        if timeout is None:
            self.refuse_to_wait_here()
        return super().exception(timeout)

    def refuse_to_wait_here(self) -> None:
        """Refuse to wait for it in the thread that will resolve it."""
        if self.done():
            return
        refuse_inside("To wait for a future")
        if self._resolves_here is not None and self._resolves_here():
            raise BencherJobError(
                f"{self.job!r} is in flight, and a callback of a future can't wait for it. Submit it, and go on in a "
                f"callback of its own future."
            )

    def cancel(self) -> bool:
        """Cancel the job if it has not begun; others who wait for the same job keep it going.

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
            told, self._told_of_cancel = self._told_of_cancel, True
        if not told:
            self.set_running_or_notify_cancel()
        return True

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        import asyncio  # takes long to import; who awaits has it already

        try:
            await self.until_done()
        except asyncio.CancelledError:
            aside(self.cancel)  # which may end a process
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    async def end(self) -> None:
        """Cancel it in an event loop, and wait until nothing is left of the run that it takes along."""
        await in_thread(self.cancel)  # which may end a process
        run = self.took_along
        if run is not None and run.landed is not None:
            await until_ended(run.landed, run.end)

    async def until_done(self) -> None:
        """Wait in an event loop until it has ended; who is cancelled meanwhile cancels nothing else."""
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


class InLineResult:
    """What a job gives to the thread that runs it in line: a future without a lock, since nobody else knows of it.

    Attributes:
        job: the job.
        cached: whether the result was remembered rather than computed.
    """

    __slots__ = ("_error", "_value", "cached", "job")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.cached = False
        self._value: Any = None
        self._error: BaseException | None = None

    def resolve(self, value: Any) -> None:
        """Set the result."""
        self._value = value

    def fail(self, error: BaseException) -> None:
        """Set the exception."""
        self._error = error

    def result(self) -> Any:
        """Give the value, or raise the exception, once the job has run."""
        if self._error is not None:
            raise self._error
        return self._value


def _wake(loop: AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    """Let go on who awaits in a loop, from any thread."""
    try:
        loop.call_soon_threadsafe(_let_go_on, waiter)
    except RuntimeError:  # the loop was closed, and nobody waits in it any more
        return


def _let_go_on(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
