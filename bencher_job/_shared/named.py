"""A remote of names and bytes: the layout that folders and object stores share.

    bencher_job.json            format, version, mark of the secret, whether creating twice was refused
    e/ f/ m/                    as in `base`
    c/<key>/<number>            a lease; the highest number counts
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
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from .._errors import SharedStoreError
from .base import (
    LEASE_SECONDS,
    STORE_FORMAT,
    STORE_VERSION,
    Asked,
    Changes,
    Name,
    RemoteLease,
    RemoteOwner,
    Unreachable,
    checked,
    key_of,
)
from .requests import Requests
from .sessions import Beating, Session

__all__ = ["Bytes", "NamedRemote", "check_store"]

MARKER: Final = "bencher_job.json"

_UNSIGNED_FOR: Final = 5.0
"""Seconds, at most, that a lease without a holder is respected: its owner was killed just as it took it."""

_SKEW: Final = 3600.0
"""Seconds by which the clocks of machines may differ, so that no change record is missed."""

_ATTEMPTS: Final = 10

T = TypeVar("T")


class Bytes(Protocol):
    """What an engine knows of names. All may be repeated, and run in threads of `Requests`."""

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
        """Say what an error means; None for an error of ours."""

    def limit(self, size: int) -> float:
        """Return how many seconds a request for so many bytes may take without calling `touch`."""


@dataclass(slots=True)
class _Seen:
    """What is known of another session's heartbeat."""

    beat: bytes
    since: float
    looked: float


