"""Call functions after a delay, from one thread per process."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ._inside import critical
from ._processes import renew_after_fork

__all__ = ["Timer", "timer"]


_log = logging.getLogger(__name__)


class Timer:
    """Calls functions after a delay, on a thread of its own. None of them may block."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start empty in a forked child."""
        self._lock = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._is_running = False

    def start(self) -> None:
        """Start the thread. Call this before `add`, since no thread can be started while the program ends."""
        with self._lock:
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="bencher_job-timer", daemon=True).start()

    def add(self, seconds: float, act: Callable[[], None]) -> None:
        """Call a function after some seconds, once the thread runs. The thread logs exceptions."""
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), act))
            if self._due[0][2] is act:
                self._lock.notify()

    @critical
    def _run(self) -> None:
        while True:
            act = self._next()
            try:
                act()
            except Exception:  # noqa: BLE001 - one failure must not stop the others
                _log.exception("a delayed call failed")
            del act  # so that the waiting thread keeps nothing alive

    def _next(self) -> Callable[[], None]:
        with self._lock:
            while True:
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._due)[2]
                self._lock.wait(pause)


timer: Final = Timer()
