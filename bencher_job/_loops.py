"""Event loops: which one runs here, and threads that do slow work for it.

Nothing here imports asyncio before a coroutine runs.
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

from ._errors import BencherJobError
from ._inside import runs_jobs
from ._processes import renew_after_fork

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "Caller",
    "Strand",
    "aside",
    "caller",
    "in_thread",
    "is_coroutine_function",
    "run_to_end",
    "running_loop",
    "until_ended",
]


P = ParamSpec("P")
R = TypeVar("R")

THREADS_ASIDE: Final = 8
"""How many threads look up, lease and start jobs for event loops at most; none of them waits for a job."""


class Caller(NamedTuple):
    """Who asks for a job in an event loop."""

    loop: AbstractEventLoop
    context: contextvars.Context


def running_loop() -> AbstractEventLoop | None:
    """Give the event loop that runs in this thread, if there is one."""
    events = sys.modules.get("asyncio.events")
    if events is None:
        return None
    # The public function raises where there is none, which takes longer than a hit.
    loop: AbstractEventLoop | None = events._get_running_loop()  # noqa: SLF001
    return loop


def caller() -> Caller | None:
    """Say who asks here, if this runs in an event loop."""
    loop = running_loop()
    return None if loop is None else Caller(loop, contextvars.copy_context())


def is_coroutine_function(function: object) -> bool:
    """Whether what a function returns is to be awaited."""
    if type(function) is FunctionType and not function.__dict__:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    if inspect.iscoroutinefunction(function):
        return True
    # An object whose class makes it callable by a coroutine function; the object itself doesn't say so.
    return not isinstance(function, FunctionType) and inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - it is looked at, not called
    )


def run_to_end(awaitable: Awaitable[R]) -> R:
    """Run a coroutine in an event loop of its own, in this thread.

    Raises:
        BencherJobError: when a loop runs in this thread, which would have to stand still meanwhile.
        BaseException: what the coroutine raises.
    """
    import asyncio  # takes long to import, and few jobs are coroutines

    if running_loop() is not None:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise BencherJobError(
            "A coroutine can't be run to its end in a thread whose event loop is running: the loop would stand still. "
            "Await the call instead."
        )
    return asyncio.run(_awaited(awaitable))


@runs_jobs
async def _awaited(awaitable: Awaitable[R]) -> R:
    return await awaitable


class _Threads:
    """The threads of this process that spare event loops work; started as they are needed."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Be without threads, as a forked child is."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor  # takes long to import

                self._pool = ThreadPoolExecutor(THREADS_ASIDE, "bencher_job-aside")
            return self._pool


_threads: Final = _Threads()


def aside(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Have a thread call a function, in a copy of this context; it must not wait for a job."""
    context = contextvars.copy_context()
    return _threads.pool.submit(lambda: context.run(function, *args, **kwargs))


class Strand:
    """Has threads call functions one after the other, in the order in which it was asked."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have nothing to do, as in a forked child."""
        self._lock = threading.Lock()
        self._work: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._is_at_it = False

    def aside(self, function: Callable[[], R]) -> Future[R]:
        """Have a thread call a function, in a copy of this context; it must not wait for a job."""
        context, future = contextvars.copy_context(), Future[R]()
        with self._lock:
            self._work.append((future, lambda: context.run(function)))
            if not self._is_at_it:
                _threads.pool.submit(self._go_on)
                self._is_at_it = True
        return future

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            self._is_at_it = bool(self._work)
            return self._work.popleft() if self._work else None

    def _go_on(self) -> None:
        while (work := self._next()) is not None:
            future, function = work
            del work
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # noqa: BLE001 - it is the caller's
                    future.set_exception(error)
            del future, function


async def in_thread(function: Callable[..., R], /, *args: Any) -> R:
    """Have a thread call a function, and wait for its end even if that is cancelled meanwhile."""
    return await until_ended(aside(function, *args))


async def until_ended(future: Future[R], again: Callable[[], object] = lambda: None) -> R:
    """Wait for the end of what ends soon, even if that is cancelled meanwhile; `again` is then called."""
    import asyncio

    work = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as error:
            cancelled = error
            again()
        except BaseException:  # noqa: BLE001 - it is raised below
            break
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # is looked at, so that nobody complains that it wasn't
        raise cancelled
    return work.result()
