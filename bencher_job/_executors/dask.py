"""Dask: a cluster as an engine.

    submit -> inbox -> a thread: batches, many in one graph ~~> scheduler ~~> a worker: run_there
    future <- opened <- the client's loop <~~ the parts of reports

The scheduler unpickles what it passes on, and may lack everything but Dask and cloudpickle: what is sent to it is
bytes, and a function that carries its own code.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Final

from .._errors import BencherJobError, WorkerLost
from .._inside import critical
from .base import told
from .durations import Pace
from .engine import SharedExecutors
from .entry import Report
from .packing import FunctionBytes, Parcel
from .remote import STUCK_SECONDS, ByValue, Ended, FarEngine, FarExecutor, Grouping, Task, with_own_modules

__all__ = ["DaskEngine", "DaskExecutor", "as_ours", "client_of", "is_blamed", "run_there"]


def client_of(cluster: Any) -> Any:
    """Make a client of a scheduler's address, or give the one that is given.

    Raises:
        BencherJobError: when the client can't be used here, or nobody answers at the address.
    """
    if not isinstance(cluster, str):
        if cluster.asynchronous:
            raise BencherJobError(
                "executor=Client can't use an asynchronous client. Make it without asynchronous=True, or pass the "
                "scheduler's address."
            )
        return cluster
    try:
        import distributed
    except ImportError as missing:
        raise BencherJobError(
            f"executor={cluster!r} needs the package distributed, which is not installed. "
            f"Run pip install 'bencher_job[dask]'."
        ) from missing
    make: Any = distributed.Client
    try:
        return make(cluster, set_as_default=False)
    except (OSError, ValueError) as problem:
        raise BencherJobError(
            f"executor={cluster!r}: no Dask scheduler answers there, {told(problem)}. Start one with dask scheduler, "
            f"and workers with dask worker {cluster}."
        ) from problem


def is_blamed(problem: BaseException) -> bool:
    """Whether Dask takes a task for one that kills its workers; it may merely have been with them."""
    return type(problem).__name__ == "KilledWorker"


def as_ours(task: Task, problem: BaseException) -> BencherJobError:
    """Say in an error of ours with what Dask has failed to run a task."""
    error: BencherJobError
    if isinstance(problem, ModuleNotFoundError):
        error = BencherJobError(
            f"A worker of the Dask cluster has no module {problem.name}, which {task.name} needs there. Install it "
            f"where the workers run."
        )
    else:
        reason = "the scheduler is gone" if isinstance(problem, CancelledError) else told(problem)
        error = WorkerLost(f"Dask lost {task.name}: {reason}", job=task.name)
    error.__cause__ = problem
    return error


def run_there(rests: Sequence[bytes], function: bytes, topic: tuple[str, bool]) -> list[Ended]:
    """Run a batch in a worker of the cluster, where this function comes with its code; news go by the topic."""
    import distributed

    from bencher_job._executors.remote import run_batch  # runs where this module need not be imported

    worker = distributed.get_worker()
    (name, tells_begin), key = topic, worker.get_current_task()
    if tells_begin:
        worker.log_event(name, (key,))
    return run_batch(rests, function, lambda ended, begun: worker.log_event(name, (key, ended, begun)))


ONCE_FROM: Final = 1 << 16
"""Size in bytes above which a function is put on the cluster once, and not sent with each job."""

APART_FROM: Final = 4 << 20
"""Size in bytes above which a job's arguments go to a worker straight away, and not by the scheduler."""

MOST_BATCHES: Final = 256
MOST_BYTES: Final = 4 << 20
"""What goes into one graph at most: Dask warns of 10 MB."""

PLACES_SECONDS: Final = 2.0
"""For how long it is taken as known how many jobs the cluster runs at once."""

KEPT_FUNCTIONS: Final = 8
ATTEMPTS: Final = 4
"""How often a job is sent whose function or arguments were lost with a worker."""


