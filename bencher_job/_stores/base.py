"""Knows what a store is: the protocol, the sentinel of a miss, and the store that keeps nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from .._errors import BencherJobError
from .._keys import Edition, PastEdition
from .._record import Record
from .codec import Payload

__all__ = [
    "MISS",
    "Entry",
    "Found",
    "Gone",
    "History",
    "Hit",
    "Miss",
    "NullStore",
    "Store",
    "StoreFailure",
    "Tally",
]


class StoreFailure(BencherJobError):
    """A store could not do what it was asked, for a reason outside this library: its message says why."""


class Miss:
    """The type of `MISS`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISS"

    def __bool__(self) -> bool:
        return False


MISS: Final = Miss()
"""What a store gives for a key that it has no good entry of; no value is equal to it."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The verified bytes of an entry, and how long its function had run, in seconds."""

    payload: Payload
    seconds: float

    def load(self) -> Any:
        """Unpickle the value, once; its large buffers become the value's own.

        A hit without such buffers, as small values are, may be loaded again, and gives a new object each time.
        """
        return self.payload.load_in_place()


@dataclass(frozen=True, slots=True)
class Entry:
    """A result on its way into a store: its bytes, and the record that lives and dies with them."""

    payload: Payload
    record: Record
    bound: bytes = b""
    """The encoded arguments that its key was made of."""
    edition: Edition | None = None
    """The function whose key it is, as it stood."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an entry that is there, whose bytes were looked at and left as they are."""

    record: Record | None
    damage: str = ""
    """What is wrong with it; empty where nothing is."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Why and when an entry was removed."""

    reason: Literal["cleared", "forgotten", "evicted", "expired", "damaged"]
    at: datetime


class History(Protocol):
    """What a store can tell of its entries besides their values. It changes nothing."""

    def examine(self, key: str) -> Found | Gone | None:
        """Say what is known of a key: its entry, or what became of it."""

    def editions(self, function: str) -> list[PastEdition]:
        """Give the editions of a function that entries are of, the one with the latest entry first."""

    def with_arguments(self, function: str, bound: bytes) -> list[tuple[bytes, Record]]:
        """Give the entries of a function with these encoded arguments, the latest first, and their editions."""

    def latest(self, function: str, prefix: bytes, limit: int) -> list[Record]:
        """Give the latest entries of an edition."""

    def bindings(self, function: str, prefix: bytes) -> list[tuple[str, bytes]]:
        """Give key and encoded arguments of each entry of an edition."""


@dataclass(slots=True)
class Tally:
    """What a store did unasked in this process: nothing of it happens in silence."""

    damaged: int = 0
    evicted: int = 0


class Store(Protocol):
    """Where results live. All methods may be called from any thread and from a forked child.

    A method that reads gives a miss for what is damaged, with one `CacheWarning`. A method that writes raises
    `StoreFailure` when the store can't be written, and then has changed nothing.
    """

    @property
    def directory(self) -> Path | None:
        """The store's folder, or None where nothing is kept."""

    @property
    def tally(self) -> Tally:
        """What was set aside and evicted."""

    @property
    def puts(self) -> int:
        """A number that grows whenever this process has put entries."""

    def get(self, key: str) -> Hit | Miss:
        """Look an entry up."""

    def get_many(self, keys: Iterable[str]) -> dict[str, Hit]:
        """Look entries up in bulk: those that are there, by key."""

    def put_many(self, entries: Sequence[Entry]) -> None:
        """Commit entries in one transaction; each replaces the entry of its key."""

    def has(self, key: str) -> bool:
        """Whether there is an entry, its bytes unread."""

    def forget(self, key: str) -> bool:
        """Remove an entry; whether there was one."""

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:
        """Remove all entries, or those of a function, a tag, or both; how many there were."""

    @property
    def history(self) -> History:
        """What it can tell of its entries."""

    def records(self, *, function: str | None = None, tag: str | None = None) -> Iterator[Record]:
        """Give the record of each entry, or of those of a function, a tag, or both, the oldest first."""

    def count(self) -> int:
        """Count the entries."""

    def size(self) -> int:
        """Give the size on disk in bytes, media included."""

    def close(self) -> None:
        """Give back files and connections; the next use opens them again."""


class NoHistory:
    """The history of a store that keeps nothing."""

    def examine(self, key: str) -> None:
        """Know nothing."""

    def editions(self, function: str) -> list[PastEdition]:  # noqa: ARG002
        """Know none."""
        return []

    def with_arguments(self, function: str, bound: bytes) -> list[tuple[bytes, Record]]:  # noqa: ARG002
        """Know none."""
        return []

    def latest(self, function: str, prefix: bytes, limit: int) -> list[Record]:  # noqa: ARG002
        """Know none."""
        return []

    def bindings(self, function: str, prefix: bytes) -> list[tuple[str, bytes]]:  # noqa: ARG002
        """Know none."""
        return []


class NullStore:
    """The store that keeps nothing: where caching is off, or the real store can't be opened."""

    def __init__(self) -> None:
        self.tally = Tally()

    directory: Final = None
    puts: Final = 0
    history: Final = NoHistory()

    def get(self, key: str) -> Miss:  # noqa: ARG002
        """Miss."""
        return MISS

    def get_many(self, keys: Iterable[str]) -> dict[str, Hit]:  # noqa: ARG002
        """Find nothing."""
        return {}

    def put_many(self, entries: Sequence[Entry]) -> None:
        """Keep nothing."""

    def has(self, key: str) -> bool:  # noqa: ARG002
        """Have nothing."""
        return False

    def forget(self, key: str) -> bool:  # noqa: ARG002
        """Have nothing to forget."""
        return False

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:  # noqa: ARG002
        """Have nothing to clear."""
        return 0

    def records(self, *, function: str | None = None, tag: str | None = None) -> Iterator[Record]:  # noqa: ARG002
        """Give no record."""
        return iter(())

    def count(self) -> int:
        """Count nothing."""
        return 0

    def size(self) -> int:
        """Take no place."""
        return 0

    def close(self) -> None:
        """Have nothing open."""
