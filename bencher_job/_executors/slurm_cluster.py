"""A Dask scheduler in this process, and workers that are Slurm jobs.

    as much work as the scheduler has -> Adaptive -> sbatch, one for each worker -> the workers connect

A worker ends when it is idle, when its time is over, or by scancel. It is replaced while there is work. All Slurm jobs
of a cluster have one name of their own, by which they are counted, and cancelled when this process ends.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import dask
import distributed
from distributed.deploy import Adaptive
from distributed.diagnostics.plugin import SchedulerPlugin

from .slurm import cluster_options


@contextlib.contextmanager
def _handler_of_sigint_kept() -> Iterator[None]:
    """Ignore that dask_jobqueue sets a handler for SIGINT when it is imported, which only the main thread may do."""
    set_handler = signal.signal
    signal.signal = lambda number, handler: (
        None if number is signal.SIGINT else set_handler(number, handler)
    )
    try:
        yield
    finally:
        signal.signal = set_handler


with _handler_of_sigint_kept():
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

__all__ = ["SlurmCluster", "Submitter", "site_options"]


def site_options() -> Mapping[str, Any]:
    """Return the site's configuration of dask-jobqueue for Slurm."""
    return dict(dask.config.get("jobqueue.slurm"))


ADAPT_EVERY: Final = 1.0
"""Seconds between two counts of the work."""

ASK_EVERY: Final = 30.0
"""Seconds between two questions to Slurm which jobs are left. It is asked at once after a worker has left."""

IDLE_COUNTS: Final = 15
"""After how many counts in a row in which a worker was not needed it ends."""


class Submitter(Protocol):
    """What hears from a cluster, on its event loop."""

    def refused(self, reason: str) -> None:
        """Slurm starts no worker at all."""

    def left(self, key: str) -> None:
        """A task was taken back from a worker that left."""


class SlurmCluster:
    """A scheduler, its client, and the Slurm jobs."""

    def __init__(self, submitter: Submitter, options: Mapping[str, Any], most: int) -> None:
        self.name = f"bencher_job-{uuid.uuid4().hex[:12]}"
        self._workers = SLURMCluster(
            name=self.name,
            job_name=self.name,
            job_cls=_Job,
            scheduler_options={"dashboard_address": None, **site_options()["scheduler-options"]},
            **cluster_options(options, site_options()),
        )
        scheduler = self._workers.scheduler
        scheduler.WORKER_SATURATION = 1.0  # a worker gets no second job while it runs one
        scheduler.allowed_failures = 1_000_000  # `Submitter.left` counts only jobs that had begun
        self._workers.loop.add_callback(scheduler.add_plugin, _TellsLosses(submitter))
        self._watcher = _watch(self.name)
        self._workers.adapt(
            Adaptive=_Adaptive,
            submitter=submitter,
            minimum_jobs=0,
            maximum_jobs=most,
            interval=ADAPT_EVERY,
            wait_count=IDLE_COUNTS,
            target_duration="0.5s",  # what Dask expects of a new function: a worker for each of its first jobs
        )
        self.client = distributed.Client(self._workers, set_as_default=False)

    def close(self) -> None:
        """Cancel all Slurm jobs and stop the scheduler."""
        self.client.close()
        self._workers.close()
        self._watcher.communicate()


class _Job(SLURMJob):
    """One worker's Slurm job. `refusal` is what sbatch said if it refused it."""

    refusal: str | None = None

    async def _submit_job(self, script_filename: str) -> str:
        try:
            return await super()._submit_job(script_filename)
        except (OSError, RuntimeError) as refused:  # raising it would stop the other workers of this round
            self.refusal = str(refused).partition("stderr:")[2].strip() or str(refused)
            return "job 0"


class _Adaptive(Adaptive):
    """Count the work and the workers, and notice which Slurm jobs have ended, or never began."""

    def __init__(self, cluster: Any, submitter: Submitter, maximum: int, **options: Any) -> None:
        super().__init__(cluster, maximum=maximum, **options)
        self._submitter = submitter
        self._most = maximum
        self._ask_at = 0.0
        self._arrived: set[str] = set()

    async def target(self) -> int:
        arrived = set(self.observed)
        jobs = dict(self.cluster.workers)
        is_due = time.monotonic() > self._ask_at
        if jobs and (is_due or self._arrived - arrived or any(job.refusal for job in jobs.values())):
            await self._forget_ended(jobs)
        self._arrived = arrived
        return int(await super().target())

    async def _forget_ended(self, jobs: Mapping[str, _Job]) -> None:
        """Drop the workers whose Slurm job has ended, so that they are replaced if there is work."""
        self._ask_at = time.monotonic() + ASK_EVERY
        try:
            queue = await _Job._call(["squeue", "--noheader", "--format=%A %t", f"--name={self.cluster.name}"])
        except (OSError, RuntimeError):  # Slurm does not answer at the moment
            queue = None
        left = None if queue is None else {line.split()[0] for line in queue.splitlines() if line.split()[1] != "CG"}
        refusals = [job.refusal for job in jobs.values() if job.refusal]
        for name, job in jobs.items():
            if job.refusal or (left is not None and job.job_id not in left):
                self.cluster.workers.pop(name, None)
                self.cluster.worker_spec.pop(name, None)
        self.maximum = max(1, len(self.cluster.workers)) if refusals else self._most
        if refusals and not self.cluster.workers:
            self._submitter.refused(refusals[0])


class _TellsLosses(SchedulerPlugin):
    """Tell which tasks the scheduler took back from workers that left."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    def transition(self, key: str, start: str, finish: str, *_: Any, **__: Any) -> None:
        if start == "processing" and finish == "released":
            self._submitter.left(key)


def _watch(name: str) -> subprocess.Popen[bytes]:
    """Start a process that cancels the Slurm jobs of a name when this process ends, even by `kill -9`.

    It reads a pipe, which the system closes then. A submission that was under way may come a moment later.
    """
    cancel = f"scancel --quiet --name={name}"
    return subprocess.Popen(
        ["sh", "-c", f"cat; {cancel}; sleep 1; {cancel}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
