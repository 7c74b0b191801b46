"""What engines share whose workers may be on other machines.

submit -> pack -> split -> Task ─> the executor's own way ~~> a worker: run_split
                    future <─ opened <─ Report <~~

    jobs of a function that is new ── a few, each alone ─> known: short ─> batches     long ─> each alone
                                  └── the others wait a moment for that

A cluster that needs a millisecond for each of its tasks so runs short jobs by the dozen. A batch tells what has
ended when one of its jobs takes long after all, and gives back what has not begun.
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
from .durations import Pace
from .engine import SharedEngine, unsendable
from .entry import Report, describe, run_split, unpack_value
from .packing import Parcel, SplitParcel, pack, pack_call, split
from .pickling import by_value, dumps

if TYPE_CHECKING:
    from .._job import Job

__all__ = [
    "ByValue",
    "Ended",
    "FarEngine",
    "FarExecutor",
    "Grouping",
    "Task",
    "run_batch",
    "with_own_modules",
]


class ByValue:
    """A function that is pickled with its code."""

    def __init__(self, function: Callable[..., Any]) -> None:
        with by_value(sys.modules[function.__module__]):
            self._blob = dumps(function)
        self.__name__ = function.__name__

    def __call__(self, *_args: Any) -> Any:
        raise TypeError(f"{self.__name__} runs where it has been sent to, not here.")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._blob,)


def with_own_modules(function: Any, pack: Callable[[], Parcel]) -> Parcel:
    """Pack a call of a function with the code of the user's own modules, which need not be there where it goes.

    Raises:
        Exception: whatever the pickling of the function or of an argument raises.
    """
    try:
        with by_value(*_own_modules()):
            return pack()
    except Exception:  # noqa: BLE001 - one of them holds what can't be pickled, and may be there after all
        with by_value(sys.modules.get(getattr(function, "__module__", None) or "")):
            return pack()


class _OwnModules:
    """The user's own modules that are loaded, found anew when there are more or fewer modules than before."""

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
class Task:
    """A call that is to be run, what it is called in errors, and what its future gets of its report."""

    future: Future[Any]
    parcel: SplitParcel
    label: object
    open: Callable[[Report, object], Any]
    is_due: bool = False
    """Whether it can't be cancelled any more."""
    deaths: int = 0
    """How often it was lost without having begun."""
    sent: Any = None
    """What the executor knows it by where it runs."""
    goes_alone: bool = False
    """Whether it is not to be sent together with others."""
    is_suspect: bool = False
    """Whether it has run by itself to see whether it kills its worker."""
    inner_threads: int | None = None
    """How many threads each library may start meanwhile; None for the worker's share of the cores."""

    @property
    def digest(self) -> bytes:
        """The digest of its function."""
        return self.parcel.function.digest

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return describe(self.label)

    def end(self, report: Report) -> None:
        """Give its future what has come back."""
        try:
            result = self.open(report, self.label)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this call's alone
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class FarExecutor(concurrent.futures.Executor):
    """Runs calls in workers that it has not started itself.

    Anything that cloudpickle can pickle may be submitted. A worker keeps the functions that it ran last with all that
    they hold, so a function that changes its own state finds it changed in that worker's next call.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        """The process that this executor belongs to: a forked child can't use it."""
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, and in a forked child of the process that made the executor.
            WorkerLost: when there is nobody left who could run it.
        """
        self._check()
        try:
            parcel = split(self.packed(fn, lambda: pack_call(fn, args, kwargs, local=False)))
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(fn, problem)
        return self._start(Task(LightFuture(), parcel, fn, unpack_value))

    def packed(self, function: Any, pack: Callable[[], Parcel]) -> Parcel:  # noqa: ARG002 - some go by it
        """Pack a call of a function as the workers need it."""
        return pack()

    def submit_parcel(self, parcel: Parcel, job: Job) -> Future[Report]:
        """Start a packed job, whose future gets the report as it came."""
        return self._start(Task(LightFuture(), split(parcel), job, _as_it_came))

    def _start(self, task: Task) -> Future[Any]:
        with self._lock:
            self._check()
            self._send(task)
            self._pending.add(task.future)
        task.future.add_done_callback(self._forget)
        return task.future

    @abstractmethod
    def _send(self, task: Task) -> None: ...

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
        """Take no more calls, and wait for those that run; the workers stay."""
        if self.pid != os.getpid():
            return
        with self._lock:
            self._is_shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:  # one that was cancelled counts as done for `wait` only once somebody has taken it
            concurrent.futures.wait([future for future in pending if not future.cancelled()])


def _as_it_came(report: Report, _label: object) -> Report:
    return report


F = TypeVar("F", bound=FarExecutor)


class FarEngine(SharedEngine[F]):
    """Runs jobs on such an executor."""

    def _submit(self, job: Job) -> Future[Any]:
        executor = self.executor
        try:
            parcel = executor.packed(job.function, lambda: pack(job, local=False))
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(job, problem)
        return executor.submit_parcel(parcel, job)


TOGETHER_SECONDS: Final = 0.02
"""How long the jobs of a batch may take in all, by what the last ones took."""

MOST_TOGETHER: Final = 32
MOST_BYTES_TOGETHER: Final = 1 << 20

BATCHES_PER_PLACE: Final = 3
"""How many batches of a function are on their way for each job that the cluster runs at once; while there are as many,
the next ones grow."""

PATIENCE: Final = 0.2
"""Seconds that jobs of a new function wait at most to learn how long the first ones take."""

STUCK_SECONDS: Final = 0.1
"""How long a job of a batch may run until the others are not kept waiting any more."""

_FUNCTIONS: Final = 64

Ended = tuple[int, tuple[bytes, ...]]
"""The place of a job in its batch, and the parts of its report."""


@dataclass(slots=True)
class _Kind:
    """The jobs of one function."""

    waiting: deque[Task] = field(default_factory=deque)
    tried: int = 0
    """How many were sent before it was known how long they take."""
    since: float | None = None
    """When the first of them was sent."""
    batches: int = 0
    """How many batches of them have been sent and have not ended."""


class Grouping:
    """The jobs that are to be sent; for one thread, while another one may note the pace."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._alone: deque[Task] = deque()
        self._kinds: OrderedDict[bytes, _Kind] = OrderedDict()

    def add(self, task: Task) -> None:
        """Have a job sent."""
        if task.goes_alone:
            self._alone.append(task)
            return
        kind = self._kinds.setdefault(task.digest, _Kind())
        self._kinds.move_to_end(task.digest)
        kind.waiting.append(task)
        if len(self._kinds) > _FUNCTIONS:
            _, forgotten = self._kinds.popitem(last=False)
            self._alone += forgotten.waiting

    def patience(self) -> float | None:
        """Say for how many seconds what is left may wait; None when nothing does."""
        return PATIENCE / 4 if any(kind.waiting for kind in self._kinds.values()) else None

    def take(self, now: float, places: int, *, at_once: bool = False) -> list[list[Task]]:
        """Take the batches that are to be sent now to a cluster that can run jobs at so many places."""
        batches = [[task] for task in self._alone]
        self._alone.clear()
        for digest, kind in self._kinds.items():
            seconds = self._pace.of(digest)
            if not at_once and not self._pace.knows(digest):
                new = _singly(kind.waiting, self._tries(kind, now, places))
            elif at_once or seconds >= TOGETHER_SECONDS:
                new = _singly(kind.waiting, len(kind.waiting))
            else:
                new = _together(kind.waiting, BATCHES_PER_PLACE * places - kind.batches, seconds)
            kind.batches += len(new)
            batches += new
        return batches

    def ended(self, digest: bytes) -> None:
        """Note that a batch of a function's jobs has ended."""
        kind = self._kinds.get(digest)
        if kind is not None and kind.batches > 0:
            kind.batches -= 1

    def _tries(self, kind: _Kind, now: float, places: int) -> int:
        """Say how many jobs of a new function are sent: some, and after a moment all."""
        if not kind.waiting:
            return 0
        if kind.since is None:
            kind.since = now
        if now - kind.since > PATIENCE:
            return len(kind.waiting)
        number = min(len(kind.waiting), max(0, 2 * places - kind.tried))
        kind.tried += number
        return number


