"""Run jobs on a Dask cluster.

    submit -> DaskScheduler: batches, many in one graph ~~> Dask's scheduler ~~> a worker: run_on_worker
    future <- DaskScheduler <- the client's loop <~~ the parts of run results

Dask's scheduler unpickles what it passes on, and may have only Dask and cloudpickle installed. So it gets bytes, and a
function pickled by value.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final

from .._errors import BencherJobError
from .engine import error_text
from .entry import Ended
from .pickling import by_value, dumps
from .remote import ONCE_FROM, Lane, RemoteExecutor, RemoteScheduler
from .scheduler import Task


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


def run_on_worker(bodies: Sequence[bytes], functions: Sequence[Any], topic: tuple[str, bool]) -> list[Ended]:
    """Run a batch in a Dask worker, which gets this function by value. Report progress as events of the topic."""
    import distributed

    from bencher_job._executors.entry import run_batch  # this function runs without its module

    worker = distributed.get_worker()
    (name, tells_begin), key = topic, worker.get_current_task()
    if tells_begin:
        worker.log_event(name, (key,))
    return run_batch(bodies, functions, lambda ended, begun: worker.log_event(name, (key, ended, begun)))


class _ByValue:
    """A function that is pickled by value."""

    def __init__(self, function: Callable[..., Any]) -> None:
        with by_value(sys.modules[function.__module__]):
            self._blob = dumps(function)
        self.__name__ = function.__name__

    def __call__(self, *_args: Any) -> Any:
        raise TypeError(f"{self.__name__} runs on the cluster, not here.")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._blob,)


APART_FROM: Final = 4 << 20
"""Size in bytes above which a job's arguments are scattered to a worker, and bypass the scheduler."""

MOST_BATCHES: Final = 256
MOST_BYTES: Final = 4 << 20
"""The most batches and bytes in one graph. Dask warns above 10 MB."""

RECONNECT_SECONDS: Final = 120.0
"""Seconds that jobs wait by default for a lost connection to the scheduler."""

TRY_SECONDS: Final = 2.0
"""Seconds between two tries of the scheduler's port while the connection is cut."""

ATTEMPTS: Final = 4
"""How often a job is sent whose function or arguments are lost with workers."""


