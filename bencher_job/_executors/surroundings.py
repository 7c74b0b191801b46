"""Carry a job's surroundings to its worker, and log records to the handlers of the submitter.

    arrival_here(folder) -> Arrival ~~> unpickled in the worker, before the arguments: chdir, os.environ, levels, ...
    sent_variables(context) -> SentVariable, ... ~~> set_variables, while the job runs
    handle_records <~~ Forwarder <- logger in a worker: through the pool's pipe at once, else with the job's result

Sent are environment variables that have changed since this process first used an executor, and context variables that
the user's own modules define. One whose value can't be pickled, or unpickled, is logged and left behind.

A worker has the submitter's levels of loggers, so it sends nothing that nobody wants. A worker whose root logger has
handlers of its own is left alone.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from types import ModuleType
from typing import Any, Final, NamedTuple

from .._cores import LIBRARIES
from .._keys.names import MAIN_MODULES, adopt_main_name, is_own_module, main_name
from .._options import follow_override, override
from .._stores.parts import Buffer
from .engine import this_process

_log = logging.getLogger(__name__)


Levels = dict[str, int]
"""Levels of loggers by name, with the root's under "" and that of `logging.disable` under ".disable"."""

_taken: Levels = {}


def _levels_here() -> Levels:
    """Return the levels that are set in this process."""
    loggers = list(logging.root.manager.loggerDict.values())
    levels = {logger.name: logger.level for logger in loggers if getattr(logger, "level", logging.NOTSET)}  # type: ignore[union-attr]  # a placeholder has none
    return {**levels, "": logging.root.level, ".disable": logging.root.manager.disable}


def _take_levels(levels: Levels) -> None:
    """Set the levels of loggers in this worker, unless its root logger has handlers of its own."""
    global _taken  # noqa: PLW0603 - a fact about the process
    if levels == _taken or any(not isinstance(handler, Forwarder) for handler in logging.root.handlers):
        return
    new = {**dict.fromkeys(_taken, logging.NOTSET), **levels}
    _taken = levels
    logging.disable(new.pop(".disable"))
    for name, level in new.items():
        logging.getLogger(name).setLevel(level)


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


_running: dict[int, list[bytes]] = {}
"""The records of the jobs that run in this process, in the order of their start."""

_lock: Final = threading.Lock()


def _collect(record: bytes) -> None:
    # Without the lock: the garbage collector may run here, and what it removes may log.
    for records in list(_running.values())[-1:]:
        records.append(record)


_collector: Final = Forwarder(_collect)


@contextmanager
def collected_records() -> Iterator[list[bytes]]:
    """Collect the records of a job in a worker that doesn't send them at once."""
    records: list[bytes] = []
    if logging.root.handlers and _collector not in logging.root.handlers:
        yield records
        return
    with _lock:
        _running[id(records)] = records
        logging.root.addHandler(_collector)
    try:
        yield records
    finally:
        with _lock:
            del _running[id(records)]
            if not _running:
                logging.root.removeHandler(_collector)


_fallback: Final = logging.Handler()


def handle_records(records: Iterable[Buffer]) -> None:
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


_known: tuple[dict[bytes, bytes], frozenset[bytes], bytes | None] = dict(os.environb), frozenset(), None
"""The environment as last seen, the variables that have changed since this module was imported, and these pickled."""


def _changes() -> bytes | None:
    """Return what has changed in `os.environ`, pickled; None if nothing has."""
    global _known  # noqa: PLW0603 - a fact about the process
    seen, changed, pickled = _known
    now = dict(os.environ._data)  # type: ignore[attr-defined]  # noqa: SLF001 - a public copy takes 20 us per job
    if now != seen:
        changed |= {name for name, _ in now.items() ^ seen.items()}
        pickled = pickle.dumps({name: now.get(name) for name in sorted(changed)})
        _known = now, changed, pickled
    return pickled


_kept: set[bytes] = {os.fsencode(name) for name in ("CUDA_VISIBLE_DEVICES", *LIBRARIES)}
"""Variables that are the worker's own."""

_last_changes: bytes | None = None


def keep_environment(names: Iterable[str]) -> None:
    """Set the names of the environment variables that this worker has been given as its own."""
    _kept.clear()
    _kept.update(map(os.fsencode, names))


class Arrival(NamedTuple):
    """What a worker takes over when it receives a job. It is unpickled as the submitter's host and pid.

    A worker that does not have the folder stays where it is.

    Attributes:
        changes: the changed environment variables, pickled.
        main: the module name of the submitter's program.
        override: the cache directory that overrides all others in the submitter, if any.
    """

    submitter: tuple[str, int]
    folder: str | None
    changes: bytes | None
    levels: Levels
    main: str
    override: str | None

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, tuple(self)


