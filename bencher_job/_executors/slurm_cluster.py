"""A program that runs a Dask scheduler and starts its workers by Slurm, as long as its standard input stays open.

    stdin: options as JSON                         stdout: the scheduler's address as JSON
    the work that the scheduler has -> Adaptive -> sbatch, one for each worker -> the workers connect
    a worker that left with a task, a refusal of sbatch -> events of TOPIC -> the client

A worker ends when it is idle, when its time is over, or by scancel, and is replaced while there is work. When the
program that submits ends, even by `kill -9`, its end of the pipe closes, and this program cancels the Slurm jobs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import dask
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed.deploy import Adaptive
from distributed.diagnostics.plugin import SchedulerPlugin

from .engine import error_text
from .slurm import LEFT, REFUSED, TOPIC, cluster_options

ADAPT_EVERY: Final = 1.0
"""Seconds between two counts of the work."""

ASK_EVERY: Final = 30.0
"""Seconds between two questions to Slurm which jobs are left. It is asked at once after a worker has left."""

IDLE_COUNTS: Final = 15
"""A worker that was not needed in so many counts ends."""


class _Job(SLURMJob):  # type: ignore[misc]
    """One worker's Slurm job. `refusal` is what sbatch said if it refused it."""

    refusal: str | None = None

    async def _submit_job(self, script_filename: str) -> str:
        try:
            return str(await super()._submit_job(script_filename))
        except (OSError, RuntimeError) as refused:  # raising it would stop the other workers of this round
            self.refusal = str(refused).partition("stderr:")[2].strip() or str(refused)
            return "job 0"


async def _asked(*command: str) -> str:
    """Run one of Slurm's commands, and return its output."""
    return str(await SLURMJob._call(command))  # noqa: SLF001 - no other way keeps the event loop free as simply


class _Adaptive(Adaptive):  # type: ignore[misc]
    """Count the work and the workers, and notice Slurm jobs that have ended or never began."""

    def __init__(self, cluster: Any, maximum: int, **options: Any) -> None:
        super().__init__(cluster, maximum=maximum, **options)
        self._most = maximum
        self._ask_at = 0.0
        self._arrived: set[str] = set()

    async def target(self) -> int:
        arrived, jobs = set(self.observed), dict(self.cluster.workers)
        has_lost = bool(self._arrived - arrived) or any(job.refusal for job in jobs.values())
        if jobs and (has_lost or time.monotonic() > self._ask_at):
            await self._forget_ended(jobs)
        self._arrived = arrived
        return int(await super().target())

    async def _forget_ended(self, jobs: Mapping[str, _Job]) -> None:
        """Drop the workers whose Slurm job has ended, so that they are replaced if there is work."""
        self._ask_at = time.monotonic() + ASK_EVERY
        try:
            lines = await _asked("squeue", "--noheader", "--format=%A %t", f"--name={self.cluster.name}")
        except (OSError, RuntimeError):  # Slurm does not answer at the moment
            left = {job.job_id for job in jobs.values()}
        else:
            left = {line.split()[0] for line in lines.splitlines() if not line.endswith("CG")}  # completing
        refusals = [job.refusal for job in jobs.values() if job.refusal]
        for name, job in jobs.items():
            if job.refusal or job.job_id not in left:
                self.cluster.workers.pop(name, None)
                self.cluster.worker_spec.pop(name, None)
        # A limit on jobs is no reason to ask again every second.
        self.maximum = max(1, len(self.cluster.workers)) if refusals else self._most
        if refusals and not self.cluster.workers:
            self.cluster.scheduler.log_event(TOPIC, (REFUSED, refusals[0]))


class _TellsLosses(SchedulerPlugin):  # type: ignore[misc]
    """Report tasks that the scheduler took back from workers that left."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def transition(self, key: str, start: str, finish: str, *_: Any, **__: Any) -> None:
        task = self._scheduler.tasks.get(key)
        if (start, finish) == ("processing", "released") and task is not None and task.who_wants:
            self._scheduler.log_event(TOPIC, (key, LEFT))


def _start(options: Mapping[str, Any], most: int) -> tuple[Any, str]:
    """Start the scheduler. Return the cluster and the time limit of its workers."""
    name = f"bencher_job-{uuid.uuid4().hex[:12]}"

    def site(option: str) -> Any:
        return dask.config.get(f"jobqueue.slurm.{option}")

    cluster = SLURMCluster(
        name=name,
        job_name=name,
        job_cls=_Job,
        scheduler_options={"dashboard_address": "127.0.0.1:0", **site("scheduler-options")},
        **cluster_options(options, site),
    )
    cluster.scheduler.WORKER_SATURATION = 1.0  # a worker gets no second job while it runs one
    cluster.scheduler.allowed_failures = sys.maxsize  # the client counts, and only jobs that had begun
    cluster.loop.add_callback(cluster.scheduler.add_plugin, _TellsLosses(cluster.scheduler))
    cluster.adapt(
        Adaptive=_Adaptive,
        minimum_jobs=0,
        maximum_jobs=most,
        interval=ADAPT_EVERY,
        wait_count=IDLE_COUNTS,
        target_duration="0.5s",  # what Dask expects of a new function, so that each first job gets a worker
    )
    return cluster, str(options.get("time") or site("walltime"))


def main() -> None:
    """Run until standard input ends."""
    try:
        cluster, limit = _start(*json.loads(sys.stdin.readline()))
    except Exception as problem:  # noqa: BLE001 - the submitting program raises it
        print(json.dumps({"error": error_text(problem)}), flush=True)
        return
    print(json.dumps({"address": cluster.scheduler_address, "time": limit}), flush=True)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit()
    )  # of Slurm, if the submitting program is a job itself
    try:
        sys.stdin.read()
    finally:
        subprocess.run(["scancel", "--quiet", f"--name={cluster.name}"], check=False)  # noqa: S603, S607 - Slurm's own
        cluster.close()  # also what was being submitted


if __name__ == "__main__":
    main()
