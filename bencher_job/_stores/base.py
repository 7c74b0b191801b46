"""The Store protocol, and what goes in and comes out of a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from pickle import loads
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from .._errors import BencherJobError
from .._keys import FunctionVersion, StoredFunctionVersion
from .._media import finding_by
from .._record import EVERYTHING, Draft, Record, Selection, shown_arguments
from .codec import Payload, SealedEntry
from .parts import Buffer

if TYPE_CHECKING:
    from .._processes import Process
    from .._query import ArgumentColumn, EntryInfo, Query
    from .._record import FailedJob, Figures, FunctionInfo, SharedInfo
    from .blobs import Blob, BlobWriter


PATIENCE: Final = 60.0
"""Seconds that a store waits by default for other processes that keep it locked."""

BRIEFLY: Final = 0.2
"""Seconds for which one attempt to write waits for others. Who may wait longer tries again until patience ends.

A lease is worth one attempt. So is a commit while others, one of them stopped perhaps, keep the store locked.
"""


class StoreFailure(BencherJobError):
    """A store could not do what it was asked, for a reason outside this library: its message says why."""


class StoreMissing(StoreFailure):
    """There is no store in a folder."""


class StoreBusy(StoreFailure):
    """Others keep a store locked."""


class StoreDamaged(StoreFailure):
    """The database of a store is damaged."""


class Miss:
    """No good entry of a key."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISS"

    def __bool__(self) -> bool:
        return False


MISS: Final = Miss()
"""Stands for no value; no value is equal to it."""


@dataclass(slots=True, eq=False)
class Hit:
    """The verified bytes of an entry: its pickle, and the buffers that stand outside it.

    Attributes:
        seconds: how long its function had run.
        created: when its function had started, in seconds since 1970.
        find_media: finds files of entries by key and name where this one is; None if its value names none.
    """

    stream: Buffer
    buffers: tuple[Buffer, ...]
    seconds: float
    created: float = 0.0
    find_media: Callable[[str, str], str | None] | None = None

    @property
    def payload(self) -> Payload:
        """The bytes, as another entry can be made of them."""
        return Payload(self.stream, self.buffers)

    def load(self) -> Any:
        """Unpickle the value, once; its large buffers become the value's own.

        A hit without such buffers, as small values are, may be loaded again, and gives a new object each time. So may
        a mapped one: its arrays can't be written to.
        """
        if self.find_media is not None:
            with finding_by(self.find_media):
                return loads(self.stream, buffers=self.buffers)
        return loads(self.stream, buffers=self.buffers) if self.buffers else loads(self.stream)


Small = tuple[bytes, float, float]
"""The verified bytes of an entry without buffers, how long its function had run, and when it had started."""


class Hits(Mapping[str, Hit]):
    """What was found of many keys.

    A small entry is a plain tuple, which takes a fifth of the time of an object, and which the garbage collector
    ignores. A `Hit` is made of it on demand.

    Attributes:
        small: the small entries by key.
        others: the other ones.
    """

    __slots__ = ("others", "small")

    def __init__(self) -> None:
        self.small: dict[str, Small] = {}
        self.others: dict[str, Hit] = {}

    def __getitem__(self, key: str) -> Hit:
        small = self.small.get(key)
        if small is None:
            return self.others[key]
        stream, seconds, created = small
        return Hit(stream, (), seconds, created)

    def __iter__(self) -> Iterator[str]:
        yield from self.small
        yield from self.others

    def __len__(self) -> int:
        return len(self.small) + len(self.others)

    def drop(self, keys: Iterable[str]) -> None:
        """Leave keys out."""
        for key in keys:
            self.small.pop(key, None)
            self.others.pop(key, None)

    def update(self, found: Hits) -> None:
        """Add what else was found, of other keys."""
        self.small.update(found.small)
        self.others.update(found.others)

    def seconds(self) -> dict[str, float]:
        """Return how long the functions of the entries had run."""
        seconds = {key: small[1] for key, small in self.small.items()}
        return seconds | {key: hit.seconds for key, hit in self.others.items()} if self.others else seconds

    def load(self, values: dict[str, Any]) -> dict[str, Exception]:
        """Unpickle all values, once, into a dict; give what the unpickling of others has raised."""
        problems: dict[str, Exception] = {}
        for key, (stream, _, _) in self.small.items():
            try:
                values[key] = loads(stream)
            except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
                problems[key] = error
        for key, hit in self.others.items():
            try:
                values[key] = hit.load()
            except Exception as error:  # noqa: BLE001 - as above
                problems[key] = error
        return problems


