"""The null store, for when caching is off or the store can't be opened."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from .._keys import StoredFunctionVersion
from .._record import EVERYTHING, Record, Selection
from .base import MISS, Entry, Hits, Items, Miss, Tally, Totals
from .leases import Lease, Leases

if TYPE_CHECKING:
    from .._record import FunctionInfo

__all__ = ["NullStore"]


class NoLeases(Leases):
    """The leases of a store that keeps nothing: every caller gets each key, since nobody could pass its value on."""

    def __init__(self) -> None:
        pass

    def acquire(self, lease: Lease) -> bool:
        """Grant it."""
        lease.held = True
        return True

    def acquire_many(self, leases: Sequence[Lease]) -> None:
        """Grant all."""
        for lease in leases:
            lease.held = True

    def taken(self, keys: Collection[str]) -> set[str]:  # noqa: ARG002
        """Know none."""
        return set()

    def owner(self, key: str) -> None:
        """Know none."""

    def wait_for(self, key: str, number: int) -> bool:  # noqa: ARG002
        """Know no lease."""
        return False

    def is_waited_for(self, lease: Lease) -> bool:  # noqa: ARG002
        """Know nobody who waits."""
        return False

    def take_over(self, lease: Lease, number: int) -> bool:  # noqa: ARG002
        """Grant it."""
        return self.acquire(lease)

    def release(self, leases: Iterable[Lease]) -> None:
        """Have nothing to release."""


class NoHistory:
    """The history of a store that keeps nothing."""

    def examine(self, key: str) -> None:
        """Know nothing."""

    def editions(self, function: str) -> list[StoredFunctionVersion]:  # noqa: ARG002
        """Know none."""
        return []

    def known_editions(self, function: str) -> list[StoredFunctionVersion]:  # noqa: ARG002
        """Know none."""
        return []

    def with_arguments(self, function: str, bound: bytes) -> list[tuple[bytes, Record]]:  # noqa: ARG002
        """Know none."""
        return []

    def latest(self, function: str, prefix: bytes, limit: int) -> list[Record]:  # noqa: ARG002
        """Know none."""
        return []

    def attributes(self, key: str) -> Mapping[str, bytes]:  # noqa: ARG002
        """Know none."""
        return {}

    def bindings(self, function: str, prefix: bytes) -> list[tuple[str, bytes]]:  # noqa: ARG002
        """Know none."""
        return []


class NullStore(Items):
    """The store that keeps nothing."""

    def __init__(self, *, is_closed_off: bool = False) -> None:
        self.tally = Tally()
        self.leases: Leases = NoLeases()
        self.is_closed_off = is_closed_off
        """Whether it stands for a store that could not be opened."""

    keeps: Final = False
    directory: Final = None
    puts: Final = 0
    history: Final = NoHistory()

    def get(self, key: str, mapped: bool = False) -> Miss:  # noqa: ARG002
        """Miss."""
        return MISS

    def get_many(self, keys: Iterable[str], mapped: bool = False) -> Hits:  # noqa: ARG002
        """Find nothing."""
        return Hits()

    def retract(self, seconds: Mapping[str, float]) -> None:
        """Note nothing."""

    def note_answer(self, key: str, seconds: float) -> None:
        """Note nothing."""

    def durations(self, keys: Iterable[str]) -> dict[str, float]:  # noqa: ARG002
        """Find nothing."""
        return {}

    def put_many(self, entries: Sequence[Entry]) -> frozenset[str]:  # noqa: ARG002
        """Keep nothing."""
        return frozenset()

    def depository(self, compression: str | None) -> None:
        """Have workers write nothing."""

    def publish_failure(self, lease: Lease, error: bytes) -> None:
        """Keep nothing."""

    def failure(self, key: str, number: int) -> None:
        """Know none."""

    def has(self, key: str) -> bool:  # noqa: ARG002
        """Have nothing."""
        return False

    def forget(self, key: str) -> bool:  # noqa: ARG002
        """Have nothing to forget."""
        return False

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:  # noqa: ARG002
        """Have nothing to clear."""
        return 0

    def records(self, selection: Selection = EVERYTHING) -> Iterator[Record]:  # noqa: ARG002
        """Give no record."""
        return iter(())

    def functions(self) -> list[FunctionInfo]:
        """Know none."""
        return []

    def count(self) -> int:
        """Count nothing."""
        return 0

    def size(self) -> int:
        """Take no place."""
        return 0

    def totals(self) -> Totals:
        """Have found nothing."""
        return Totals(0, 0, 0.0)

    def close(self) -> None:
        """Have nothing open."""
