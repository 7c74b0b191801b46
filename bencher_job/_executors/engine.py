"""The Engine contract: submit a job, receive its outcome, release the executor. The state of worker processes.

This module imports neither multiprocessing, psutil, cloudpickle nor scoop: engines are imported at first use.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import os
import reprlib
import sys
import threading
import time
import traceback
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from .._context import CURRENT, call_in
from .._errors import BencherJobError, JobTimeout, WorkerLost
from .._folders import NameOf, make_private, owner_only, path_of
from .._job import Job, result_of
from .._light_future import LightFuture
from .._media import discard, job_context
from .._mounts import is_network
from .._options import Executors
from .._origin import platform_name
from .._processes import renew_after_fork
from .._text import printable

if TYPE_CHECKING:
    from .._loops import Caller
    from .._stores.blobs import Blob
    from .._stores.codec import Payload
    from .scheduler import Scheduler


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


LARGEST_SENT: Final = 8_000_000
"""Size in bytes up to which the files of a job travel with its result."""

Files = tuple[tuple[str, bytes], ...] | None
"""Names in the run's folder, with their bytes; None for files that are too large to be sent."""

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


def files_of(media_folder: str) -> Files:
    """Read the files of a run, and remove them from this machine; leave those that are too large."""
    folder = Path(media_folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if sum(path.stat().st_size for path in paths) > LARGEST_SENT:
        return None
    files = tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)
    if not is_network(folder):  # where they may be the submitter's
        with suppress(OSError):
            discard(folder)
    return files


def write_files(folder: Path, files: tuple[tuple[str, bytes], ...]) -> None:
    """Write the files that a worker has sent, unless they are there.

    Raises:
        ValueError: when a name leads out of the folder.
        OSError: when they can't be written.
    """
    make_private(folder)
    for name, content in files:
        path = path_of(folder, NameOf.RUN_FILE, name)
        make_private(path.parent)
        with suppress(FileExistsError), open(path, "xb", opener=owner_only) as file:
            file.write(content)


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


def describe(label: object) -> str:
    """Describe a job with its abbreviated arguments, or another callable, for an error message.

    >>> describe(Job("a", sorted, {"reverse": True}, "key", positional=([2, 1],)))
    "job 'a', sorted([2, 1], reverse=True)"
    """
    if not isinstance(label, Job):
        return getattr(label, "__qualname__", None) or reprlib.repr(label)
    name = getattr(label.function, "__qualname__", type(label.function).__qualname__)
    arguments = [reprlib.repr(value) for value in label.positional]
    arguments += [f"{name}={reprlib.repr(value)}" for name, value in label.job_args.items()]
    return f"job {label.job_id!r}, {name}({', '.join(arguments)})"


def time_is_over(label: object, timeout: float) -> JobTimeout:
    """Make the error of a job that exceeded its timeout in seconds."""
    name = describe(label)
    return JobTimeout(
        f"{name} ran for longer than its timeout of {timeout:g} s, and was ended.", job=name, seconds=timeout
    )


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


class CallFuture(LightFuture[Any]):
    """The future of a call in a worker, with the scheduler that runs it and the call's job."""

    def __init__(self, scheduler: Scheduler, job: Job | None = None) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.job = job

    def give_up(self) -> None:
        """End the call with `WorkerLost` if no worker can run any of the calls."""
        self.scheduler.give_up(self)


