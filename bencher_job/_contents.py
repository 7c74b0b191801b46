"""Knows what a cache has kept: where its store lies, when it is opened, and what people ask of what is in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from . import _settings
from ._errors import warn_caller
from ._inside import refuse_inside
from ._record import Record, Records
from ._selection import Selection
from ._stores import NullStore, Store, StoreFailure, export, import_, open_store, store_exists, verify

if TYPE_CHECKING:
    from ._info import FunctionInfo
    from ._stores.archives.importing import Imported
    from ._stores.audits.findings import Audit
    from ._stores.memory import MemoryTier

__all__ = ["Contents"]

FIRST_PAUSE: Final = 0.1
"""Seconds after which a store that can't be opened is tried again; each failure doubles them."""

LONGEST_PAUSE: Final = 60.0

PATIENT_PAUSE: Final = 10
"""How many times as long as an attempt takes, the pause behind it is at least: one may wait for a lock."""

_log = logging.getLogger(__name__)


def _check_size_limit(size_limit: object) -> None:
    if not isinstance(size_limit, int):
        raise TypeError(
            f"size_limit={size_limit!r} is no whole number. Give a size in bytes, such as int(10e9)."
        )
    if size_limit <= 0:
        raise ValueError(
            f"size_limit={size_limit} leaves no room for entries. Give a size in bytes, such as int(10e9)."
        )


def _selection(chosen: dict[str, Any]) -> Selection:
    return Selection(**{**chosen, "where": chosen.get("where") or {}})