class DaskScheduler(RemoteScheduler):
    """The batches that a Dask cluster has."""

    title = "Dask"
    remedy = (
        "Start workers with dask worker and the scheduler's address, with the resources that the jobs ask for"
    )

    def __init__(
        self,
        client: Any,
        options: Mapping[str, Any],
        patience: float | None,
        *,
        tells_begin: bool,
        owns_client: bool,
    ) -> None:
        super().__init__(patience)
        self._client = client
        self._options = options
        self._owns_client = owns_client
        self._run_on_worker = _ByValue(run_on_worker)
        self._outgoing: list[Lane] = []
        self._suspects: deque[Task] = deque()
        self._topic = f"bencher_job-{uuid.uuid4().hex}", tells_begin
        self._cut_off_since: float | None = None
        self._try_at = 0.0
        if owns_client:  # how long it tries to reconnect
            self._client._timeout = max(self._client._timeout, self._reconnects_for)  # noqa: SLF001 - no other way
        self._subscribe()
        self._places = sum(self._client.nthreads().values()) if self._is_connected() else 0
        self._begin()

    def _close(self) -> None:
        super()._close()
        if self._owns_client:
            self._client.close()

    def _has_ended(self) -> bool:
        return not self._suspects and super()._has_ended()

    def _fail(self, reason: str) -> None:
        self.waiting.extend(list(self._suspects)[1:])  # the first one has been put back
        super()._fail(reason)

    def _subscribe(self) -> None:
        self._client.subscribe_topic(self._topic[0], self._receive_event)

    @property
    def _reconnects_for(self) -> float:
        """How many seconds to wait for a lost connection."""
        return RECONNECT_SECONDS if self._patience is None else self._patience

    def _may_reconnect(self) -> bool:
        """Whether a lost connection has come back or may. It will not if the machine refuses to connect."""
        if self._client.status != "connecting":
            return self._is_connected()
        host, _, port = self._client.scheduler.address.rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
        except ConnectionRefusedError:
            return False
        except (OSError, ValueError):
            return True
        return True

    def _candidates(self) -> Iterator[Lane]:
        if self._cut_off_since is not None and self._client.status == "connecting":
            return iter(())
        if self._cut_off_since is not None and self._is_connected():
            self._cut_off_since = None
            self._subscribe()
        return super()._candidates()

    def _look_after_workers(self, now: float) -> None:
        if self._cut_off_since is None:
            super()._look_after_workers(now)
        elif now - self._cut_off_since > self._reconnects_for:
            self._lose_all("the connection to the scheduler was lost")
        elif now > self._try_at:
            if not self._may_reconnect():  # which may not be known at once
                self._lose_all("the scheduler is gone")
            self._try_at = time.monotonic() + TRY_SECONDS  # a try may take a second

    def _ask_what_runs(self) -> None:
        self._on_loop(self._learn_what_runs)

    async def _learn_what_runs(self) -> None:
        with contextlib.suppress(Exception):  # sending reports a closed client or a lost scheduler
            processing = await self._client.scheduler.processing(workers=None)
            keys = {key for keys in processing.values() for key in keys}
            self.call(self._note_what_runs, not keys.isdisjoint(self._lanes))

    def _is_connected(self) -> bool:
        return bool(self._client.status == "running")

    def _learn_places(self) -> None:
        self._on_loop(self._count_places)

    async def _count_places(self) -> None:
        with contextlib.suppress(Exception):  # sending reports a closed client or a lost scheduler
            self._places = sum((await self._client.nthreads()).values())

    def _on_loop(self, act: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the client is closed
            self._client.loop.add_callback(act, *args)

    def _stop(self, lane: Lane) -> None:
        self._on_loop(lane.future.cancel)

    # Sending

    def _feed(self) -> None:
        super()._feed()
        while self._outgoing:
            number, size = 0, 0
            for lane in self._outgoing[:MOST_BATCHES]:
                size += sum([task.parcel.body.nbytes for task in lane.tasks.values()])
                if number and size > MOST_BYTES:
                    break
                number += 1
            lanes, self._outgoing = self._outgoing[:number], self._outgoing[number:]
            self._send_together(lanes)

    def _send(self, lane: Lane, tasks: Sequence[Task]) -> None:
        self._enter(lane, tasks, f"{_name_of(tasks[0].label)}-{uuid.uuid4().hex}")
        self._outgoing.append(lane)

    def _send_together(self, lanes: Sequence[Lane]) -> None:
        """Send batches in one graph."""
        if not self._is_connected():  # Dask would hold them for half a minute and then drop them
            for lane in lanes:
                self._fail_batch(lane, CancelledError())
            return
        bodies, functions = [], []
        try:
            for lane in lanes:
                tasks = list(lane.tasks.values())
                bodies.append([task.parcel.body.stream for task in tasks])
                if len(bodies[-1][0]) > APART_FROM:  # one large job
                    bodies[-1] = self._client.scatter(bodies[-1], hash=False)
                    lane.may_go_again = True
                functions.append(self._functions_of(lane, tasks))
            topics, keys = [self._topic] * len(lanes), [lane.key for lane in lanes]
            futures = self._client.map(
                self._run_on_worker, bodies, functions, topics, key=keys, **self._options
            )
            for lane, body, used, future in zip(lanes, bodies, functions, futures, strict=True):
                lane.future = future
                lane.needs = body, *used
                self._client.loop.add_callback(self._follow, lane)
        except BaseException as problem:  # noqa: BLE001 - the client may be closing
            for lane in lanes:
                self._fail_batch(lane, problem)

    def _functions_of(self, lane: Lane, tasks: Sequence[Task]) -> list[Any]:
        """Return the function of each task, or one function if they have the same."""
        used = {task.digest: task.parcel.function for task in tasks}
        lane.may_go_again |= any(sent.payload.nbytes > ONCE_FROM for sent in used.values())
        sent = {digest: self._once(function) for digest, function in used.items()}
        return [sent[task.digest] for task in (tasks if len(sent) > 1 else tasks[:1])]

    def _put_on_cluster(self, pickled: Any) -> Any:
        return self._client.scatter([pickled], broadcast=True, hash=False)[0]

    # On the client's loop

    async def _follow(self, lane: Lane) -> None:
        """Wait for a batch, and fetch its results."""
        try:
            problem = await lane.future.exception()
            if problem is None:
                lane.may_go_again = True  # its results may be lost with their worker
                (ended,) = await self._client.gather([lane.future])
                self.call(self._end_batch, lane, ended)
                return
        except BaseException as raised:  # noqa: BLE001 - Dask raises many types
            problem = raised
        self.call(self._fail_batch, lane, problem)

    def _receive_event(self, event: tuple[float, tuple[Any, ...]]) -> None:
        _, content = event
        self.call(self._progress, *content)

    # On the scheduler's thread

    def _fail_batch(self, lane: Lane, problem: BaseException) -> None:
        """Fail lost jobs. If another job may have killed the worker, run each again alone first."""
        tasks = self._closed(lane)
        if getattr(problem, "reason", "") == "scheduler-connection-lost" and self._may_wait():
            self._put_back(tasks)
            return
        # Dask blames a task for the death of its workers, which another task may have caused.
        is_shared = len(tasks) > 1 or type(problem).__name__ == "KilledWorker"
        for task in tasks:
            task.deaths += 1
            if not self._is_connected():
                self._finish_lost(task, problem)
            elif isinstance(problem, CancelledError) and lane.may_go_again and task.deaths < ATTEMPTS:
                self._on_cluster.pop(task.digest, None)  # the data may be lost with its worker
                self._put_back([task])
            elif is_shared and task not in self._suspects:
                self._suspects.append(task)
                task.goes_alone = True
                if len(self._suspects) == 1:
                    self._put_back([task])
            else:
                self._finish_lost(task, problem)

    def _may_wait(self) -> bool:
        """Whether the jobs of a lost connection may wait for another."""
        if self._cut_off_since is None and self._may_reconnect():
            self._cut_off_since = time.monotonic()
            self._on_cluster.clear()
        return self._cut_off_since is not None

    def _resolve(self) -> None:
        """Resolve futures. When the suspect of a worker's death has ended, the next one runs.

        Dask blames every task that was on a worker when it died, so suspects must not run at the same time.
        """
        super()._resolve()
        while self._suspects and self._suspects[0].future.done():
            self._suspects.popleft()
            if self._suspects and not self._suspects[0].future.done():
                self._put_back([self._suspects[0]])


class DaskExecutor(RemoteExecutor):
    """Run calls on a Dask cluster, given by a client or by the scheduler's address.

    A given client stays open. `options` are Dask's options for each task, such as `resources`.

    Raises:
        BencherJobError: if the client cannot be used, or no scheduler answers at the address.
    """

    def __init__(
        self,
        cluster: Any,
        options: Mapping[str, Any] | None = None,
        *,
        tells_begin: bool = False,
        patience: float | None = None,
    ) -> None:
        self._client = client_of(cluster)
        options = {**(options or {}), "pure": False}  # equal calls must each run
        owns = isinstance(cluster, str)
        scheduler = DaskScheduler(self._client, options, patience, tells_begin=tells_begin, owns_client=owns)
        super().__init__(scheduler)


def _name_of(label: object) -> str:
    """Return the name under which Dask shows a task."""
    function = getattr(label, "function", label)
    return getattr(function, "__name__", None) or type(function).__name__
