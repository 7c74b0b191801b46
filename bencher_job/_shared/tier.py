"""A store over a local store and a remote that other machines share.

    get      local store only
    acquire  local lease -> ask the remote: stored there -> store it locally, `has_entry`
                                            nobody has it -> a remote lease as well
                                            another machine computes it -> not held: wait
    put      local commit, with a row of the outbox -> push -> another was first: its result replaces ours
    fetch    many entries at once, before a sweep
    remove   local, and a row of the outbox: others drop their copies

The local store answers all questions but these. What can't be done because the remote doesn't answer is left out
(`acquire`, `fetch`) or done later, by this or another process of the machine (the outbox).
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from .._errors import SharedStoreError, warn_caller
from .._processes import Process, renew_after_fork
from .._record import EVERYTHING, Record, Selection, SharedInfo
from .._stores.base import (
    Entry,
    Hit,
    Hits,
    Items,
    Lease,
    Leases,
    LeasesUnavailable,
    Miss,
    Reason,
    StoreFailure,
    Use,
    Wait,
)
from .._stores.signature import UNSIGNED, Signature
from .._text import counted
from .base import (
    Asked,
    Name,
    Owner,
    Remote,
    Unreachable,
    entry_address,
    function_folder,
    key_of,
    source_address,
)
from .base import Lease as RemoteLease
from .breaker import Breaker
from .local import Packed, Taken, keys_at, pack, pack_sources, take
from .requests import chunks

if TYPE_CHECKING:
    from .._keys import StoredFunctionVersion
    from .._record import Figures, FunctionInfo
    from .._stores.base import History, LeaseInfo, Tally
    from .._stores.blobs import BlobWriter
    from .._stores.embedded import DiskStore
    from .._stores.outbox import Pending

__all__ = ["SharedStore"]

SHORT: Final = 0.05
"""Seconds below which a job takes no lease between machines."""

AT_ONCE: Final = 256
"""How many rows of the outbox are pushed together, as far as their entries are small."""

BYTES_AT_ONCE: Final = 64_000_000
"""Size of entries that are pushed or pulled together, and so are in memory."""

CHANGES_EVERY: Final = 30.0
"""Seconds between two looks at what others have removed or replaced."""

_EVERYWHERE: Final = frozenset({"cleared", "forgotten"})
"""Reasons for which an entry is removed from the shared store as well."""

FETCHED_AT_ONCE: Final = 1000
"""How many entries are fetched together, whose sizes are unknown."""

LAST_PUSH: Final = 10.0
"""Seconds that closing, or the end of the program, waits for the outbox."""

COURIER: Final = "bencher_job courier"

LAST_STEP: Final = 2.0
"""Seconds that they wait for a step of the courier: the end of the program must not find it in the database."""

LOOK_EVERY: Final = 0.5

ASK_EVERY: Final = 5.0
"""Seconds after which who waits asks for the key again: its owner may have died, or somebody else stored the result."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class SharedStore(Items):
    """A local store, and a remote behind it.

    Attributes:
        hits: entries that were taken from the remote.
        superseded: results of this process that gave way to one that another machine stored first.
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
        self.local = local
        self._remote = remote
        self._signature = signature
        self._writes = writes
        self._through = through
        self.breaker = Breaker(remote.place)
        self.hits = 0
        self.superseded = 0
        self._seconds: dict[str, float] = {}
        self._bad: set[str] = set()
        self._sources: set[bytes] = set()
        self._versions: dict[bytes, StoredFunctionVersion] = {}
        self._told_left = 0
        self._shared_leases = _SharedLeases(self, local.leases)
        self.leases: Leases = self._shared_leases
        self.renew()
        renew_after_fork(self)
        _open.add(self)
        self._start()  # others may have left something to push, and removed or replaced entries

    def renew(self) -> None:
        """Start without threads, as in a forked child."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._pushing = threading.Lock()
        self._waits: dict[str, weakref.WeakSet[_RemoteWait]] = {}
        self._shared_leases.renew()
        self._unreleased: list[RemoteLease] = []
        self._watcher: threading.Thread | None = None
        self._courier: threading.Thread | None = None
        self.is_closing = False
        self._changes_at = self._looked = 0.0
        self._running: set[str] = set()

    @property
    def folder(self) -> Path | None:
        """The folder of the local store."""
        return self.local.folder

    @property
    def place(self) -> str:
        """The URL or path of the remote, as messages show it."""
        return self._remote.place

    @property
    def tally(self) -> Tally:
        """Counts of what the local store did unasked in this process."""
        return self.local.tally

    @property
    def history(self) -> History:
        """What the local store knows about its entries besides their values."""
        return self.local.history

    @property
    def shared(self) -> SharedInfo:
        """The figures of the remote, as far as this process knows them."""
        return SharedInfo(
            place=self.place,
            hits=self.hits,
            superseded=self.superseded,
            outbox=self.local.outbox.count(),
            problem=self.breaker.reason,
        )

    def running(self) -> set[str]:
        """Return by the last part of their address what other machines compute, as of half a second ago."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY and self.breaker.is_closed:
            self._looked = now
            owners = self.ask(lambda remote: remote.running()) or {}
            self._running = {key for key, owner in owners.items() if owner.session != self._remote.session}
        return self._running

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up in the local store."""
        return self.local.get(key, mapped)

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> Hits:
        """Look entries up in the local store."""
        return self.local.get_many(keys, mapped, largest=largest, counts=counts)

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Store entries of the remote locally; return how many."""
        wanted = {entry_address(function, key) for key in keys} - self._bad
        fetched = 0
        for some in chunks(wanted - self._replaced(wanted) if wanted else (), FETCHED_AT_ONCE):
            found = self.ask(partial(_get_many, some))
            fetched += len(self._take_all(found).keys) if found else 0
        return fetched

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries locally, and push them: at once, or soon."""
        if not self._writes:
            return self.local.put_many(entries)
        addressed = [
            entry._replace(address=entry_address(entry.record.function, entry.record.key))
            for entry in entries
        ]
        others = self.local.put_many(addressed)
        if others:
            self._shared_leases.release_there(others)
        for entry in entries:
            self._note_seconds(entry.record.function, entry.record.seconds)
        if not self._through:
            self._start()
            return others
        pushed = [entry.address for entry in addressed if entry.record.key not in others]
        return {**others, **self._push_now(pushed)}

    def _push_now(self, addresses: Collection[str]) -> dict[str, Hit | Miss]:
        """Push what was just committed here. If that fails the courier does it, for the commit itself has not."""
        try:
            with self._pushing:
                return self._push(self.local.outbox.of(addresses))
        except StoreFailure as error:
            _log.warning("results of %s are pushed later: %s", self.folder, error)
            self._start()
            return {}

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
        if not self._writes:
            return
        removed = [
            (entry_address(record.function, record.key), record.key, record.function) for record in records
        ]
        self.local.outbox.add_removals(removed)
        if self._through:
            self._push_now([address for address, *_ in removed])
        else:
            self._start()

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Count hits that a memory cache has answered."""
        self.local.count_uses(uses)

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Return how long the functions of local entries had run."""
        return self.local.durations(keys)

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        """Iterate over the records of local entries."""
        return self.local.records(selection, latest)

    def functions(self) -> list[FunctionInfo]:
        """Return the figures of each function that has local entries."""
        return self.local.functions()

    def figures(self) -> Figures:
        """Return the figures of the local store."""
        return self.local.figures()

    def blob_writer(self, compression: str | None) -> BlobWriter | None:
        """Return how workers of this machine write large values themselves."""
        return self.local.blob_writer(compression)

    def changed_since(self, mark: object) -> object:
        """Return None if no local entry was replaced or removed since a mark, else a new mark."""
        return self.local.changed_since(mark)

    def pull(self, folder: str, tag: str | None = None) -> int:
        """Store the entries in a folder of the remote locally, except those that are here; return how many.

        Args:
            folder: `e/` for all, or that of one function.
            tag: of which tag; of any by default.
        """
        pulled = 0
        names = self.ask(lambda remote: list(remote.names(folder))) or []
        for some in _portions(names):
            addresses = {name.address for name in some} - self._bad
            addresses -= keys_at(self.local, addresses).keys() | self._replaced(addresses)
            found = self.ask(partial(_get_many, addresses)) if addresses else None
            pulled += len(self._take(found, tag).keys) if found else 0
        return pulled

    def push_all(self) -> int:
        """Push all local entries that the remote hasn't got; return how many entries and removals were pushed."""
        if not self._writes:
            raise SharedStoreError(
                self.place, "is only read", "Set BENCHER_JOB_SHARED_MODE=write to push to it."
            )
        by_folder: dict[str, list[Record]] = {}
        for record in self.local.records():
            by_folder.setdefault(function_folder(record.function), []).append(record)
        for folder, records in by_folder.items():
            names = self.ask(partial(_names_in, f"e/{folder}/")) or set()
            rows = [(entry_address(each.function, each.key), each.key, each.function) for each in records]
            self.local.outbox.add(row for row in rows if row[0] not in names)
        before = self.local.outbox.count()
        while self._drain(math.inf):
            pass
        return before - self.local.outbox.count()

    def close(self) -> None:
        """Push what is left for some seconds, and release all. The next use opens it again."""
        self.end()
        self.local.close()
        self.is_closing = False

    def end(self) -> None:
        """Push what is left for some seconds, end the thread and release all of the remote."""
        self.flush(LAST_PUSH)
        self.is_closing = True
        self._wake.set()
        courier, self._courier = self._courier, None
        if courier is not None and courier is not threading.current_thread():
            courier.join(LAST_STEP)
        self._remote.close()

    def flush(self, seconds: float) -> int:
        """Push the outbox, for so many seconds at most; return what is left. Warn if that isn't nothing."""
        if not self._writes or self.is_closing:
            return 0
        end = time.monotonic() + seconds
        try:
            while self.breaker.is_closed and self._drain(end) and time.monotonic() < end:
                pass
            left = self.local.outbox.count()
        except StoreFailure as error:
            _log.warning("the outbox of %s can't be read: %s", self.folder, error)
            return 0
        is_news, self._told_left = left > self._told_left, left
        if is_news:
            warn_caller(
                f"{left} results of {self.folder} were not pushed to {self.place} yet. The next process on this "
                "machine that uses both pushes them, or `bencher-job push`."
            )
        return left

    # ------------------------------------------------------------------ requests

    def ask(self, work: Callable[[Remote], T]) -> T | None:
        """Make a request; return None if the remote doesn't answer."""
        if self._is_over():
            return None
        if not self.breaker.is_closed:
            self.breaker.skipped += 1
            self._start()
            return None
        try:
            result = work(self._remote)
        except Unreachable as error:
            if not self.is_closing:  # which ends requests
                self.breaker.failed(error)
                self._start()
            return None
        self.breaker.worked()
        return None if self._is_over() else result

    def _is_over(self) -> bool:
        """Whether it is being closed. The courier's thread ends then, so that it isn't in the database meanwhile."""
        if self.is_closing and threading.current_thread().name == COURIER:
            raise SystemExit
        return self.is_closing

    def _replaced(self, addresses: Collection[str]) -> set[str]:
        """Return those addresses whose entries were removed or replaced here, which the remote may not know yet."""
        return {each.address for each in self.local.outbox.of(addresses) if each.action != "put"}

    def _take_all(self, found: Mapping[str, bytes]) -> Taken:
        """Store entries locally, if that is possible."""
        try:
            return self._take(found)
        except StoreFailure as error:
            _log.warning("%s can't store what was fetched from %s: %s", self.folder, self.place, error)
            return Taken(set(), {})

    def _take(self, found: Mapping[str, bytes], tag: str | None = None) -> Taken:
        """Verify entries, by address, and store them locally."""
        found = {address: content for address, content in found.items() if address not in self._bad}
        taken = take(self.local, found, self._fetch, self._signature, self._versions, tag=tag)
        problems = taken.problems
        self._bad.update(problems)
        if problems:
            address, problem = next(iter(problems.items()))
            warn_caller(
                f"{counted(len(problems), 'entry')} of the shared store {self.place} can't be used, for one "
                f"{address}: {problem}. They stay as they are, and their jobs run here."
            )
        self.hits += len(taken.keys)
        return taken

    def _fetch(self, address: str) -> bytes | None:
        return (self.ask(lambda remote: remote.get_many([address])) or {}).get(address)

    def _note_seconds(self, function: str, seconds: float) -> None:
        before = self._seconds.get(function, seconds)
        self._seconds[function] = before + (seconds - before) / 4

    def is_short(self, function: str) -> bool:
        """Whether the jobs of a function have been shorter than it takes to agree on who runs them."""
        return self._seconds.get(function, SHORT) < SHORT

    def agree(self, leases: Sequence[Lease], held: dict[str, RemoteLease]) -> set[str]:
        """Take leases of the remote, and store locally what it has. Return the keys that other machines compute."""
        by_address = {entry_address(lease.function, lease.key): lease for lease in leases}
        left_out = self._bad | self._replaced(by_address)
        by_address = {address: lease for address, lease in by_address.items() if address not in left_out}
        long = {
            address
            for address, lease in by_address.items()
            if self._writes and not self.is_short(lease.function)
        }
        short = by_address.keys() - long
        found = (self.ask(lambda remote: remote.get_many(short)) or {}) if short else {}
        elsewhere: set[str] = set()
        asked = self.ask(partial(_ask, long)) if long else None
        if asked is not None:
            found = {**found, **asked.found}
            held.update({by_address[address].key: lease for address, lease in asked.leases.items()})
            others = long - found.keys() - asked.leases.keys()
            elsewhere = {by_address[address].key for address in others}
        taken = self._take_all(found) if found else Taken(set(), {})
        for address in found:
            by_address[address].has_entry = by_address[address].key in taken.keys
        return elsewhere

    def give_back(self, leases: Sequence[RemoteLease] = ()) -> None:
        """Release leases of the remote: now, or when it answers again."""
        with self._lock:
            leases = [*self._unreleased, *leases]
            self._unreleased.clear()
        if leases and self.ask(partial(_release, leases)) is None:
            with self._lock:
                self._unreleased += leases

    # ------------------------------------------------------------------ pushing

    def _drain(self, end: float) -> bool:
        """Push some of the outbox; whether there may be more."""
        if not self._pushing.acquire(timeout=min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX)):
            return False
        try:
            pending = self.local.outbox.pending(AT_ONCE)
            if not pending:
                return False
            self._push(pending, end)
        finally:
            self._pushing.release()
        return self.breaker.is_closed and len(pending) == AT_ONCE and time.monotonic() < end

    def _push(self, pending: Sequence[Pending], end: float = math.inf) -> dict[str, Hit | Miss]:
        """Push entries and removals, as long as there is time; return the results that were stored first, by key."""
        put = {each.key: each for each in pending if each.action != "remove"}
        others: dict[str, Hit | Miss] = {}
        group: dict[Pending, Packed] = {}
        size = 0
        left = set(pending)
        for key, packed in pack(self.local, put, self._signature):
            group[put[key]] = packed
            size += len(packed.content)
            if size > BYTES_AT_ONCE:
                taken = self._push_group(group)
                if taken is None or time.monotonic() > end:
                    return others | (taken or {})
                others |= taken
                left -= group.keys()
                group, size = {}, 0
        taken = self._push_group(group) if group else {}
        if taken is None:
            return others
        left -= group.keys()
        # What was to be replaced, and is gone by now, was removed after it was put.
        removed = [each.address for each in left if each.action != "put"]
        if not removed or self.ask(partial(_remove, removed)):
            self.local.outbox.done(list(left))
        self._shared_leases.release_there(each.key for each in left)
        return others | taken

    def _push_group(self, group: Mapping[Pending, Packed]) -> dict[str, Hit | Miss] | None:
        """Push entries; return the results that were stored first by others, by key; None without an answer."""
        rest = {row.address: packed.content for row, packed in group.items() if row.action == "put"}

        def send(remote: Remote) -> dict[str, bytes]:
            self._send_parts(remote, group.values())
            for row, packed in group.items():
                if row.action == "replace":
                    remote.replace(row.address, packed.content)
            return remote.put_many(rest) if rest else {}

        first = self.ask(send)
        if first is None:
            return None
        taken = self._take_all(first)
        self.local.outbox.done(list(group))
        self._shared_leases.pushed(row.key for row in group)
        self.superseded += len(taken.keys)
        self.hits -= len(taken.keys)
        return {key: self.local.get(key) for key in taken.keys}

    def _send_parts(self, remote: Remote, packed: Iterable[Packed]) -> None:
        """Store what entries refer to before the entries: large files, and the sources of functions."""
        for each in packed:
            for address, path in each.large.items():
                try:
                    remote.put_many({address: path.read_bytes()})
                except OSError as error:  # removed just now, with its entry
                    _log.info("%s is not shared: %s", path, error)
            if each.prefix and each.prefix not in self._sources:
                content = pack_sources(self.local, each.prefix, self._signature)
                if content is not None:
                    remote.put_many({source_address(each.prefix.hex()): content})
                self._sources.add(each.prefix)

    # ------------------------------------------------------------------ the courier's thread

    def _start(self) -> None:
        """Have the thread look at what is to be done."""
        self._wake.set()
        if self._courier is not None and self._courier.is_alive():
            return
        with self._lock:
            if self._courier is None or not self._courier.is_alive():
                self._courier = threading.Thread(
                    target=_run, args=(weakref.ref(self), self._wake), name=COURIER, daemon=True
                )
                try:
                    self._courier.start()
                except RuntimeError:  # the interpreter is ending: the outbox is pushed by `flush`
                    self._courier = None

    def work(self) -> float:
        """Do what is to be done; return for how many seconds there is nothing more."""
        if not self.breaker.is_closed:
            if self.breaker.seconds_left:
                return self.breaker.seconds_left
            try:
                self._remote.get_many([entry_address("", "")])
            except Unreachable as error:
                self.breaker.failed(error)
                return self.breaker.seconds_left
            self.breaker.worked()
        self.give_back()
        if self._writes:
            self._drain(time.monotonic() + CHANGES_EVERY)
        if time.monotonic() - self._changes_at >= CHANGES_EVERY:
            self._changes_at = time.monotonic()
            self._read_changes()
        if self.is_closing:
            return 0.0
        return 0.0 if self._writes and self.local.outbox.count() and self.breaker.is_closed else CHANGES_EVERY

    def _read_changes(self) -> None:
        """Drop local copies of what others have removed or replaced."""
        cursor = self.local.outbox.cursor(self.place)
        changes = self.ask(lambda remote: remote.changes(cursor))
        if changes is None or changes.cursor == cursor:
            return
        self._bad -= changes.addresses
        here = keys_at(self.local, changes.addresses)
        for each in self.local.outbox.of(here):
            del here[each.address]
        if here:
            now = self.ask(partial(_get_many, here.keys()))
            if now is None:
                return
            ours = {key: packed.content for key, packed in pack(self.local, here.values(), self._signature)}
            self.local.remove([key for address, key in here.items() if address not in now], "forgotten")
            self._take({each: content for each, content in now.items() if content != ours.get(here[each])})
        self.local.outbox.move_cursor(self.place, changes.cursor)

    # ------------------------------------------------------------------ waiting for other machines

    def wait(self, lease: Lease) -> _RemoteWait:
        """Start to wait for a job that another machine runs."""
        wait = _RemoteWait()
        with self._lock:
            self._waits.setdefault(entry_address(lease.function, lease.key), weakref.WeakSet()).add(wait)
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="bencher_job waits", daemon=True)
                self._watcher.start()
        return wait

    def _watch(self) -> None:
        """Look, as long as somebody waits, at which jobs of other machines have ended."""
        while True:
            with self._lock:
                self._waits = {address: waits for address, waits in self._waits.items() if waits}
                addresses = list(self._waits)
                if not addresses:
                    self._watcher = None
                    return
            owners = self.ask(partial(_owners_after, addresses))
            with self._lock:
                for address in addresses:
                    owner = None if owners is None else owners[address]
                    for wait in self._waits[address] if owner else self._waits.pop(address):
                        wait.see(owner)


