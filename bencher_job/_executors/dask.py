"""Knows Dask from within, at its client and in its workers, and is the only importer of distributed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from .._errors import BencherJobError, WorkerLost
from .base import told
from .batches import Ended
from .far import Task

__all__ = ["as_ours", "client_of", "is_blamed", "run_there"]


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

    from bencher_job._executors.batches import run_batch  # runs where this module need not be imported

    worker = distributed.get_worker()
    (name, tells_begin), key = topic, worker.get_current_task()
    if tells_begin:
        worker.log_event(name, (key,))
    return run_batch(rests, function, lambda ended, begun: worker.log_event(name, (key, ended, begun)))
