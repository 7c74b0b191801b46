"""Commit what engines return on a thread of its own: no thread of an engine's ever writes to a store.

engine's thread: put(item) -> queue -> writer: receive all that is there, write it in one go, which resolves futures
                                         └ one that is received for long: another thread goes on with the others

To receive is to unpickle, which runs code of the value's class, and that may hang.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from .._alarms import alarms
from .._forks import renew_after_fork

__all__ = ["Writer"]

LARGEST_GROUP: Final = 256
"""How many results are committed together at most."""

PATIENCE: Final = 0.5
"""Seconds for which an item may be received before another thread goes on with the others."""

T = TypeVar("T")
R = TypeVar("R")


class _Line(Generic[T]):
    """A queue of items, and the thread that takes them from it.

    The writer comes with each item, so that an idle thread keeps nothing alive. It ends with its writer.

    Attributes:
        has_ended: set when all that came before the end of the queue is written.
    """

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[tuple[Writer[T, Any], T] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.has_ended = threading.Event()


@dataclass(slots=True, eq=False)
class _Group(Generic[T, R]):
    """What one thread is at.

    Attributes:
        line: where they come from.
        items: those that are not received yet.
        received: those that are, and are written together.
        item: the one that is being received, since `since`.
        is_left: whether another thread goes on with the others.
        is_given_up: whether nobody waits for the one any more.
        is_last: whether the thread ends with it.
    """

    line: _Line[T]
    items: deque[T]
    received: list[R] = field(default_factory=list)
    item: T | None = None
    since: float = 0.0
    is_left: bool = False
    is_given_up: bool = False
    is_last: bool = False


class Writer(Generic[T, R]):
    """Hands items from any thread to functions that receive and write them, in groups, on a thread of its own.

    `receive` makes of an item what is written, or None of one that nobody wants; it may take as long as it likes.
    `write` gets a group of those. `give_up` is asked now and then about an item that is being received for so many
    seconds: it gives what is written in its place, and what comes later goes to `drop`, or None to go on waiting.
    """

    def __init__(
        self,
        receive: Callable[[T], R | None],
        write: Callable[[Sequence[R]], None],
        give_up: Callable[[T, float], R | None],
        drop: Callable[[R], None],
        name: str,
    ) -> None:
        self._receive = receive
        self._write = write
        self._give_up = give_up
        self._drop = drop
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the threads, which a forked child doesn't have."""
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._groups: set[_Group[T, R]] = set()
        self._is_watched = False
        self._line: _Line[T] = _Line()

    def start(self) -> None:
        """Start the thread, if it isn't running: before the work whose items it will get.

        When the program ends no thread can be started any more, and items may still come.
        """
        alarms.start()
        with self._lock:
            self._start_line()

    def _start_line(self) -> None:
        line = self._line
        if line.thread is None:
            line.thread = self._started(line, None)
            self._end = weakref.finalize(self, line.items.put, None)
            self._end.atexit = False

    def _started(self, line: _Line[T] | None, group: _Group[T, R] | None) -> threading.Thread:
        work = None if group is None else (self, group)
        thread = threading.Thread(target=_serve, args=(line, work), name=self._name, daemon=True)
        thread.start()
        return thread

    def is_here(self) -> bool:
        """Whether this is a thread of the writer's, which must not wait for what it will write itself."""
        return threading.get_ident() in self._threads

    def put(self, item: T) -> None:
        """Hand over an item; the thread is started again if it was closed meanwhile."""
        with self._lock:
            self._line.items.put((self, item))
            with suppress(RuntimeError):  # the program ends
                self._start_line()

    def close(self) -> None:
        """Wait until all that was handed over is written, and end the thread."""
        with self._lock:
            line = self._line
            if line.thread is None:
                return
            self._end()
            self._line = _Line()
        if not self.is_here():
            line.has_ended.wait()
            line.thread.join()

    def handle(self, group: _Group[T, R]) -> bool:
        """Receive and write a group; False where another thread has gone on with it meanwhile."""
        self._threads.add(threading.get_ident())
        try:
            return self._receive_all(group)
        finally:
            self._threads.discard(threading.get_ident())

    def _receive_all(self, group: _Group[T, R]) -> bool:
        self._watch(group)
        try:
            while group.items:
                group.since, group.item = time.monotonic(), group.items.popleft()
                received = self._receive(group.item)
                if not self._keep(group, received):
                    return False
                del received
        finally:
            self._groups.discard(group)
        self._write(group.received)
        return True

    def _keep(self, group: _Group[T, R], received: R | None) -> bool:
        """Keep what was received for the others of its group, or write it alone where they have gone on."""
        with self._lock:
            group.item = None
            is_left, is_given_up = group.is_left, group.is_given_up
            if received is not None and not is_left:
                group.received.append(received)
        if received is not None and is_given_up:
            self._drop(received)
        elif received is not None and is_left:
            self._write([received])
        return not is_left

    def _watch(self, group: _Group[T, R]) -> None:
        with self._lock:
            self._groups.add(group)
            is_watched, self._is_watched = self._is_watched, True
        if not is_watched:
            alarms.add(PATIENCE, self._look)

    def _look(self) -> None:
        """Have another thread go on where one receives an item for long."""
        with self._lock:
            now = time.monotonic()
            for group in list(self._groups):
                item, seconds = group.item, now - group.since
                if item is None or seconds < PATIENCE:
                    continue
                if not group.is_left:
                    self._leave(group)
                instead = None if group.is_given_up else self._give_up(item, seconds)
                if instead is not None:
                    group.is_given_up = True
                    self._started(None, _Group(group.line, deque(), [instead]))
            self._is_watched = bool(self._groups)
        if self._is_watched:
            alarms.add(PATIENCE, self._look)

    def _leave(self, group: _Group[T, R]) -> None:
        """Leave a thread alone with what it receives, and have another one go on with the rest."""
        rest: _Group[T, R] = _Group(group.line, group.items, group.received, is_last=group.is_last)
        group.is_left, group.items, group.received = True, deque(), []
        group.line.thread = self._started(group.line, rest)


def _serve(line: _Line[T] | None, work: tuple[Writer[T, Any], _Group[T, Any]] | None) -> None:
    """Write a group, and then what a line brings, unless another thread goes on with it."""
    is_left = False
    try:
        while work is not None or (line is not None and (work := _next(line)) is not None):
            writer, group = work
            is_left, is_last = not writer.handle(group), group.is_last
            del writer, group
            work = None  # while this thread waits, it keeps nothing
            if is_left or is_last:
                break
    finally:
        if line is not None and not is_left:
            line.has_ended.set()


def _next(line: _Line[T]) -> tuple[Writer[T, Any], _Group[T, Any]] | None:
    """Wait for an item, and take all that are there."""
    taken = line.items.get()
    if taken is None:
        return None
    writer, item = taken
    group: _Group[T, Any] = _Group(line, deque([item]))
    while len(group.items) < LARGEST_GROUP:
        try:
            taken = line.items.get_nowait()
        except queue.Empty:
            break
        if taken is None:
            group.is_last = True
            break
        group.items.append(taken[1])
    return writer, group
