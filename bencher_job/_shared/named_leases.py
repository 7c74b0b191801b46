"""Leases and heartbeats by name, for folders and object stores.

    c/<key>/<number>    a lease; the highest number counts
    s/<session>         a heartbeat

No clocks of machines are compared: a session is dead if its heartbeat stood still for a lease by the clock of
who watches it, or was removed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from .._errors import SharedStoreError
from .base import Name, RemoteLease, RemoteOwner, Unreachable, key_of
from .sessions import Session

__all__ = ["ATTEMPTS", "Bytes", "NamedLeases"]

ATTEMPTS: Final = 10

_UNSIGNED_FOR: Final = 5.0
"""Seconds, at most, that a lease without a holder is respected: its owner was killed just as it took it."""


class Bytes(Protocol):
    """Operations of an engine on names. All may be repeated, and run in threads of `Requests`."""

    place: str
    touch: Callable[[], None]
    """To be called whenever a long request makes progress."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a name."""

    def create(self, name: str, content: bytes) -> bool:
        """Store bytes if there is nothing; False if there may have been something."""

    def write(self, name: str, content: bytes) -> None:
        """Store bytes, whatever is there."""

    def refresh(self, name: str, content: bytes) -> None:
        """Store bytes that matter only in that they have changed."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove names, if they exist."""

    def listing(self, prefix: str) -> Iterator[list[Name]]:
        """List names below a folder, some at once."""

    def take(self, name: str, holder: str) -> bool:
        """Take a lease; False if it may be taken."""

    def taken(self, folder: str) -> list[str]:
        """Return the names of the leases in a folder."""

    def holder(self, name: str) -> str | None:
        """Return what a lease was taken with, if it is known yet."""

    def free(self, names: Iterable[str]) -> None:
        """Remove leases."""

    def tidy(self, before: float) -> int:
        """Remove what killed processes have left half written before a time."""

    def failure(self, error: Exception) -> Unreachable | SharedStoreError | None:
        """Translate an error; None for an error of ours."""

    def limit(self, size: int) -> float:
        """Return how many seconds a request for so many bytes may take without calling `touch`."""


@dataclass(slots=True)
class _Seen:
    """What is known of another session's heartbeat."""

    beat: bytes
    since: float
    looked: float


class NamedLeases:
    """The leases of one session, and what it knows of others. All runs in threads of `Requests`."""

    def __init__(self, engine: Bytes, session: Session) -> None:
        self._engine = engine
        self._session = session
        self._seen: dict[str, _Seen] = {}
        self._unsigned: dict[str, float] = {}

    def take(self, address: str) -> RemoteLease | None:
        """Take the lease of an address if it is free, or its owner is dead."""
        self._live()
        key, number = key_of(address), 1
        for _ in range(ATTEMPTS):
            if self._engine.take(_lease_name(key, number), self._session.name):
                return RemoteLease(address, number, self._session.name)
            self._engine.touch()
            top = self._top(key)
            if top is None:  # released in between
                number = 1
                continue
            number, holder = top
            if holder == self._session.name:  # an answer was lost
                return RemoteLease(address, number, self._session.name)
            if not self._may_take(key, number, holder):
                return None
            number += 1
        return None

    def _top(self, key: str) -> tuple[int, str | None] | None:
        """Return the number of the lease that counts, and the session that holds it, or None."""
        names = sorted(self._engine.taken(f"c/{key}/"))
        if not names:
            return None
        return int(names[-1].rpartition("/")[2]), self._engine.holder(names[-1])

    def _may_take(self, key: str, number: int, holder: str | None) -> bool:
        if holder is not None:
            return not self._lives(holder)
        now = time.monotonic()
        if len(self._unsigned) > 1000:
            self._unsigned.clear()
        first = self._unsigned.setdefault(_lease_name(key, number), now)
        return now - first > min(_UNSIGNED_FOR, self._session.seconds)

    def _lives(self, session: str) -> bool:
        now, seen = time.monotonic(), self._seen.get(session)
        if seen is None or now - seen.looked > self._session.seconds / 20:
            beat = self._engine.read(f"s/{session}")
            if beat is None:
                return False
            if seen is None or seen.beat != beat:
                seen = _Seen(beat, now, now)
            seen.looked = now
            self._seen[session] = seen
        return now - seen.since <= self._session.seconds

    def has_living_holder(self, name: str) -> bool:
        """Whether the session that holds a lease, by its name, was heard of and not ended."""
        holder = self._engine.holder(name)
        return holder is not None and self._engine.read(f"s/{holder}") is not None

    def owner(self, key: str) -> RemoteOwner | None:
        """Return who has the lease of a key."""
        top = self._top(key)
        if top is None or top[1] is None:
            return None
        session = top[1]
        try:
            beat = json.loads(self._engine.read(f"s/{session}") or b"{}")
            return RemoteOwner(session, str(beat.get("host", "")), int(beat.get("pid", 0)))
        except (ValueError, AttributeError, TypeError):
            return RemoteOwner(session)

    def free(self, address: str) -> None:
        """Release the lease of an address, if there is one."""
        self._end_lapsed()
        for lease in self._session.drop([address]):
            try:  # lower numbers are those of the dead
                self._engine.free(_lease_name(key_of(address), each) for each in range(lease.number, 0, -1))
            except BaseException:
                self._session.hold([lease])
                raise

    def _live(self) -> None:
        """Make sure that others take this session for alive."""
        self._end_lapsed()
        if self._session.is_due:
            self.beat()

    def _end_lapsed(self) -> None:
        """End a session that others may take for dead, without its leases: some may be another's by now."""
        if self._session.has_lapsed:
            self._engine.delete([f"s/{self._session.start_over()}"])

    def beat(self) -> None:
        """Send one heartbeat."""
        at = time.monotonic()
        session = self._session
        self._end_lapsed()
        beat = {"host": session.host, "pid": os.getpid(), "beat": time.time_ns()}
        self._engine.refresh(f"s/{session.name}", json.dumps(beat).encode())
        session.has_beaten(at)


def _lease_name(key: str, number: int) -> str:
    return f"c/{key}/{number:08d}"