class Contents:
    """What a cache has kept, in the store at `<cache_dir>/<cache_name>`; it is opened when it is first needed.

    Attributes:
        size_limit: the size in bytes beyond which the least recently used entries are evicted.
        cache_dir: the folder that holds the cache, once it is opened; until then what was given.
    """

    def __init__(
        self,
        cache_name: str,
        cache_dir: str | os.PathLike[str] | None,
        *,
        tag_index: bool,
        size_limit: int,
        cache_samples: bool,
        trusted: bool,
    ) -> None:
        _check_size_limit(size_limit)
        self.size_limit = int(size_limit)
        self.cache_dir = cache_dir
        self._cache_name = cache_name
        self._tag_index = tag_index
        self._cache_samples = cache_samples
        self._trusted = trusted
        self._store: Store | None = None
        self._memory: MemoryTier | None = None
        self._epoch = -1
        self._pause = 0.0
        self._try_again: float | None = None

    @property
    def cache(self) -> Store:
        """The store, opened at first use. Where it can't be opened, jobs run with a warning as if it weren't there.

        It is tried again now and then, after pauses that grow. It is a container of values by job key:
        `len(cache.cache)`, `key in cache.cache`, `cache.cache[key]`, and iteration over the keys.

        Raises:
            UntrustedCache: when another user owns the store or can write to it.
            BencherJobError: in a signal handler, a `__del__` or a weakref callback that has interrupted the cache.
        """
        refuse_inside("The use of a cache")
        return self._opened()

    def _opened(self) -> Store:
        if (
            self._store is None
            or self._epoch != _settings.epoch
            or (self._try_again is not None and monotonic() >= self._try_again)
        ):
            self._open()
        return self._store  # type: ignore[return-value]

    def is_there(self) -> bool:
        """Whether the store is open or lies on the disk; also where nothing is kept, since then nothing is made."""
        if (self._store is not None and self._epoch == _settings.epoch) or not self._keeps():
            return True
        return store_exists(self.directory)

    @property
    def directory(self) -> Path:
        """The folder of the store, whether it is there or not."""
        return _settings.store_directory(self._cache_name, self.cache_dir)

    def _keeps(self) -> bool:
        return self._cache_samples and _settings.caching_is_on()

    def _open(self) -> None:
        store: Store = NullStore()
        self._memory = None
        closed_off = None if self._try_again is None or self._epoch != _settings.epoch else self._store
        self._try_again = None
        if self._keeps():
            begin = monotonic()
            where: object = f"The cache {self._cache_name}"
            try:
                where = directory = self.directory
                if not _settings.is_overridden():
                    # Found once: a later change of the current folder moves nothing.
                    self.cache_dir = directory.parent
                store = self._memory = open_store(
                    directory,
                    size_limit=self.size_limit,
                    tag_index=self._tag_index,
                    trusted=self._trusted,
                )
            except (StoreFailure, FileNotFoundError) as error:  # of the current folder, which may be gone
                _log.warning("%s can't be opened: %s", where, error)
                # The one that is there may have jobs in flight.
                self._store, self._epoch = closed_off or NullStore(is_closed_off=True), _settings.epoch
                self._close_off(begin)
                if closed_off is None:
                    warn_caller(f"{where} can't be opened, so nothing is remembered until it can: {error}")
                return
        self._store, self._epoch, self._pause = store, _settings.epoch, 0.0

    def _close_off(self, begin: float) -> None:
        """Say when to try again, after an attempt that began at a time."""
        now = monotonic()
        pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._pause = max(pause, PATIENT_PAUSE * (now - begin))
        self._try_again = now + self._pause

    def memory(self) -> tuple[int, MemoryTier | None]:
        """Give the epoch of the settings, and what keeps entries in memory in it."""
        epoch = _settings.epoch
        return epoch, self._memory if self._epoch == epoch else None

    def has(self, key: str) -> bool:
        """Whether a key is remembered; a store that can't be read remembers nothing, and a warning says so."""
        try:
            return self.cache.has(key)
        except StoreFailure as error:
            warn_caller(f"The cache in {self.directory} can't be read, so nothing is found: {error}")
            return False

    def clear_cache(self) -> int:
        """Forget all results in the store, with their media; how many there were."""
        return self._clear()

    def clear_tag(self, tag: str) -> int:
        """Forget the results of a tag, or with `""` those without one, with their media; how many there were."""
        return self._clear(tag=tag)

    def _clear(self, **chosen: str) -> int:
        if not isinstance(tag := chosen.get("tag", ""), str):  # None would be all
            raise TypeError(
                f"tag must be a str, not {type(tag).__name__}. Clear everything with clear_cache()."
            )
        removed = self.cache.clear(**chosen)
        _log.info("removed %s entries from %s", removed, self.cache.directory)
        return removed

    def records(
        self,
        *,
        function: str | None = None,
        tag: str | None = None,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Iterator[Record]:
        """Give the record of each entry that is chosen, the oldest first.

        Args:
            function: module and qualified name of the function.
            tag: the tag; "" for entries that have none.
            since: the earliest begin of the run. A `timedelta` counts back from now; a naive time is local.
            until: the time before which the run began, likewise.
            where: arguments by name: the value as records show it, or a predicate of it.
        """
        chosen = Selection(function=function, tag=tag, since=since, until=until, where=where or {})
        return Records(self.cache.records(chosen))

    def functions(self) -> list[FunctionInfo]:
        """Give the figures of each function that has entries in the store, sorted by name."""
        return self.cache.functions()

    def verify(self, *, repair: bool = False) -> Audit:
        """Check the whole store: every entry's bytes, files without entries, entries without files, the database.

        With `repair=True` damaged entries are set aside, what kills have left is removed, and the figures are mended.
        Other processes may use the store meanwhile.

        Raises:
            BencherJobError: when nothing is kept; when a repair would set a store aside that is signed with another
                secret.
        """
        return verify(self.cache, repair=repair)

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False, **chosen: Any) -> int:
        """Write the entries that are chosen as for `records` to one file, with their media; how many there were.

        The file is a tar archive, to be read by `import_`.

        Raises:
            BencherJobError: when nothing is kept, or the file is there and is not to be overwritten.
        """
        return export(self.cache, path, _selection(chosen), overwrite=overwrite)

    def import_(self, path: str | os.PathLike[str], *, trusted: bool = False) -> Imported:
        """Take in the entries of a file that `export` has written; one that is here already is kept as it is.

        Each is verified and none is unpickled, but a later hit unpickles it: import only what you trust. Absolute paths
        in values still lead to where the media were.

        Raises:
            UntrustedCache: when another user owns the file or can write to it, unless it is `trusted`.
            BencherJobError: when the file is no such archive, or nothing is kept.
        """
        return import_(self.cache, path, trusted=trusted)
