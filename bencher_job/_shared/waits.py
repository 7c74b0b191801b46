"""Who computes what, on this machine and on others.

acquire    asked of the remote first, without a lease: jobs of functions that are shorter than it takes to agree
local lease -> the remote has the result -> stored locally, `has_entry`
nobody has it             -> a lease of the remote as well
another machine runs it   -> not held: wait
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from .._processes import Process
from .._stores.base import Lease, Leases, LeasesUnavailable, StoreFailure, Wait
from .base import Remote, RemoteLease, RemoteOwner, entry_address, key_of

if TYPE_CHECKING:
    from .._record import FailedJob
    from .._stores.base import LeaseInfo
    from .tier import SharedStore

__all__ = ["SharedLeases"]

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at what all other machines compute."""

FIRST_PAUSE: Final = 0.01
PAUSE_PER_SECOND: Final = 0.05
"""The pause between two looks at one job, per second of waiting."""

ASK_EVERY: Final = 5.0
"""Seconds after which a waiter asks for the key again: its owner may have died, or another has stored the result."""


class SharedLeases:
    """Leases of the local store, each with one of the remote where the job is long enough."""

    def __init__(self, store: SharedStore, local: Leases) -> None:
        self._store = store
        self._local = local
        self.renew()

    def renew(self) -> None:
        """Hold nothing, as in a forked child."""
        self._lock = threading.Lock()
        self._held: dict[str, RemoteLease] = {}
        self._unreleased: list[RemoteLease] = []
        self._elsewhere: dict[str, None] = {}
        self._waits: dict[str, weakref.WeakSet[_RemoteWait]] = {}
        self._watcher: threading.Thread | None = None
        self._running: set[str] = set()
        self._looked = 0.0

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Acquire leases here, and ask the remote about those whose results aren't here."""
        try:
            self._store.look_up([lease for lease in leases if lease.takes_entry])
        except StoreFailure as error:
            raise LeasesUnavailable(str(error)) from error
        self._local.acquire([lease for lease in leases if not lease.has_entry])
        wanted = {lease.key: lease for lease in leases if lease.held and not lease.has_entry}
        for key in wanted:
            self._elsewhere.pop(key, None)
        if not wanted:
            return
        try:
            elsewhere = self._store.agree(list(wanted.values()), self._held)
        except StoreFailure as error:
            raise LeasesUnavailable(str(error)) from error
        for key in elsewhere:
            self._elsewhere[key] = None
        if elsewhere:
            self._local.release([wanted[key] for key in elsewhere])

    def taken(self, keys: Collection[str]) -> set[str]:
        """Return those keys that others compute, on other machines as far as that is known."""
        running = self._running_elsewhere()
        return self._local.taken(keys) | {
            key for key in keys if key in self._elsewhere or key_of(entry_address("", key)) in running
        }

    def _running_elsewhere(self) -> set[str]:
        """Return by the last part of their address what other machines compute, as of half a second ago."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY:
            self._looked = now
            owners = self._store.breaker.ask(lambda remote: remote.running()) or {}
            session = self._store.breaker.remote.session
            self._running = {key for key, owner in owners.items() if owner.session != session}
        return self._running

    def running(self) -> list[LeaseInfo]:
        """Return the jobs that run on this machine."""
        return self._local.running()

    def wait(self, lease: Lease) -> Wait:
        """Start to wait for the key of a lease that could not be acquired."""
        return _EitherWait(self, lease, self._local.wait(lease))

    def release(self, leases: Iterable[Lease]) -> None:
        """Release leases here and there."""
        leases = list(leases)
        self._local.release(leases)
        self.release_there(lease.key for lease in leases)

    def fail(self, lease: Lease, dump: Callable[[], bytes] | None, failed: FailedJob | None = None) -> None:
        """Release a lease whose job has failed. Waiters on other machines run the job themselves."""
        self._local.fail(lease, dump, failed)
        self.release_there([lease.key])

    def pushed(self, keys: Iterable[str]) -> None:
        """Forget leases that were released with the push of their results."""
        for key in keys:
            self._held.pop(key, None)

    def release_there(self, keys: Iterable[str] = ()) -> None:
        """Release leases of the remote whose jobs have no result to push: now, or when it answers again."""
        held = [each for key in keys if (each := self._held.pop(key, None)) is not None]
        with self._lock:
            held += self._unreleased
            self._unreleased.clear()
        if held and self._store.breaker.ask(partial(_release, held)) is None:
            with self._lock:
                self._unreleased += held

    # ------------------------------------------------------------------ waiting for other machines

    def is_elsewhere(self, key: str) -> bool:
        """Whether another machine runs the job of a key, as far as the remote has said."""
        return key in self._elsewhere

    def begin_wait(self, lease: Lease) -> _RemoteWait:
        """Start to wait for a job that another machine runs."""
        wait = _RemoteWait()
        with self._lock:
            self._waits.setdefault(entry_address(lease.function, lease.key), weakref.WeakSet()).add(wait)
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="bencher_job waits", daemon=True)
                self._watcher.start()
        return wait

    def end_wait(self, key: str) -> None:
        """Record that the job of a key has ended elsewhere."""
        self._elsewhere.pop(key, None)

    def _watch(self) -> None:
        """Look, as long as somebody waits, at which jobs of other machines have ended."""
        while True:
            with self._lock:
                self._waits = {address: waits for address, waits in self._waits.items() if waits}
                addresses = list(self._waits)
                if not addresses:
                    self._watcher = None
                    return
                waited = min((wait.seconds for waits in self._waits.values() for wait in waits), default=0.0)
            time.sleep(max(FIRST_PAUSE, waited * PAUSE_PER_SECOND))
            owners = self._store.breaker.ask(partial(_running, addresses)) or {}
            with self._lock:
                for address in addresses:
                    owner = owners.get(key_of(address))
                    for wait in self._waits[address] if owner else self._waits.pop(address):
                        wait.see(owner)


class _RemoteWait:
    """Waits for a job that another machine runs."""

    owner: Process | None = None

    def __init__(self) -> None:
        self._is_over = False
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has waited."""
        return time.monotonic() - self._since

    @property
    def is_over(self) -> bool:
        """Whether to ask for the key again."""
        return self._is_over or self.seconds > ASK_EVERY

    def see(self, owner: RemoteOwner | None) -> None:
        """Record who runs the job."""
        self._is_over = owner is None
        self.owner = None if owner is None else Process(owner.host, "", owner.pid, 0, 0)


class _EitherWait:
    """One waiter for a job that another process of this machine runs, or another machine: which of them may change."""

    def __init__(self, leases: SharedLeases, lease: Lease, here: Wait) -> None:
        self._leases = leases
        self._lease = lease
        self._here = here
        self._there: _RemoteWait | None = None

    @property
    def owner(self) -> Process | None:
        """The process that runs the job, as of the last look."""
        return self._here.owner if self._there is None else self._there.owner

    def look(self) -> Literal["running", "free"] | bytes:
        """Return how the job stands."""
        if self._there is None and self._leases.is_elsewhere(self._lease.key):
            self._there = self._leases.begin_wait(self._lease)
        if self._there is None:
            return self._here.look()
        if not self._there.is_over:
            return "running"
        self._there = None
        self._leases.end_wait(self._lease.key)
        return "free"


def _running(addresses: Sequence[str], remote: Remote) -> dict[str, RemoteOwner]:
    return remote.running(addresses)


def _release(leases: Iterable[RemoteLease], remote: Remote) -> bool:
    remote.release(leases)
    return True
