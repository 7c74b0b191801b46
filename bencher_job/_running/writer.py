"""Knows the one thread that commits what engines return: no thread of an engine's ever writes to a store.

engine's thread: put(finished) -> queue -> writer: take all that is there, commit it in one go, resolve futures
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from .._forks import renew_after_fork

__all__ = ["Writer"]

LARGEST_GROUP: Final = 256
"""How many results are committed together at most."""

T = TypeVar("T")


Write = Callable[[Sequence[T]], None]


class Writer(Generic[T]):
    """Hands items from any thread to one function, in groups, on a thread of its own.

    The function comes with each item, so that an idle thread keeps nothing alive. It ends with its writer.
    """

    def __init__(self, write: Write[T], name: str) -> None:
        self._write = write
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the thread, which a forked child doesn't have."""
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Write[T], T] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if it isn't running: before the work whose items it will get.

        When the program ends no thread can be started any more, and items may still come.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_run, args=(self._queue,), name=self._name, daemon=True
                )
                self._thread.start()
                self._end = weakref.finalize(self, self._queue.put, None)
                self._end.atexit = False

    def is_here(self) -> bool:
        """Whether this is the writer's own thread, which must not wait for what it will write itself."""
        thread = self._thread
        return thread is not None and thread.ident == threading.get_ident()

    def put(self, item: T) -> None:
        """Hand over an item to the thread that was started."""
        self._queue.put((self._write, item))

    def close(self) -> None:
        """Wait until all that was handed over is written, and end the thread."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._end()
                self._begin()
        if thread is not None and thread is not threading.current_thread():
            thread.join()


def _run(items: queue.SimpleQueue[tuple[Write[T], T] | None]) -> None:
    while (taken := items.get()) is not None:
        write, item = taken
        group = [item]
        last = False
        while len(group) < LARGEST_GROUP and not last:
            try:
                following = items.get_nowait()
            except queue.Empty:
                break
            if following is None:
                last = True
            else:
                group.append(following[1])
        write(group)
        taken = following = None  # while it waits, it keeps nothing
        del group, item, write
        if last:
            return
