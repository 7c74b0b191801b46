"""A store over a local store and a remote that other machines share.

    get      local store, and copies on their way into it
    ask      the remote, with or without a lease
    put      local commit, with a row of the outbox -> push -> another was first: its result replaces ours
    fetch    many entries at once, before a sweep
    remove   local, and a row of the outbox: others drop their copies

The local store answers all questions but these. What can't be done because the remote doesn't answer is left out
(`ask`, `fetch`) or done later by a courier, of this or another process of the machine.

    found on the remote -> verified -> a copy in memory: answers at once
                                                '-> committed with others, by the courier or before all are listed

A copy may be lost: the remote has the entry.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from .._errors import SharedStoreError, warn_caller
from .._media import holds_paths
from .._processes import renew_after_fork
from .._record import EVERYTHING, Record, Selection, SharedInfo
from .._stores.base import Entry, Hit, Hits, Lease, Leases, Miss, Passing, Reason, Small, StoreFailure, Use
from .._stores.codec import plain_reader
from .._stores.signature import UNSIGNED, Signature
from .._text import counted
from .base import Asked, Remote, RemoteLease, chunks, entry_address, function_folder
from .courier import AT_ONCE, BYTES_AT_ONCE, Breaker, Courier
from .entry import SharedEntry, Taken, Writer, keys_at, read_entries
from .waits import SharedLeases

if TYPE_CHECKING:
    from .._stores.embedded import DiskStore


SHORT: Final = 0.05
"""Seconds below which a job takes no lease between machines."""

_EVERYWHERE: Final = frozenset({"cleared", "forgotten"})
"""Reasons for which an entry is removed from the shared store as well."""

FETCHED_AT_ONCE: Final = 1000
"""How many entries are fetched together, whose sizes are unknown."""

ABSENT_FOR: Final = 1.0
"""Seconds for which an entry of a short job that `fetch` didn't find is not looked up again."""

COMMIT_AFTER: Final = 1.0
"""Seconds that a copy waits for others to be committed with."""

_COMMITTED_AT_ONCE: Final = 500
"""How many are committed together: other processes wait for that."""

_MOST_COPIES: Final = 20_000
_MOST_BYTES: Final = 64_000_000
"""How many copies wait at most, and their size."""

_SLACK: Final = 1.0
"""Seconds by which the clock may have been set back in between."""

_log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """A time before the remote was asked: the mark of the local store, and seconds since 1970."""

    mark: object
    at: float


