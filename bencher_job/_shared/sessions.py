"""Sessions: the leases of one process, and the heartbeat that keeps them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable
from typing import Final

from .._processes import renew_after_fork
from .base import LEASE_SECONDS, RemoteLease, Unreachable

_BEATS_PER_LEASE: Final = 4


class Session:
    """What this process has leased in one remote.

    A session that was silent for longer than a lease, as that of a stopped process, is given up: others may have
    taken its leases over. The next lease belongs to a new one.

    Attributes:
        name: unique among all machines.
        host: the name of this machine.
        held: the leases, by address.
        seconds: how long a lease outlives the last heartbeat.
        pause: seconds between two heartbeats.
        beaten: when the last heartbeat was sent, by the monotonic clock; None if others can't have heard of it.
    """

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self.seconds = seconds
        self.pause = seconds / _BEATS_PER_LEASE
        self.host = os.uname().nodename
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin a new session without leases, as in a forked child."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self.start_over()

    def start_over(self) -> None:
        """Drop all leases, and start a new session."""
        with self._lock:
            self.name = uuid.uuid4().hex
            self.held: dict[str, RemoteLease] = {}
            self.beaten: float | None = None

    @property
    def silent(self) -> float:
        """Seconds since the last heartbeat of a session that others may have heard of; 0 of another one."""
        return 0.0 if self.beaten is None else time.monotonic() - self.beaten

    @property
    def has_lapsed(self) -> bool:
        """Whether others may take this session for dead."""
        return self.silent > self.seconds

    def hold(self, leases: Iterable[RemoteLease], remote: SessionRemote) -> None:
        """Add new leases, and have a thread call `remote.renew()` as long as there are some and it is in use."""
        with self._lock:
            self.held.update({each.address: each for each in leases})
            if self._thread is None or not self._thread.is_alive():
                beat = threading.Thread(
                    target=_beat,
                    args=[weakref.ref(remote), self.pause, self._end],
                    name="bencher_job heartbeat",
                    daemon=True,
                )
                try:
                    beat.start()
                    self._thread = beat
                except RuntimeError:  # the interpreter is ending
                    pass

    def drop(self, addresses: Iterable[str]) -> list[RemoteLease]:
        """Forget leases, and return them."""
        with self._lock:
            return [self.held.pop(each) for each in list(addresses) if each in self.held]

    def stop_beating(self) -> None:
        """End the thread."""
        with self._lock:
            self._end.set()
            self._end = threading.Event()
            self._thread = None


class SessionRemote:
    """A remote with a session.

    Attributes:
        place: the URL or path.
    """

    def __init__(self, place: str, *, mark: bytes, read_only: bool, lease_seconds: float) -> None:
        self.place = place
        self._mark = mark
        self._read_only = read_only
        self._is_open = False
        self._session = Session(lease_seconds)

    @property
    def session(self) -> str:
        """The name under which this process has leases."""
        return self._session.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"

    def renew(self) -> None:
        """Send one heartbeat."""
        raise NotImplementedError


def _beat(reference: weakref.ref[SessionRemote], pause: float, end: threading.Event) -> None:
    while not end.wait(pause):
        remote = reference()
        if remote is None:
            return
        if remote._session.held:  # noqa: SLF001 - the one base class of both
            with contextlib.suppress(Unreachable):  # others take over after a lease
                remote.renew()
        del remote