class DaskExecutor(FarExecutor):
    """Runs calls on a Dask cluster, of whose client or scheduler's address it is made.

    A client that it was given it leaves open. `options` are Dask's own for each task, as `resources`.

    Raises:
        BencherJobError: when the client can't be used here, or nobody answers at the address.
    """

    def __init__(
        self, cluster: Any, options: Mapping[str, Any] | None = None, *, tells_begin: bool = False
    ) -> None:
        super().__init__()
        self._owns_client = isinstance(cluster, str)
        self._client = client_of(cluster)
        self._options = {**(options or {}), "pure": False}  # each call runs, also one like another
        self._run = ByValue(run_there)
        self._on_cluster: OrderedDict[bytes, Any] = OrderedDict()
        self._pace = Pace()
        self._running: dict[str, Sequence[Task]] = {}
        self._finished: list[tuple[Sequence[Task], Any]] = []
        self._suspects: deque[Task] = deque()
        self._tells_begin = tells_begin
        self._topic = f"bencher_job-{uuid.uuid4().hex}"
        self._client.subscribe_topic(self._topic, self._hear)
        self._places = sum(self._client.nthreads().values()) if self._is_connected() else 0
        self._places_known_until = time.monotonic() + PLACES_SECONDS
        self._inbox: queue.SimpleQueue[Task | bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="bencher_job-dask", daemon=True)
        self._thread.start()

    def packed(self, function: Any, pack: Callable[[], Parcel]) -> Parcel:
        """Pack a call with the code of the user's own modules, which need not be there where it goes."""
        return with_own_modules(function, pack)

    def _send(self, task: Task) -> None:
        self._inbox.put(task)
        task.future.add_done_callback(lambda done: self._pass_on_cancel(task) if done.cancelled() else None)

    def _pass_on_cancel(self, task: Task) -> None:
        try:
            self._client.loop.add_callback(self._cancelled, task)
        except RuntimeError:  # the client is closed
            _take(task)

    def _cancelled(self, task: Task) -> None:
        """Take a job off the cluster, on the client's loop, unless others that are not cancelled go with it."""
        _take(task)
        batch, future = task.sent or ((), None)
        if future is not None and all(each.future.cancelled() for each in batch):
            self._client.loop.add_callback(future.cancel)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait for those that run; the cluster stays."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._inbox.put(None)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()
        if self._owns_client:
            self._client.close()

    @critical
    def _send_all(self) -> None:
        grouping, has_ended = Grouping(self._pace), False
        while not has_ended:
            with contextlib.suppress(queue.Empty):
                item = self._inbox.get(timeout=grouping.patience())
                while True:
                    if isinstance(item, Task):
                        grouping.add(item)
                    elif item is not None:
                        grouping.ended(item)
                    has_ended = has_ended or item is None
                    item = self._inbox.get_nowait()
            batches = grouping.take(time.monotonic(), max(1, self._places_now()), at_once=has_ended)
            while batches:
                self._send_together(_cut_off(batches))

    def _is_connected(self) -> bool:
        return bool(self._client.status == "running")

    def _places_now(self) -> int:
        """Say how many jobs the cluster could run at once when it was last asked, which is not waited for."""
        now = time.monotonic()
        if now > self._places_known_until:
            self._places_known_until = now + PLACES_SECONDS
            self._client.loop.add_callback(self._learn_places)
        return self._places

    async def _learn_places(self) -> None:
        with contextlib.suppress(Exception):  # who is closed or gone is noticed where something is sent
            self._places = sum((await self._client.nthreads()).values())

    def _send_together(self, batches: Sequence[Sequence[Task]]) -> None:
        if not batches:
            return
        if not self._is_connected():  # what is sent would wait for half a minute, and then be lost
            for batch in batches:
                self._fail(batch, CancelledError())
            return
        keys = [f"{_name_of(batch[0].label)}-{uuid.uuid4().hex}" for batch in batches]
        try:
            functions = [self._once(batch[0].parcel.function) for batch in batches]
            rests = [self._apart([task.parcel.rest for task in batch]) for batch in batches]
            topics = [(self._topic, self._tells_begin)] * len(batches)
            futures = self._client.map(self._run, rests, functions, topics, key=keys, **self._options)
        except BaseException as problem:  # noqa: BLE001 - a client that was closed, or is about to be
            for batch in batches:
                self._fail(batch, problem)
            return
        needed = zip(rests, functions, strict=True)
        for batch, key, future, needs in zip(batches, keys, futures, needed, strict=True):
            self._running[key] = batch
            for task in batch:
                task.sent = batch, future
            self._client.loop.add_callback(self._follow, batch, key, future, needs)

    def _apart(self, rests: list[bytes]) -> Any:
        """Put the arguments of one large job on the cluster by themselves."""
        return self._client.scatter(rests, hash=False) if len(rests[0]) > APART_FROM else rests

    def _once(self, function: FunctionBytes) -> Any:
        if len(function.blob) <= ONCE_FROM:
            return function.blob
        there = self._on_cluster.get(function.digest)
        if there is None:
            if self._places_now() == 0:  # the first job may be what makes the cluster start some
                return function.blob
            there = self._on_cluster[function.digest] = self._client.scatter(
                function.blob, broadcast=True, hash=False
            )
            if len(self._on_cluster) > KEPT_FUNCTIONS:
                self._on_cluster.popitem(last=False)
        self._on_cluster.move_to_end(function.digest)
        return there

    async def _follow(self, batch: Sequence[Task], key: str, future: Any, needs: tuple[Any, Any]) -> None:
        """Wait for a batch on the client's loop; `needs` is what must stay on the cluster meanwhile."""
        try:
            problem = await future.exception()
        except BaseException as raised:  # noqa: BLE001 - whatever Dask failed with
            problem = raised
        self._running.pop(key, None)
        self._inbox.put(batch[0].digest)
        for task in batch:
            task.sent = None  # what a task holds of the cluster's stays there
        if problem is not None:
            if isinstance(problem, CancelledError) and not all(
                isinstance(each, bytes | list) for each in needs
            ):
                self._on_cluster.pop(batch[0].digest, None)  # it may have gone with the worker that held it
                self._send_again(batch, problem)
            else:
                self._fail(batch, problem)
        else:
            self._finished.append((batch, future))
            if len(self._finished) == 1:
                self._client.loop.add_callback(self._fetch)
        if self._suspects and batch[0] is self._suspects[0]:
            self._suspects.popleft()
            self._try_next_suspect()

    async def _fetch(self) -> None:
        """Fetch results on the client's loop: what ends while some are fetched is fetched together after them."""
        while group := list(self._finished):
            await self._fetch_together(group)
            del self._finished[: len(group)]

    async def _fetch_together(self, group: Sequence[tuple[Sequence[Task], Any]]) -> None:
        try:
            results = await self._client.gather([future for _, future in group])
            for (batch, _), ended in zip(group, results, strict=True):
                self._end(batch, ended)
                self._back({*range(len(batch))}.difference(place for place, _ in ended), batch)
        except BaseException as problem:  # noqa: BLE001 - one that has been cancelled meanwhile spoils it for all
            batch = group[0][0]
            if len(group) == 1 and isinstance(problem, CancelledError):  # its result has gone with its worker
                self._on_cluster.pop(batch[0].digest, None)
                self._send_again(batch, problem)
            elif len(group) == 1:
                self._fail(batch, problem)
            else:
                for each in group:
                    await self._fetch_together([each])

    def _end(self, batch: Sequence[Task], ended: Sequence[Ended]) -> None:
        """Give the futures of those that have ended their reports, unless they have them."""
        for place, parts in ended:
            task, report = batch[place], Report.of_parts(parts)
            self._pace.note(task.digest, report.seconds)
            if not task.future.done():
                task.end(report)

    def _back(self, places: Iterable[int], batch: Sequence[Task]) -> None:
        """Send jobs anew that a batch has not run; each once, though it is told twice."""
        for place in places:
            task = batch[place]
            if not task.goes_alone and not task.future.done():
                task.goes_alone = True
                self._inbox.put(task)

    def _hear(self, event: tuple[float, tuple[Any, ...]]) -> None:
        """Be told on the client's loop that a batch has begun, or that one of its jobs takes long."""
        _, (key, *stuck) = event
        batch = self._running.get(key)
        if batch is None:
            return
        if not stuck:
            for task in batch:
                _take(task)
            return
        ended, begun = stuck
        self._end(batch, ended)
        self._pace.note(batch[0].digest, STUCK_SECONDS)
        self._back(range(begun + 1, len(batch)), batch)

    def _fail(self, batch: Sequence[Task], problem: BaseException) -> None:
        """End jobs that Dask has lost; where one may be another's victim each runs again."""
        may_run_again = self._is_connected() and (len(batch) > 1 or is_blamed(problem))
        for task in batch:
            if task.future.done() or (task.goes_alone and len(batch) > 1):  # it has been given back
                continue
            if may_run_again and not task.is_suspect:
                self._client.loop.add_callback(self._suspect, task)
            else:
                _end_with(task.future, as_ours(task, problem))

    def _suspect(self, task: Task) -> None:
        """Have a job run once more, on the client's loop, after the other suspects.

        Dask blames each task that is with a worker when that dies, so they must not be there together.
        """
        self._suspects.append(task)
        if len(self._suspects) == 1:
            self._try_next_suspect()

    def _try_next_suspect(self) -> None:
        while self._suspects and self._suspects[0].future.done():
            self._suspects.popleft()
        if self._suspects:
            self._suspects[0].is_suspect = self._suspects[0].goes_alone = True
            self._inbox.put(self._suspects[0])

    def _send_again(self, batch: Sequence[Task], problem: BaseException) -> None:
        """Send jobs anew that are lost with what they needed, but for those that the batch had given back."""
        for task in batch:
            task.deaths += 1
            if task.future.done() or (task.goes_alone and len(batch) > 1):
                continue
            if task.deaths >= ATTEMPTS or not self._is_connected():
                self._fail([task], problem)
            else:
                self._inbox.put(task)


