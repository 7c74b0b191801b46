"""Knows the figures of each function in a store: one look at all rows, none at a value.

No index serves it: each would be a page more for every commit to write, and 200,000 rows take 0.15 seconds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Final

from .._info import FunctionInfo
from .folder import Folder
from .tables import ENTRY_OVERHEAD, LIVE, moment

__all__ = ["functions"]

_FIGURES: Final = (
    "SELECT CAST(coalesce(function, '') AS TEXT), CAST(coalesce(tag, '') AS TEXT), count(*),"
    " CAST(total(size) AS INTEGER), CAST(total(access_count) AS INTEGER), total(access_count * seconds),"
    " total(seconds), coalesce(max(CASE WHEN typeof(access_time) = 'real' THEN access_time END), 0) FROM Cache"
    f" WHERE raw = 1 AND {LIVE} GROUP BY 1, 2 ORDER BY 1, 2"
)


def functions(folder: Folder) -> list[FunctionInfo]:
    """Give the figures of each function that has entries, sorted by name.

    Raises:
        StoreFailure: when the store can't be read.
    """
    rows = folder.query(_FIGURES, (time.time(),))
    return [_function(name, group) for name, group in itertools.groupby(rows, itemgetter(0))]


def _function(name: str, rows: Iterator[tuple[Any, ...]]) -> FunctionInfo:
    """Add up the figures of a function's tags."""
    _, tags, entries, sizes, hits, saved, seconds, used = zip(*rows, strict=True)
    return FunctionInfo(
        name=name,
        entries=sum(entries),
        size=sum(sizes) + ENTRY_OVERHEAD * sum(entries),
        hits=sum(hits),
        seconds_saved=sum(saved),
        seconds=sum(seconds),
        last_used=moment(max(used)),
        tags=tuple(tag for tag in tags if tag),
    )
