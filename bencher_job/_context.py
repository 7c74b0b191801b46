"""The state of a thread or task: its job, whether a worker runs it, whether it is interrupted inside the library.

Nothing restores a context, so Ctrl-C can't leave a wrong one: a change applies to a call, which runs in a copy.

A signal handler, a `__del__` or a weakref callback runs between any two steps of a thread, also while the thread holds
a lock, is in a transaction, or has announced a job that it has not started yet. What such code calls must not wait for
any of that: the thread goes on only when the handler has returned.

    public call -> is_inside()? -> no: the usual way
                                -> yes: run the job without the cache, close later, or raise

The stack tells, so locks stay plain locks, and nothing has to be undone after Ctrl-C: a function of the library that
names one of `LOCKS`, or is `critical`, is inside for as long as it is on the stack. What a job's function calls is not,
which is why the search ends where the library runs a job.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import Any, Final, NamedTuple, TypeVar

from ._errors import BencherJobError


class Context(NamedTuple):
    """The state of the code that runs here.

    Attributes:
        key: the key of the current job; None outside a job.
        folder: where the files of this run of the job go.
        keys: the keys of the current job and of all jobs that called it.
        numbers: numbers for the files of this run.
        in_worker: whether a worker runs this, so that jobs run in line.
        submitter: host and process number of the worker's submitter, if it is known.
        by_imported_copy: whether values are unpickled for the imported copy of the program that runs.
    """

    key: str | None = None
    folder: str | None = None
    keys: frozenset[str] = frozenset()
    numbers: Iterator[int] = itertools.count(1)
    in_worker: bool = False
    submitter: tuple[str, int] | None = None
    by_imported_copy: bool = False


_NO_JOB: Final = Context()
CURRENT: Final[ContextVar[Context]] = ContextVar("bencher_job", default=_NO_JOB)

R = TypeVar("R")


class Surroundings(NamedTuple):
    """Where a job was called: the context variables there, and the current folder; None if that is gone."""

    context: contextvars.Context
    folder: str | None

    @classmethod
    def here(cls) -> Surroundings:
        """Return those of this thread or task."""
        try:
            return cls(copy_context(), os.getcwd())
        except OSError:
            return cls(copy_context(), None)


def call_in(
    context: Context, function: Callable[..., R], *args: Any, surroundings: Surroundings | None = None
) -> R:
    """Call a function in a context. Variables of the user are those of the surroundings, by default the present ones.

    Those that the function sets are set for this call only.
    """
    variables = copy_context() if surroundings is None else surroundings.context.copy()
    variables.run(CURRENT.set, context)
    return variables.run(function, *args)


# Interrupts of a thread inside the library

LOCKS: Final = frozenset({"_lock", "turn", "_guard", "fork_guard"})
"""The names of all locks, and of other contexts, that a thread must not enter twice. Locks that it may are called
`_reentrant`."""

_OURS: Final = os.path.dirname(__file__) + os.sep
_FOREIGN, _OF_FUTURES, _OF_OURS = range(3)
_OUTSIDE, _INSIDE, _JOB = range(3)

_files: Final[dict[str, int]] = {Future.result.__code__.co_filename: _OF_FUTURES}
"""The owner of each file that functions on the stack come from."""

_marks: Final[dict[int, int]] = {}
"""The kind of each function of the library, by the identity of its code, which lives as long as the library."""

F = TypeVar("F", bound=Callable[..., Any])


def critical(function: F) -> F:
    """Mark a function that others wait for, though it holds no lock."""
    _marks[id(function.__code__)] = _INSIDE
    return function


def runs_jobs(function: F) -> F:
    """Mark a function that holds no lock and calls functions of the user, which may ask for other jobs."""
    _marks[id(function.__code__)] = _JOB
    return function


def is_inside(frame: FrameType | None = None) -> bool:
    """Whether who calls this, or another thread at a frame, has been interrupted inside the library.

    At the very end of the program, when other threads don't run any more, the answer is yes too.
    """
    if frame is None:
        if sys.is_finalizing():  # other threads stand still, and none can be started
            return True
        frame = sys._getframe(1)  # noqa: SLF001 - the one way to ask that takes no time
    while frame is not None:
        code = frame.f_code
        file = _files.get(code.co_filename)
        if file is None:
            file = _files[code.co_filename] = _OF_OURS if code.co_filename.startswith(_OURS) else _FOREIGN
        if file == _OF_OURS:
            mark = _marks.get(id(code))
            if mark is None:
                mark = _marks[id(code)] = _OUTSIDE if LOCKS.isdisjoint(code.co_names) else _INSIDE
            if mark:
                return mark == _INSIDE
        elif file == _OF_FUTURES and _holds_future(frame):
            return True
        frame = frame.f_back
    return False


def refuse_inside(what: str) -> None:
    """Refuse what would have to wait until this thread goes on.

    Raises:
        BencherJobError: when this thread has been interrupted inside the library.
    """
    if is_inside():
        raise BencherJobError(
            f"{what} is not possible here: a signal handler, a __del__ or a weakref callback has interrupted this "
            f"thread inside of bencher_job, or the end of the program, and would wait for it. Set a flag there and act "
            f"on it later, or start a thread that does it."
        )


def _holds_future(frame: FrameType) -> bool:
    """Whether a function of `concurrent.futures` holds futures, as it does just before and after it waits for them."""
    known = frame.f_locals
    if "waiter" in known:  # whose own lock it may hold
        return True
    several = known.get("fs")
    futures = [known.get("self"), *(several if isinstance(several, set) else ())]
    conditions = (getattr(future, "_condition", None) for future in futures)
    return any(condition is not None and condition._is_owned() for condition in conditions)  # noqa: SLF001 - nothing public tells
