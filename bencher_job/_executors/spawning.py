"""Knows how to start a worker process that does not run the caller's script again.

`multiprocessing` lets a spawned process import the parent's `__main__`, which runs a script that has no guard
once more. Functions of `__main__` travel by value here, so the workers do without it.
"""

from __future__ import annotations

import threading
from multiprocessing import context, process, spawn
from typing import Any, Final

from .._forks import renew_after_fork

__all__ = ["WorkerContext"]


class _Turns:
    """One process is started at a time: `multiprocessing` keeps its books for one thread."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self.lock = threading.Lock()


_turns: Final = _Turns()
_of_this_thread: Final = threading.local()
_preparation_data: Final = spawn.get_preparation_data


def _preparation_data_without_main(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _preparation_data(name)
    if getattr(_of_this_thread, "leaves_main_out", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data_without_main  # others get what they always got


class WorkerProcess(context.SpawnProcess):
    """A spawned process whose `__main__` is not the caller's."""

    def start(self) -> None:
        """Start the process, and keep it out of the list that `multiprocessing` waits for at exit."""
        with _turns.lock:
            super().start()
            process._children.discard(self)  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public does it

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        _of_this_thread.leaves_main_out = True
        try:
            return context.SpawnProcess._Popen(process_obj)  # noqa: SLF001
        finally:
            _of_this_thread.leaves_main_out = False


class WorkerContext(context.SpawnContext):
    """Spawns processes without the caller's `__main__`."""

    Process = WorkerProcess