class Engine:
    """Run the jobs of a `FutureCache`. Engines are thread-safe.

    An engine is made of data: what starts jobs, on which executor, how a future's result becomes an outcome, and what
    the executor can do.

    Attributes:
        name: the member of `Executors`, or the class name of an adopted executor.
        ends_jobs: whether it ends a job that exceeds its timeout, with a `JobTimeout`.
        shares_arguments: whether a job gets the submitted argument objects themselves, which the caller may change
            while it runs.
        asks_to_begin: whether it calls `begin` of a job's `start` before it begins the job. Otherwise a job needs its
            lease when it is submitted.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[Any, Sequence[Job]], list[Future[Any]]],
        executor: SharedExecutor | concurrent.futures.Executor | None = None,
        *,
        opens: Callable[[Any, Job | None], Outcome] | None = None,
        ends_jobs: bool = False,
        shares_arguments: bool = False,
        asks_to_begin: bool = False,
    ) -> None:
        self.name = name
        self.ends_jobs = ends_jobs
        self.shares_arguments = shares_arguments
        self.asks_to_begin = asks_to_begin
        self._start = start
        self._opens = opens
        self._given = executor
        self._labels: weakref.WeakKeyDictionary[Future[Any], Job] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def executor(self) -> Any:
        """The executor, made at first use; None where jobs run inline."""
        return self._given.executor if isinstance(self._given, SharedExecutor) else self._given

    @property
    def workers(self) -> int | None:
        """How many jobs run at once, or None if the executor does not say."""
        if self.executor is None:
            return 1
        for name in ("max_workers", "_max_workers"):  # concurrent.futures keeps it private
            number = getattr(self.executor, name, None)
            if isinstance(number, int):
                return number
        return None

    def submit(self, job: Job) -> Future[Any]:
        """Start a job. An error of the job itself goes into its future.

        Raises:
            BencherJobError: if the engine cannot take jobs. The message names the remedy.
        """
        return self.submit_many([job])[0]

    def submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        """Start several jobs. If it raises, no job has started.

        Raises:
            BencherJobError: if the engine cannot take jobs. The message names the remedy.
        """
        try:
            futures = self._start(self.executor, jobs)
        except RuntimeError as refusal:
            raise self._refused(refusal) from refusal
        for job, future in zip(jobs, futures, strict=True):
            if not isinstance(future, CallFuture):
                self._labels[future] = job
        return futures

    def _refused(self, refusal: RuntimeError) -> BencherJobError:
        """Make the error for an executor that takes no job. A job's own exceptions do not come this way."""
        if isinstance(refusal, concurrent.futures.BrokenExecutor):
            return WorkerLost(f"{self.name} is broken and takes no more jobs: {refusal}")
        return BencherJobError(
            f"{self.name} takes no more jobs: {refusal}. If it was shut down, pass an executor that stays open as long "
            f"as the function is called, or let the library make one: executor='multiprocessing' or 'threads'."
        )

    def join(self, future: Future[Any], caller: Caller | None) -> None:
        """Register a waiter for the job: its event loop, or None for a thread."""

    def has_begun(self, future: Future[Any]) -> bool:
        """Whether a job has begun, as the executor reports it; the job may still wait in the executor's own queue."""
        return future.running() or future.done()

    def end(self, future: Future[Any]) -> bool:
        """Cancel a job, or end it if it runs and the engine can. Return whether it was ended."""
        return future.scheduler.kill(future) if isinstance(future, CallFuture) else future.cancel()

    def receive(self, future: Future[Any]) -> Outcome:
        """Return the outcome of a done future. Never raises.

        A cancelled job ends with `CancelledError`. A failure of the engine itself becomes a `WorkerLost`: the job's own
        exceptions do not come this way.
        """
        is_ours = isinstance(future, CallFuture)
        if isinstance(future, CallFuture) and (run_result := future.peek()) is not None:
            opened: Outcome = run_result.open(future.job)
            return opened
        job = future.job if isinstance(future, CallFuture) else self._labels.get(future)
        try:
            problem = future.exception()
            if problem is None:
                result = future.result()
                return result if self._opens is None else self._opens(result, job)
        except CancelledError:
            is_wanted = getattr(future.cancel, "was_called", True)
            return Outcome(error=CancelledError() if is_wanted else self._lost(job, None))
        except Exception as error:  # noqa: BLE001 - a foreign executor can return anything
            return Outcome(error=self._lost(job, error))
        is_own = isinstance(problem, BencherJobError) or (is_ours and isinstance(problem, CancelledError))
        return Outcome(error=problem if is_own else self._lost(job, problem))

    def _lost(self, job: Job | None, problem: BaseException | None) -> WorkerLost:
        label = describe(job)
        reason = "the engine cancelled it" if problem is None else error_text(problem)
        lost = WorkerLost(f"{self.name} lost {label}: {reason}", job=label)
        lost.__cause__ = problem
        return lost

    def release(self) -> None:
        """Release the executor. A shared one is shut down with its last user, an adopted one stays open."""
        if isinstance(self._given, SharedExecutor):
            self._given.release()


def run_here(_executor: None, jobs: Sequence[Job]) -> list[Future[Any]]:
    """Run jobs in this thread."""
    futures = []
    for job in jobs:
        future: Future[Any] = Future()
        future.set_result(run_inline(job))
        futures.append(future)
    return futures


def submit_jobs(timeout: float | None) -> Callable[[Any, Sequence[Job]], list[Future[Any]]]:
    """Return what starts jobs on an executor of this package."""
    return lambda executor, jobs: executor.submit_jobs(jobs, timeout)


def failed(error: BaseException) -> Future[Any]:
    """Make a future that has failed with `error`."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def unsendable(label: object, problem: BaseException) -> Future[Any]:
    """Make the failed future of a job that cannot be pickled."""
    error = BencherJobError(
        f"{describe(label)} can't be sent to a worker: {error_text(problem)}. "
        f"cloudpickle must be able to pickle its function and arguments. Create what it can't pickle in the function."
    )
    error.__cause__ = problem
    return failed(error)


class _Shared:
    """The executors of this process that engines with the same settings share, and those engines."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget all executors in a forked child: the workers belong to the parent."""
        self.turn = threading.Lock()
        self.by_settings: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
        self.users: weakref.WeakKeyDictionary[Any, weakref.WeakSet[SharedExecutor]] = (
            weakref.WeakKeyDictionary()
        )


_shared: Final = _Shared()


class SharedExecutor:
    """An executor shared by engines with the same settings, made at first use.

    `key` returns the settings; `make` makes the executor.
    """

    def __init__(self, key: Callable[[], Hashable], make: Callable[[], Any]) -> None:
        self._key = key
        self._make = make
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the shared executor in a forked child: it belongs to the parent."""
        self._executor: Any = None

    @property
    def executor(self) -> Any:
        """The executor of these settings."""
        executor = self._executor
        if executor is None:
            with _shared.turn:
                key = self._key()
                self._executor = executor = _shared.by_settings.get(key) or self._make()
                _shared.by_settings[key] = executor
                _shared.users.setdefault(executor, weakref.WeakSet()).add(self)
        return executor

    def release(self) -> None:
        """Release the executor, which is shut down with its last user."""
        with _shared.turn:
            executor, self._executor = self._executor, None
            if executor is None:
                return
            users = _shared.users[executor]
            users.discard(self)
            if users:
                return
            for key in [key for key, each in _shared.by_settings.items() if each is executor]:
                del _shared.by_settings[key]
        executor.shutdown()


class EngineSpec(ABC):
    """An engine with options of its own, such as `executor=Slurm(...)`.

    Equal ones share their workers; making one starts nothing.

    Attributes:
        name: the member of `Executors`.
        ends_jobs: whether it ends a job that exceeds its timeout.
        options: the options that were given.
    """

    name: ClassVar[Executors]
    ends_jobs: ClassVar[bool] = False

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    @abstractmethod
    def new_executor(self, patience: float | None) -> Any:
        """Make an executor, which is shut down with its last user."""
