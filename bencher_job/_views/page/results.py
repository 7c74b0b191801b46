"""Knows the fields of the results of many entries, read once each and kept as long as their entries stay the same."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from ..._record import short_form
from ..._stores.base import Hit
from ..._stores.folder import Folder
from ..._stores.rows import hits_at, stored_at
from ..pickles import Unreadable, read_pickle
from ..table import result_fields
from ..values import Cell, fields_of, is_told

__all__ = ["Results"]

LARGEST_READ: Final = 1 << 18
"""Bytes up to which an entry is read for its fields; a larger one is read only when it is looked at by itself."""

MOST_STEPS: Final = 20_000
"""How many steps of a pickle are read for its fields."""

MOST_KEPT: Final = 400_000
"""How many entries' fields are kept."""

MOST_FIELDS: Final = 40
"""How many fields of a result are kept."""

_log = logging.getLogger(__name__)
_Fields = Mapping[str, Cell]


class Results:
    """The fields of the results in one store. With `unpickles` those are unpickled that can't be told of without it."""

    def __init__(self, folder: Folder, *, unpickles: bool) -> None:
        self._folder = folder
        self._unpickles = unpickles
        self._kept: dict[int, tuple[float, _Fields]] = {}
        self._lock = threading.Lock()

    def at(self, numbers: Sequence[int]) -> dict[int, _Fields]:
        """Give the fields of the results in some rows; none for one that is large, damaged or gone.

        Raises:
            StoreFailure: when the store can't be read.
        """
        with self._lock:
            if len(self._kept) > MOST_KEPT:
                self._kept.clear()
            now = stored_at(self._folder, numbers)
            new = [number for number, at in now.items() if self._kept.get(number, (None,))[0] != at]
            for number, at, hit in hits_at(self._folder, new, LARGEST_READ):
                self._kept[number] = at, self._fields(hit) if isinstance(hit, Hit) else {}
            return {number: self._kept[number][1] for number in now if number in self._kept}

    def _fields(self, hit: Hit) -> _Fields:
        try:
            described = read_pickle(hit.payload.stream, hit.payload.buffers, most_steps=MOST_STEPS)
        except Unreadable:
            return {}
        is_opened = self._unpickles and not is_told(described)
        fields = unpickled_fields(hit) if is_opened else fields_of(described)
        return dict(list(fields.items())[:MOST_FIELDS])


def unpickled_fields(hit: Hit) -> dict[str, Cell]:
    """Unpickle a value, which runs what it says, and name its fields."""
    try:
        return {name: _as_cell(part) for name, part in result_fields(hit.load()).items()}
    except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
        _log.info("a value can't be unpickled here: %r", error)
        return {}


def _as_cell(value: object) -> Cell:
    """Give a part of a value as a number, if it is one of numpy's, or as a record would show it."""
    item = getattr(value, "item", None)
    plain = item() if callable(item) and getattr(value, "ndim", None) == 0 else value
    cell: Cell = short_form(plain)
    return cell
