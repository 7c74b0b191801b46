"""The context of this thread or task: its current job, and whether a worker runs it.

Nothing restores a context, so Ctrl-C can't leave a wrong one: a change applies to a call, which runs in a copy.
"""

from __future__ import annotations

import contextvars
import itertools
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any, Final, NamedTuple, TypeVar

__all__ = ["CURRENT", "Context", "Surroundings", "call_in"]


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


_OUTSIDE: Final = Context()
CURRENT: Final[ContextVar[Context]] = ContextVar("bencher_job", default=_OUTSIDE)

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