class Entry(NamedTuple):
    """A result on its way into a store: its bytes, and the record that lives and dies with them."""

    payload: Payload | Blob | SealedEntry
    """The bytes, the value file that a worker has written with them, or what another store has sealed."""
    record: Record | Draft
    bound: bytes = b""
    """The encoded arguments that its key was made of."""
    function_version: FunctionVersion | StoredFunctionVersion | None = None
    """The function whose key it is, as it stood."""
    lease: Lease | None = None
    """It is stored only if this lease is still held, and releases it; without one it is stored anyway."""
    compression: str | None = None
    """How its large parts are made smaller: "zstd", "lz4", or not at all."""
    expires: float | None = None
    """From when on it may be removed unless it is used, in seconds since 1970; None for never."""
    is_copy: bool = False
    """Whether it was made of another entry, and not by a run that missed."""
    attributes: Mapping[str, bytes] | None = None
    """Digests of the attributes of arguments that are objects, `model.rate`, if there are such."""
    address: str = ""
    """Where a shared store is to have it; empty for nowhere."""
    replaces: bool = False
    """Whether it replaces the entry of a shared store as well, which otherwise keeps the first."""

    @property
    def created(self) -> float:
        """When its function had started, in seconds since 1970."""
        created = self.record.created
        return created if isinstance(created, float) else created.timestamp()

    @property
    def version(self) -> StoredFunctionVersion | None:
        """The function version, as stores keep it."""
        version = self.function_version
        return (
            version if version is None or isinstance(version, StoredFunctionVersion) else version.as_stored()
        )

    def info(self, size: int, used: float) -> EntryInfo:
        """Return the facts about this entry, for a store of objects: of `size` bytes, last used at `used`."""
        from .._query import EntryInfo  # takes long to import, and the embedded store has rows

        record = self.record.finished() if isinstance(self.record, Draft) else self.record
        shown = shown_arguments(record.arguments)
        record, version = replace(record, arguments=shown, size=size), self.version
        if version is None:
            return EntryInfo(record=record, used=used, expires=self.expires)
        return EntryInfo(
            record=replace(record, fingerprint=version.fingerprint, version=version.version),
            used=used,
            expires=self.expires,
            parameters=version.parameters,
            parts=tuple(version.manifest),
        )


class Keyed(NamedTuple):
    """An entry and what its key was made of."""

    prefix: bytes
    """The prefix of its function version."""
    bound: bytes
    """Its encoded arguments."""
    attributes: Mapping[str, bytes]
    """Digests of the attributes of its arguments, `model.rate`, if they were kept."""
    record: Record


class Written(NamedTuple):
    """An entry whose bytes are ready for its row: there, or in a file that is written. These are columns of it."""

    size: int
    """Size of the entry with its media, in bytes."""
    mode: int
    filename: str | None
    value: bytes | None
    digest: bytes
    """The digest of the value."""
    files: str | None = None
    """The files of the job, as `files_to_json` writes them."""


class Found(NamedTuple):
    """The facts about a stored entry, whose bytes were verified and not unpickled."""

    record: Record | None
    """None if it is damaged, even if the bytes are whole."""
    damage: str = ""
    """What is wrong with it; empty if nothing is."""
    may_be_whole: bool = False
    """Whether it only can't be read or verified here, so that it is left as it is."""


