"""A store over a local store and a remote that other machines share.

    get      local store, and copies on their way into it
    look_up  the remote, without a lease
    agree    leases of the remote, or what it has
    put      local commit, with a row of the outbox -> push -> another was first: its result replaces ours
    fetch    many entries at once, before a sweep
    remove   local, and a row of the outbox: others drop their copies

The local store answers all questions but these. What can't be done because the remote doesn't answer is left out
(`look_up`, `agree`, `fetch`) or done later by a courier, of this or another process of the machine.
"""

from __future__ import annotations

import atexit
import logging
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from .._errors import SharedStoreError, warn_caller
from .._processes import renew_after_fork
from .._record import EVERYTHING, Record, Selection, SharedInfo
from .._stores.base import Entry, Hit, Hits, Lease, Leases, Miss, Passing, Reason, StoreFailure
from .._stores.signature import UNSIGNED, Signature
from .._text import counted
from .base import Asked, Name, Remote, RemoteLease, entry_address, function_folder
from .breaker import Breaker
from .copies import Copies
from .courier import AT_ONCE, BYTES_AT_ONCE, Courier
from .local import Taken, Writer, keys_at, read_entries
from .requests import chunks
from .waits import SharedLeases

if TYPE_CHECKING:
    from .._stores.embedded import DiskStore

__all__ = ["SharedStore"]

SHORT: Final = 0.05
"""Seconds below which a job takes no lease between machines."""

_EVERYWHERE: Final = frozenset({"cleared", "forgotten"})
"""Reasons for which an entry is removed from the shared store as well."""

FETCHED_AT_ONCE: Final = 1000
"""How many entries are fetched together, whose sizes are unknown."""

ABSENT_FOR: Final = 1.0
"""Seconds for which an entry of a short job that `fetch` didn't find is not looked up again."""

_log = logging.getLogger(__name__)


