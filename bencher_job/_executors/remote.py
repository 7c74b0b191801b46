"""The base of engines whose workers may be on other machines.

    submit -> pack -> split -> RemoteTask -> the engine's transport ~~> a worker: run_split
                        future <- opened <- RunResult <~~

    jobs of a new function: a few alone, the others wait a moment -> short: in batches | long: each alone

Batches make short jobs worthwhile on a cluster that needs a millisecond per task. If a job in a batch takes long, the
batch sends the results so far and returns the jobs that have not begun.
"""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import sys
import threading
import time
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .._keys.names import is_own_module
from .._light_future import LightFuture
from .durations import DurationEstimates
from .engine import SharedEngine, unsendable
from .entry import RunResult, describe, run_split, unpack_value
from .packing import Parcel, SplitParcel, pack, pack_call, split
from .pickling import by_value, dumps

if TYPE_CHECKING:
    from .._job import Job

__all__ = [
    "ByValue",
    "Ended",
    "Grouping",
    "RemoteEngine",
    "RemoteExecutor",
    "RemoteTask",
    "run_batch",
    "with_own_modules",
]


class ByValue:
    """A function that is pickled by value."""

    def __init__(self, function: Callable[..., Any]) -> None:
        with by_value(sys.modules[function.__module__]):
            self._blob = dumps(function)
        self.__name__ = function.__name__

    def __call__(self, *_args: Any) -> Any:
        raise TypeError(f"{self.__name__} runs on the cluster, not here.")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._blob,)


def with_own_modules(function: Any, pack: Callable[[], Parcel]) -> Parcel:
    """Pack a call with the code of the user's own modules, which the workers need not have.

    Raises:
        Exception: whatever pickling the function or an argument raises.
    """
    try:
        with by_value(*_own_modules()):
            return pack()
    except Exception:  # noqa: BLE001 - a module that cannot be pickled may be installed on the workers
        with by_value(sys.modules.get(getattr(function, "__module__", None) or "")):
            return pack()


class _OwnModules:
    """The user's own loaded modules, searched again when the number of modules has changed."""

    def __init__(self) -> None:
        self._number = -1
        self._found: tuple[ModuleType, ...] = ()

    def __call__(self) -> tuple[ModuleType, ...]:
        if len(sys.modules) != self._number:
            modules = list(sys.modules.values())
            self._found = tuple(filter(_is_own, modules))
            self._number = len(modules)
        return self._found


def _is_own(module: Any) -> bool:
    if not isinstance(module, ModuleType) or module.__name__ == "__main__":
        return False
    return getattr(module, "__file__", None) is not None and is_own_module(module)


_own_modules: Final = _OwnModules()


