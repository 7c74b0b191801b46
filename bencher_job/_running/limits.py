"""Knows how a job ends in time on an executor that can't end it: who waits is told, and what comes later is dropped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from .. import _media
from .._alarms import alarms
from .._errors import JobTimeout
from .._executors import Engine
from .._forks import renew_after_fork
from .._job import Job

__all__ = ["Limits"]

LOOKS_PER_TIMEOUT: Final = 20
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks, which come so late at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Limited:
    future: Future[Any]
    job: Job
    returned: Callable[[Future[Any], BaseException | None], None]
    begun: float | None = None


class Limits:
    """Watches the jobs of one cache on an engine that can't end them.

    The time counts from when the executor says that a job runs.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._pause = min(max(timeout / LOOKS_PER_TIMEOUT, SHORTEST_PAUSE), LONGEST_PAUSE)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Watch nothing, as in a forked child."""
        self._lock = threading.Lock()
        self._watched: dict[Future[Any], _Limited] = {}
        self._is_looking = False

    def watch(
        self, future: Future[Any], job: Job, returned: Callable[[Future[Any], BaseException | None], None]
    ) -> None:
        """Have `returned` called once: with the future when it is done, or before that with a `JobTimeout` as well."""
        alarms.start()
        limited = _Limited(future, job, returned)
        with self._lock:
            self._watched[future] = limited
            starts, self._is_looking = not self._is_looking, True
        if starts:
            alarms.add(self._pause, self._look)
        future.add_done_callback(lambda done: self._end(done, limited))

    def _end(self, done: Future[Any], limited: _Limited) -> None:
        with self._lock:
            is_in_time = self._watched.pop(done, None) is not None
        if is_in_time:
            limited.returned(done, None)
            return
        _log.warning("%r has ended after its timeout; its result is dropped", limited.job)
        if limited.job.media_folder is not None:
            _media.discard(limited.job.media_folder)

    def _look(self) -> None:
        over = []
        with self._lock:
            now = time.monotonic()
            for limited in self._watched.values():
                if limited.begun is None and self._has_begun(limited):
                    limited.begun = now
                elif limited.begun is not None and now - limited.begun >= self._timeout:
                    over.append(limited)
            for limited in over:
                del self._watched[limited.future]
            self._is_looking = bool(self._watched)
        if self._is_looking:
            alarms.add(self._pause, self._look)
        for limited in over:
            limited.returned(limited.future, self._verdict(limited.job))
            try:
                limited.future.cancel()  # some engines give up what they have not begun
            except Exception as error:  # noqa: BLE001 - the future is of an executor of the user's
                _log.warning("%r can't be cancelled: %r", limited.job, error)

    def _has_begun(self, limited: _Limited) -> bool:
        """Whether a job runs; one of which its executor can't tell counts as running, so that its time ends."""
        try:
            return self._engine.has_begun(limited.future)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("its executor can't tell whether %r runs: %r", limited.job, error)
            return True

    def _verdict(self, job: Job) -> JobTimeout:
        from .._executors.envelope import describe  # takes long to import

        name = describe(job)
        return JobTimeout(
            f"{name} ran for longer than its timeout of {self._timeout:g} s. {self._engine.name} can't end it, so it "
            f"may still run there; its result will be dropped.",
            job=name,
            seconds=self._timeout,
        )
