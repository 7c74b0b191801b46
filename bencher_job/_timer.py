"""Call functions after a delay, from one thread per process."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from ._context import critical
from ._processes import renew_after_fork

_log = logging.getLogger(__name__)


Delayed = tuple[float, int, Callable[[], None]]
"""When to call a function, a number that orders equal times, and the function."""


class Timer:
    """Calls functions after a delay, on a thread of its own. None of them may block.

    They pass through a queue whose lock is not Python code, so that Ctrl-C can't leave it locked.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start empty in a forked child."""
        self._lock = threading.Lock()
        self._added: SimpleQueue[Delayed] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Call this before `add`, since no thread can be started while the program ends."""
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    thread = threading.Thread(
                        target=_run, args=(self._added,), name="bencher_job-timer", daemon=True
                    )
                    thread.start()
                    self._thread = thread

    def add(self, seconds: float, act: Callable[[], None]) -> None:
        """Call a function after some seconds, once the thread runs. The thread logs exceptions."""
        self._added.put((time.monotonic() + seconds, next(self._numbers), act))


@critical
def _run(added: SimpleQueue[Delayed]) -> None:
    due: list[Delayed] = []
    while True:
        pause = max(due[0][0] - time.monotonic(), 0.0) if due else None
        try:
            heapq.heappush(due, added.get(timeout=pause))
        except Empty:
            _, _, act = heapq.heappop(due)
            try:
                act()
            except BaseException:  # noqa: BLE001 - not even `sys.exit()` in a callback may lose the other calls
                _log.exception("a delayed call failed")
            del act  # so that the waiting thread keeps nothing alive


timer: Final = Timer()