@dataclass(slots=True, eq=False)
class RemoteTask:
    """A call with its future. `open` makes the future's result from the run result and the label."""

    future: Future[Any]
    parcel: SplitParcel
    label: object
    open: Callable[[RunResult, object], Any]
    is_due: bool = False
    """Whether it is running, and can no longer be cancelled."""
    deaths: int = 0
    """How often it was lost before it began."""
    sent: Any = None
    """The executor's handle of the sent call."""
    goes_alone: bool = False
    """Whether it must not be in a batch with others."""
    is_suspect: bool = False
    """Whether it was run alone to see if it kills its worker."""
    inner_threads: int | None = None
    """How many threads each library may start; None for the worker's share of the cores."""

    @property
    def digest(self) -> bytes:
        """The digest of the function."""
        return self.parcel.function.digest

    @property
    def name(self) -> str:
        """The description for error messages."""
        return describe(self.label)

    def end(self, run_result: RunResult) -> None:
        """Set the future's result or exception."""
        try:
            result = self.open(run_result, self.label)
        except BaseException as error:  # noqa: BLE001 - any exception concerns this call only
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class RemoteExecutor(concurrent.futures.Executor):
    """Run calls in workers that something else has started.

    Anything that cloudpickle can pickle may be submitted. A worker caches the functions that it ran last, so a function
    that changes its own state finds the change in the next call in that worker.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        """The process that made this executor. A forked child cannot use it."""
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, or in a forked child of the process that made the executor.
            WorkerLost: if no worker is left.
        """
        self._check()
        try:
            parcel = split(self.packed(fn, lambda: pack_call(fn, args, kwargs, local=False)))
        except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
            return unsendable(fn, problem)
        return self._start(RemoteTask(LightFuture(), parcel, fn, unpack_value))

    def packed(self, function: Any, pack: Callable[[], Parcel]) -> Parcel:  # noqa: ARG002 - for subclasses
        """Pack a call in the form that the workers need."""
        return pack()

    def submit_parcel(self, parcel: Parcel, job: Job) -> Future[RunResult]:
        """Start a packed job, whose future gets the `RunResult`."""
        return self._start(RemoteTask(LightFuture(), split(parcel), job, _as_it_came))

    def _start(self, task: RemoteTask) -> Future[Any]:
        with self._lock:
            self._check()
            self._send(task)
            self._pending.add(task.future)
        task.future.add_done_callback(self._forget)
        return task.future

    @abstractmethod
    def _send(self, task: RemoteTask) -> None: ...

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                f"This {type(self).__name__} belongs to the parent of this process. Submit from there, or make "
                f"a new one where that is possible."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls and wait for the running ones. The workers stay."""
        if self.pid != os.getpid():
            return
        with self._lock:
            self._is_shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:  # `wait` ignores a cancelled future until it is notified
            concurrent.futures.wait([future for future in pending if not future.cancelled()])


def _as_it_came(run_result: RunResult, _label: object) -> RunResult:
    return run_result


F = TypeVar("F", bound=RemoteExecutor)


class RemoteEngine(SharedEngine[F]):
    """Run jobs on a `RemoteExecutor`."""

    def _submit(self, job: Job) -> Future[Any]:
        executor = self.executor
        try:
            parcel = executor.packed(job.function, lambda: pack(job, local=False))
        except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
            return unsendable(job, problem)
        return executor.submit_parcel(parcel, job)


TOGETHER_SECONDS: Final = 0.02
"""Expected duration in seconds of one batch."""

MOST_TOGETHER: Final = 32
MOST_BYTES_TOGETHER: Final = 1 << 20

BATCHES_PER_PLACE: Final = 3
"""How many batches of a function may be pending per slot of the cluster. Beyond that, jobs wait and later batches
are larger."""

PATIENCE: Final = 0.2
"""Seconds that jobs of a new function wait at most for the duration of the first ones."""

STUCK_SECONDS: Final = 0.1
"""Seconds that a job may run before the jobs behind it in the batch are returned."""

_FUNCTIONS: Final = 64

Ended = tuple[int, tuple[bytes, ...]]
"""The index of a job in its batch, and the parts of its run result."""


@dataclass(slots=True)
class _FunctionQueue:
    """The waiting jobs of one function."""

    waiting: deque[RemoteTask] = field(default_factory=deque)
    tried: int = 0
    """How many were sent before their duration was known."""
    since: float | None = None
    """When the first one was sent."""
    batches: int = 0
    """The number of pending batches."""


class Grouping:
    """Group jobs into batches. One thread uses it, another may update the duration estimates."""

    def __init__(self, durations: DurationEstimates) -> None:
        self._durations = durations
        self._alone: deque[RemoteTask] = deque()
        self._kinds: OrderedDict[bytes, _FunctionQueue] = OrderedDict()

    def add(self, task: RemoteTask) -> None:
        """Add a job."""
        if task.goes_alone:
            self._alone.append(task)
            return
        kind = self._kinds.setdefault(task.digest, _FunctionQueue())
        self._kinds.move_to_end(task.digest)
        kind.waiting.append(task)
        if len(self._kinds) > _FUNCTIONS:
            _, forgotten = self._kinds.popitem(last=False)
            self._alone += forgotten.waiting

    def patience(self) -> float | None:
        """Return how many seconds to wait before the next `take`; None if no job waits."""
        return PATIENCE / 4 if any(kind.waiting for kind in self._kinds.values()) else None

    def take(self, now: float, places: int, *, at_once: bool = False) -> list[list[RemoteTask]]:
        """Return the batches to send now to a cluster that runs `places` jobs at once."""
        batches = [[task] for task in self._alone]
        self._alone.clear()
        for digest, kind in self._kinds.items():
            seconds = self._durations.of(digest)
            if not at_once and not self._durations.knows(digest):
                new = _singly(kind.waiting, self._tries(kind, now, places))
            elif at_once or seconds >= TOGETHER_SECONDS:
                new = _singly(kind.waiting, len(kind.waiting))
            else:
                new = _together(kind.waiting, BATCHES_PER_PLACE * places - kind.batches, seconds)
            kind.batches += len(new)
            batches += new
        return batches

    def ended(self, digest: bytes) -> None:
        """Record that a batch has ended."""
        kind = self._kinds.get(digest)
        if kind is not None and kind.batches > 0:
            kind.batches -= 1

    def _tries(self, kind: _FunctionQueue, now: float, places: int) -> int:
        """Return how many jobs of a new function to send: some, and after a moment all."""
        if not kind.waiting:
            return 0
        if kind.since is None:
            kind.since = now
        if now - kind.since > PATIENCE:
            return len(kind.waiting)
        number = min(len(kind.waiting), max(0, 2 * places - kind.tried))
        kind.tried += number
        return number


def _singly(waiting: deque[RemoteTask], number: int) -> list[list[RemoteTask]]:
    return [[waiting.popleft()] for _ in range(number)]


def _together(waiting: deque[RemoteTask], room: int, seconds: float) -> list[list[RemoteTask]]:
    """Take at most `room` batches of jobs that take `seconds` each."""
    batches = []
    for free in range(room, 0, -1):
        if not waiting:
            break
        share = -(-len(waiting) // free)
        batches.append(_batch_of(waiting, min(MOST_TOGETHER, int(TOGETHER_SECONDS / seconds), share)))
    return batches


def _batch_of(waiting: deque[RemoteTask], most: int) -> list[RemoteTask]:
    batch = [waiting.popleft()]
    size = len(batch[0].parcel.rest)
    while waiting and len(batch) < most:
        size += len(waiting[0].parcel.rest)
        if size > MOST_BYTES_TOGETHER:
            break
        batch.append(waiting.popleft())
    return batch


class _Batch:
    """Jobs that run one after another in this worker."""

    def __init__(
        self, rests: Sequence[bytes], function: bytes, tell: Callable[[list[Ended], int], None]
    ) -> None:
        self._rests = rests
        self._function = function
        self._tell = tell
        self._lock = threading.Lock()
        self._ended: list[Ended] = []
        self._begun = -1
        self._since = 0.0
        self._is_given_back = False

    def run(self) -> list[Ended]:
        for place, rest in enumerate(self._rests):
            with self._lock:
                if self._is_given_back:
                    break
                self._begun, self._since = place, time.monotonic()
            ended = place, tuple(map(bytes, run_split(rest, self._function).parts()))
            with self._lock:
                self._ended.append(ended)
        return self._ended

    def look(self, now: float) -> None:
        """If the present job takes long, report the results and its index. The jobs behind it will not run here."""
        with self._lock:
            if self._is_given_back or now - self._since < STUCK_SECONDS:
                return
            self._is_given_back = True
            ended, begun = list(self._ended), self._begun
        self._tell(ended, begun)


class _Watch:
    """A thread that watches the batches of this worker for long jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: set[_Batch] = set()
        self._has_batches = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, batch: _Batch) -> None:
        with self._lock:
            self._batches.add(batch)
            if self._thread is None or not self._thread.is_alive():  # a forked child lacks the thread
                self._thread = threading.Thread(target=self._run, name="bencher_job-batches", daemon=True)
                self._thread.start()
        self._has_batches.set()

    def remove(self, batch: _Batch) -> None:
        with self._lock:
            self._batches.discard(batch)

    def _run(self) -> None:
        while True:
            with self._lock:
                batches = list(self._batches)
                if not batches:
                    self._has_batches.clear()
            for batch in batches:
                batch.look(time.monotonic())
            self._has_batches.wait()
            time.sleep(STUCK_SECONDS / 2)


_watch: Final = _Watch()


def run_batch(
    rests: Sequence[bytes], function: bytes, tell: Callable[[list[Ended], int], None]
) -> list[Ended]:
    """Run jobs of one function in this worker and return their results.

    If a job takes long, call `tell` on another thread with the results so far and the job's index. The jobs behind it
    do not run, and are missing from the results.
    """
    batch = _Batch(rests, function, tell)
    if len(rests) == 1:
        return batch.run()
    _watch.add(batch)
    try:
        return batch.run()
    finally:
        _watch.remove(batch)