class Copies:
    """Small entries without files that were fetched and are not in the local store yet.

    What is removed or replaced on this machine after the remote was asked is dropped, whichever process did it.
    """

    def __init__(self, local: DiskStore, writer: Writer, courier: Courier) -> None:
        self._local = local
        self._writer = writer
        self._courier = courier
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave the copies to the parent, in a forked child."""
        self._lock = threading.Lock()
        self._committing = threading.RLock()
        self._copies: dict[str, tuple[Small, SharedEntry]] = {}
        self._bytes = 0
        self._moment = self.moment()
        self._kept = 0.0

    def __bool__(self) -> bool:
        return bool(self._copies)

    @property
    def seconds_left(self) -> float:
        """How long they may wait yet."""
        return max(0.0, self._kept + COMMIT_AFTER - time.monotonic())

    def moment(self) -> Moment:
        """Return what `keep` and `removed_since` need: take it before the outbox is looked at and the remote asked."""
        return Moment(self._local.changed_since(None), time.time())

    def removed_since(self, moment: Moment) -> set[str]:
        """Return the keys of what was removed on this machine, or may have been.

        Raises:
            StoreFailure: when the local store can't be read.
        """
        if self._local.changed_since(moment.mark) is None:
            return set()
        rows = self._local.files.query("SELECT key FROM Gone WHERE at >= ?", (moment.at - _SLACK,))
        return {key for (key,) in rows}

    def keep(self, entries: Iterable[SharedEntry], moment: Moment) -> list[SharedEntry]:
        """Verify the values of entries and keep those that are small; return the others."""
        others: list[SharedEntry] = []
        with self._lock:
            is_first = not self._copies
            if is_first:
                self._kept, self._bytes = time.monotonic(), 0
            if is_first or moment.at < self._moment.at:
                self._moment = moment
            for entry in entries:
                stream = None
                if not entry.has_files:
                    stream = plain_reader(entry.signature)(bytes(entry.value), entry.key)
                if stream is None or holds_paths(stream):
                    others.append(entry)
                else:
                    self._copies[entry.key] = (stream, entry.seconds, entry.created), entry
                    self._bytes += len(stream)
            is_full = len(self._copies) > _MOST_COPIES or self._bytes > _MOST_BYTES
        if is_full:
            self.commit()
        elif is_first:
            self._courier.start()
        return others

    def find(self, keys: Collection[str]) -> dict[str, Small]:
        """Return the verified bytes of those keys that are here."""
        if not self._copies.keys().isdisjoint(keys):
            self._drop_changed()
        copies = self._copies
        return {key: each[0] for key in keys if (each := copies.get(key))}

    def commit(self) -> None:
        """Store them locally, but for those that another process has stored. If that fails they are lost."""
        with self._committing:
            waiting = list(self._copies.items())
            try:
                for some in chunks(waiting, _COMMITTED_AT_ONCE):
                    self._drop_changed()
                    here = self._local.durations([key for key, _ in some])
                    wanted = [each[1] for key, each in some if key in self._copies and key not in here]
                    self._writer.store(wanted, Taken(set(), {}))
            except StoreFailure as error:
                _log.warning("%s can't store what was fetched: %s", self._local.folder, error)
            with self._lock:
                for key, each in waiting:
                    if self._copies.get(key) is each:
                        del self._copies[key]
                self._kept = time.monotonic()

    def _drop_changed(self) -> None:
        """Drop those that were removed or replaced since the remote was asked."""
        with self._lock:
            if self._local.changed_since(self._moment.mark) is None:
                return
            moment = self.moment()
            try:
                gone = self.removed_since(self._moment) | self._local.durations(self._copies).keys()
            except StoreFailure:
                gone = {*self._copies}
            for key in gone & self._copies.keys():
                del self._copies[key]
            self._moment = moment


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
        self._unpushed: tuple[object, set[str]] = None, set()
        self._writer = Writer(local, self._fetch)
        self.courier = Courier(self)
        self.copies = Copies(local, self._writer, self.courier)
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

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Count hits in the local store. Copies wait on: a sweep counts before each of its parts."""
        self.disk.count_uses(uses)

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Bring entries of the remote here, in place of those that are here already; return how many."""
        keys = list(keys)
        moment = self.copies.moment()
        wanted = self._wanted(entry_address(function, key) for key in keys)
        here = {entry_address(function, key) for key in self.disk.durations(keys)}
        absent: set[str] = set()
        fetched = 0
        for some in chunks(wanted, FETCHED_AT_ONCE):
            found = self._get_many(some)
            if found is None:
                break
            absent.update(set(some) - found.keys())
            old = {address: found.pop(address) for address in here & found.keys()}
            fetched += len(self._take_if_possible(found, moment).keys)
            fetched += len(self._take_if_possible(old, moment, at_once=True).keys)
        self._absent = time.monotonic() + ABSENT_FOR, absent
        return fetched

    def is_short(self, function: str) -> bool:
        """Whether a job takes no lease of the remote: earlier ones were shorter than it takes to agree."""
        return not self.writes or self._seconds.get(function, SHORT) < SHORT

    def ask(self, leases: Sequence[Lease], *, is_short: bool) -> tuple[dict[str, RemoteLease], set[str]]:
        """Bring the results of jobs here and set the `has_entry` of their leases: of short jobs, or of the others.

        Return by key the leases that were taken on the remote, none for short jobs, and the keys of the jobs that
        other machines run.
        """
        jobs = {
            entry_address(each.function, each.key): each
            for each in leases
            if self.is_short(each.function) == is_short
        }
        moment = self.copies.moment()
        wanted = self._wanted(jobs) if jobs else set()
        if is_short and time.monotonic() < self._absent[0]:
            wanted.difference_update(self._absent[1])
        if not wanted:
            return {}, set()
        if is_short:
            asked = Asked(self._get_many(wanted) or {}, {})
        else:
            answer = self.breaker.ask(lambda remote: remote.ask(wanted))
            if answer is None:
                return {}, set()
            asked = answer
        taken = self._take_if_possible(asked.found, moment) if asked.found else Taken(set(), {})
        for address in asked.found:
            jobs[address].has_entry = jobs[address].key in taken.keys
        elsewhere = set() if is_short else wanted - asked.found.keys() - asked.leases.keys()
        held = {jobs[address].key: lease for address, lease in asked.leases.items()}
        return held, {jobs[address].key for address in elsewhere}

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
        if reason not in _EVERYWHERE:
            return self.local.remove(keys, reason)
        records = [info.record for info in self.local.history.infos(keys)]
        return self._remove_everywhere(records, lambda: self.disk.remove(keys, reason))

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Remove the selected entries of the local store, on all machines."""
        return self._remove_everywhere(self.local.records(selection), lambda: self.disk.clear(selection))

    def _remove_everywhere(self, records: Iterable[Record], remove_here: Callable[[], int]) -> int:
        """Remove entries here, and then elsewhere: the courier removes here what it finds removed elsewhere."""
        rows = [_row(record) for record in records] if self.writes else []
        self.disk.outbox.add_removals(rows)
        removed = remove_here()
        if rows and self._through:
            self.courier.push_now([address for address, *_ in rows])
        elif rows:
            self.courier.start()
        return removed

    def pull(self, folder: str, tag: str | None = None) -> int:
        """Store the entries in a folder of the remote locally, except those that are here; return how many.

        Args:
            folder: `e/` for all, or that of one function.
            tag: of which tag; of any by default.
        """
        pulled = 0
        moment = self.copies.moment()
        names = self.breaker.ask(lambda remote: list(remote.names(folder))) or []
        for some in chunks(names, AT_ONCE, size=BYTES_AT_ONCE, size_of=lambda name: name.size):
            addresses = self._wanted(name.address for name in some)
            addresses -= keys_at(self.local, addresses).keys()
            found = self._get_many(addresses) if addresses else None
            pulled += len(self.take(found, moment, tag=tag, at_once=True).keys) if found else 0
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
            listed = self.breaker.ask(lambda remote, at=folder: list(remote.names(f"e/{at}/"))) or []  # type: ignore[misc]
            names = {name.address for name in listed}
            self.disk.outbox.add(row for row in map(_row, records) if row[0] not in names)
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

    def _wanted(self, addresses: Iterable[str]) -> set[str]:
        """Leave out what can't be used, and what was removed or replaced here and is not pushed yet.

        The outbox is read again after each change on this machine only: a change is in it before it is counted.
        """
        if self.breaker.reason:  # nothing is asked, and the outbox may be long
            return set(addresses)
        mark, unpushed = self._unpushed
        if unpushed or self.changed_since(mark) is not None:
            mark = self.changed_since(None)
            unpushed = self.disk.outbox.changes()
            self._unpushed = mark, unpushed
        return set(addresses) - self.bad - unpushed

    def _get_many(self, addresses: Collection[str]) -> dict[str, bytes] | None:
        return self.breaker.ask(lambda remote: remote.get_many(addresses))

    def _take_if_possible(
        self, found: Mapping[str, bytes], moment: Moment, *, at_once: bool = False
    ) -> Taken:
        try:
            return self.take(found, moment, at_once=at_once)
        except StoreFailure as error:
            _log.warning("%s can't store what was fetched from %s: %s", self.folder, self.place, error)
            return Taken(set(), {})

    def take(
        self, found: Mapping[str, bytes], moment: Moment, *, tag: str | None = None, at_once: bool = False
    ) -> Taken:
        """Verify entries, by address, and keep them: those that are small as copies, unless `at_once` is given.

        What was removed on this machine since a moment is left out.

        Raises:
            StoreFailure: when the local store can't be written.
        """
        found = {address: content for address, content in found.items() if address not in self.bad}
        entries, taken = read_entries(found, self.signature, tag=tag)
        if removed := self.copies.removed_since(moment):
            entries = [each for each in entries if each.key not in removed]
        large = entries if at_once else self.copies.keep(entries, moment)
        taken.keys.update({each.key for each in entries} - {each.key for each in large})
        if large:
            self._writer.store(large, taken)
        for entry in entries:
            self._note_seconds(entry.function, entry.seconds)
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
        return (self._get_many([address]) or {}).get(address)

    def _note_seconds(self, function: str, seconds: float) -> None:
        before = self._seconds.get(function, seconds)
        self._seconds[function] = before + (seconds - before) / 4


def _row(record: Record) -> tuple[str, str, str]:
    """Return what the outbox needs of an entry."""
    return entry_address(record.function, record.key), record.key, record.function


_open: weakref.WeakSet[SharedStore] = weakref.WeakSet()


@atexit.register
def _push_the_rest() -> None:
    for store in list(_open):
        store.end()