Reason = Literal["cleared", "forgotten", "evicted", "expired", "damaged"]
"""Why an entry was removed."""


class Gone(NamedTuple):
    """Why and when an entry was removed."""

    reason: Reason
    at: datetime


class History(Protocol):
    """Facts about the entries of a store besides their values. Nothing here changes the store or counts a use.

    Damaged records are left out. Each method raises `StoreFailure` when the store can't be read.
    """

    def examine(self, key: str) -> Found | Gone | None:
        """Verify the entry of a key, or say what became of it; None if nothing is known."""

    def infos(self, keys: Sequence[str]) -> list[EntryInfo]:
        """Return what is known about the entries of some keys, in this order; keys without one are left out."""

    def find(self, query: Query) -> list[str]:
        """Return the keys of the entries that a query selects, in its order."""

    def columns(self, function: str) -> list[ArgumentColumn]:
        """Return the arguments that a function's entries have, in the order in which the entries name them."""

    def keys(self, prefix: str, limit: int, *, removed: bool = False) -> list[str]:
        """Return the first keys with a prefix, of entries or of removed ones."""

    def removed(self) -> dict[str, int]:
        """Count the removed entries that are remembered, by the reason of their removal."""

    def versions(self, function: str, *, unused: bool = False) -> list[StoredFunctionVersion]:
        """Return the versions of a function that have entries, the one with the latest entry first.

        With `unused` also those without entries, in any order and without their sources; no entry is read.
        """

    def of_version(
        self,
        function: str,
        *,
        prefix: bytes | None = None,
        bound: bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[Keyed]:
        """Iterate over the entries of a function version, or with these encoded arguments, the latest first."""

    def failures(self, selection: Selection = EVERYTHING) -> list[FailedJob]:
        """Return the selected ones of the latest failed jobs that have no entry, the latest first."""

    def stamp(self) -> str:
        """Return a text that differs after any change of the store by any process."""


@dataclass(slots=True)
class Tally:
    """Counts of what a store did on its own in this process."""

    damaged: int = 0
    evicted: int = 0
    expired: int = 0
    unleased: int = 0
    """Jobs that ran without a lease."""


NO_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType({})


class Lease:
    """The right to compute a key. It excludes others while it is held.

    Make it before you acquire it, so that an interrupt finds it: to release one that is not held does no harm. Keep it
    while it is held: where its row is found and the object is gone, as after damage, the lease counts as released.

    Attributes:
        function: module and qualified name of the function, as in the record of its entry.
        arguments: arguments by name.
        shown: these as the JSON text that a store keeps, once one has made it.
        number: differs from the number of any other lease of the key.
        held: whether it was acquired and not released since. Another process may have taken it over.
        takes_entry: whether an entry that is there by now serves as well.
        has_entry: whether the key had an entry when the lease was acquired, perhaps stored since it was looked up. A
            shared store may then not have acquired it.
        replaces: number of the lease of a stopped owner, which this one may replace; 0 for none.
    """

    __slots__ = (
        "__weakref__",
        "arguments",
        "function",
        "has_entry",
        "held",
        "key",
        "number",
        "replaces",
        "shown",
        "takes_entry",
    )

    def __init__(
        self,
        key: str,
        function: str = "",
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        takes_entry: bool = False,
    ) -> None:
        self.key = key
        self.function = function
        self.arguments = arguments
        self.shown: str | None = None
        self.takes_entry = takes_entry
        self.number = int.from_bytes(os.urandom(7), "little")
        self.held = self.has_entry = False
        self.replaces = 0

    def __repr__(self) -> str:
        return f"Lease({self.key!r}, {self.number}, held={self.held})"


class LeasesUnavailable(StoreFailure):
    """A store can't say who computes a key, so the caller computes it without a lease."""


class Wait(Protocol):
    """One waiter for a key that another process or thread computes."""

    @property
    def owner(self) -> Process | None:
        """The process that computes the key, as of the last look; None if it is unknown."""

    def look(self) -> Literal["running", "free"] | bytes:
        """Return how the job stands; a failure's bytes if the job has raised. It waits for nobody, so poll it.

        `free` means that nobody computes the key any more: look up its entry, and if there is none acquire the lease.

        Raises:
            LeasesUnavailable: when that can't be known.
        """


class LeaseInfo(NamedTuple):
    """A lease that a living process holds."""

    key: str
    process: Process
    since: float
    """When it began, in seconds since 1970."""
    function: str = ""
    arguments: Mapping[str, Any] = NO_ARGUMENTS
    """Arguments by name, as records show them."""


class Leases(Protocol):
    """The leases of all processes that share a store. `release` never raises."""

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Acquire those leases whose keys nobody computes, and set their `held` and `has_entry`.

        Raises:
            LeasesUnavailable: when the store can't tell.
        """

    def taken(self, keys: Collection[str]) -> set[str]:
        """Return those keys that others compute. Never waits.

        Raises:
            LeasesUnavailable: when the store can't tell.
        """

    def running(self) -> list[LeaseInfo]:
        """Return the jobs that run now. Changes nothing and never waits.

        Raises:
            LeasesUnavailable: when the store can't tell.
        """

    def wait(self, lease: Lease) -> Wait:
        """Start to wait for the key of a lease that could not be acquired."""

    def release(self, leases: Iterable[Lease]) -> None:
        """Release those leases that are held; if that fails, give up all leases of this process."""

    def fail(self, lease: Lease, dump: Callable[[], bytes] | None, failed: FailedJob | None = None) -> None:
        """Release a lease, if it is held, whose job has failed, and list the failed job unless its key has an entry.

        If there are waiters, they get what `dump` returns, for a minute; without it one of them runs the job.
        """


class Items:
    """Makes a store a container of values by key."""

    def has(self: Store, key: str) -> bool:
        """Whether there is an entry; its bytes are not read.

        Raises:
            StoreFailure: when the store can't be read.
        """
        return key in self.durations((key,))

    @property
    def shared(self) -> SharedInfo | None:
        """None: no shared store lies behind."""
        return None

    def fetch(self, function: str, keys: Iterable[str]) -> int:  # noqa: ARG002
        """Fetch none."""
        return 0

    @property
    def directory(self: Store) -> Path | None:
        """The folder, under the name that it has in diskcache."""
        return self.folder

    def __len__(self: Store) -> int:
        return self.figures().entries

    def __contains__(self: Store, key: object) -> bool:
        return isinstance(key, str) and self.has(key)

    def __getitem__(self: Store, key: str) -> Any:
        hit = self.get(key) if isinstance(key, str) else MISS
        if isinstance(hit, Miss):
            raise KeyError(key)
        return hit.load()

    def __iter__(self: Store) -> Iterator[str]:
        return (record.key for record in self.records())


class Use(NamedTuple):
    """Hits of an entry that memory has answered, or below 0 those that were no answers."""

    key: str
    hits: int
    at: float
    """When the last of them was, in seconds since the epoch; 0 for hits that are taken back."""
    seconds: float
    """How long the function of the entry had run."""


SURE_FOR: Final = 0.0001
"""Seconds for which a memory cache trusts the answer of `Store.changed_since`.

A store that replaces or removes entries changes its mark first and then waits so long. So most hits take no system
call, and none begins after a removal has ended and still sees what was removed.
"""


class Store(Protocol):
    """Where results live. All methods may be called from any thread and from a forked child.

    A method that reads values treats what is damaged or unreadable as a miss, with one `CacheWarning`. All others raise
    `StoreFailure`, and then have changed nothing. No other exception of the disk or of a server leaves a store.
    """

    @property
    def keeps(self) -> bool:
        """Whether entries that are put can be looked up later."""

    @property
    def folder(self) -> Path | None:
        """The folder where entries and the files of jobs lie; None for a store without one."""

    @property
    def tally(self) -> Tally:
        """Counts of what the store did unasked in this process."""

    @property
    def leases(self) -> Leases:
        """Who computes which key."""

    @property
    def history(self) -> History:
        """Facts about the entries besides their values."""

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up. With `mapped` the arrays of a large one are read-only maps of its file."""

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> Hits:
        """Look entries up in bulk, and count a use of each that is there unless `counts` is false.

        An entry of more than `largest` bytes, stored or expanded, is left out, and so are damaged ones without a
        warning.
        """

    @property
    def shared(self) -> SharedInfo | None:
        """The figures of the shared store behind this one, or None."""

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Fetch entries of a function from the shared store, and return how many are here now that were not before."""

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries in one transaction; each replaces the entry of its key, and its lease is released.

        Returns the keys whose entries were not stored: because another result was stored first, with that result, or
        because their lease was lost, with a miss. The files that workers have written for them are removed.
        """

    def remove(self, keys: Iterable[str], reason: Reason = "forgotten") -> int:
        """Remove the entries of keys with their media, or their failed jobs, and return how many entries there were."""

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Remove the selected entries with their media, and failed jobs; return how many entries there were."""

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Count hits that a memory cache has answered."""

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Return how long the functions of those entries that are there had run, in seconds; no value is read."""

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        """Iterate over the records of the selected entries, or of the latest of them, the oldest first."""

    def functions(self) -> list[FunctionInfo]:
        """Return the figures of each function that has entries or failed jobs, sorted by name."""

    def figures(self) -> Figures:
        """Return the figures of the store over its life, in constant time."""

    def blob_writer(self, compression: str | None) -> BlobWriter | None:
        """Return how workers of this machine write large values themselves; None if they can't."""

    def changed_since(self, mark: object) -> object:
        """Return None if no process has replaced or removed an entry since a mark was returned, else a new mark.

        The first call passes None. Memory trusts the answer for `SURE_FOR` seconds.
        """

    def close(self) -> None:
        """Release files and connections; the next use opens them again."""

    def has(self, key: str) -> bool:
        """Whether there is an entry; its bytes are not read."""

    def __len__(self) -> int:
        """Return the number of entries."""

    def __contains__(self, key: object) -> bool:
        """Whether there is an entry; its bytes are not read."""

    def __getitem__(self, key: str) -> Any:
        """Return the value of an entry.

        Raises:
            KeyError: when there is no good entry.
        """

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys of all entries, the oldest first."""


class Passing(Items):
    """A store that leaves to the one behind it what it doesn't answer itself."""

    @property
    def behind(self) -> Store:
        """The store behind, in a state in which it can be asked about all entries."""
        raise NotImplementedError

    @property
    def history(self) -> History:
        """The history of the store behind."""
        return self.behind.history

    @property
    def shared(self) -> SharedInfo | None:
        """The figures of the shared store, if there is one behind."""
        return self.behind.shared

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Have the store behind fetch entries."""
        return self.behind.fetch(function, keys)

    def remove(self, keys: Iterable[str], reason: Reason = "forgotten") -> int:
        """Remove entries from the store behind."""
        return self.behind.remove(keys, reason)

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Clear the store behind."""
        return self.behind.clear(selection)

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Count hits in the store behind."""
        self.behind.count_uses(uses)

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Ask the store behind."""
        return self.behind.durations(keys)

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        """Iterate over the records of the store behind."""
        return self.behind.records(selection, latest)

    def functions(self) -> list[FunctionInfo]:
        """Return the figures of the functions in the store behind."""
        return self.behind.functions()

    def figures(self) -> Figures:
        """Return the figures of the store behind."""
        return self.behind.figures()

    def blob_writer(self, compression: str | None) -> BlobWriter | None:
        """Let workers write to the store behind."""
        return self.behind.blob_writer(compression)