def _owners_after(addresses: Sequence[str], remote: Remote) -> dict[str, Owner | None]:
    """Wait for a change, then return who has the lease of each address."""
    remote.wait(addresses, LOOK_EVERY)
    return {address: remote.owner(address) for address in addresses}


def _get_many(addresses: Collection[str], remote: Remote) -> dict[str, bytes]:
    return remote.get_many(addresses)


def _names_in(folder: str, remote: Remote) -> set[str]:
    return {name.address for name in remote.names(folder)}


def _ask(addresses: Collection[str], remote: Remote) -> Asked:
    return remote.ask(addresses)


def _remove(addresses: Collection[str], remote: Remote) -> bool:
    remote.remove(addresses)
    return True


def _release(leases: Iterable[RemoteLease], remote: Remote) -> bool:
    remote.release(leases)
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


class _RemoteWait:
    """Waits for a job that another machine runs."""

    owner: Process | None = None

    def __init__(self) -> None:
        self._is_over = False
        self._until = time.monotonic() + ASK_EVERY

    @property
    def is_over(self) -> bool:
        """Whether to ask for the key again."""
        return self._is_over or time.monotonic() > self._until

    def see(self, owner: Owner | None) -> None:
        """Note who runs the job."""
        self._is_over = owner is None
        self.owner = None if owner is None else Process(owner.host, "", owner.pid, 0, 0)


