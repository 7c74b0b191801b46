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
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Final, TypeVar

from .._processes import renew_after_fork
from .base import Unreachable

T = TypeVar("T")
S = TypeVar("S")

LIMIT: Final = 5.0
"""Seconds without a byte after which a request has failed."""

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether bytes pass."""

_FAREWELL: Final = 3.0
"""Seconds that the end of the program waits for requests: a thread of Rust that wakes up later would abort."""

_Mailbox = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
"""Where threads find their requests; None is for one of them to end."""


class Requests:
    """A few threads that carry out requests. They have stalled when none of them makes progress."""

    def __init__(self, threads: int = 1) -> None:
        self._size = threads
        self._here = threading.local()
        self.renew()
        renew_after_fork(self)
        _all.add(self)

    def renew(self) -> None:
        """Start without threads, as in a forked child."""
        self._lock = threading.Lock()
        self._is_over = False
        self._mailbox: _Mailbox = queue.SimpleQueue()
        self._threads = self._idle = 0
        self._running: set[Future[Any]] = set()
        self._stalled: set[Future[Any]] = set()
        self._moved = time.monotonic()

    def call(
        self, work: Callable[[], T], *, limit: float = LIMIT, undo: Callable[[T], object] | None = None
    ) -> T:
        """Return what `work()` returns in one of the threads.

        `undo` gets the result if the caller was interrupted or has given up in between.

        Raises:
            Unreachable: when there is no progress for `limit` seconds.
        """
        return self.map(lambda _: work(), [None], limit=limit, undo=undo)[0]

    def map(
        self,
        work: Callable[[S], T],
        items: Iterable[S],
        *,
        limit: float = LIMIT,
        undo: Callable[[T], object] | None = None,
    ) -> list[T]:
        """Return what `work` returns for each item, several at once; raises as `call` does."""
        if getattr(self._here, "future", None) is not None:
            return [work(item) for item in items]
        sent: list[Future[T]] = []
        try:
            for item in items:
                sent.append(Future())
                self._send(sent[-1], partial(work, item))
            return [self._result(each, limit) for each in sent]
        except BaseException:
            for each in sent:
                each.cancel()
                if undo is not None:
                    each.add_done_callback(partial(self._undo, undo))
            raise

    def touch(self) -> None:
        """Note, in a thread of ours, that the request makes progress.

        Raises:
            Unreachable: when it was given up.
        """
        if getattr(self._here, "future", None) in self._stalled:
            raise Unreachable("nobody waits for the answer any more")
        self._moved = time.monotonic()

    def end(self) -> None:
        """End the threads as soon as they are idle. The next request starts new ones."""
        with self._lock:
            for _ in range(self._threads):
                self._mailbox.put(None)
            self._mailbox = queue.SimpleQueue()
            self._threads = self._idle = 0

    def finish(self, seconds: float) -> None:
        """Begin no more requests, and wait until none runs."""
        self._is_over = True
        wait(list(self._running), max(0.0, seconds))

    def _result(self, future: Future[T], limit: float) -> T:
        while not future.done():
            left = self._moved + limit - time.monotonic()
            if left <= 0 and not self._has_moved():
                with self._lock:
                    self._stalled |= self._running & {future}
                self._on_stall()
                raise Unreachable(f"no answer for {limit:.3g} s")
            with contextlib.suppress(TimeoutError):
                future.exception(min(max(0.0, left), _LOOK_EVERY))
        return future.result()

    def _has_moved(self) -> bool:
        """Whether bytes have passed unknown to `touch`."""
        return False

    def _on_stall(self) -> None:
        """End the thread of a failed request."""

    def _undo(self, undo: Callable[[T], object], future: Future[T]) -> None:
        if not future.cancelled() and future.exception() is None:
            with contextlib.suppress(Unreachable):
                self._send(Future(), partial(undo, future.result()))

    def _send(self, future: Future[Any], work: Callable[[], Any]) -> None:
        with self._lock:
            if self._is_over:
                raise Unreachable("the interpreter is ending")
            if len(self._stalled) >= self._size:
                raise Unreachable("the last request has not returned yet")
            if not self._running:
                self._moved = time.monotonic()
            if self._idle <= 0 and self._threads < self._size:
                thread = threading.Thread(
                    target=self._work, args=[self._mailbox], name="bencher_job remote", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    raise Unreachable("the interpreter is ending") from None
                self._threads += 1
            else:
                self._idle -= 1
            self._mailbox.put((future, work))

    def _work(self, mailbox: _Mailbox) -> None:
        while (request := mailbox.get()) is not None:
            future, work = request
            if not self._is_over and future.set_running_or_notify_cancel():
                self._run(future, work)
            elif not future.cancelled():
                future.set_exception(Unreachable("the interpreter is ending"))
            del request, future, work  # nothing of it stays while the thread waits for the next one
            with self._lock:
                if mailbox is self._mailbox:
                    self._idle += 1

    def _run(self, future: Future[Any], work: Callable[[], Any]) -> None:
        self._running.add(future)
        self._here.future = future
        self._moved = time.monotonic()
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - the caller gets it
            error = raised
        self._here.future = None
        with self._lock:
            self._running.discard(future)
            self._stalled.discard(future)
        self._moved = time.monotonic()
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


_all: weakref.WeakSet[Requests] = weakref.WeakSet()


@atexit.register
def _say_farewell() -> None:
    end = time.monotonic() + _FAREWELL
    for each in list(_all):
        each.finish(end - time.monotonic())
