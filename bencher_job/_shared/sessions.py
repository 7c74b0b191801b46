"""Sessions: the leases of one process, and the heartbeat that keeps them."""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable

from .._processes import renew_after_fork
from .base import LEASE_SECONDS, RemoteLease, Unreachable

__all__ = ["Session", "SessionRemote"]

BEATS_PER_LEASE = 4


class Session:
    """What this process has leased in one remote.

    A session that was silent for longer than a lease, as that of a stopped process, is given up: others may have
    taken its leases over. The next lease belongs to a new one.

    Attributes:
        name: unique among all machines.
        held: the leases, by address.
        seconds: how long a lease outlives the last heartbeat.
    """

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self.seconds = seconds
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin a new session without leases, as in a forked child."""
        self.lock = threading.Lock()
        self.name = uuid.uuid4().hex
        self.held: dict[str, RemoteLease] = {}
        self._beaten: float | None = None
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    @property
    def host(self) -> str:
        """The name of this machine."""
        return os.uname().nodename

    @property
    def has_lapsed(self) -> bool:
        """Whether others may take this session for dead."""
        return self._beaten is not None and time.monotonic() - self._beaten > self.seconds

    @property
    def is_known(self) -> bool:
        """Whether others may have heard of this session."""
        return self._beaten is not None

    @property
    def is_due(self) -> bool:
        """Whether a heartbeat is needed before the next lease."""
        return self._beaten is None or time.monotonic() - self._beaten > 2 * self.seconds / BEATS_PER_LEASE

    def start_over(self) -> str:
        """Drop all leases after a lapse, and start a new session. Return the name of the old one."""
        with self.lock:
            before = self.name
            self.name = uuid.uuid4().hex
            self.held.clear()
            self._beaten = None
        return before

    def has_beaten(self, at: float) -> None:
        """Record a heartbeat that was sent at a time of the monotonic clock."""
        self._beaten = at

    def hold(self, leases: Iterable[RemoteLease]) -> None:
        """Add new leases."""
        with self.lock:
            self.held.update({each.address: each for each in leases})

    def drop(self, addresses: Iterable[str]) -> list[RemoteLease]:
        """Forget leases, and return them."""
        with self.lock:
            return [self.held.pop(each) for each in list(addresses) if each in self.held]

    def keep_beating(self, remote: SessionRemote) -> None:
        """Have a thread call `remote.renew()` as long as there are leases, and the remote is in use."""
        with self.lock:
            if self._thread is not None and self._thread.is_alive():
                return
            pause, end = self.seconds / BEATS_PER_LEASE, self._end
            self._thread = threading.Thread(
                target=_beat,
                args=(weakref.ref(remote), pause, end),
                name="bencher_job heartbeat",
                daemon=True,
            )
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is ending
                self._thread = None

    def stop_beating(self) -> None:
        """End the thread."""
        with self.lock:
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


def _beat(remote: weakref.ref[SessionRemote], pause: float, end: threading.Event) -> None:
    while not end.wait(pause):
        living = remote()
        if living is None:
            return
        if living._session.held:  # noqa: SLF001 - the one base class of both
            try:
                living.renew()
            except Unreachable:  # others take over after a lease
                pass
        del living
