"""Run jobs on a Dask cluster.

    submit -> inbox -> a thread: batches, many in one graph ~~> Dask's scheduler ~~> a worker: run_on_worker
    future <- opened <- the client's loop <~~ the parts of run results

Dask's scheduler unpickles what it passes on, and may have only Dask and cloudpickle installed. So it gets bytes, and a
function pickled by value.
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
from .base import error_text
from .durations import DurationEstimates
from .engine import SharedExecutors
from .entry import RunResult
from .packing import FunctionBytes, Parcel
from .remote import (
    STUCK_SECONDS,
    ByValue,
    Ended,
    Grouping,
    RemoteEngine,
    RemoteExecutor,
    RemoteTask,
    with_own_modules,
)

__all__ = ["DaskEngine", "DaskExecutor", "as_library_error", "client_of", "is_killed_worker", "run_on_worker"]


def client_of(cluster: Any) -> Any:
    """Return a client: the given one, or a new one for a scheduler's address.

    Raises:
        BencherJobError: if the client cannot be used, or no scheduler answers at the address.
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
            f"executor={cluster!r}: no Dask scheduler answers there, {error_text(problem)}. Start one with "
            f"dask scheduler, and workers with dask worker {cluster}."
        ) from problem


def is_killed_worker(problem: BaseException) -> bool:
    """Whether Dask blames a task for the death of its workers, which another task may have caused."""
    return type(problem).__name__ == "KilledWorker"


def as_library_error(task: RemoteTask, problem: BaseException) -> BencherJobError:
    """Translate Dask's failure to run a task into an error of this library."""
    error: BencherJobError
    if isinstance(problem, WorkerLost):
        return problem
    if isinstance(problem, ModuleNotFoundError):
        error = BencherJobError(
            f"A worker of the Dask cluster has no module {problem.name}, which {task.name} needs there. Install it "
            f"where the workers run."
        )
    else:
        reason = "the scheduler is gone" if isinstance(problem, CancelledError) else error_text(problem)
        error = WorkerLost(f"Dask lost {task.name}: {reason}", job=task.name)
    error.__cause__ = problem
    return error


def run_on_worker(rests: Sequence[bytes], function: bytes, topic: tuple[str, bool]) -> list[Ended]:
    """Run a batch in a Dask worker, which gets this function by value. Report progress as events of the topic."""
    import distributed

    from bencher_job._executors.remote import run_batch  # this function runs without its module

    worker = distributed.get_worker()
    (name, tells_begin), key = topic, worker.get_current_task()
    if tells_begin:
        worker.log_event(name, (key,))
    return run_batch(rests, function, lambda ended, begun: worker.log_event(name, (key, ended, begun)))


ONCE_FROM: Final = 1 << 16
"""Size in bytes above which a function is scattered once, and not sent with each batch."""

APART_FROM: Final = 4 << 20
"""Size in bytes above which a job's arguments are scattered to a worker, and bypass the scheduler."""

MOST_BATCHES: Final = 256
MOST_BYTES: Final = 4 << 20
"""The most batches and bytes in one graph. Dask warns above 10 MB."""

PLACES_SECONDS: Final = 2.0
"""Seconds for which the number of the cluster's threads is cached."""

KEPT_FUNCTIONS: Final = 8
ATTEMPTS: Final = 4
"""How often a job is sent whose function or arguments are lost with workers."""