def _take(task: Task) -> None:
    """Let a job's future know, on the client's loop, that the job runs or that it has been cancelled; once."""
    if not task.is_due:
        task.is_due = True
        task.future.set_running_or_notify_cancel()


def _cut_off(batches: list[list[Task]]) -> list[list[Task]]:
    """Take as many from a list of batches as may go into one graph, without those that were cancelled."""
    number, size = 0, 0
    for batch in batches[:MOST_BATCHES]:
        size += sum(len(task.parcel.rest) for task in batch)
        if number and size > MOST_BYTES:
            break
        number += 1
    taken = [[task for task in batch if not task.future.cancelled()] for batch in batches[:number]]
    del batches[:number]
    return list(filter(None, taken))


def _name_of(label: object) -> str:
    """Name a task, which Dask shows by it."""
    function = getattr(label, "function", label)
    return getattr(function, "__name__", None) or type(function).__name__


def _end_with(future: Future[Any], error: BencherJobError) -> None:
    with contextlib.suppress(InvalidStateError):  # it was cancelled meanwhile
        future.set_exception(error)


class DaskEngine(FarEngine[DaskExecutor]):
    """Runs jobs on a Dask cluster, whose workers need not be able to import the caller's own modules."""

    name = "Client"

    def __init__(
        self, cluster: Any, options: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._tells_begin = timeout is not None
        super().__init__(None, _executors)

    def _key(self) -> Hashable:
        cluster = self._cluster if isinstance(self._cluster, str) else id(self._cluster)
        return cluster, repr(self._options), self._tells_begin

    def _make(self) -> DaskExecutor:
        return DaskExecutor(self._cluster, self._options, tells_begin=self._tells_begin)


_executors: Final[SharedExecutors[DaskExecutor]] = SharedExecutors()
