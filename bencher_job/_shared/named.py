"""A remote of names and bytes: the layout that folders and object stores share.

bencher_job.json            format, version, mark of the secret, whether creating twice was refused
e/ f/ m/                    as in `base`
c/<key>/<number>            a lease: the name of the session that has it; the highest number counts
s/<session>                 a heartbeat
x/<time>-<session>          addresses that were removed or replaced

No clocks of machines are compared: a session is dead if its heartbeat stood still for a lease by the clock of
who watches it, or was removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple, TypeVar

from .._errors import SharedStoreError
from .base import (
    LEASE_SECONDS,
    MARKER,
    Asked,
    Changes,
    Name,
    RemoteLease,
    RemoteOwner,
    Unreachable,
    check_store,
    checked,
    key_of,
    make_marker,
    read_marker,
    unique,
)
from .folder import FolderBytes
from .objects import ObjectBytes
from .requests import Requests
from .sessions import Session, SessionRemote

_ATTEMPTS: Final = 10

_SKEW: Final = 3600.0
"""Seconds by which the clocks of machines may differ, so that no change record is missed."""

T = TypeVar("T")


Engine = FolderBytes | ObjectBytes
"""Stores bytes by name. All its operations may be repeated, and run in threads of `Requests`."""


class NamedRemote(SessionRemote):
    """The remote on top of an engine that stores bytes by name."""

    def __init__(
        self,
        engine: Engine,
        *,
        mark: bytes = b"",
        threads: int = 8,
        lease_seconds: float = LEASE_SECONDS,
        read_only: bool = False,
    ) -> None:
        super().__init__(engine.place, mark=mark, read_only=read_only, lease_seconds=lease_seconds)
        self._engine = engine
        self._requests = Requests(threads)
        engine.touch = self._requests.touch
        self._leases = _Leases(engine, self._session)
        self._changes: dict[str, list[str]] = {}

    def open(self) -> None:
        """Check that the store is what this program needs, and make it if it is new.

        Raises:
            SharedStoreError: when it isn't.
            Unreachable: when it doesn't answer.
        """
        self._requests.call(partial(self._told, self._open), limit=self._engine.limit(0))

    def get_many(self, addresses: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those addresses that exist."""
        return self._answers(self._engine.read, unique(addresses))

    def ask(self, addresses: Iterable[str]) -> Asked:
        """Return what exists, and take leases on the rest."""
        answers: dict[str, bytes | RemoteLease] = self._answers(
            self._ask, unique(addresses), undo=self._give_back
        )
        asked = Asked({}, {})
        for address, each in answers.items():
            if isinstance(each, RemoteLease):
                asked.leases[address] = each
            else:
                asked.found[address] = each
        return asked

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Store what doesn't exist yet, and release the leases on it."""
        largest = max(map(len, entries.values()), default=0)
        return self._answers(lambda each: self._put(each, entries[each]), unique(entries), size=largest)

    def replace(self, address: str, content: bytes) -> None:
        """Store bytes, whatever is there, and let others know."""
        checked(address)

        def write() -> None:
            self._engine.write(address, content)
            self._let_know([address])
            self._leases.free(address)

        self._call(write, size=len(content))

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove what exists, and let others know."""
        given = unique(addresses)
        if given:
            self._call(lambda: self._engine.delete(given))
            self._call(lambda: self._let_know(given))

    def changes(self, cursor: str = "") -> Changes:
        """Return what was removed or replaced since a cursor."""
        now = time.time()
        since = f"x/{int(1e9 * max(0.0, float(cursor or 0) - _SKEW)):020d}"
        names = [name.address for name in self._names("x/") if name.address >= since]
        new = self._answers(self._engine.read, [name for name in names if name not in self._changes])
        known = self._changes | {name: _addresses_in(record) for name, record in new.items()}
        self._changes = {name: known[name] for name in names if name in known}
        found = {address for addresses in self._changes.values() for address in addresses}
        return Changes(frozenset(found), repr(now))

    def renew(self) -> None:
        """Send one heartbeat."""
        self._call(self._leases.beat)

    def release(self, leases: Iterable[RemoteLease]) -> None:
        """Release leases without a result."""
        self._answers(self._leases.free, [each.address for each in leases])

    def running(self, addresses: Iterable[str] | None = None) -> dict[str, RemoteOwner]:
        """Return who has the leases of some addresses, or of all, by the last part of the address."""
        if addresses is None:
            keys = sorted({name.address.split("/")[1] for name in self._names("c/")})
        else:
            keys = [key_of(address) for address in unique(addresses)]
        return self._answers(self._leases.owner, keys)

    def names(self, prefix: str) -> Iterator[Name]:
        """List the addresses in a folder."""
        for name in self._names(prefix):
            with contextlib.suppress(ValueError):
                checked(name.address)
                yield name

    def tidy(self, seconds: float) -> int:
        """Remove what nobody needs any more after so long."""
        before = time.time() - seconds
        old = [each.address for kind in ("x/", "s/") for each in self._names(kind) if each.stored < before]
        self._call(lambda: self._engine.delete(old))
        leases = [name.address for name in self._names("c/") if name.stored < before]
        idle = [each for each in leases if not self._call(partial(self._leases.has_living_owner, each))]
        self._call(lambda: self._engine.delete(idle))
        return len(old) + len(idle) + self._call(lambda: self._engine.tidy(before))

    def close(self) -> None:
        """Release the leases, and end the session."""
        self._session.stop_beating()
        with contextlib.suppress(Unreachable):  # the leases end by themselves
            self.release(list(self._session.held.values()))
            if self._session.beaten is not None:
                name = f"s/{self._session.name}"
                self._session.start_over()
                self._call(lambda: self._engine.delete([name]))
        self._requests.end()

    # In threads of `Requests` from here on

    def _call(self, work: Callable[[], T], *, size: int = 0) -> T:
        return self._requests.call(lambda: self._told(work), limit=self._engine.limit(size))

    def _answers(
        self,
        work: Callable[[str], T | None],
        names: list[str],
        *,
        size: int = 0,
        undo: Callable[[T | None], object] | None = None,
    ) -> dict[str, T]:
        """Return what `work` returns for each name, but for None."""
        answers = self._requests.map(
            lambda name: self._told(partial(work, name)), names, limit=self._engine.limit(size), undo=undo
        )
        return {name: each for name, each in zip(names, answers, strict=True) if each is not None}

    def _told(self, work: Callable[[], T]) -> T:
        """Open the store if it isn't yet, do some work, and turn the engine's errors into ours."""
        self._requests.touch()
        try:
            if not self._is_open and work != self._open:
                self._open()
            return work()
        except Exception as error:
            told = error if isinstance(error, SharedStoreError) else self._engine.failure(error)
            if told is None or isinstance(error, Unreachable):
                raise
            if isinstance(told, SharedStoreError) and work != self._open:
                told = Unreachable(str(told))
            raise told from error

    def _open(self) -> None:
        text = self._engine.read(MARKER)
        if text is None and self._read_only:
            raise SharedStoreError(
                self.place, "holds no shared store", "Let a program that may write make it first."
            )
        if text is None:
            self._refuse_without_create()
            mine = make_marker(self._mark)
            text = mine if self._engine.create(MARKER, mine) else self._engine.read(MARKER)
        check_store(self.place, read_marker(self.place, text or b""), self._mark)
        self._is_open = True

    def _refuse_without_create(self) -> None:
        """Create something twice. Servers that ignore the condition are common, and would lose results."""
        name = f"s/{self._session.name}"
        self._engine.create(name, b"1")
        try:
            if self._engine.create(name, b"2") or self._engine.read(name) != b"1":
                raise SharedStoreError(
                    self.place,
                    "overwrites what it was asked to create only if it doesn't exist, so that results would get lost",
                    "Use a server that knows conditional writes (If-None-Match), or another kind of shared store.",
                )
        finally:
            self._engine.delete([name])

    def _ask(self, address: str) -> bytes | RemoteLease | None:
        if (content := self._engine.read(address)) is not None:
            return content
        self._requests.touch()
        lease = self._leases.take(address)
        if lease is None:
            return None
        self._session.hold([lease], self)
        try:
            content = self._engine.read(address)
        except BaseException:
            with contextlib.suppress(Exception):
                self._leases.free(address)
            raise
        if content is not None:  # stored between our look and our lease
            self._leases.free(address)
            return content
        return lease

    def _give_back(self, answer: bytes | RemoteLease | None) -> None:
        """Release what an interrupted `ask` has taken."""
        if isinstance(answer, RemoteLease):
            self._told(partial(self._leases.free, answer.address))

    def _put(self, address: str, content: bytes) -> bytes | None:
        """Store an entry; return the bytes that were there, if these are others."""
        theirs = None
        for _ in range(_ATTEMPTS):
            if self._engine.create(address, content):
                break
            self._requests.touch()
            theirs = self._engine.read(address)
            if theirs is not None:  # another's, or ours and the answer was lost
                break
        else:
            raise Unreachable(f"{address} is stored and removed again and again")
        self._leases.free(address)
        return None if theirs == content else theirs

    def _let_know(self, addresses: list[str]) -> None:
        name = f"x/{time.time_ns():020d}-{self.session}"
        self._engine.write(name, json.dumps(addresses).encode())

    def _names(self, prefix: str) -> Iterator[Name]:
        pages = self._engine.listing(prefix)
        while (page := self._call(lambda: next(pages, None))) is not None:
            yield from page


def _addresses_in(record: bytes) -> list[str]:
    """Return what a change record holds; nothing of one that is damaged."""
    try:
        return [checked(address) for address in json.loads(record)]
    except (ValueError, TypeError):
        return []


class _Seen(NamedTuple):
    """A heartbeat of another session, since when it is the same, and when it was last looked at."""

    beat: bytes
    since: float
    looked: float


class _Leases:
    """The leases of one session, and what it knows of others. All runs in threads of `Requests`."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine = engine
        self._session = session
        self._seen: dict[str, _Seen] = {}

    def take(self, address: str) -> RemoteLease | None:
        """Take the lease of an address if it is free, or its owner is dead."""
        session = self._session
        self._end_lapsed()
        if session.beaten is None or session.silent > 2 * session.pause:
            self.beat()
        key, number = key_of(address), 1
        for _ in range(_ATTEMPTS):
            if self._engine.create(_lease_name(key, number), session.name.encode(), lasting=False):
                return RemoteLease(address, number, session.name)
            self._engine.touch()
            number, owner = self._top(key)
            if owner == session.name:  # an answer was lost
                return RemoteLease(address, number, session.name)
            if owner is not None and self._lives(owner):
                return None
            number += 1
        return None

    def _top(self, key: str) -> tuple[int, str | None]:
        """Return the number of the lease that counts, 0 for none, and the session that has it, unless it is gone."""
        name = max((name.address for page in self._engine.listing(f"c/{key}/") for name in page), default="")
        if not name:
            return 0, None
        return int(key_of(name)), self._owner_of(name)

    def _owner_of(self, name: str) -> str | None:
        """Return the session that has a lease, by its name; None for a file that a crash of its machine has emptied."""
        owner = self._engine.read(name)
        return owner.decode() if owner is not None and owner.isalnum() else None

    def _lives(self, session: str) -> bool:
        """Whether a session's heartbeat has changed lately. It is looked at once in a while."""
        now, seen = time.monotonic(), self._seen.get(session)
        if seen is None or now - seen.looked > self._session.seconds / 20:
            beat = self._engine.read(f"s/{session}")
            if beat is None:
                self._seen.pop(session, None)
                return False
            seen = _Seen(beat, now if seen is None or seen.beat != beat else seen.since, now)
            self._seen[session] = seen
        return now - seen.since <= self._session.seconds

    def has_living_owner(self, name: str) -> bool:
        """Whether the session that has a lease, by its name, was heard of and has not ended."""
        owner = self._owner_of(name)
        return owner is not None and self._engine.read(f"s/{owner}") is not None

    def owner(self, key: str) -> RemoteOwner | None:
        """Return who has the lease of a key."""
        session = self._top(key)[1]
        if session is None:
            return None
        try:
            beat = json.loads(self._engine.read(f"s/{session}") or b"{}")
            return RemoteOwner(session, str(beat.get("host", "")), int(beat.get("pid", 0)))
        except (ValueError, AttributeError, TypeError):
            return RemoteOwner(session)

    def free(self, address: str) -> None:
        """Release the lease of an address, if there is one."""
        self._end_lapsed()
        key = key_of(address)
        lease = self._session.held.get(address)
        if lease is not None:  # lower numbers are those of the dead
            self._engine.delete(_lease_name(key, each) for each in range(lease.number, 0, -1))
            self._session.drop([address])

    def _end_lapsed(self) -> None:
        """End a session that others may take for dead, without its leases: some may be another's by now."""
        if self._session.has_lapsed:
            name = self._session.name
            self._session.start_over()
            self._engine.delete([f"s/{name}"])

    def beat(self) -> None:
        """Send one heartbeat."""
        at = time.monotonic()
        session = self._session
        self._end_lapsed()
        beat = {"host": session.host, "pid": os.getpid(), "beat": time.time_ns()}
        self._engine.refresh(f"s/{session.name}", json.dumps(beat).encode())
        session.beaten = at


def _lease_name(key: str, number: int) -> str:
    return f"c/{key}/{number:08d}"