class DaskExecutor(RemoteExecutor):
    """Run calls on a Dask cluster, given by a client or by the scheduler's address.

    A given client stays open. `options` are Dask's options for each task, such as `resources`.

    Raises:
        BencherJobError: if the client cannot be used, or no scheduler answers at the address.
    """

    def __init__(
        self, cluster: Any, options: Mapping[str, Any] | None = None, *, tells_begin: bool = False
    ) -> None:
        super().__init__()
        self._owns_client = isinstance(cluster, str)
        self._client = client_of(cluster)
        self._options = {**(options or {}), "pure": False}  # equal calls must each run
        self._run = ByValue(run_on_worker)
        self._on_cluster: OrderedDict[bytes, Any] = OrderedDict()
        self._durations = DurationEstimates()
        self._running: dict[str, Sequence[RemoteTask]] = {}
        self._lost: dict[str, WorkerLost] = {}
        """The reason to give for a batch that was cancelled because its workers were lost."""
        self._finished: list[tuple[Sequence[RemoteTask], Any]] = []
        self._suspects: deque[RemoteTask] = deque()
        self._tells_begin = tells_begin
        self._topic = f"bencher_job-{uuid.uuid4().hex}"
        self._client.subscribe_topic(self._topic, self._receive_event)
        self._places = sum(self._client.nthreads().values()) if self._is_connected() else 0
        self._places_known_until = time.monotonic() + PLACES_SECONDS
        self._inbox: queue.SimpleQueue[RemoteTask | bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="bencher_job-dask", daemon=True)
        self._thread.start()

    def packed(self, function: Any, pack: Callable[[], Parcel]) -> Parcel:
        """Pack a call with the code of the user's own modules, which the workers need not have."""
        return with_own_modules(function, pack)

    def _send(self, task: RemoteTask) -> None:
        self._inbox.put(task)
        task.future.add_done_callback(lambda done: self._pass_on_cancel(task) if done.cancelled() else None)

    def _pass_on_cancel(self, task: RemoteTask) -> None:
        try:
            self._client.loop.add_callback(self._cancelled, task)
        except RuntimeError:  # the client is closed
            _mark_running(task)

    def _cancelled(self, task: RemoteTask) -> None:
        """Cancel a job's batch, if all its jobs are cancelled. Runs on the client's loop."""
        _mark_running(task)
        batch, future = task.sent or ((), None)
        if future is not None and all(each.future.cancelled() for each in batch):
            self._client.loop.add_callback(future.cancel)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls and wait for the running ones. The cluster stays."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._inbox.put(None)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()
        if self._owns_client:
            self._client.close()

    @critical
    def _send_all(self) -> None:
        grouping, has_ended = Grouping(self._durations), False
        while not has_ended:
            with contextlib.suppress(queue.Empty):
                item = self._inbox.get(timeout=grouping.patience())
                while True:
                    if isinstance(item, RemoteTask):
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
        """Return how many jobs the cluster runs at once, as last known. Start an update if that is old."""
        now = time.monotonic()
        if now > self._places_known_until:
            self._places_known_until = now + PLACES_SECONDS
            self._client.loop.add_callback(self._learn_places)
        return self._places

    async def _learn_places(self) -> None:
        with contextlib.suppress(Exception):  # sending reports a closed client or a lost scheduler
            self._places = sum((await self._client.nthreads()).values())

    def _send_together(self, batches: Sequence[Sequence[RemoteTask]]) -> None:
        if not batches:
            return
        if not self._is_connected():  # Dask would hold it for half a minute and then drop it
            for batch in batches:
                self._fail(batch, CancelledError())
            return
        keys = [f"{_name_of(batch[0].label)}-{uuid.uuid4().hex}" for batch in batches]
        try:
            functions = [self._once(batch[0].parcel.function) for batch in batches]
            rests = [self._apart([task.parcel.rest for task in batch]) for batch in batches]
            topics = [(self._topic, self._tells_begin)] * len(batches)
            futures = self._client.map(self._run, rests, functions, topics, key=keys, **self._options)
        except BaseException as problem:  # noqa: BLE001 - the client may be closing
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
        """Scatter the arguments of one large job."""
        return self._client.scatter(rests, hash=False) if len(rests[0]) > APART_FROM else rests

    def _once(self, function: FunctionBytes) -> Any:
        if len(function.blob) <= ONCE_FROM:
            return function.blob
        there = self._on_cluster.get(function.digest)
        if there is None:
            if self._places_now() == 0:  # the first job may start the workers
                return function.blob
            there = self._on_cluster[function.digest] = self._client.scatter(
                function.blob, broadcast=True, hash=False
            )
            if len(self._on_cluster) > KEPT_FUNCTIONS:
                self._on_cluster.popitem(last=False)
        self._on_cluster.move_to_end(function.digest)
        return there

    async def _follow(
        self, batch: Sequence[RemoteTask], key: str, future: Any, needs: tuple[Any, Any]
    ) -> None:
        """Wait for a batch on the client's loop. `needs` keeps its data on the cluster until then."""
        try:
            problem = await future.exception()
        except BaseException as raised:  # noqa: BLE001 - Dask raises many types
            problem = raised
        problem = self._lost.pop(key, problem)
        self._running.pop(key, None)
        self._inbox.put(batch[0].digest)
        for task in batch:
            task.sent = None  # release the reference, which keeps data on the cluster
        if problem is not None:
            if isinstance(problem, CancelledError) and not all(
                isinstance(each, bytes | list) for each in needs
            ):
                self._on_cluster.pop(batch[0].digest, None)  # the function may be lost with its worker
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
        """Gather results on the client's loop. Those that arrive in the meantime are gathered together afterwards."""
        while group := list(self._finished):
            await self._fetch_together(group)
            del self._finished[: len(group)]

    async def _fetch_together(self, group: Sequence[tuple[Sequence[RemoteTask], Any]]) -> None:
        try:
            results = await self._client.gather([future for _, future in group])
            for (batch, _), ended in zip(group, results, strict=True):
                self._end(batch, ended)
                self._resubmit({*range(len(batch))}.difference(place for place, _ in ended), batch)
        except BaseException as problem:  # noqa: BLE001 - one cancelled future makes the whole gather fail
            batch = group[0][0]
            if len(group) == 1 and isinstance(problem, CancelledError):  # the result was lost with its worker
                self._on_cluster.pop(batch[0].digest, None)
                self._send_again(batch, problem)
            elif len(group) == 1:
                self._fail(batch, problem)
            else:
                for each in group:
                    await self._fetch_together([each])

    def _end(self, batch: Sequence[RemoteTask], ended: Sequence[Ended]) -> None:
        """Resolve the futures of finished jobs, unless they are done."""
        for place, parts in ended:
            task, run_result = batch[place], RunResult.of_parts(parts)
            self._durations.note(task.digest, run_result.seconds)
            if not task.future.done():
                task.end(run_result)

    def _resubmit(self, places: Iterable[int], batch: Sequence[RemoteTask]) -> None:
        """Resubmit jobs that a batch has not run. Each goes once, even if it is reported twice."""
        for place in places:
            task = batch[place]
            if not task.goes_alone and not task.future.done():
                task.goes_alone = True
                self._inbox.put(task)

    def _receive_event(self, event: tuple[float, tuple[Any, ...]]) -> None:
        """Handle an event, on the client's loop: a batch has begun, or one of its jobs takes long."""
        _, (key, *stuck) = event
        batch = self._running.get(key)
        if batch is None:
            return
        if not stuck:
            for task in batch:
                _mark_running(task)
            return
        ended, begun = stuck
        self._end(batch, ended)
        self._durations.note(batch[0].digest, STUCK_SECONDS)
        self._resubmit(range(begun + 1, len(batch)), batch)

    def _fail(self, batch: Sequence[RemoteTask], problem: BaseException) -> None:
        """Fail lost jobs. If another job may have killed the worker, run each again alone first."""
        may_run_again = self._is_connected() and (len(batch) > 1 or is_killed_worker(problem))
        for task in batch:
            if task.future.done() or (task.goes_alone and len(batch) > 1):  # it was returned, and resubmitted
                continue
            if may_run_again and not task.is_suspect:
                self._client.loop.add_callback(self._suspect, task)
            else:
                _end_with(task.future, as_library_error(task, problem))

    def _suspect(self, task: RemoteTask) -> None:
        """Queue a job to run alone, after the other suspects. Runs on the client's loop.

        Dask blames every task that was on a worker when it died, so suspects must not run at the same time.
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

    def _send_again(self, batch: Sequence[RemoteTask], problem: BaseException) -> None:
        """Resubmit jobs whose data was lost with a worker, except those that the batch has returned."""
        for task in batch:
            task.deaths += 1
            if task.future.done() or (task.goes_alone and len(batch) > 1):
                continue
            if task.deaths >= ATTEMPTS or not self._is_connected():
                self._fail([task], problem)
            else:
                self._inbox.put(task)


def _mark_running(task: RemoteTask) -> None:
    """Mark a job's future as running or notify its cancellation, once. Runs on the client's loop."""
    if not task.is_due:
        task.is_due = True
        task.future.set_running_or_notify_cancel()


def _cut_off(batches: list[list[RemoteTask]]) -> list[list[RemoteTask]]:
    """Remove from `batches` as many as fit in one graph, and return them without cancelled jobs."""
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
    """Return the name under which Dask shows a task."""
    function = getattr(label, "function", label)
    return getattr(function, "__name__", None) or type(function).__name__


def _end_with(future: Future[Any], error: BencherJobError) -> None:
    with contextlib.suppress(InvalidStateError):  # it has been cancelled
        future.set_exception(error)


class DaskEngine(RemoteEngine[DaskExecutor]):
    """Run jobs on a Dask cluster, whose workers need not have the caller's own modules."""

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