class _SharedLeases:
    """Leases of the local store, each with one of the remote where the job is long enough."""

    def __init__(self, store: SharedStore, local: Leases) -> None:
        self._store = store
        self._local = local
        self.renew()

    def renew(self) -> None:
        """Hold nothing, as in a forked child."""
        self._held: dict[str, RemoteLease] = {}
        self._elsewhere: dict[str, None] = {}

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Acquire leases here, then ask the remote about those whose results aren't here."""
        self._local.acquire(leases)
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
            lease = wanted[key]
            self._elsewhere[key] = None
            self._local.release([lease])

    def taken(self, keys: Collection[str]) -> set[str]:
        """Return those keys that others compute, on other machines as far as that is known."""
        running = self._store.running()
        return self._local.taken(keys) | {
            key for key in keys if key in self._elsewhere or key_of(entry_address("", key)) in running
        }

    def running(self) -> list[LeaseInfo]:
        """Return the jobs that run on this machine."""
        return self._local.running()

    def wait(self, lease: Lease) -> Wait:
        """Start to wait for the key of a lease that could not be acquired."""
        return _EitherWait(self._store, lease, self._local.wait(lease), self._elsewhere)

    def pushed(self, keys: Iterable[str]) -> None:
        """Forget leases that were released with the push of their results."""
        for key in keys:
            self._held.pop(key, None)

    def release(self, leases: Iterable[Lease]) -> None:
        """Release leases here and there."""
        leases = list(leases)
        self._local.release(leases)
        self.release_there(lease.key for lease in leases)

    def fail(self, lease: Lease, dump: Callable[[], bytes]) -> None:
        """Release a lease whose job has raised. Waiters on other machines run the job themselves."""
        self._local.fail(lease, dump)
        self.release_there([lease.key])

    def release_there(self, keys: Iterable[str]) -> None:
        """Release leases of the remote whose jobs have no result to push."""
        held = [each for key in keys if (each := self._held.pop(key, None)) is not None]
        if held:
            self._store.give_back(held)


