"""Run jobs on a Ray cluster.

submit -> RayScheduler: a batch is a task of Ray's ~~> a worker: run_on_worker
future <- RayScheduler <- the parts of run results <~~
       <- that a batch has begun, or that one of its jobs takes long <- mailbox <~~
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from .._errors import BencherJobError
from .._options import Executors
from .engine import EngineSpec, error_text, time_is_over
from .entry import Ended, run_batch
from .remote import Lane, RemoteExecutor, RemoteScheduler
from .scheduler import Task


class Ray(EngineSpec):
    """Run jobs on the Ray cluster that this program is connected to or can join, else on a local one.

    Args:
        num_cpus: the cores that each job reserves, by default 1.
        num_gpus: the GPUs that each job reserves; 0.5 lets two jobs share one.
        resources: other resources that each job reserves, such as `{"large_memory": 1}`.
        options: further options of `ray.remote`, such as `runtime_env` and `label_selector`.
    """

    name = Executors.RAY
    ends_jobs = True

    def __init__(
        self,
        *,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        own = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources}
        super().__init__({name: value for name, value in {**own, **options}.items() if value is not None})

    def new_executor(self, patience: float | None) -> RayExecutor:
        """Connect to Ray."""
        return RayExecutor(self, patience)


Ray.__module__ = "bencher_job"  # the package imports it on first use


def run_on_worker(
    mailbox: Any, key: str, tells_begin: bool, bodies: Sequence[bytes], *functions: Any
) -> list[Ended]:
    """Run a batch in a Ray worker. Report progress to the mailbox."""
    if tells_begin:
        mailbox.put.remote((key,))
    return run_batch(bodies, functions, lambda ended, begun: mailbox.put.remote((key, ended, begun)))


class _Mailbox:
    """What the workers have reported. Runs as an actor of Ray's."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def put(self, letter: tuple[Any, ...]) -> None:
        self._letters.put_nowait(letter)

    async def get(self) -> list[tuple[Any, ...]]:
        letters = [await self._letters.get()]
        while not self._letters.empty():
            letters.append(self._letters.get_nowait())
        return letters


def _connected_ray() -> Any:
    """Return the module, connected to the cluster of this program, to a running one, or to a new local one.

    Raises:
        BencherJobError: if Ray is not installed, or cannot be reached.
    """
    try:
        import ray
    except ImportError as missing:
        raise BencherJobError(
            "executor=RAY needs the package ray, which is not installed. Run pip install 'bencher_job[ray]'."
        ) from missing
    if not ray.is_initialized():
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level="warning", include_dashboard=False)
        except Exception as problem:
            raise BencherJobError(
                f"executor=RAY can't connect to Ray: {error_text(problem)}. Start a cluster with ray start --head, or "
                f"give the address of one in RAY_ADDRESS."
            ) from problem
        finally:
            if before is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray has replaced it
    return ray


