"""Judge by `ttl` and `valid` whether an entry is an answer, in the process of the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from ._errors import warn_caller
from ._executors import error_text
from ._options import StoreOptions
from ._record import Record
from ._stores import MISS, Hit, Miss, Store, StoreFailure, Use

_warned: Final[set[tuple[str, datetime]]] = set()
"""Entries on which `valid` has failed in this process."""


class Lifetime(NamedTuple):
    """Which entries of a store are answers for one cache."""

    ttl: float | None
    valid: Callable[[Record], object] | None

    @classmethod
    def of(cls, options: StoreOptions) -> Lifetime | None:
        """Return the lifetime that options set; None if all entries are answers."""
        is_limited = options.ttl is not None or options.valid is not None
        return cls(options.ttl, options.valid) if is_limited else None

    def is_young(self, ended: float) -> bool:
        """Whether `ttl` accepts the result of a function that returned at a time.

        A time ahead of this clock counts by its distance, so that no entry of a wrong clock lasts for good.
        """
        return self.ttl is None or abs(time.time() - ended) < self.ttl

    def is_valid(self, record: Record) -> bool:
        """Whether `valid` accepts a record. If it raises, the answer is False, with a warning for each entry."""
        if self.valid is None:
            return True
        try:
            return bool(self.valid(record))
        except Exception as error:  # noqa: BLE001 - the caller's own function
            if (entry := (record.key, record.created)) not in _warned:  # a miss looks twice
                _warned.add(entry)
                warn_caller(
                    f"valid={self.valid!r} failed on {record}, so its job runs again: {error_text(error)}"
                )
            return False

    def fault(self, record: Record) -> str:
        """Return why an entry is not a valid answer, or an empty string if it is."""
        if not self.is_young(record.created.timestamp() + record.seconds):
            return f"ttl is {self.ttl:g} s"
        return "" if self.is_valid(record) else f"valid={self.valid!r} refuses it"

    def among(self, store: Store, keys: Iterable[str]) -> dict[str, float]:
        """Return how long the functions of those entries ran that are answers. No value is read."""
        infos = store.history.infos([*keys])
        return {info.record.key: info.record.seconds for info in infos if not self.fault(info.record)}

    def refused(self, store: Store, hits: Mapping[str, Hit], *, counts: bool = True) -> list[str]:
        """Return the keys of those hits that are no answers. With `counts` their uses no longer count."""
        accepted = {key for key, hit in hits.items() if self.is_young(hit.created + hit.seconds)}
        if self.valid is not None and accepted:
            try:
                accepted = {*self.among(store, accepted)}
            except StoreFailure as error:
                warn_caller(
                    f"{store.folder} can't be read, so the job runs as if it were not cached: {error}"
                )
                accepted = set()
        refused = hits.keys() - accepted
        if counts and refused:
            store.count_uses([Use(key, -1, 0.0, hits[key].seconds) for key in refused])
        return list(refused)

    def current(self, store: Store, function: str, key: str, hit: Hit, mapped: bool) -> Hit | Miss:
        """Return a hit if it is an answer, or else what another machine has stored since."""
        if not self.refused(store, {key: hit}):
            return hit
        if not store.fetch(function, [key]):
            return MISS
        found = store.get(key, mapped)
        return MISS if isinstance(found, Miss) or self.refused(store, {key: found}) else found
