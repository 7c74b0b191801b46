"""The null store, for when caching is off or the store can't be opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from .._record import EVERYTHING, Figures, Record, Selection, Totals
from .base import MISS, Entry, Hits, Items, Lease, Miss, Reason, Tally, Use

if TYPE_CHECKING:
    from .._keys import StoredFunctionVersion
    from .._query import ArgumentColumn, EntryInfo, Query
    from .._record import FailedJob, FunctionInfo
    from .base import Keyed, LeaseInfo


class NoWait:
    """Never waits."""

    owner: Final = None

    def look(self) -> Literal["free"]:
        """Return that the key is free."""
        return "free"


class NoLeases:
    """Grants every lease: nobody could hand on the value."""

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Grant all."""
        for lease in leases:
            lease.held = True

    def taken(self, keys: Collection[str]) -> set[str]:  # noqa: ARG002
        """Return none."""
        return set()

    def running(self) -> list[LeaseInfo]:
        """Return none."""
        return []

    def wait(self, lease: Lease) -> NoWait:  # noqa: ARG002
        """Return a wait that is over."""
        return NoWait()

    def release(self, leases: Iterable[Lease]) -> None:
        """Release all."""
        for lease in leases:
            lease.held = False

    def fail(
        self,
        lease: Lease,
        dump: Callable[[], bytes] | None,  # noqa: ARG002
        failed: FailedJob | None = None,  # noqa: ARG002
    ) -> None:
        """Release it."""
        lease.held = False


class NoHistory:
    """The history of a store that keeps nothing."""

    def examine(self, key: str) -> None:
        """Return nothing."""

    def infos(self, keys: Sequence[str]) -> list[EntryInfo]:  # noqa: ARG002
        """Return none."""
        return []

    def find(self, query: Query) -> list[str]:  # noqa: ARG002
        """Return none."""
        return []

    def columns(self, function: str) -> list[ArgumentColumn]:  # noqa: ARG002
        """Return none."""
        return []

    def keys(self, prefix: str, limit: int, *, removed: bool = False) -> list[str]:  # noqa: ARG002
        """Return none."""
        return []

    def removed(self) -> dict[str, int]:
        """Count none."""
        return {}

    def versions(self, function: str, *, unused: bool = False) -> list[StoredFunctionVersion]:  # noqa: ARG002
        """Return none."""
        return []

    def of_version(
        self,
        function: str,  # noqa: ARG002
        *,
        prefix: bytes | None = None,  # noqa: ARG002
        bound: bytes | None = None,  # noqa: ARG002
        limit: int | None = None,  # noqa: ARG002
    ) -> Iterator[Keyed]:
        """Return none."""
        return iter(())

    def failures(self, selection: Selection = EVERYTHING) -> list[FailedJob]:  # noqa: ARG002
        """Return none."""
        return []

    def stamp(self) -> str:
        """Return an empty text."""
        return ""


class NullStore(Items):
    """The store that keeps nothing.

    Attributes:
        is_closed_off: whether it stands for a store that could not be opened.
    """

    keeps: Final = False
    folder: Final = None

    def __init__(self, *, is_closed_off: bool = False) -> None:
        self.tally = Tally()
        self.leases = NoLeases()
        self.history = NoHistory()
        self.is_closed_off = is_closed_off

    def get(self, key: str, mapped: bool = False) -> Miss:  # noqa: ARG002
        """Miss."""
        return MISS

    def get_many(
        self,
        keys: Iterable[str],  # noqa: ARG002
        mapped: bool = False,  # noqa: ARG002
        *,
        largest: int | None = None,  # noqa: ARG002
        counts: bool = True,  # noqa: ARG002
    ) -> Hits:
        """Find nothing."""
        return Hits()

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Miss]:
        """Keep nothing."""
        return {entry.record.key: MISS for entry in entries}

    def remove(self, keys: Iterable[str], reason: Reason = "forgotten") -> int:  # noqa: ARG002
        """Remove nothing."""
        return 0

    def clear(self, selection: Selection = EVERYTHING) -> int:  # noqa: ARG002
        """Remove nothing."""
        return 0

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Count nothing."""

    def durations(self, keys: Iterable[str]) -> dict[str, float]:  # noqa: ARG002
        """Find nothing."""
        return {}

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:  # noqa: ARG002
        """Return none."""
        return iter(())

    def functions(self) -> list[FunctionInfo]:
        """Return none."""
        return []

    def figures(self) -> Figures:
        """Return zeros."""
        return Figures(0, 0, Totals(0, 0, 0.0))

    def blob_writer(self, compression: str | None) -> None:
        """Let workers write nothing."""

    def changed_since(self, mark: object) -> object:  # noqa: ARG002
        """Return a new mark, so that memory keeps nothing."""
        return object()

    def close(self) -> None:
        """Have nothing open."""
