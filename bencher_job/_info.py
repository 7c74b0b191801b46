"""Knows the figures that people see: of one cache, and of one function in a store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from . import _html
from ._record import Totals
from ._words import seconds_text, size_text

__all__ = ["CacheInfo", "CallInfo", "FunctionInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """The figures of one cache. Counts are of this process, since the last `clear_call_counts()`."""

    submitted: int
    """Jobs that were asked for."""
    hits: int
    """Jobs that were answered from the cache."""
    joined: int
    """Jobs that waited for the same job, already in flight."""
    computed: int
    """Jobs whose function ran."""
    retried: int
    """Runs that failed and were repeated, because of `retries`."""
    failed: int
    """Jobs whose function, worker or engine failed, for the last time."""
    unsaved: int
    """Results that reached the caller but could not be kept."""
    damaged: int
    """Entries of this store that were found damaged, and set aside."""
    evicted: int
    """Entries of this store that were removed to stay within the size limit."""
    expired: int
    """Entries of this store that were removed because their time was over."""
    seconds_saved: float
    """Recorded running time of the jobs that were answered from the cache, in seconds."""
    total: Totals
    """What all processes that ever used the store have found in it."""
    entries: int
    """Entries in the store, of all functions that share it."""
    size: int
    """Size of the store on disk in bytes, media included."""
    size_limit: int
    """Size in bytes beyond which the least recently used entries are evicted."""

    def _repr_html_(self) -> str:
        figures = {
            "entries": f"{self.entries:,}",
            "size": f"{size_text(self.size)} of {size_text(self.size_limit)}",
            "hits": f"{self.hits:,}, {seconds_text(self.seconds_saved)} saved",
            "hits in all": f"{self.total.hits:,}, {seconds_text(self.total.seconds_saved)} saved",
            "computed": f"{self.computed:,}",
        }
        odd = {
            name: f"{getattr(self, name):,}"
            for name in ("joined", "failed", "unsaved", "damaged", "evicted", "expired")
            if getattr(self, name)
        }
        return _html.fact_table(figures | odd)

    def __str__(self) -> str:
        return (
            f"cache size :{self.size // 1_000_000}MB / {self.size_limit // 1_000_000}MB, {self.entries} entries; "
            f"{self.hits} hits, {self.computed} computed, {self.seconds_saved:.1f} s saved; "
            f"{self.total.hits} hits and {self.total.seconds_saved:.1f} s saved in all"
        )


class CallInfo(NamedTuple):
    """What `cache_info()` of a cached function gives: the fields of `functools.lru_cache`."""

    hits: int
    """Calls that were answered from the cache, in this process."""
    misses: int
    """Calls whose function ran, in this process."""
    maxsize: None
    """None: a store is limited in bytes, not in entries."""
    currsize: int
    """Entries of this function in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionInfo:
    """The figures of one function in a store, of those entries that are in it now."""

    name: str
    """Module and qualified name."""
    entries: int
    size: int
    """Size of the entries on disk in bytes, media included."""
    hits: int
    """How often the entries have answered a job, in all processes, as far as these have said so."""
    seconds_saved: float
    """How long the function had run for the entries of these hits, in seconds."""
    seconds: float
    """How long the function ran for the entries, in seconds."""
    last_used: datetime
    """When an entry last was stored or answered a job, in UTC."""
    tags: tuple[str, ...] = ()
    """The tags of the entries, sorted."""


for _public in (CacheInfo, FunctionInfo):  # which the package imports when they are asked for
    _public.__module__ = __package__
