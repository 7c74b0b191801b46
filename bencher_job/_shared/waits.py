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
from typing import TYPE_CHECKING, Final, Literal

from .._processes import Process
from .._stores.base import Lease, Leases, LeasesUnavailable, StoreFailure, Wait
from .base import RemoteLease, RemoteOwner, entry_address, key_of

if TYPE_CHECKING:
    from .._record import FailedJob
    from .._stores.base import LeaseInfo
    from .tier import SharedStore


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
        self.elsewhere: set[str] = set()
        """The keys that other machines compute, as far as the remote has said."""
        self._waits: weakref.WeakSet[_Wait] = weakref.WeakSet()
        self._watcher: threading.Thread | None = None
        self._running: set[str] = set()
        self._looked = 0.0

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Acquire leases here, and ask the remote about those whose results aren't here."""
        try:
            self._store.ask([lease for lease in leases if lease.takes_entry], is_short=True)
            self._local.acquire([lease for lease in leases if not lease.has_entry])
            wanted = {lease.key: lease for lease in leases if lease.held and not lease.has_entry}
            held, elsewhere = self._store.ask(list(wanted.values()), is_short=False)
        except StoreFailure as error:
            raise LeasesUnavailable(str(error)) from error
        self._held.update(held)
        self.elsewhere.difference_update(wanted)
        self.elsewhere.update(elsewhere)
        if elsewhere:
            self._local.release([wanted[key] for key in elsewhere])

    def taken(self, keys: Collection[str]) -> set[str]:
        """Return those keys that others compute, on other machines as of half a second ago."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY:
            self._looked = now
            owners = self._store.breaker.ask(lambda remote: remote.running()) or {}
            session = self._store.breaker.remote.session
            self._running = {key for key, owner in owners.items() if owner.session != session}
        there = {key for key in keys if key_of(entry_address("", key)) in self._running}
        return self._local.taken(keys) | there | self.elsewhere.intersection(keys)

    def running(self) -> list[LeaseInfo]:
        """Return the jobs that run on this machine."""
        return self._local.running()

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
        if held and not self._store.breaker.does(lambda remote: remote.release(held)):
            with self._lock:
                self._unreleased += held

    def wait(self, lease: Lease) -> Wait:
        """Start to wait for the key of a lease that could not be acquired."""
        return _Wait(self, lease, self._local.wait(lease))

    def watch(self, wait: _Wait) -> None:
        """Have a thread look at a job of another machine as long as somebody waits for it."""
        with self._lock:
            self._waits.add(wait)
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="bencher_job waits", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        while True:
            with self._lock:
                waited = {wait: wait.seconds for wait in self._waits if wait.is_elsewhere}
                if not waited:
                    self._watcher = None
                    return
            time.sleep(max(FIRST_PAUSE, min(waited.values()) * PAUSE_PER_SECOND))
            addresses = {wait.address for wait in waited}
            owners = self._store.breaker.ask(lambda remote, some=addresses: remote.running(some)) or {}  # type: ignore[misc]
            for wait in waited:
                wait.see(owners.get(key_of(wait.address)))


class _Wait:
    """One waiter for a job that another process of this machine runs, or another machine: which of them may change.

    Attributes:
        is_elsewhere: whether another machine runs it.
    """

    def __init__(self, leases: SharedLeases, lease: Lease, here: Wait) -> None:
        self.address = entry_address(lease.function, lease.key)
        self.is_elsewhere = False
        self._leases = leases
        self._key = lease.key
        self._here = here
        self._since = 0.0
        self._is_over = False
        self._owner: Process | None = None

    @property
    def owner(self) -> Process | None:
        """The process that runs the job, as of the last look."""
        return self._owner if self.is_elsewhere else self._here.owner

    @property
    def seconds(self) -> float:
        """How long it has waited for the other machine."""
        return time.monotonic() - self._since

    def see(self, owner: RemoteOwner | None) -> None:
        """Record who runs the job on another machine."""
        self._is_over = owner is None
        self._owner = None if owner is None else Process(owner.host, "", owner.pid, 0, 0)

    def look(self) -> Literal["running", "free"] | bytes:
        """Return how the job stands."""
        if not self.is_elsewhere:
            if self._key not in self._leases.elsewhere:
                return self._here.look()
            self.is_elsewhere, self._is_over, self._since = True, False, time.monotonic()
            self._leases.watch(self)
        if not self._is_over and self.seconds < ASK_EVERY:
            return "running"
        self.is_elsewhere = False
        self._leases.elsewhere.discard(self._key)
        return "free"
