"""Knows how to start a worker process that does not run the caller's script again.

`multiprocessing` lets a spawned process import the parent's `__main__`, which runs a script that has no guard
once more. Functions of `__main__` travel by value here, so the workers do without it.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import context, process, spawn
from typing import Any, Final

__all__ = ["WorkerContext"]


_turn: Final = threading.Lock()
"""Held while a process is started: `multiprocessing` keeps its books for one thread. A fork waits for it, or the child
would find locks of `multiprocessing` held for ever."""

os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_turn.release)

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
        with _turn:
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