class NamedRemote(Beating):
    """The remote on top of an engine that stores bytes by name."""

    def __init__(
        self,
        engine: Bytes,
        *,
        mark: bytes = b"",
        threads: int = 8,
        longest_pause: float = 0.2,
        lease_seconds: float = LEASE_SECONDS,
        read_only: bool = False,
    ) -> None:
        self._engine = engine
        self._mark = mark
        self._requests = Requests(threads)
        engine.touch = self._requests.touch
        self._session = Session(lease_seconds)
        self._longest_pause = longest_pause
        self._is_open = False
        self._read_only = read_only
        self._seen: dict[str, _Seen] = {}
        self._unsigned: dict[str, float] = {}
        self._changes: dict[str, list[str]] = {}

    @property
    def place(self) -> str:
        """The URL or path."""
        return self._engine.place

    @property
    def session(self) -> str:
        """The name under which this process has leases."""
        return self._session.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"

    def open(self) -> None:
        """Check that the store is what this program needs, and make it if it is new.

        Raises:
            SharedStoreError: when it isn't.
            Unreachable: when it doesn't answer.
        """
        self._requests.call(partial(self._told, self._open), limit=self._engine.limit(0))

    def get_many(self, addresses: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those addresses that exist."""
        wanted = _unique(addresses)
        found = self._map(self._engine.read, wanted)
        return {
            address: content for address, content in zip(wanted, found, strict=True) if content is not None
        }

    def ask(self, addresses: Iterable[str], *, begun: bool = True) -> Asked:
        """Return what exists, and take leases on the rest."""
        asked = Asked({}, {})
        wanted = _unique(addresses)
        for address, answer in zip(
            wanted, self._map(partial(self._ask, begun), wanted, undo=self._give_back), strict=True
        ):
            if isinstance(answer, RemoteLease):
                asked.leases[address] = answer
            elif answer is not None:
                asked.found[address] = answer
        return asked

    def begin(self, leases: Iterable[RemoteLease]) -> dict[str, RemoteLease]:
        """Turn queued leases into begun ones, by taking the next number."""
        given = list(leases)
        now = self._map(self._begin, given)
        return {lease.address: lease for lease in now if lease is not None}

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Store what doesn't exist yet, and release the leases on it."""
        _unique(entries)
        largest = max(map(len, entries.values()), default=0)
        winners = self._map(self._put, list(entries.items()), size=largest)
        return {
            address: content for address, content in zip(entries, winners, strict=True) if content is not None
        }

    def replace(self, address: str, content: bytes) -> None:
        """Store bytes, whatever is there, and let others know."""
        checked(address)

        def write() -> None:
            self._engine.write(address, content)
            self._let_know([address])
            self._free(address)

        self._call(write, size=len(content))

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove what exists, and let others know."""
        given = _unique(addresses)
        if given:
            self._call(lambda: self._engine.delete(given))
            self._call(lambda: self._let_know(given))

    def changes(self, cursor: str = "") -> Changes:
        """Return what was removed or replaced since a cursor."""
        now = time.time()
        since = f"x/{int(1e9 * max(0.0, float(cursor or 0) - _SKEW)):020d}"
        names = [name.address for name in self._names("x/") if name.address >= since]
        known = self._changes
        new = [name for name in names if name not in known]
        known = known | dict(zip(new, map(_addresses_in, self._map(self._engine.read, new)), strict=True))
        self._changes = {name: known[name] for name in names}
        found = {address for addresses in self._changes.values() for address in addresses}
        return Changes(frozenset(found), repr(now))

    def renew(self) -> None:
        """Give one heartbeat."""
        self._call(self._beat)

    def release(self, leases: Iterable[RemoteLease]) -> None:
        """Give leases back without a result."""
        self._map(self._free, [each.address for each in leases])

    def owner(self, address: str) -> RemoteOwner | None:
        """Return who has the lease of an address."""
        return self._call(lambda: self._owner(key_of(checked(address))))

    def running(self) -> dict[str, RemoteOwner]:
        """Return who has which lease, by the last part of the address."""
        keys = sorted({name.address.split("/")[1] for name in self._names("c/")})
        owners = self._map(self._owner, keys)
        return {key: owner for key, owner in zip(keys, owners, strict=True) if owner is not None}

    def wait(self, addresses: Iterable[str], timeout: float) -> None:
        """Return when one of the leases is another or gone, or after the timeout."""
        folders = [f"c/{key_of(address)}/" for address in _unique(addresses)]
        end, pause = time.monotonic() + timeout, 0.01
        before: list[list[str]] | None = None
        while True:
            now = self._map(self._engine.taken, folders)
            if (before is not None and now != before) or not all(now):
                return
            left, before = end - time.monotonic(), now
            if left <= 0:
                return
            time.sleep(min(left, pause))
            pause = min(1.5 * pause, self._longest_pause)

    def names(self, prefix: str) -> Iterator[Name]:
        """List the addresses in a folder."""
        for name in self._names(prefix):
            with contextlib.suppress(ValueError):
                checked(name.address)
                yield name

    def tidy(self, seconds: float) -> int:
        """Remove what nobody needs any more after so long."""
        before = time.time() - seconds
        old = [name.address for name in self._names("x/") if name.stored < before]
        dead = [name.address for name in self._names("s/") if name.stored < before]
        self._call(lambda: self._engine.delete([*old, *dead]))
        leases = [name.address for name in self._names("c/") if name.stored < before]
        idle = [each for each in leases if not self._call(partial(self._has_living_holder, each))]
        self._call(lambda: self._engine.free(idle))
        return len(old) + len(dead) + len(idle) + self._call(lambda: self._engine.tidy(before))

    def close(self) -> None:
        """Release the leases, and end the session."""
        self._session.stop_beating()
        try:
            self.release(list(self._session.held.values()))
            if self._session.is_known:
                name = f"s/{self._session.start_over()}"
                self._call(lambda: self._engine.delete([name]))
        except Unreachable:  # the leases end by themselves
            pass
        self._requests.end()

    # In threads of `Requests` from here on

    def _call(self, work: Callable[[], T], *, size: int = 0) -> T:
        limit = self._engine.limit(size)
        return self._requests.call(partial(self._told, partial(self._opened, work)), limit=limit)

    def _map(
        self,
        work: Callable[[Any], T],
        items: Iterable[object],
        *,
        size: int = 0,
        undo: Callable[[T], object] | None = None,
    ) -> list[T]:
        return self._requests.map(
            lambda item: self._told(partial(self._opened, partial(work, item))),
            items,
            limit=self._engine.limit(size),
            undo=undo,
        )

    def _opened(self, work: Callable[[], T]) -> T:
        if not self._is_open:
            try:
                self._open()
            except SharedStoreError as error:
                raise Unreachable(str(error)) from error
        return work()

    def _told(self, work: Callable[[], T]) -> T:
        """Turn the engine's errors into ours."""
        self._requests.touch()
        try:
            return work()
        except (Unreachable, SharedStoreError):
            raise
        except Exception as error:
            told = self._engine.failure(error)
            if told is None:
                raise
            if self._is_open and isinstance(told, SharedStoreError):
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
            mine = json.dumps(
                {
                    "format": STORE_FORMAT,
                    "version": STORE_VERSION,
                    "secret": self._mark.hex(),
                    "creates": True,
                }
            ).encode()
            text = mine if self._engine.create(MARKER, mine) else self._engine.read(MARKER)
        check_store(self.place, _marker_of(self.place, text or b""), self._mark)
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

    def _ask(self, begun: bool, address: str) -> bytes | RemoteLease | None:
        if (content := self._engine.read(address)) is not None:
            return content
        self._requests.touch()
        lease = self._take(address, begun)
        if lease is None:
            return None
        self._session.hold([lease])
        try:
            content = self._engine.read(address)
        except BaseException:
            with contextlib.suppress(Exception):
                self._free(address)
            raise
        if content is not None:  # stored between our look and our lease
            self._free(address)
            return content
        return lease

    def _take(self, address: str, begun: bool) -> RemoteLease | None:
        """Take the lease of an address if it is free, or its owner is dead or only queues it."""
        self._live()
        key, number = key_of(address), 1
        for _ in range(_ATTEMPTS):
            if self._engine.take(_lease_name(key, number), _holder_text(self.session, begun)):
                return RemoteLease(address, number, self.session, begun)
            self._requests.touch()
            top = self._top(key)
            if top is None:  # released in between
                number = 1
                continue
            number, holder = top
            if holder is not None and holder.session == self.session:
                if holder.begun == begun or holder.begun:  # ours: an answer was lost
                    return RemoteLease(address, number, self.session, holder.begun)
            elif not self._may_take(key, number, holder, begun):
                return None
            number += 1
        return None

    def _begin(self, lease: RemoteLease) -> RemoteLease | None:
        held = self._session.held.get(lease.address)
        if held is None or held.begun:
            return held
        now = self._take(lease.address, begun=True)
        if now is None:
            self._session.drop([lease.address])
        else:
            self._session.hold([now])
        return now

    def _top(self, key: str) -> tuple[int, RemoteOwner | None] | None:
        """Return the number of the lease that counts, and its holder; None if there is none."""
        names = sorted(self._engine.taken(f"c/{key}/"))
        if not names:
            return None
        name = names[-1]
        text = self._engine.holder(name)
        return int(name.rpartition("/")[2]), None if text is None else _holder_of(text)

    def _may_take(self, key: str, number: int, holder: RemoteOwner | None, begun: bool) -> bool:
        now = time.monotonic()
        if holder is None:
            if len(self._unsigned) > 1000:
                self._unsigned.clear()
            first = self._unsigned.setdefault(_lease_name(key, number), now)
            return now - first > min(_UNSIGNED_FOR, self._session.seconds)
        return (begun and not holder.begun) or not self._lives(holder.session)

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

    def _has_living_holder(self, name: str) -> bool:
        text = self._engine.holder(name)
        return text is not None and self._engine.read(f"s/{_holder_of(text).session}") is not None

    def _owner(self, key: str) -> RemoteOwner | None:
        top = self._top(key)
        if top is None or top[1] is None:
            return None
        holder = top[1]
        try:
            beat = json.loads(self._engine.read(f"s/{holder.session}") or b"{}")
            return RemoteOwner(
                holder.session, holder.begun, str(beat.get("host", "")), int(beat.get("pid", 0))
            )
        except (ValueError, AttributeError, TypeError):
            return holder

    def _put(self, entry: tuple[str, bytes]) -> bytes | None:
        """Store an entry; return the bytes that were there, if these are others."""
        address, content = entry
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
        self._free(address)
        return None if theirs == content else theirs

    def _free(self, address: str) -> None:
        self._end_lapsed()
        for lease in self._session.drop([address]):
            try:  # lower numbers are those of the dead
                self._engine.free(_lease_name(key_of(address), each) for each in range(lease.number, 0, -1))
            except BaseException:
                self._session.hold([lease])
                raise

    def _give_back(self, answer: bytes | RemoteLease | None) -> None:
        """Release what an interrupted `ask` has taken."""
        if isinstance(answer, RemoteLease):
            self._told(partial(self._free, answer.address))

    def _let_know(self, addresses: list[str]) -> None:
        name = f"x/{time.time_ns():020d}-{self.session}"
        self._engine.write(name, json.dumps(addresses).encode())

    def _live(self) -> None:
        """Make sure that others take this session for alive."""
        self._end_lapsed()
        if self._session.is_due:
            self._beat()
        self._session.keep_beating(self)

    def _end_lapsed(self) -> None:
        """End a session that others may take for dead, without its leases: some may be another's by now."""
        if self._session.has_lapsed:
            self._engine.delete([f"s/{self._session.start_over()}"])

    def _beat(self) -> None:
        at = time.monotonic()
        session = self._session
        self._end_lapsed()
        beat = {"host": session.host, "pid": os.getpid(), "beat": time.time_ns()}
        self._engine.refresh(f"s/{session.name}", json.dumps(beat).encode())
        session.has_beaten(at)

    def _names(self, prefix: str) -> Iterator[Name]:
        pages = self._engine.listing(prefix)
        while (page := self._call(lambda: next(pages, None))) is not None:
            yield from page


def _unique(addresses: Iterable[str]) -> list[str]:
    return [checked(address) for address in dict.fromkeys(addresses)]


def _addresses_in(record: bytes | None) -> list[str]:
    """Return what a change record holds; nothing of one that is damaged."""
    try:
        return [checked(address) for address in json.loads(record or b"[]")]
    except (ValueError, TypeError):
        return []


def _lease_name(key: str, number: int) -> str:
    return f"c/{key}/{number:08d}"


def _holder_text(session: str, begun: bool) -> str:
    return f"{session}-{'begun' if begun else 'queued'}"


def _holder_of(text: str) -> RemoteOwner:
    session, _, state = text.partition("-")
    return RemoteOwner(session, state != "queued")


def _marker_of(place: str, text: bytes) -> dict[str, object]:
    """Read what a shared store says of itself.

    Raises:
        SharedStoreError: when it is none.
    """
    try:
        marker = json.loads(text)
        if isinstance(marker, dict) and marker.get("format") == STORE_FORMAT:
            return marker
    except ValueError:
        pass
    raise SharedStoreError(
        place, f"is not a shared store: its {MARKER} is something else", "Choose another folder or prefix."
    )


def check_store(place: str, marker: Mapping[str, object], mark: bytes) -> None:
    """Refuse a store of another version or secret.

    Raises:
        SharedStoreError: naming the remedy.
    """
    version = marker.get("version")
    if version != STORE_VERSION:
        raise SharedStoreError(
            place,
            f"is a shared store of version {version}, and this library knows version {STORE_VERSION}",
            "Upgrade bencher_job, or use another place.",
        )
    if marker.get("secret") != mark.hex():
        fact = (
            "was made with another BENCHER_JOB_SECRET"
            if marker.get("secret")
            else "was made without a secret"
        )
        fact = fact if mark else "was made with a BENCHER_JOB_SECRET, and there is none here"
        raise SharedStoreError(place, fact, "Set the secret that its other users have, or use another place.")
