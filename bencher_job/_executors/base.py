"""Executors by name, and how a run of a job ended.

Nothing here imports multiprocessing, psutil, cloudpickle or scoop: engines are imported when first used.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from enum import auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from strenum import StrEnum

from .._job import Job, run_as
from .._media import running_as
from .._origin import platform_name
from .._text import printable

if TYPE_CHECKING:
    from .._stores.blobs import Deposit
    from .._stores.codec import Payload

__all__ = [
    "MAKERS",
    "Executors",
    "OtherVersions",
    "Outcome",
    "Place",
    "as_worker",
    "become_worker",
    "end_at_exit",
    "flush_streams",
    "here",
    "inside_worker",
    "is_submitter",
    "leave_if_forked",
    "run_inline",
    "this_process",
    "told",
]


class Executors(StrEnum):
    """Where jobs run; a member is made of its name in any case.

    >>> Executors("multiprocessing")
    <Executors.MULTIPROCESSING: 'MULTIPROCESSING'>
    """

    SERIAL = auto()
    """Here, in the calling thread."""

    THREADS = auto()
    """In threads of this process, for functions that let other threads run meanwhile, as numpy's do."""

    MULTIPROCESSING = auto()
    """In processes of this machine."""

    SCOOP = auto()
    """In the workers of a program started by `python -m scoop`, on one or many machines."""

    @classmethod
    def _missing_(cls, value: object) -> Executors | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @staticmethod
    def factory(provider: Executors | str) -> concurrent.futures.Executor | None:
        """Make a new executor, or None for SERIAL, which needs none.

        Raises:
            ValueError: when no executor has that name.
            BencherJobError: for SCOOP where it can't run, with how to start it.
        """
        make = MAKERS.get(Executors(provider))
        return None if make is None else make()


MAKERS: Final[dict[Executors, Callable[[], concurrent.futures.Executor]]] = {}
"""What makes the executor of each member; filled by the package, which may import its engines."""


class Place(NamedTuple):
    """Where a job ran: the machine's name, the process, the version of its Python, and the machine's platform."""

    host: str = ""
    pid: int = 0
    python: str = ""
    platform: str = ""


def here() -> Place:
    """Give the place that this process is."""
    return _place_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _place_of(pid: int) -> Place:
    return Place(os.uname().nodename, pid, _PYTHON, platform_name())


_PYTHON: Final = sys.version.partition(" ")[0]


OtherVersions = tuple[tuple[str, str, str], ...]
"""Libraries that a worker has another version of: name, the submitter's version, the worker's."""


class Outcome(NamedTuple):
    """How one run of a job ended: with a value, or with an error.

    Attributes:
        payload: the value's bytes as the worker pickled them, so that nobody pickles it again. None where
            only this process can say how the value is pickled. It shares no memory with the value.
        deposit: the value file that the worker has written.
        started: when the function was called, in seconds since the epoch.
        seconds: how long the function ran.
        place: where it ran.
        may_have_files: whether it may have written files of its own; False where who ran it knows of none.
        other_versions: the libraries in the job's key that the worker has another version of.
    """

    value: Any = None
    error: BaseException | None = None
    payload: Payload | None = None
    started: float = 0.0
    seconds: float = 0.0
    place: Place = Place()
    may_have_files: bool = True
    deposit: Deposit | None = None
    other_versions: OtherVersions = ()


def run_inline(job: Job) -> Outcome:
    """Run a job here and now; whatever its function raises is kept as the outcome's error."""
    value, error = None, None
    running = running_as(job.job_key, job.media_folder)
    started, clock = time.time(), time.perf_counter()
    try:
        value = run_as(running, job)
    except BaseException as raised:  # noqa: BLE001 - KeyboardInterrupt and SystemExit end this job as well
        error = raised
    seconds = time.perf_counter() - clock
    return Outcome(value, error, None, started, seconds, here(), running.may_have_files())


def told(problem: BaseException) -> str:
    """Say what an exception is, whatever its own text does, in letters that every stream can take.

    >>> told(ValueError("a"))
    'ValueError: a'
    """
    try:
        return printable(f"{type(problem).__name__}: {problem}")
    except BaseException:  # noqa: BLE001 - a class's own __str__ can raise anything
        return type(problem).__name__


_runs_in_envelope: ContextVar[bool] = ContextVar("bencher_job_runs_in_envelope", default=False)
_submitter: ContextVar[tuple[str, int] | None] = ContextVar("bencher_job_submitter", default=None)
_is_worker_process = False


def inside_worker() -> bool:
    """Whether this code runs in a worker, where a cached job runs in line and never in a pool of pools."""
    return _is_worker_process or _runs_in_envelope.get()


@contextmanager
def as_worker(submitter: tuple[str, int] | None = None) -> Iterator[None]:
    """Be inside a worker in this thread or task meanwhile, for the process with this host's name and this number."""
    token = _runs_in_envelope.set(True)
    token_of_submitter = _submitter.set(submitter)
    try:
        yield
    finally:
        _submitter.reset(token_of_submitter)
        _runs_in_envelope.reset(token)


def this_process() -> tuple[str, int]:
    """Give this host's name and this process's number."""
    return _host_and_number(os.getpid())


@functools.lru_cache(maxsize=1)
def _host_and_number(pid: int) -> tuple[str, int]:
    return os.uname().nodename, pid


def is_submitter(host: str, pid: int) -> bool:
    """Whether a process is the one whose job runs here, or this very one."""
    return (host, pid) in {this_process(), _submitter.get()}


def become_worker() -> None:
    """Be a worker for good, in all threads of this process."""
    global _is_worker_process  # noqa: PLW0603 - a fact about the process
    _is_worker_process = True


_ends: list[Callable[[], None]] = []


def end_at_exit(end: Callable[[], None]) -> None:
    """Have an engine end what is left of it when the program exits, after all exit hooks of those who use it.

    Who waits for jobs at exit so finds the workers still there, whenever the engine was first used.
    """
    _ends.append(end)


@atexit.register
def _end_engines() -> None:
    for end in _ends:
        end()


def leave_if_forked(pid: int, error: BaseException | None = None) -> None:
    """End this process when it isn't the one that began the job, as Python would have ended it for that error.

    What it inherited is the worker's: the channel, the queue, the jobs that come next.
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
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, broken, or closed by the job
            stream.flush()


def _exit_code(error: BaseException | None) -> int:
    code = error.code if isinstance(error, SystemExit) else error
    if isinstance(code, int):
        return code & 0xFF
    return 0 if code is None else 1
