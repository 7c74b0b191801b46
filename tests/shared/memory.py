"""A remote in memory: what the contract asks for, and no more."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bencher_job._processes import renew_after_fork
from bencher_job._shared import Asked, Changes, Name, RemoteLease, RemoteOwner
from bencher_job._shared.base import checked, key_of, unique


@dataclass(eq=False)
class Memory:
    """What all sessions share."""

    entries: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    leases: dict[str, tuple[RemoteLease, str, int]] = field(default_factory=dict)
    gone: list[tuple[float, str]] = field(default_factory=list)
    numbers: int = 0
    changed: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        renew_after_fork(self)

    def renew(self) -> None:
        self.changed = threading.RLock()


class MemoryRemote:
    """One session. It lives as long as its process, so its leases need no heartbeat."""

    place = "memory"

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.renew_session()

    def renew_session(self) -> None:
        self._name, self._pid = uuid.uuid4().hex, os.getpid()

    @property
    def session(self) -> str:
        if self._pid != os.getpid():
            self.renew_session()
        return self._name

    def get_many(self, addresses: Iterable[str]) -> dict[str, bytes]:
        wanted = unique(addresses)
        with self._memory.changed:
            return {each: self._memory.entries[each][0] for each in wanted if each in self._memory.entries}

    def ask(self, addresses: Iterable[str]) -> Asked:
        wanted = unique(addresses)
        with self._memory.changed:
            found, leases = self.get_many(wanted), {}
            for address in wanted:
                held = self._memory.leases.get(address)
                if address in found:
                    continue
                if held and held[0].session != self.session:
                    continue
                self._memory.numbers += 1
                leases[address] = RemoteLease(address, self._memory.numbers, self.session)
                self._memory.leases[address] = leases[address], os.uname().nodename, os.getpid()
            return Asked(found, leases)

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        given = unique(entries)
        with self._memory.changed:
            there = self.get_many(given)
            for address in given:
                self._memory.entries.setdefault(address, (entries[address], time.time()))
                self._let_go(address)
            return {address: content for address, content in there.items() if content != entries[address]}

    def replace(self, address: str, content: bytes) -> None:
        with self._memory.changed:
            self._memory.entries[checked(address)] = content, time.time()
            self._memory.gone.append((time.time(), address))
            self._let_go(address)

    def remove(self, addresses: Iterable[str]) -> None:
        given = unique(addresses)
        with self._memory.changed:
            for address in given:
                self._memory.entries.pop(address, None)
                self._memory.gone.append((time.time(), address))

    def changes(self, cursor: str = "") -> Changes:
        with self._memory.changed:
            since = float(cursor or 0)
            gone = frozenset(address for when, address in self._memory.gone if when >= since)
            return Changes(gone, repr(time.time()))

    def release(self, leases: Iterable[RemoteLease]) -> None:
        with self._memory.changed:
            for lease in leases:
                if self._has(lease):
                    self._let_go(lease.address)

    def running(self, addresses: Iterable[str] | None = None) -> dict[str, RemoteOwner]:
        wanted = None if addresses is None else unique(addresses)
        with self._memory.changed:
            return {
                key_of(address): RemoteOwner(lease.session, host, pid)
                for address, (lease, host, pid) in self._memory.leases.items()
                if wanted is None or address in wanted
            }

    def names(self, prefix: str) -> Iterator[Name]:
        with self._memory.changed:
            found = [Name(each, len(data), at) for each, (data, at) in self._memory.entries.items()]
        return (name for name in found if name.address.startswith(prefix))

    def tidy(self, seconds: float) -> int:
        with self._memory.changed:
            before = time.time() - seconds
            kept = [each for each in self._memory.gone if each[0] >= before]
            removed, self._memory.gone[:] = len(self._memory.gone) - len(kept), kept
            return removed

    def close(self) -> None:
        with self._memory.changed:
            for address in [
                each for each, held in self._memory.leases.items() if held[0].session == self.session
            ]:
                self._let_go(address)
        self.renew_session()

    def _has(self, lease: RemoteLease) -> bool:
        held = self._memory.leases.get(lease.address)
        return held is not None and (held[0].session, held[0].number) == (self.session, lease.number)

    def _let_go(self, address: str) -> None:
        held = self._memory.leases.get(address)
        if held is not None and held[0].session == self.session:
            del self._memory.leases[address]