class SharedStore(Passing):
    """A local store, and a remote behind it.

    Attributes:
        disk: the local store as it is.
        copies: what was fetched and is not in it yet.
        breaker: the way to the remote.
        courier: pushes results and removals.
        hits: entries that were taken from the remote.
        superseded: results of this process that gave way to one that another machine stored first.
        bad: addresses of entries that can't be used.
    """

    keeps = True

    def __init__(
        self,
        local: DiskStore,
        remote: Remote,
        signature: Signature = UNSIGNED,
        *,
        writes: bool = True,
        through: bool = False,
    ) -> None:
        """Put a remote behind a local store.

        With `writes=False` nothing is pushed, and no lease taken. With `through=True` a put returns after the push.
        """
        self.disk = local
        self.folder = local.folder
        self.tally = local.tally
        self.changed_since = local.changed_since
        self.signature = signature
        self.writes = writes
        self._through = through
        self.hits = 0
        self.superseded = 0
        self.bad: set[str] = set()
        self._seconds: dict[str, float] = {}
        self._absent: tuple[float, Collection[str]] = 0.0, ()
        self._writer = Writer(local, self._fetch)
        self.courier = Courier(self)
        self.copies = Copies(local, self._writer.entry_of, self.courier.start)
        self.breaker = Breaker(remote, self.courier.start)
        self.shared_leases = SharedLeases(self, local.leases)
        self.leases: Leases = self.shared_leases
        renew_after_fork(self)
        _open.add(self)
        self.courier.start()  # others may have left something to push, and removed or replaced entries

    def renew(self) -> None:
        """Hold no leases of the parent in a forked child."""
        self.shared_leases.renew()

    @property
    def local(self) -> DiskStore:
        """The local store, with all copies."""
        if self.copies:
            self.copies.commit()
        return self.disk

    behind = local

    @property
    def place(self) -> str:
        """The URL or path of the remote, as messages show it."""
        return self.breaker.remote.place

    @property
    def shared(self) -> SharedInfo:
        """The figures of the remote, as far as they are known in this process."""
        return SharedInfo(
            place=self.place,
            hits=self.hits,
            superseded=self.superseded,
            outbox=self.disk.outbox.count(),
            problem=self.breaker.reason,
        )

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up here."""
        if self.copies and (found := self.copies.find((key,))):
            stream, seconds, created = found[key]
            self.disk.uses.note(key, seconds)
            return Hit(stream, (), seconds, created)
        return self.disk.get(key, mapped)

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> Hits:
        """Look entries up here."""
        if largest is not None or not self.copies:
            return self.local.get_many(keys, mapped, largest=largest, counts=counts)
        keys = list(keys)
        found = Hits()
        found.small.update(self.copies.find(keys))
        if counts:
            self.disk.uses.note_many(found)
        missing = [key for key in keys if key not in found.small]
        if missing:
            found.update(self.disk.get_many(missing, mapped, counts=counts))
        return found

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Bring entries of the remote here, in place of those that are here already; return how many."""
        keys = list(keys)
        wanted = {entry_address(function, key) for key in keys} - self.bad
        here = {entry_address(function, key) for key in self.disk.durations(keys)}
        absent: set[str] = set()
        fetched = 0
        for some in chunks(wanted - self._replaced(wanted), FETCHED_AT_ONCE):
            found = self.breaker.ask(partial(_get_many, some))
            if found is None:
                break
            absent.update(set(some) - found.keys())
            old = {address: found.pop(address) for address in here & found.keys()}
            fetched += len(self._take_if_possible(found).keys)
            fetched += len(self._take_if_possible(old, at_once=True).keys)
        self._absent = time.monotonic() + ABSENT_FOR, absent
        return fetched

    def look_up(self, leases: Sequence[Lease]) -> None:
        """Bring the results of short jobs here, and set the `has_entry` of their leases; no lease is taken."""
        addresses = {entry_address(each.function, each.key): each for each in leases if self.is_short(each)}
        if not addresses:
            return
        until, absent = self._absent
        wanted = addresses.keys() - self.bad - set(absent if time.monotonic() < until else ())
        wanted -= self._replaced(wanted)
        found = self.breaker.ask(partial(_get_many, wanted)) if wanted else None
        if found:
            keys = self._take_if_possible(found).keys
            for address in found:
                addresses[address].has_entry = addresses[address].key in keys

    def is_short(self, lease: Lease) -> bool:
        """Whether a job takes no lease of the remote: such jobs have been shorter than it takes to agree."""
        return not self.writes or self._seconds.get(lease.function, SHORT) < SHORT

    def agree(self, leases: Sequence[Lease], held: dict[str, RemoteLease]) -> set[str]:
        """Take leases of the remote, or bring what it has. Return the keys that other machines compute."""
        by_address = {
            entry_address(each.function, each.key): each for each in leases if not self.is_short(each)
        }
        wanted = by_address.keys() - self.bad
        wanted -= self._replaced(wanted)
        asked = self.breaker.ask(partial(_ask, wanted)) if wanted else None
        if asked is None:
            return set()
        held.update({by_address[address].key: lease for address, lease in asked.leases.items()})
        taken = self._take_if_possible(asked.found)
        for address in asked.found:
            by_address[address].has_entry = by_address[address].key in taken.keys
        return {by_address[address].key for address in wanted - asked.found.keys() - asked.leases.keys()}

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries locally, and push them: at once, or soon."""
        if not self.writes:
            return self.local.put_many(entries)
        addressed = [
            entry._replace(address=entry_address(entry.record.function, entry.record.key))
            for entry in entries
        ]
        others = self.local.put_many(addressed)
        if others:
            self.shared_leases.release_there(others)
        for entry in entries:
            self._note_seconds(entry.record.function, entry.record.seconds)
        if not self._through:
            self.courier.start()
            return others
        pushed = [entry.address for entry in addressed if entry.record.key not in others]
        return {**others, **self.courier.push_now(pushed)}

    def remove(self, keys: Iterable[str], reason: Reason = "forgotten") -> int:
        """Remove entries here and, unless the local store only makes room, on all machines."""
        keys = list(keys)
        if reason in _EVERYWHERE:
            infos = self.local.history.infos(keys)
            self._remove_elsewhere(info.record for info in infos)
        return self.local.remove(keys, reason)

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Remove the selected entries of the local store, on all machines."""
        self._remove_elsewhere(self.local.records(selection))
        return self.local.clear(selection)

    def _remove_elsewhere(self, records: Iterable[Record]) -> None:
        if not self.writes:
            return
        removed = [
            (entry_address(record.function, record.key), record.key, record.function) for record in records
        ]
        self.disk.outbox.add_removals(removed)
        if self._through:
            self.courier.push_now([address for address, *_ in removed])
        else:
            self.courier.start()

    def pull(self, folder: str, tag: str | None = None) -> int:
        """Store the entries in a folder of the remote locally, except those that are here; return how many.

        Args:
            folder: `e/` for all, or that of one function.
            tag: of which tag; of any by default.
        """
        pulled = 0
        names = self.breaker.ask(lambda remote: list(remote.names(folder))) or []
        for some in _portions(names):
            addresses = {name.address for name in some} - self.bad
            addresses -= keys_at(self.local, addresses).keys() | self._replaced(addresses)
            found = self.breaker.ask(partial(_get_many, addresses)) if addresses else None
            pulled += len(self.take(found, tag=tag, at_once=True).keys) if found else 0
        return pulled

    def push_all(self) -> int:
        """Push all local entries that are not on the remote. Return how many entries and removals were pushed."""
        if not self.writes:
            raise SharedStoreError(
                self.place, "is only read", "Set BENCHER_JOB_SHARED_MODE=write to push to it."
            )
        by_folder: dict[str, list[Record]] = {}
        for record in self.local.records():
            by_folder.setdefault(function_folder(record.function), []).append(record)
        for folder, records in by_folder.items():
            names = self.breaker.ask(partial(_names_in, f"e/{folder}/")) or set()
            rows = [(entry_address(each.function, each.key), each.key, each.function) for each in records]
            self.disk.outbox.add(row for row in rows if row[0] not in names)
        return self.courier.push_all()

    def close(self) -> None:
        """Push what is left for some seconds, and release all. The next use opens it again."""
        self.end()
        self.disk.close()
        self.breaker.is_closing = False

    def end(self) -> None:
        """Push what is left for some seconds, end the courier and release all of the remote."""
        self.courier.end()
        self.breaker.remote.close()

    # ------------------------------------------------------------------ what the remote has

    def _replaced(self, addresses: Collection[str]) -> set[str]:
        """Return those addresses whose entries were removed or replaced here, which the remote may not know yet."""
        return {each.address for each in self.disk.outbox.of(addresses) if each.action != "put"}

    def _take_if_possible(self, found: Mapping[str, bytes], *, at_once: bool = False) -> Taken:
        try:
            return self.take(found, at_once=at_once)
        except StoreFailure as error:
            _log.warning("%s can't store what was fetched from %s: %s", self.folder, self.place, error)
            return Taken(set(), {})

    def take(self, found: Mapping[str, bytes], *, tag: str | None = None, at_once: bool = False) -> Taken:
        """Verify entries, by address, and keep them: those that are small as copies, unless `at_once` is given.

        Raises:
            StoreFailure: when the local store can't be written.
        """
        found = {address: content for address, content in found.items() if address not in self.bad}
        entries, taken = read_entries(found, self.signature, tag=tag)
        large = entries
        if entries and not at_once:
            large = self.copies.keep(entries)
            taken.keys.update(each.record.key for each in entries)
            taken.keys.difference_update(each.record.key for each in large)
        self._writer.store(large, taken)
        for entry in entries:
            self._note_seconds(entry.record.function, entry.record.seconds)
        if taken.problems:
            self.bad.update(taken.problems)
            address, problem = next(iter(taken.problems.items()))
            warn_caller(
                f"{counted(len(taken.problems), 'entry')} of the shared store {self.place} can't be used, for one "
                f"{address}: {problem}. They stay as they are, and their jobs run here."
            )
        self.hits += len(taken.keys)
        return taken

    def _fetch(self, address: str) -> bytes | None:
        return (self.breaker.ask(partial(_get_many, [address])) or {}).get(address)

    def _note_seconds(self, function: str, seconds: float) -> None:
        before = self._seconds.get(function, seconds)
        self._seconds[function] = before + (seconds - before) / 4


def _get_many(addresses: Collection[str], remote: Remote) -> dict[str, bytes]:
    return remote.get_many(addresses)


def _names_in(folder: str, remote: Remote) -> set[str]:
    return {name.address for name in remote.names(folder)}


def _ask(addresses: Collection[str], remote: Remote) -> Asked:
    return remote.ask(addresses)


def _remove(addresses: Collection[str], remote: Remote) -> bool:
    remote.remove(addresses)
    return True


def _portions(names: Iterable[Name]) -> Iterator[list[Name]]:
    """Divide names by number and by the size of their entries."""
    some: list[Name] = []
    size = 0
    for name in names:
        if some and (len(some) == AT_ONCE or size + name.size > BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(name)
        size += name.size
    if some:
        yield some


_open: weakref.WeakSet[SharedStore] = weakref.WeakSet()


@atexit.register
def _push_the_rest() -> None:
    for store in list(_open):
        store.end()