class RayScheduler(RemoteScheduler):
    """The batches that a Ray cluster has."""

    title = "Ray"
    remedy = "Add nodes that have what each job reserves, or reserve less"
    where_to_install = ", or give Ray(runtime_env={'pip': [...]})"
    ends_jobs = True

    def __init__(self, spec: Ray, patience: float | None) -> None:
        super().__init__(patience)
        self._ray = ray = _connected_ray()
        self._needs = {"num_cpus": 1, **spec.options}
        try:
            self._remote_run = ray.remote(run_on_worker).options(**self._needs, max_retries=0)
        except (TypeError, ValueError) as problem:
            raise BencherJobError(f"executor={spec!r} can't be used: {error_text(problem)}") from problem
        self._begin()
        self._open_mailbox()

    def _open_mailbox(self) -> None:
        self._mailbox = self._ray.remote(_Mailbox).options(num_cpus=0, max_concurrency=1000).remote()
        self._await_letters()

    def _await_letters(self) -> None:
        future = self._mailbox.get.remote().future()
        future.add_done_callback(lambda done: self.call(self._read, done))

    def _read(self, letters: Any) -> None:
        if letters.exception() is not None:
            if self._ray.is_initialized():  # the mailbox was lost with its node
                self._open_mailbox()
            return
        for letter in letters.result():
            self._progress(*letter)
        self._await_letters()

    def _close(self) -> None:
        super()._close()
        with contextlib.suppress(Exception):  # Ray may have been shut down
            self._ray.kill(self._mailbox)

    def _learn_places(self) -> None:
        with contextlib.suppress(Exception):  # a batch reports that Ray is gone
            self._places = self._count_places(self._ray.cluster_resources())

    def _count_places(self, there: Mapping[str, float]) -> int:
        """Return how many jobs fit into the resources of the cluster."""
        needs = {"CPU": self._needs["num_cpus"], "GPU": self._needs.get("num_gpus", 0)}
        needs |= self._needs.get("resources", {})
        return int(min((there.get(name, 0) / number for name, number in needs.items() if number), default=1))

    def _send(self, lane: Lane, tasks: Sequence[Task]) -> None:
        self._enter(lane, tasks, uuid.uuid4().hex)
        is_timed = any(task.timeout is not None for task in tasks)
        try:
            bodies = [bytes(task.parcel.body.stream) for task in tasks]
            functions = [self._once(task.parcel.function) for task in tasks]
            lane.future = self._remote_run.remote(self._mailbox, lane.key, is_timed, bodies, *functions)
            future = lane.future.future()
        except Exception as problem:  # noqa: BLE001 - Ray may have been shut down
            self._fail_batch(lane, problem)
            return
        future.add_done_callback(lambda done: self.call(self._end_or_fail, lane, done))

    def _put_on_cluster(self, pickled: Any) -> Any:
        return self._ray.put(pickled)

    def _end_or_fail(self, lane: Lane, done: Any) -> None:
        problem = done.exception()
        if problem is None:
            self._end_batch(lane, done.result())
        else:
            self._fail_batch(lane, problem)

    def _fail_batch(self, lane: Lane, problem: BaseException) -> None:
        """Fail a lost job. Of several, each runs again alone, because any of them may have killed the worker."""
        tasks = self._closed(lane)
        if len(tasks) > 1:
            for task in tasks:
                task.goes_alone = True
            self._put_back(tasks)
        else:
            for task in tasks:
                self._finish_lost(task, problem)

    def _stop(self, lane: Lane) -> None:
        with contextlib.suppress(Exception):  # Ray may have been shut down
            self._ray.cancel(lane.future, force=True)

    def _end(self, future: Future[Any], verdict: BaseException) -> None:
        """End a job with its worker. Others of its batch go elsewhere."""
        lane = self._lanes.get(self._key_of.get(future, ""))
        if lane is None:
            super()._end(future, verdict)
            return
        self._stop(lane)
        tasks = self._closed(lane)
        self._finished += [(task, verdict) for task in tasks if task.future is future]
        self._put_back([task for task in tasks if task.future is not future])

    def _deadline(self, lane: Lane) -> float:
        """Return when the present job of a batch must have ended, as far as is known."""
        task = lane.oldest[1] if lane.oldest else None
        if task is None or task.timeout is None or lane.begun is None:
            return math.inf
        return lane.begun + task.timeout

    def _ask_what_runs(self) -> None:
        self._note_what_runs(self._places_now() > 0)

    def _next_check(self, now: float) -> float:
        return min([super()._next_check(now), *map(self._deadline, self._lanes.values())])

    def _look_after_workers(self, now: float) -> None:
        super()._look_after_workers(now)
        for lane in [lane for lane in self._lanes.values() if self._deadline(lane) <= now]:
            task = next(iter(lane.tasks.values()))
            self._end(task.future, time_is_over(task.label, task.timeout or 0.0))


class RayExecutor(RemoteExecutor):
    """Run calls on a Ray cluster.

    Raises:
        BencherJobError: if Ray is not installed, cannot be reached, or does not take the options.
    """

    def __init__(self, spec: Ray, patience: float | None = None) -> None:
        super().__init__(RayScheduler(spec, patience))
