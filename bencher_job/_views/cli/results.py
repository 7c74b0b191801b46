"""Knows what is told of results without unpickling them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..._record import Record
from ..._stores import Hit
from ..pickles import Unreadable, read_pickle

if TYPE_CHECKING:
    from ..._stores.disk import DiskStore

__all__ = ["described_by_key"]

LARGEST_EXPANDED: Final = 1 << 28
"""Bytes to which the compressed parts of an entry are expanded."""

LARGEST_STREAM: Final = 1 << 25
"""Bytes of a pickle, its arrays apart, that are read; more would keep somebody waiting."""


def described_by_key(store: DiskStore, records: Sequence[Record]) -> dict[str, object]:
    """Describe the results of entries by their keys; those that can't be read or told of are left out."""
    found: dict[str, object] = {}
    for record in records:
        hit, _ = store.lookups.find(record.key, mapped=True, most_expanded=LARGEST_EXPANDED)
        if isinstance(hit, Hit):
            try:
                found[record.key] = _described(hit)
            except Unreadable:
                continue
    return found


def _described(hit: Hit) -> object:
    """Describe a result.

    Raises:
        Unreadable: when it can't be told of without unpickling it.
    """
    if len(hit.payload.stream) > LARGEST_STREAM:
        raise Unreadable(f"its objects take more than {LARGEST_STREAM >> 20} MB")
    return read_pickle(hit.payload.stream, hit.payload.buffers)