class _EitherWait:
    """One waiter for a job that another process of this machine runs, or another machine: which of them may change."""

    def __init__(self, store: SharedStore, lease: Lease, here: Wait, elsewhere: dict[str, None]) -> None:
        self._store = store
        self._lease = lease
        self._here = here
        self._elsewhere = elsewhere
        self._there: _RemoteWait | None = None

    @property
    def owner(self) -> Process | None:
        """The process that runs the job, as of the last look."""
        return self._here.owner if self._there is None else self._there.owner

    def look(self) -> Literal["running", "free"] | bytes:
        """Return how the job stands."""
        if self._there is None and self._lease.key in self._elsewhere:
            self._there = self._store.wait(self._lease)
        if self._there is None:
            return self._here.look()
        if not self._there.is_over:
            return "running"
        self._there = None
        self._elsewhere.pop(self._lease.key, None)
        return "free"


def _run(reference: weakref.ref[SharedStore], wake: threading.Event) -> None:
    """Work for a store until it is closed or forgotten."""
    seconds = 0.0
    while True:
        wake.wait(seconds)
        wake.clear()
        store = reference()
        if store is None or store.is_closing:
            return
        try:
            seconds = store.work()
        except StoreFailure as error:
            _log.warning("the outbox of %s can't be read: %s", store.folder, error)
            seconds = CHANGES_EVERY
        del store


_open: weakref.WeakSet[SharedStore] = weakref.WeakSet()


@atexit.register
def _push_the_rest() -> None:
    for store in list(_open):
        store.end()
