"""The Store protocol, and what goes in and comes out of a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from pickle import loads
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from .._errors import BencherJobError
from .._keys import FunctionVersion, StoredFunctionVersion
from .._record import EVERYTHING, Draft, Record, Selection, Totals
from .codec import Buffer, Payload, SealedEntry

if TYPE_CHECKING:
    from .._record import FunctionInfo
    from .blobs import Deposit, Depository
    from .leases import Lease, Leases

__all__ = [
    "BRIEFLY",
    "MISS",
    "PATIENCE",
    "Entry",
    "Found",
    "Gone",
    "History",
    "Hit",
    "Hits",
    "Items",
    "Miss",
    "Reason",
    "Small",
    "Store",
    "StoreBusy",
    "StoreDamaged",
    "StoreFailure",
    "StoreMissing",
    "StoreOutdated",
    "Tally",
    "Totals",
]


PATIENCE: Final = 60.0
"""Seconds for which a store waits for others who keep it locked, unless it is told otherwise."""

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


class StoreOutdated(StoreFailure):
    """A store is of an earlier version of this library, and stays so as long as it is only looked at."""


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
        expires: when it is a miss again, in seconds since 1970; None for never.
    """

    stream: Buffer
    buffers: tuple[Buffer, ...]
    seconds: float
    expires: float | None = None

    @property
    def payload(self) -> Payload:
        """The bytes, as another entry can be made of them."""
        return Payload(self.stream, self.buffers)

    def load(self) -> Any:
        """Unpickle the value, once; its large buffers become the value's own.

        A hit without such buffers, as small values are, may be loaded again, and gives a new object each time. So may
        a mapped one: its arrays can't be written to.
        """
        return loads(self.stream, buffers=self.buffers) if self.buffers else loads(self.stream)


Small = tuple[bytes, float, float | None]
"""The verified bytes of an entry without buffers, how long its function had run, and when it is a miss again."""


class Hits(Mapping[str, Hit]):
    """What was found of many keys.

    A small entry is a plain tuple, which takes a fifth of the time of an object, and which the garbage collector
    passes over; a `Hit` is made of it when somebody asks for it.

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
        stream, seconds, expires = small
        return Hit(stream, (), seconds, expires)

    def __iter__(self) -> Iterator[str]:
        yield from self.small
        yield from self.others

    def __len__(self) -> int:
        return len(self.small) + len(self.others)

    def update(self, found: Hits) -> None:
        """Add what else was found, of other keys."""
        self.small.update(found.small)
        self.others.update(found.others)

    def seconds(self) -> dict[str, float]:
        """Give how long the functions of the entries had run."""
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

    payload: Payload | Deposit | SealedEntry
    """The bytes, the value file that a worker has written with them, or what another store has sealed."""
    record: Record | Draft
    bound: bytes = b""
    """The encoded arguments that its key was made of."""
    edition: FunctionVersion | StoredFunctionVersion | None = None
    """The function whose key it is, as it stood."""
    lease: Lease | None = None
    """It is stored only if this lease is still held, and releases it; without one it is stored anyway."""
    compression: str | None = None
    """How its large parts are made smaller: "zstd", "lz4", or not at all."""
    expires: float | None = None
    """When it becomes a miss, in seconds since 1970; None for never."""
    is_copy: bool = False
    """Whether it was made of another entry, and not by a run that missed."""
    attributes: Mapping[str, bytes] | None = None
    """Digests of the attributes of arguments that are objects, `model.rate`, if there are such."""


class Found(NamedTuple):
    """What is known of an entry that is there, whose bytes were looked at and left as they are."""

    record: Record | None
    """None where it is damaged, though the bytes be whole."""
    damage: str = ""
    """What is wrong with it; empty where nothing is."""
    may_be_whole: bool = False
    """Whether what is wrong is that it can't be read or verified here, so that it is left as it is."""


Reason = Literal["cleared", "forgotten", "evicted", "expired", "damaged"]
"""Why an entry was removed."""


class Gone(NamedTuple):
    """Why and when an entry was removed."""

    reason: Reason
    at: datetime