def _singly(waiting: deque[Task], number: int) -> list[list[Task]]:
    return [[waiting.popleft()] for _ in range(number)]


def _together(waiting: deque[Task], room: int, seconds: float) -> list[list[Task]]:
    """Take so many batches at most of jobs that take so long each."""
    batches = []
    for free in range(room, 0, -1):
        if not waiting:
            break
        share = -(-len(waiting) // free)
        batches.append(_batch_of(waiting, min(MOST_TOGETHER, int(TOGETHER_SECONDS / seconds), share)))
    return batches


def _batch_of(waiting: deque[Task], most: int) -> list[Task]:
    batch = [waiting.popleft()]
    size = len(batch[0].parcel.rest)
    while waiting and len(batch) < most:
        size += len(waiting[0].parcel.rest)
        if size > MOST_BYTES_TOGETHER:
            break
        batch.append(waiting.popleft())
    return batch


class _Batch:
    """Jobs that run one after the other in this worker."""

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
        """Tell what has ended and which job runs, if that one takes long; those behind it won't run here."""
        with self._lock:
            if self._is_given_back or now - self._since < STUCK_SECONDS:
                return
            self._is_given_back = True
            ended, begun = list(self._ended), self._begun
        self._tell(ended, begun)


class _Watch:
    """The thread that looks after the batches of this worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: set[_Batch] = set()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, batch: _Batch) -> None:
        with self._lock:
            self._batches.add(batch)
            if self._thread is None or not self._thread.is_alive():  # it is not there in a forked child
                self._thread = threading.Thread(target=self._run, name="bencher_job-batches", daemon=True)
                self._thread.start()
        self._news.set()

    def remove(self, batch: _Batch) -> None:
        with self._lock:
            self._batches.discard(batch)

    def _run(self) -> None:
        while True:
            with self._lock:
                batches = list(self._batches)
                if not batches:
                    self._news.clear()
            for batch in batches:
                batch.look(time.monotonic())
            self._news.wait()
            time.sleep(STUCK_SECONDS / 2)


_watch: Final = _Watch()


def run_batch(
    rests: Sequence[bytes], function: bytes, tell: Callable[[list[Ended], int], None]
) -> list[Ended]:
    """Run jobs of one function in this worker, and give those that have ended.

    When one of them takes long `tell` is called on another thread, with those that have ended before it, and with its
    own place; what follows it has not begun and is left to the caller, who finds it missing in what is returned.
    """
    batch = _Batch(rests, function, tell)
    if len(rests) == 1:
        return batch.run()
    _watch.add(batch)
    try:
        return batch.run()
    finally:
        _watch.remove(batch)
