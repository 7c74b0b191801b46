"""Call functions later, from one thread of this process."""

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

__all__ = ["Alarms", "alarms"]


_log = logging.getLogger(__name__)


class Alarms:
    """Calls functions after some seconds, on a thread of its own; none of them may take long."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have nothing to do, as in a forked child."""
        self._lock = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._is_running = False

    def start(self) -> None:
        """Start the thread: before there is something to do, since none can be started when the program ends."""
        with self._lock:
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="bencher_job-alarms", daemon=True).start()

    def add(self, seconds: float, act: Callable[[], None]) -> None:
        """Have a function called once `start` was; the thread logs what it raises."""
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
            except Exception:  # noqa: BLE001 - one that fails must not keep the others from being called
                _log.exception("what was to be done later failed")
            del act  # while this thread waits, it keeps nothing

    def _next(self) -> Callable[[], None]:
        with self._lock:
            while True:
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._due)[2]
                self._lock.wait(pause)


alarms: Final = Alarms()
