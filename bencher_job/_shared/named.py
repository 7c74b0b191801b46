"""A remote of names and bytes: the layout that folders and object stores share.

bencher_job.json            format, version, mark of the secret, whether creating twice was refused
e/ f/ m/                    as in `base`
c/ s/                       leases and heartbeats, as in `named_leases`
x/<time>-<session>          addresses that were removed or replaced
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from .._errors import SharedStoreError
from .base import (
    LEASE_SECONDS,
    Asked,
    Changes,
    Name,
    RemoteLease,
    RemoteOwner,
    Unreachable,
    checked,
    key_of,
    unique,
)
from .marker import MARKER, check_store, make_marker, read_marker
from .named_leases import ATTEMPTS, Bytes, NamedLeases
from .requests import Requests
from .sessions import SessionRemote

__all__ = ["NamedRemote"]

_SKEW: Final = 3600.0
"""Seconds by which the clocks of machines may differ, so that no change record is missed."""

T = TypeVar("T")


class NamedRemote(SessionRemote):
    """The remote on top of an engine that stores bytes by name."""

    def __init__(
        self,
        engine: Bytes,
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
        self._leases = NamedLeases(engine, self._session)
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
        wanted = unique(addresses)
        found = self._map(self._engine.read, wanted)
        return {
            address: content for address, content in zip(wanted, found, strict=True) if content is not None
        }

    def ask(self, addresses: Iterable[str]) -> Asked:
        """Return what exists, and take leases on the rest."""
        asked = Asked({}, {})
        wanted = unique(addresses)
        for address, answer in zip(wanted, self._map(self._ask, wanted, undo=self._give_back), strict=True):
            if isinstance(answer, RemoteLease):
                asked.leases[address] = answer
            elif answer is not None:
                asked.found[address] = answer
        return asked

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Store what doesn't exist yet, and release the leases on it."""
        unique(entries)
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
        known = self._changes
        new = [name for name in names if name not in known]
        known = known | dict(zip(new, map(_addresses_in, self._map(self._engine.read, new)), strict=True))
        self._changes = {name: known[name] for name in names}
        found = {address for addresses in self._changes.values() for address in addresses}
        return Changes(frozenset(found), repr(now))

    def renew(self) -> None:
        """Send one heartbeat."""
        self._call(self._leases.beat)

    def release(self, leases: Iterable[RemoteLease]) -> None:
        """Release leases without a result."""
        self._map(self._leases.free, [each.address for each in leases])

    def running(self, addresses: Iterable[str] | None = None) -> dict[str, RemoteOwner]:
        """Return who has the leases of some addresses, or of all, by the last part of the address."""
        if addresses is None:
            keys = sorted({name.address.split("/")[1] for name in self._names("c/")})
        else:
            keys = [key_of(address) for address in unique(addresses)]
        owners = self._map(self._leases.owner, keys)
        return {key: owner for key, owner in zip(keys, owners, strict=True) if owner is not None}

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
        idle = [each for each in leases if not self._call(partial(self._leases.has_living_holder, each))]
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
        self._session.hold([lease])
        self._session.keep_beating(self)
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

    def _put(self, entry: tuple[str, bytes]) -> bytes | None:
        """Store an entry; return the bytes that were there, if these are others."""
        address, content = entry
        theirs = None
        for _ in range(ATTEMPTS):
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

    def _give_back(self, answer: bytes | RemoteLease | None) -> None:
        """Release what an interrupted `ask` has taken."""
        if isinstance(answer, RemoteLease):
            self._told(partial(self._leases.free, answer.address))

    def _let_know(self, addresses: list[str]) -> None:
        name = f"x/{time.time_ns():020d}-{self.session}"
        self._engine.write(name, json.dumps(addresses).encode())

    def _names(self, prefix: str) -> Iterator[Name]:
        pages = self._engine.listing(prefix)
        while (page := self._call(lambda: next(pages, None))) is not None:
            yield from page


def _addresses_in(record: bytes | None) -> list[str]:
    """Return what a change record holds; nothing of one that is damaged."""
    try:
        return [checked(address) for address in json.loads(record or b"[]")]
    except (ValueError, TypeError):
        return []
