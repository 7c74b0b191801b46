"""Knows the executors that users with the same settings share: made for the first of them, ended with the last."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .._forks import renew_after_fork
from .engine import Engine

__all__ = ["SharedEngine", "SharedExecutors"]

E = TypeVar("E", bound=concurrent.futures.Executor)


class SharedExecutors(Generic[E]):
    """Executors of one kind, by their settings, and how many use each.

    Attributes:
        end_unasked: whether one ends with its last user, even if that is dropped without giving it back.
    """

    def __init__(self, *, end_unasked: bool = False) -> None:
        self.end_unasked = end_unasked
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have none, as in a forked child, whose parent has the workers."""
        self._lock = threading.Lock()
        self._shared: dict[Hashable, tuple[E, int]] = {}
        self._dropped: deque[tuple[Hashable, E]] = deque()

    def acquire(self, settings: Hashable, make: Callable[[], E]) -> E:
        """Give the executor of these settings, made if nobody uses one yet."""
        with self._lock:
            executor, users = self._shared.get(settings) or (make(), 0)
            self._shared[settings] = executor, users + 1
        self._release_dropped()
        return executor

    def release(self, settings: Hashable, executor: E) -> None:
        """Give an executor back, which ends with its last user."""
        with self._lock:
            is_last = self._is_last(settings, executor)
        if is_last:
            executor.shutdown()
        self._release_dropped()

    def drop(self, settings: Hashable, executor: E) -> None:
        """Give an executor back in a finalizer, which may interrupt any thread, even one that holds the lock."""
        self._dropped.append((settings, executor))
        self._release_dropped()

    def _release_dropped(self) -> None:
        """Give back what was dropped, unless a thread holds the lock, which then does it."""
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                settings, executor = self._dropped.popleft()
                is_last = self._is_last(settings, executor)
            except IndexError:  # another thread has given it back
                continue
            finally:
                self._lock.release()
            if is_last:
                executor.shutdown(wait=False)

    def _is_last(self, settings: Hashable, executor: E) -> bool:
        """Count a user less; whether it was the last one."""
        shared, users = self._shared.get(settings, (None, 0))
        if shared is not executor:
            return False
        if users > 1:
            self._shared[settings] = executor, users - 1
            return False
        del self._shared[settings]
        return True


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
        self._end: weakref.finalize[..., SharedEngine[E]] | None = None

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
                    key = self._key()
                    self._shared = self._among.acquire(key, self._make)
                    if self._among.end_unasked:
                        self._end = weakref.finalize(self, self._among.drop, key, self._shared)
                        self._end.atexit = False
                shared = self._shared
        return shared

    def release(self) -> None:
        """Give the shared executor back, which ends with its last user."""
        with self._lock:
            shared, self._shared = self._shared, None
            if self._end is not None:
                self._end.detach()
        if shared is not None:
            self._among.release(self._key(), shared)
