"""Carry log records of workers to the handlers of the submitter.

    logger in a worker -> Forwarder -> the pool's pipe, at once -----------> handle
                                    -> the records of the job's result ----> handle

A worker has the submitter's levels, so it sends nothing that nobody wants. A worker whose root logger has handlers of
its own is left alone.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from .._processes import renew_after_fork
from .._stores.parts import Buffer

__all__ = ["collected_records", "drop_handlers", "forward_records", "handle", "levels_here", "take_levels"]

Levels = dict[str, int]
"""Levels of loggers by name, with the root's under "" and that of `logging.disable` under ".disable"."""

_DEFAULT: Final = {"": logging.WARNING, ".disable": 0}


class _LevelsHere:
    """The levels of this process that differ, or have differed, from Python's defaults; pickled, None if none has."""

    def __init__(self) -> None:
        self._known: Levels = dict(_DEFAULT)
        self._pickled: bytes | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> bytes | None:
        cache = logging.root._cache  # type: ignore[attr-defined]  # noqa: SLF001 - logging clears it at each change
        if self not in cache:
            with self._lock:
                cache[self] = True
                self._look()
        return self._pickled

    def _look(self) -> None:
        loggers = logging.root.manager.loggerDict.copy()
        now = {"": logging.root.level, ".disable": logging.root.manager.disable}
        for name, logger in loggers.items():
            if isinstance(logger, logging.Logger) and (logger.level or name in self._known):
                now[name] = logger.level
        if now != self._known:
            self._known, self._pickled = now, pickle.dumps(now)


levels_here: Final = _LevelsHere()

_taken: bytes | None = None


def take_levels(levels: bytes | None) -> None:
    """Set the levels of loggers in this worker, unless its root logger has handlers of its own."""
    global _taken  # noqa: PLW0603 - a fact about the process
    if levels is None or levels == _taken or _has_own_handlers():
        return
    _taken = levels
    new: Levels = pickle.loads(levels)
    logging.disable(new.pop(".disable"))
    for name, level in new.items():
        logging.getLogger(name).setLevel(level)


def _has_own_handlers() -> bool:
    return any(not isinstance(handler, Forwarder) for handler in logging.root.handlers)


class Forwarder(logging.handlers.QueueHandler):
    """Sends records to `send`, as bytes."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # `enqueue` needs no queue
        self._send = send
        self._pid = os.getpid()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record, which is prepared for pickling."""
        if os.getpid() != self._pid:  # a child that the job forked must not write to the worker's connection
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
            return
        try:
            pickled = pickle.dumps(vars(record))
        except Exception:  # noqa: BLE001 - what `extra=` has brought can't be pickled
            plain = {name: value for name, value in vars(record).items() if name in _STANDARD}
            pickled = pickle.dumps(plain)
        self._send(pickled)


_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message"})


def forward_records(send: Callable[[bytes], object]) -> None:
    """Send the records of this worker from now on, unless its initializer has set handlers."""
    if not logging.root.handlers:
        logging.root.addHandler(Forwarder(send))


def drop_handlers() -> None:
    """Remove the handlers that a fork has copied: they are the submitter's, who gets the records."""
    loggers = (logging.root, *logging.root.manager.loggerDict.values())
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


_job: Final[ContextVar[list[bytes] | None]] = ContextVar("records", default=None)
_running: list[list[bytes]] = []
"""The records of the jobs that run in this process, for threads without a context."""

_lock: Final = threading.Lock()


def _collect(record: bytes) -> None:
    records = _job.get()
    if records is None and _running:
        records = _running[-1]
    if records is not None:
        records.append(record)


_collector: Final = Forwarder(_collect)


@contextmanager
def collected_records() -> Iterator[list[bytes]]:
    """Collect the records of a job in a worker that doesn't send them at once."""
    records: list[bytes] = []
    if logging.root.handlers and _collector not in logging.root.handlers:
        yield records
        return
    token = _job.set(records)
    with _lock:
        _running.append(records)
        logging.root.addHandler(_collector)
    try:
        yield records
    finally:
        _job.reset(token)
        with _lock:
            _running[:] = [each for each in _running if each is not records]
            if not _running:
                logging.root.removeHandler(_collector)


_fallback: Final = logging.Handler()


def handle(records: Iterable[Buffer]) -> None:
    """Pass records of a worker to the loggers of this process."""
    for pickled in records:
        record = logging.makeLogRecord({"msg": "a record of a worker"})
        try:
            record = logging.makeLogRecord(pickle.loads(pickled))
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        except Exception:  # noqa: BLE001 - a handler or a filter of the user's can raise anything, for our records too
            _fallback.handleError(record)
