"""The outcome of a run, and the state of worker processes.

This module imports neither multiprocessing, psutil, cloudpickle nor scoop: engines are imported at first use.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._context import CURRENT, call_in
from .._job import Job, result_of
from .._media import job_context
from .._origin import platform_name
from .._text import printable

if TYPE_CHECKING:
    from .._stores.blobs import Blob
    from .._stores.codec import Payload
    from .elsewhere import Files

__all__ = [
    "OtherVersions",
    "Outcome",
    "Place",
    "as_worker",
    "become_worker",
    "end_at_exit",
    "error_text",
    "flush_streams",
    "here",
    "inside_worker",
    "is_submitter",
    "leave_if_forked",
    "run_inline",
    "this_process",
]


class Place(NamedTuple):
    """Where a job ran: the machine's name, the process, the version of its Python, and the machine's platform."""

    host: str = ""
    pid: int = 0
    python: str = ""
    platform: str = ""


def here() -> Place:
    """Return the place of this process."""
    return _place_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _place_of(pid: int) -> Place:
    return Place(os.uname().nodename, pid, _PYTHON, platform_name())


_PYTHON: Final = sys.version.partition(" ")[0]


OtherVersions = tuple[tuple[str, str, str], ...]
"""Libraries whose version differs in the worker: name, the submitter's version, the worker's version."""


class Outcome(NamedTuple):
    """How one run of a job ended: with a value or an error.

    Attributes:
        payload: the value as the worker pickled it, which saves pickling it again. None if only this process can
            pickle the value. It shares no memory with the value.
        blob: the value file that the worker wrote.
        started: when the function was called, in seconds since the epoch.
        seconds: how long the function ran.
        place: where the function ran.
        may_have_files: whether the function may have written media files.
        other_versions: the libraries in the job's key whose version differs in the worker.
        files: what it wrote on another machine; None if that is too large to be sent.
    """

    value: Any = None
    error: BaseException | None = None
    payload: Payload | None = None
    started: float = 0.0
    seconds: float = 0.0
    place: Place = Place()
    may_have_files: bool = True
    blob: Blob | None = None
    other_versions: OtherVersions = ()
    files: Files = ()


def run_inline(job: Job) -> Outcome:
    """Run a job in this thread. An exception of its function becomes the outcome's error."""
    value, error = None, None
    context = job_context(job.job_key, job.media_folder)
    started, clock = time.time(), time.perf_counter()
    try:
        value = call_in(context, result_of, job, surroundings=job.surroundings)
    except BaseException as raised:  # noqa: BLE001 - KeyboardInterrupt and SystemExit end this job as well
        error = raised
    seconds = time.perf_counter() - clock
    has_asked_for_paths = next(context.numbers) > 1
    return Outcome(value, error, None, started, seconds, _place_of(os.getpid()), has_asked_for_paths)


def error_text(problem: BaseException) -> str:
    """Return an exception's type and text, with only characters that every stream can encode.

    >>> error_text(ValueError("a"))
    'ValueError: a'
    """
    try:
        return printable(f"{type(problem).__name__}: {problem}")
    except BaseException:  # noqa: BLE001 - a class's __str__ can raise anything
        return type(problem).__name__


_is_worker_process = False


def inside_worker() -> bool:
    """Whether this code runs in a worker, where a cached function runs its jobs inline."""
    return _is_worker_process or CURRENT.get().in_worker


@contextmanager
def as_worker(submitter: tuple[str, int] | None = None) -> Iterator[None]:
    """Mark this thread or task as a worker's within the context; `submitter` is the submitter's host and pid."""
    token = CURRENT.set(CURRENT.get()._replace(in_worker=True, submitter=submitter))
    try:
        yield
    finally:
        CURRENT.reset(token)


def this_process() -> tuple[str, int]:
    """Return this host's name and this process's pid."""
    return _host_and_number(os.getpid())


@functools.lru_cache(maxsize=1)
def _host_and_number(pid: int) -> tuple[str, int]:
    return os.uname().nodename, pid


def is_submitter(host: str, pid: int) -> bool:
    """Whether a process submitted the job that runs here, or is this process."""
    return (host, pid) in {this_process(), CURRENT.get().submitter}


def become_worker() -> None:
    """Mark the whole process as a worker."""
    global _is_worker_process  # noqa: PLW0603 - a fact about the process
    _is_worker_process = True


_ends: list[Callable[[], None]] = []


def end_at_exit(end: Callable[[], None]) -> None:
    """Register a function that ends an engine's workers at exit.

    It runs after the exit hooks of the engine's users, which may still wait for jobs.
    """
    _ends.append(end)


@atexit.register
def _end_engines() -> None:
    for end in _ends:
        end()


def leave_if_forked(pid: int, error: BaseException | None = None) -> None:
    """End this process if it is a child that the job forked, with the exit code that Python would give for `error`.

    The child must not go on: the connection, the queue and the next jobs that it inherited belong to the worker.
    """
    if os.getpid() == pid:
        return
    try:
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        flush_streams()
    finally:
        os._exit(_exit_code(error))


def flush_streams() -> None:
    """Flush stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # missing, broken, or closed by the job
            stream.flush()


def _exit_code(error: BaseException | None) -> int:
    code = error.code if isinstance(error, SystemExit) else error
    if isinstance(code, int):
        return code & 0xFF
    return 0 if code is None else 1
