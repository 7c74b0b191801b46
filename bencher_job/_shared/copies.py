"""Copies of entries of a remote that are in memory, and soon in the local store.

    found on the remote -> verified -> answers at once
                                  '-> committed together with others, by the courier or before all entries are listed

A copy may be lost: the remote has the entry. One whose entry is removed or replaced on this machine is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from .._media import holds_paths
from .._processes import renew_after_fork
from .._stores.base import Entry, Small, StoreFailure
from .._stores.codec import plain_reader
from .entry import SharedEntry

if TYPE_CHECKING:
    from .._stores.embedded import DiskStore

__all__ = ["COMMIT_AFTER", "Copies"]

COMMIT_AFTER: Final = 0.25
"""Seconds that a copy waits for others to be committed with."""

_AT_ONCE: Final = 500
"""How many are committed together: other processes wait for that."""

_MOST: Final = 20_000
_MOST_BYTES: Final = 64_000_000
"""How many copies wait at most, and their size."""

_GONE_SINCE: Final = "SELECT key FROM Gone WHERE at >= ?"
_SLACK: Final = 1.0
"""Seconds by which the clock may have been set back in between."""

_log = logging.getLogger(__name__)


class Copies:
    """The copies of one store that are not committed yet: small entries without files."""

    def __init__(
        self, local: DiskStore, entry_of: Callable[[SharedEntry], Entry], wake: Callable[[], None]
    ) -> None:
        """`entry_of` makes what the local store takes; `wake` is called when there is something to commit soon."""
        self._local = local
        self._entry_of = entry_of
        self._wake = wake
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave the copies to the parent, in a forked child."""
        self._lock = threading.Lock()
        self._committing = threading.RLock()
        self._mark: object = None
        self._since = 0.0
        self._small: dict[str, Small] = {}
        self._waiting: dict[str, SharedEntry] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._small)

    @property
    def seconds_left(self) -> float:
        """How long they may wait yet."""
        return max(0.0, self._since + COMMIT_AFTER - time.time())

    def keep(self, entries: Sequence[SharedEntry]) -> list[SharedEntry]:
        """Verify the values of entries and keep those that are small; return the others."""
        others: list[SharedEntry] = []
        with self._lock:
            if not self._small:
                self._mark, self._since = self._local.changed_since(None), time.time()
            is_first = not self._waiting
            for entry in entries:
                key, value = entry.record.key, entry.value
                stream = None
                if entry.record.media is None and not entry.media:
                    stream = plain_reader(entry.signature)(bytes(value), key)
                if stream is None or holds_paths(stream):
                    others.append(entry)
                    continue
                self._small[key] = stream, entry.record.seconds, entry.record.created.timestamp()
                self._waiting[key] = entry
                self._bytes += len(value)
            is_full = len(self._waiting) > _MOST or self._bytes > _MOST_BYTES
        if is_full:
            self.commit()
        elif is_first:
            self._wake()
        return others

    def find(self, keys: Collection[str]) -> dict[str, Small]:
        """Return the verified bytes of those keys that are here."""
        if not self._small.keys().isdisjoint(keys):
            self._drop_changed()
        small = self._small
        return {key: each for key in keys if (each := small.get(key))}

    def commit(self) -> None:
        """Store them locally, but for those that another process has stored. If that fails they are lost."""
        with self._committing:
            with self._lock:
                waiting, self._waiting, self._bytes = self._waiting, {}, 0
            keys = list(waiting)
            try:
                for start in range(0, len(keys), _AT_ONCE):
                    some = keys[start : start + _AT_ONCE]
                    self._drop_changed()
                    here = self._local.durations(some)
                    wanted = [key for key in some if key in self._small and key not in here]
                    self._local.put_many([self._entry_of(waiting[key]) for key in wanted])
            except StoreFailure as error:
                _log.warning("%s can't store what was fetched: %s", self._local.folder, error)
            with self._lock:
                for key in keys:
                    if key not in self._waiting:
                        self._small.pop(key, None)

    def _drop_changed(self) -> None:
        """Drop those that were removed or replaced since they were fetched."""
        if self._local.changed_since(self._mark) is None:
            return
        with self._lock:
            mark = self._local.changed_since(None)
            try:
                gone = {key for (key,) in self._local.files.query(_GONE_SINCE, (self._since - _SLACK,))}
                gone.update(self._local.durations(self._small))
            except StoreFailure:
                gone = {*self._small}
            for key in gone & self._small.keys():
                del self._small[key]
                self._waiting.pop(key, None)
            self._mark = mark