def arrival_here(folder: str | None) -> Arrival:
    """Make the arrival of a job that this process sends, and that was called in a folder."""
    return Arrival(this_process(), folder, _changes(), _levels_here(), main_name(), override())


def _arrive(
    submitter: tuple[str, int],
    folder: str | None,
    changes: bytes | None,
    levels: Levels,
    main: str,
    override: str | None,
) -> tuple[str, int]:
    """Arrive in a worker, and return the submitter's host and pid."""
    global _last_changes  # noqa: PLW0603 - a fact about the process
    if submitter == this_process():  # the worker is a thread
        return submitter
    adopt_main_name(main)
    follow_override(override)
    if folder is not None and folder != _current_folder():
        with suppress(OSError):
            os.chdir(folder)
    _take_levels(levels)
    if changes is not None and changes != _last_changes:
        _last_changes = changes
        new: Mapping[bytes, bytes | None] = pickle.loads(changes)
        for name in new.keys() - _kept:
            value = new[name]
            if value is None:
                os.environb.pop(name, None)
            else:
                os.environb[name] = value
    return submitter


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


class SentVariable(NamedTuple):
    """A context variable with its value.

    Attributes:
        token: identifies the variable among all that this process sends.
        module: where a module of the worker may hold it, with its name there.
        value: the pickled value.
    """

    token: str
    module: str
    name: str
    value: bytes


_tokens: Final[dict[ContextVar[Any], str]] = {}
"""The variables that this process has sent or received."""

_received: Final[dict[str, ContextVar[Any]]] = {}
"""The variables of this process that stand for those of a submitter, by token."""

_places: Final[dict[ContextVar[Any], tuple[str, str]]] = {}
"""The modules that hold variables, with their names there."""

_foreign: Final[dict[ContextVar[Any], int]] = {}
"""Variables that no module of the user's held, when so many modules were loaded."""


def _token_of(variable: ContextVar[Any]) -> str:
    return _tokens.setdefault(variable, uuid.uuid4().hex)


def _place_of(variable: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the module of the user's that holds a variable, and its name there."""
    place = _places.get(variable)
    if place is not None and _held(*place) is variable:
        return place
    if _foreign.get(variable) != len(sys.modules):
        for title, module in list(sys.modules.items()):
            if isinstance(module, ModuleType) and (title == "__main__" or is_own_module(module)):
                for name, value in list(vars(module).items()):
                    if value is variable:
                        _places[variable] = title, name
                        return title, name
        _foreign[variable] = len(sys.modules)
    return None


def _held(module: str, name: str) -> object:
    return vars(sys.modules.get(module, sys)).get(name)


def _receive(token: str, title: str, *default: Any) -> ContextVar[Any]:
    """Return the worker's variable for one of the submitter's."""
    if token not in _received:
        made = ContextVar(title, default=default[0]) if default else ContextVar[Any](title)
        _tokens[_received.setdefault(token, made)] = token
    return _received[token]


def reduce_variable(variable: ContextVar[Any]) -> tuple[Any, ...]:
    """Pickle a context variable, without its value, for a function that goes by value and refers to it."""
    default: tuple[Any, ...] = ()
    with suppress(LookupError):
        default = (Context().run(variable.get),)
    return _receive, (_token_of(variable), variable.name, *default)


def sent_variables(context: Context, dumps: Callable[[Any], bytes]) -> tuple[SentVariable, ...]:
    """Return the context variables that a job needs where it runs, pickled by `dumps`.

    Those are variables that a module of the user's holds, or to which a function that was sent refers.
    """
    found = []
    for variable, value in context.items():
        place = _place_of(variable)
        if place is None and variable not in _tokens:
            continue
        try:
            pickled = dumps(value)
        except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
            _log.info("the value of %r can't be pickled and is not sent to workers: %r", variable, problem)
            continue
        found.append(SentVariable(_token_of(variable), *(place or ("__main__", "")), pickled))
    return tuple(found)


def set_variables(sent: Iterable[SentVariable]) -> None:
    """Set context variables in this context, where a job runs."""
    for token, module, name, pickled in sent:
        try:
            value = pickle.loads(pickled)
        except Exception as problem:  # noqa: BLE001 - a class's unpickling can raise anything
            _log.warning("the value of %s.%s can't be unpickled in a worker: %r", module, name, problem)
            continue
        held = None if module in MAIN_MODULES else _held(module, name)
        for variable in (_received.get(token), held):
            if isinstance(variable, ContextVar):
                variable.set(value)
