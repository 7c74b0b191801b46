"""Run requests in daemon threads, while their callers wait in Python.

    caller   call(work) ---- waits: Ctrl-C ends the wait at once, a stall after LIMIT seconds -----> result
    thread              work() touch() touch() ...

Clients in C or Rust neither notice Ctrl-C nor survive a fork. In their own threads they need not.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, Generic, TypeVar

from .._processes import renew_after_fork
from .base import Unreachable

__all__ = ["LIMIT", "Requests", "chunks"]

T = TypeVar("T")
S = TypeVar("S")

LIMIT: Final = 5.0
"""Seconds without a byte after which a request has failed."""

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether bytes pass."""

_FAREWELL: Final = 3.0
"""Seconds that the end of the program waits for requests: a thread of Rust that wakes up later would abort."""


class _Request(Generic[T]):
    """A call in a queue.

    Attributes:
        touched: when its thread has last made progress, by the monotonic clock; None before it begins.
        limit: seconds without progress after which it has failed.
    """

    def __init__(self, work: Callable[[], T], limit: float, undo: Callable[[T], object] | None) -> None:
        self.work = work
        self.limit = limit
        self.touched: float | None = None
        self.is_abandoned = False
        self.has_stalled = False
        self.done = threading.Event()
        self._undo = undo
        self._lock = threading.Lock()
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        result, error = None, None
        try:
            result = self.work()
        except BaseException as raised:  # noqa: BLE001 - the caller gets it
            error = raised
        with self._lock:
            self._result, self._error = result, error
            self.done.set()
            undo = self._undo if self.is_abandoned and error is None else None
        if undo is not None:
            with contextlib.suppress(Unreachable):
                undo(result)  # type: ignore[arg-type]

    def refuse(self) -> None:
        """End it without having run."""
        self._error = Unreachable("the interpreter is ending")
        self.done.set()

    def abandon(self) -> Callable[[], object] | None:
        """Abandon the request. If its result is there already, return how to undo it."""
        with self._lock:
            is_first, self.is_abandoned = not self.is_abandoned, True
            if is_first and self._undo is not None and self.touched is not None and self.done.is_set():
                return None if self._error is not None else partial(self._undo, self._result)  # type: ignore[arg-type]
        return None

    def result(self) -> T:
        try:
            if self._error is not None:
                raise self._error
            return self._result  # type: ignore[return-value]
        finally:
            self._error = None  # breaks the cycle of the traceback


_Mailbox = queue.SimpleQueue[_Request[Any] | None]
"""Where threads find their requests; None is for one of them to end."""


class Requests:
    """A few threads that carry out requests."""

    def __init__(self, threads: int = 1) -> None:
        self._size = threads
        self._current = threading.local()
        self.renew()
        renew_after_fork(self)
        _all.add(self)

    def renew(self) -> None:
        """Start without threads, as in a forked child."""
        self._lock = threading.Lock()
        self._is_over = False
        self._mailbox: _Mailbox = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0
        self._running: set[_Request[Any]] = set()
        self._moved = time.monotonic()

    def call(
        self, work: Callable[[], T], *, limit: float = LIMIT, undo: Callable[[T], object] | None = None
    ) -> T:
        """Return what `work()` returns in one of the threads.

        `undo` gets the result if the caller was interrupted or has given up in between.

        Raises:
            Unreachable: when the request makes no progress for `limit` seconds.
        """
        if getattr(self._current, "request", None) is not None:
            return work()
        return self._results([_Request(work, limit, undo)])[0]

    def map(
        self,
        work: Callable[[S], T],
        items: Iterable[S],
        *,
        limit: float = LIMIT,
        undo: Callable[[T], object] | None = None,
    ) -> list[T]:
        """Return what `work` returns for each item, several at once; raises as `call` does."""
        if getattr(self._current, "request", None) is not None:
            return [work(item) for item in items]
        return self._results([_Request(partial(work, item), limit, undo) for item in items])

    def _results(self, requests: list[_Request[T]]) -> list[T]:
        try:
            for each in requests:
                self._send(each)
            for each in requests:
                while not each.done.wait(min(self._time_left(each), _LOOK_EVERY)):
                    if not self._has_moved(each) and self._time_left(each) <= 0:
                        self._give_up(each)
            return [each.result() for each in requests]
        except BaseException:
            for undo in [each.abandon() for each in requests]:
                if undo is not None:
                    with contextlib.suppress(Unreachable):
                        self._send(_Request(undo, LIMIT, None))
            raise

    def touch(self) -> None:
        """Note, in a thread of ours, that the request makes progress.

        Raises:
            Unreachable: when it was given up.
        """
        request: _Request[Any] | None = getattr(self._current, "request", None)
        if request is not None:
            if request.has_stalled:
                raise Unreachable("nobody waits for the answer any more")
            request.touched = self._moved = time.monotonic()

    def end(self) -> None:
        """End the threads as soon as they are idle. The next request starts new ones."""
        with self._lock:
            for _ in range(self._threads):
                self._mailbox.put(None)
            self._mailbox = queue.SimpleQueue()
            self._threads = self._waiting = 0

    def finish(self, seconds: float) -> None:
        """Begin no more requests, and wait until none runs."""
        self._is_over = True
        end = time.monotonic() + seconds
        for request in list(self._running):
            request.done.wait(max(0.0, end - time.monotonic()))

    def _time_left(self, request: _Request[Any]) -> float:
        since = self._moved if request.touched is None else request.touched
        return max(0.0, since + request.limit - time.monotonic())

    def _has_moved(self, request: _Request[Any]) -> bool:  # noqa: ARG002 - for subclasses
        """Whether bytes have passed unknown to `touch`."""
        return False

    def _give_up(self, request: _Request[Any]) -> None:
        request.has_stalled = True
        request.abandon()
        self._stalled()
        raise Unreachable(f"no answer for {request.limit:.3g} s")

    def _stalled(self) -> None:
        """End the thread of a failed request."""

    def _send(self, request: _Request[Any]) -> None:
        with self._lock:
            if self._is_over:
                raise Unreachable("the interpreter is ending")
            if sum(each.has_stalled for each in list(self._running)) >= self._size:  # copied in one step
                raise Unreachable("the last request has not returned yet")
            if not self._running:
                self._moved = time.monotonic()
            if self._waiting <= 0 and self._threads < self._size:
                thread = threading.Thread(
                    target=self._work, args=[self._mailbox], name="bencher_job remote", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    raise Unreachable("the interpreter is ending") from None
                self._threads += 1
            else:
                self._waiting -= 1
            self._mailbox.put(request)

    def _work(self, mailbox: _Mailbox) -> None:
        while (request := mailbox.get()) is not None:
            if request.is_abandoned or self._is_over:
                request.refuse()
            else:
                self._running.add(request)
                self._current.request = request
                request.touched = self._moved = time.monotonic()
                try:
                    request.run()
                finally:
                    self._current.request = None
                    self._running.discard(request)
                    self._moved = time.monotonic()
            del request  # nothing of it stays while the thread waits for the next one
            with self._lock:
                if mailbox is self._mailbox:
                    self._waiting += 1


_all: weakref.WeakSet[Requests] = weakref.WeakSet()


@atexit.register
def _say_farewell() -> None:
    end = time.monotonic() + _FAREWELL
    for each in list(_all):
        each.finish(end - time.monotonic())


def chunks(items: Iterable[S], size: int) -> Iterator[list[S]]:
    """Yield items in lists of at most `size`."""
    items = list(items)
    for start in range(0, len(items), size):
        yield items[start : start + size]
