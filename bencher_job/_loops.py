"""Find the running event loop, and keep slow work out of it.

asyncio is slow to import, so nothing here imports it before a coroutine runs.
"""

from __future__ import annotations

import contextvars
import inspect
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar

from ._context import runs_jobs
from ._errors import BencherJobError
from ._processes import renew_after_fork

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import ThreadPoolExecutor


P = ParamSpec("P")
R = TypeVar("R")

MOST_THREADS: Final = 8
"""Maximum number of threads that look up and start jobs for event loops. None of them waits for a job."""


class Caller(NamedTuple):
    """The event loop and context from which a job is submitted."""

    loop: AbstractEventLoop
    context: contextvars.Context


def running_loop() -> AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    events = sys.modules.get("asyncio.events")
    if events is None:
        return None
    # The public function raises where there is no loop, which takes longer than a hit.
    loop: AbstractEventLoop | None = events._get_running_loop()  # noqa: SLF001
    return loop


def caller() -> Caller | None:
    """Return the caller if this runs in an event loop, or None."""
    loop = running_loop()
    return None if loop is None else Caller(loop, contextvars.copy_context())


def is_coroutine_function(function: object) -> bool:
    """Whether the result of a function must be awaited."""
    if inspect.iscoroutinefunction(function):
        return True
    # An object whose class has a coroutine function as `__call__`.
    return not isinstance(function, FunctionType) and inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - it is inspected, not called
    )


def run_to_end(awaitable: Awaitable[R]) -> R:
    """Run a coroutine in an event loop of its own, in this thread.

    Raises:
        BencherJobError: when a loop runs in this thread, which this would block.
        BaseException: what the coroutine raises.
    """
    import asyncio  # slow to import, and few jobs are coroutines

    if running_loop() is not None:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise BencherJobError(
            "A coroutine can't be run to its end in a thread whose event loop is running, because that would block "
            "the loop. Await the call instead."
        )
    return asyncio.run(_awaited(awaitable))


@runs_jobs
async def _awaited(awaitable: Awaitable[R]) -> R:
    return await awaitable


class _Threads:
    """The threads of this process that work for event loops, started on demand."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start without threads in a forked child."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor  # slow to import

                self._pool = ThreadPoolExecutor(MOST_THREADS, "bencher_job-async")
            return self._pool


_threads: Final = _Threads()


def run_in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Call a function in a thread, in a copy of this context. It must not wait for a job."""
    context = contextvars.copy_context()
    return _threads.pool.submit(lambda: context.run(function, *args, **kwargs))


class SerialQueue:
    """Calls functions in threads, one at a time, in the order in which they were submitted."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start empty in a forked child."""
        self._lock = threading.Lock()
        self._work: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._is_running = False

    def submit(self, function: Callable[[], R]) -> Future[R]:
        """Queue a function, to be called in a copy of this context. It must not wait for a job."""
        context, future = contextvars.copy_context(), Future[R]()
        with self._lock:
            self._work.append((future, lambda: context.run(function)))
            if not self._is_running:
                _threads.pool.submit(self._run)
                self._is_running = True
        return future

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            self._is_running = bool(self._work)
            return self._work.popleft() if self._work else None

    def _run(self) -> None:
        while (work := self._next()) is not None:
            future, function = work
            del work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                    future.set_exception(error)
            del future, function


async def await_in_thread(function: Callable[..., R], /, *args: Any) -> R:
    """Call a function in a thread and wait until it returns, even if this wait is cancelled."""
    return await until_ended(run_in_thread(function, *args))


async def until_ended(future: Future[R], again: Callable[[], object] = lambda: None) -> R:
    """Wait for a future that ends soon, even if this wait is cancelled; each cancellation calls `again`."""
    import asyncio

    work = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
            again()
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # marks it as retrieved, or asyncio would log that it never was
        raise cancelled
    return work.result()