class History(Protocol):
    """What a store can tell of its entries besides their values. It changes nothing."""

    def examine(self, key: str) -> Found | Gone | None:
        """Say what is known of a key: its entry, or what became of it."""

    def editions(self, function: str) -> list[StoredFunctionVersion]:
        """Give the editions of a function that entries are of, the one with the latest entry first."""

    def known_editions(self, function: str) -> list[StoredFunctionVersion]:
        """Give the editions of a function that entries are or were of, without their sources; no entry is read."""

    def with_arguments(self, function: str, bound: bytes) -> list[tuple[bytes, Record]]:
        """Give the entries of a function with these encoded arguments, the latest first, and their editions."""

    def latest(self, function: str, prefix: bytes, limit: int) -> list[Record]:
        """Give the latest entries of an edition."""

    def attributes(self, key: str) -> Mapping[str, bytes]:
        """Give the digests of the attributes of an entry's arguments, `model.rate`, as far as they are kept."""

    def bindings(self, function: str, prefix: bytes) -> list[tuple[str, bytes]]:
        """Give key and encoded arguments of each entry of an edition."""


@dataclass(slots=True)
class Tally:
    """What a store did unasked in this process: nothing of it happens in silence."""

    damaged: int = 0
    evicted: int = 0
    expired: int = 0
    unleased: int = 0
    """Jobs that ran without a lease."""


class Items:
    """What makes a store a container of values by key."""

    def __len__(self: Store) -> int:
        return self.count()

    def __contains__(self: Store, key: object) -> bool:
        return isinstance(key, str) and self.has(key)

    def __getitem__(self: Store, key: str) -> Any:
        hit = self.get(key) if isinstance(key, str) else MISS
        if isinstance(hit, Miss):
            raise KeyError(key)
        return hit.load()

    def __iter__(self: Store) -> Iterator[str]:
        return (record.key for record in self.records())


class Store(Protocol):
    """Where results live. All methods may be called from any thread and from a forked child.

    A method that reads gives a miss for what is damaged, with one `CacheWarning`. A method that writes raises
    `StoreFailure` when the store can't be written, and then has changed nothing.
    """

    @property
    def keeps(self) -> bool:
        """Whether entries that are put can be looked up later."""

    @property
    def directory(self) -> Path | None:
        """The folder in which the store and the files of jobs lie, or None for a store without one."""

    @property
    def tally(self) -> Tally:
        """What was set aside and evicted, and what had expired and was removed."""

    @property
    def leases(self) -> Leases:
        """Who computes which key, among the processes that share the store."""

    @property
    def puts(self) -> int:
        """A number that is another one whenever any process has put entries."""

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up. Where it is `mapped`, the arrays of a large one are maps of its file, read-only."""

    def get_many(self, keys: Iterable[str], mapped: bool = False) -> Hits:
        """Look entries up in bulk: those that are there, by key."""

    def retract(self, seconds: Mapping[str, float]) -> None:
        """Note that entries that were just looked up have answered no job, by key with how long their functions ran."""

    def note_answer(self, key: str, seconds: float) -> None:
        """Note that an entry of which that was noted has answered a job after all."""

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Give how long the functions of those entries that are there had run, in seconds; no value is read."""

    def put_many(self, entries: Sequence[Entry]) -> frozenset[str]:
        """Commit entries in one transaction; each replaces the entry of its key.

        Gives the keys of those that were not stored because their lease was lost; the files of these that workers have
        written are removed. The leases of those that were stored are released.
        """

    def depository(self, compression: str | None) -> Depository | None:
        """Say how workers of this machine write large results themselves, so compressed; None where they can't."""

    def publish_failure(self, lease: Lease, error: bytes) -> None:
        """Release a lease, and keep an exception's bytes for a minute for those who wait for it, if there are any."""

    def failure(self, key: str, number: int) -> bytes | None:
        """Give the exception's bytes that were published for the lease with a number."""

    def has(self, key: str) -> bool:
        """Whether there is an entry, its bytes unread."""

    def forget(self, key: str) -> bool:
        """Remove an entry; whether there was one."""

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:
        """Remove all entries, or those of a function, a tag, or both; how many there were."""

    @property
    def history(self) -> History:
        """What it can tell of its entries."""

    def records(self, selection: Selection = EVERYTHING) -> Iterator[Record]:
        """Give the record of each entry that is chosen, the oldest first."""

    def functions(self) -> list[FunctionInfo]:
        """Give the figures of each function that has entries, sorted by name."""

    def count(self) -> int:
        """Count the entries."""

    def size(self) -> int:
        """Give the size on disk in bytes, media included."""

    def totals(self) -> Totals:
        """Give what was found over the life of the store."""

    def close(self) -> None:
        """Give back files and connections; the next use opens them again."""

    def __len__(self) -> int:
        """Count the entries."""

    def __contains__(self, key: object) -> bool:
        """Whether there is an entry, its bytes unread."""

    def __getitem__(self, key: str) -> Any:
        """Give the value of an entry.

        Raises:
            KeyError: when there is no good entry.
        """

    def __iter__(self) -> Iterator[str]:
        """Give the key of each entry, the oldest first."""
