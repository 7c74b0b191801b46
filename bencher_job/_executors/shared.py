"""Knows the executors that users with the same settings share: made for the first of them, ended with the last."""

from __future__ import annotations

import concurrent.futures
import threading
from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .._forks import renew_after_fork
from .engine import Engine

__all__ = ["SharedEngine", "SharedExecutors"]

E = TypeVar("E", bound=concurrent.futures.Executor)


class SharedExecutors(Generic[E]):
    """Executors of one kind, by their settings, and how many use each."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have none, as in a forked child, whose parent has the workers."""
        self._lock = threading.Lock()
        self._shared: dict[Hashable, tuple[E, int]] = {}

    def acquire(self, settings: Hashable, make: Callable[[], E]) -> E:
        """Give the executor of these settings, made if nobody uses one yet."""
        with self._lock:
            executor, users = self._shared.get(settings) or (make(), 0)
            self._shared[settings] = executor, users + 1
            return executor

    def release(self, settings: Hashable, executor: E) -> None:
        """Give an executor back, which ends with its last user."""
        with self._lock:
            shared, users = self._shared.get(settings, (None, 0))
            if shared is not executor:
                return
            if users > 1:
                self._shared[settings] = executor, users - 1
                return
            del self._shared[settings]
        executor.shutdown()


class SharedEngine(Engine, Generic[E]):
    """Runs jobs on an executor that it shares with others, or on one that its user made and keeps."""

    def __init__(self, adopted: E | None, among: SharedExecutors[E]) -> None:
        super().__init__()
        self._adopted = adopted
        self._among = among
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Be without a shared executor, as a forked child is: it is its parent's."""
        self._lock = threading.Lock()
        self._shared: E | None = None

    @abstractmethod
    def _make(self) -> E: ...

    @abstractmethod
    def _key(self) -> Hashable:
        """What is the same for all who share an executor."""

    @property
    def executor(self) -> E:
        """The executor, shared by all that want the same and made when the first of them asks."""
        if self._adopted is not None:
            return self._adopted
        shared = self._shared
        if shared is None:
            with self._lock:
                if self._shared is None:
                    self._shared = self._among.acquire(self._key(), self._make)
                shared = self._shared
        return shared

    def release(self) -> None:
        """Give the shared executor back, which ends with its last user."""
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            self._among.release(self._key(), shared)
