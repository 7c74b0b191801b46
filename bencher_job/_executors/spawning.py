"""Knows how to start a worker process that does not run the caller's script again.

`multiprocessing` lets a spawned process import the parent's `__main__`, which runs a script that has no guard
once more. Functions of `__main__` travel by value here, so the workers do without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing import context, process, spawn
from multiprocessing.process import BaseProcess
from typing import Any, Final

from .settings import StartMethod

__all__ = ["new_process"]


class _Turn:
    """Held while a process is started: `multiprocessing` keeps its books for one thread.

    A fork waits for it, or the child would find locks of `multiprocessing` held for ever; only a fork that itself
    starts a worker goes on.
    """

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(before=self.acquire, after_in_parent=self.release, after_in_child=self.renew)

    def renew(self) -> None:
        self._lock = threading.RLock()

    def acquire(self) -> None:
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


_turn: Final = _Turn()

_of_this_thread: Final = threading.local()
_preparation_data: Final = spawn.get_preparation_data


def _preparation_data_without_main(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _preparation_data(name)
    if getattr(_of_this_thread, "leaves_main_out", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data_without_main  # others get what they always got


class _WithoutMain(BaseProcess):
    """A process whose `__main__` is not the caller's, and that `multiprocessing` doesn't wait for at exit."""

    def start(self) -> None:
        """Start the process."""
        _turn.acquire()
        _of_this_thread.leaves_main_out = True
        try:
            super().start()
            process._children.discard(self)  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public does it
        finally:
            _of_this_thread.leaves_main_out = False
            _turn.release()


class SpawnedWorker(_WithoutMain, context.SpawnProcess):
    """A worker in a new interpreter."""


class ForkServedWorker(_WithoutMain, context.ForkServerProcess):
    """A worker that a process forks which has nothing but this for its work."""


class ForkedWorker(_WithoutMain, context.ForkProcess):
    """A worker that begins as a copy of this process."""


_KINDS: Final[dict[str, type[_WithoutMain]]] = {
    "spawn": SpawnedWorker,
    "forkserver": ForkServedWorker,
    "fork": ForkedWorker,
}


def new_process(
    method: StartMethod, target: Callable[..., None], args: tuple[Any, ...], name: str
) -> BaseProcess:
    """Make a process that is not started yet."""
    return _KINDS[method](target=target, args=args, name=name)
