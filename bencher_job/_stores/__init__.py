"""Stores: where do results live?

    FutureCache -> MemoryTier -> DiskStore -> Lookups, Commits, Removals -> Folder -> Database

The caches, the command line, the page and the tables use the protocols `Store`, `Leases` and `History` of `base.py`, so
another store can replace `DiskStore`. Only a store in a folder can be verified, repaired and moved: the
functions below that do so say so otherwise.

A process opens each folder once: all caches with one `cache_dir` and one `cache_name` share a store.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .._errors import BencherJobError
from .._folders import ForeignName, NameOf, path_of
from .._media import FINDERS
from .._options import Limits
from .._processes import renew_after_fork
from .._record import EVERYTHING, Record, Selection
from .base import (
    MISS,
    PATIENCE,
    Entry,
    Found,
    Gone,
    History,
    Hit,
    Hits,
    Keyed,
    Lease,
    LeaseInfo,
    Leases,
    LeasesUnavailable,
    Miss,
    Reason,
    Store,
    StoreBusy,
    StoreDamaged,
    StoreFailure,
    StoreMissing,
    Tally,
    Use,
    Wait,
)
from .blobs import Blob, BlobLost, BlobWriter, discard
from .codec import Payload, dump, dump_result
from .null import NullStore
from .parts import compression_named

if TYPE_CHECKING:
    from .._record import SharedInfo
    from .embedded import DiskStore
    from .importing import Imported
    from .memory import MemoryTier
    from .verification import Audit, Finding, Footprint

__all__ = [
    "MISS",
    "Behind",
    "Blob",
    "BlobLost",
    "BlobWriter",
    "Entry",
    "Found",
    "Gone",
    "History",
    "Hit",
    "Hits",
    "Keyed",
    "Lease",
    "LeaseInfo",
    "Leases",
    "LeasesUnavailable",
    "Miss",
    "NullStore",
    "Payload",
    "Reason",
    "Store",
    "StoreBusy",
    "StoreDamaged",
    "StoreFailure",
    "StoreMissing",
    "Tally",
    "Use",
    "Wait",
    "compression_named",
    "count_expired",
    "discard",
    "dump",
    "dump_result",
    "end_stores",
    "excess",
    "export",
    "find_orphans",
    "footprint_of",
    "import_",
    "look_into",
    "media_files",
    "open_existing",
    "open_store",
    "remove_expired",
    "remove_orphans",
    "replace_database",
    "shared_figures",
    "shrink",
    "store_exists",
    "stores_in",
    "verify",
]


class Behind(NamedTuple):
    """A shared store that is put behind a local one when that is opened."""

    place: str
    put_behind: Callable[[DiskStore], Store]


class _OpenStores:
    """The stores that this process has opened, by folder.

    Attributes:
        make: makes the store for a folder, if it is not to be the embedded one.
    """

    make: Callable[[Path], Store] | None = None

    def __init__(self) -> None:
        self._stores: dict[tuple[Path, bool, str], MemoryTier] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock, after a fork."""
        self._lock = threading.Lock()

    def open(
        self, directory: Path, size_limit: int, tag_index: bool, trusted: bool, behind: Behind | None
    ) -> MemoryTier:
        with self._lock:
            place = directory, trusted, "" if behind is None else behind.place
            try:
                from .embedded import DiskStore  # SQLite and diskcache take long to import
                from .memory import MemoryTier
            except OSError as error:  # as where a process has too many open files
                raise StoreFailure(f"the store's modules can't be read: {error}") from error
            if place not in self._stores:
                local: Store
                if self.make is None:
                    local = DiskStore(directory, size_limit=size_limit, tag_index=tag_index, trusted=trusted)
                    self._stores[place] = MemoryTier(local if behind is None else behind.put_behind(local))
                else:
                    self._stores[place] = MemoryTier(self.make(directory))
            tier = self._stores[place]
            disk = getattr(tier.behind, "local", tier.behind)
            if isinstance(disk, DiskStore):
                disk.size_limit = max(disk.size_limit, size_limit)
                disk.open()
            return tier

    def find_media(self, key: str, name: str) -> str | None:
        """Find a file of an entry by the key and the file's name."""
        for store in reversed(list(self._stores.values())):  # the last one that was opened first
            try:
                for info in store.history.infos([key]):
                    if info.record.media is not None and store.folder is not None:
                        folder = path_of(store.folder, NameOf.RUN_FOLDER, info.record.media)
                        path = path_of(folder, NameOf.RUN_FILE, name)
                        if path.exists():
                            return os.fspath(path)
            except (BencherJobError, ForeignName):
                continue
        return None

    def has(self, directory: Path) -> bool:
        """Whether a folder's store is open."""
        return any(place == directory for place, _, _ in self._stores)

    def close(self) -> None:
        with self._lock:
            tiers = list(self._stores.values())
            self._stores.clear()
        for tier in tiers:
            tier.close()

    def end(self, under: Path) -> None:
        with self._lock:
            chosen = [place for place in self._stores if place[0].is_relative_to(under)]
            stores = [self._stores.pop(place) for place in chosen]
        if stores:
            from .embedded import DiskStore  # which the stores have imported
        for tier in stores:
            if isinstance(tier.behind, DiskStore):
                tier.behind.files.is_over = True
            tier.close()


_open_stores = _OpenStores()
atexit.register(_open_stores.close)
FINDERS.append(_open_stores.find_media)


def open_store(
    directory: Path,
    *,
    size_limit: int,
    tag_index: bool = True,
    trusted: bool = False,
    behind: Behind | None = None,
) -> MemoryTier:
    """Open the store in a folder, made if it isn't there, and perhaps a shared one behind it.

    All caches on a store share its size limit: the largest that any of them asks for. A store that can be read but
    not written gives hits, and each `put_many` raises. One that is `trusted` may be another user's.

    Raises:
        UntrustedCache: when another user owns the folder or can write to it.
        StoreFailure: when it can't be opened.
    """
    return _open_stores.open(directory, size_limit, tag_index, trusted, behind)


def _disk_behind(store: Store) -> DiskStore:
    from .embedded import DiskStore
    from .memory import MemoryTier

    behind = store.behind if isinstance(store, MemoryTier) else store
    disk = getattr(behind, "local", behind)
    if isinstance(disk, DiskStore):
        return disk
    raise BencherJobError(
        "This cache lies in no folder that could be checked or moved."
        if store.keeps
        else "Nothing is kept here: caching is off, or the cache can't be opened. Turn it on, or choose another folder."
    )


def verify(store: Store, *, repair: bool = False) -> Audit:
    """Check a whole store, and mend it if it is to be repaired.

    Raises:
        BencherJobError: when the store keeps nothing, or is signed with another secret and to be repaired.
    """
    from . import verification  # these three take long to import, and few programs ask for them

    return verification.verify(_disk_behind(store), repair=repair)


def export(
    store: Store,
    path: str | os.PathLike[str],
    selection: Selection = EVERYTHING,
    *,
    keys: Iterable[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write entries of a selection to one file; where `keys` are given, of these keys only.

    Raises:
        BencherJobError: when the store keeps nothing, or the file is there and is not to be overwritten.
    """
    from . import archive

    return archive.export(_disk_behind(store), path, selection, keys=keys, overwrite=overwrite)


def import_(store: Store, path: str | os.PathLike[str], *, trusted: bool = False) -> Imported:
    """Take in the entries of a file.

    Raises:
        BencherJobError: when the store keeps nothing, or the file is not an archive.
        UntrustedCache: when another user owns the file or can write to it.
    """
    from . import importing

    return importing.import_(_disk_behind(store), path, trusted=trusted)


def find_orphans(store: Store) -> dict[Finding, int]:
    """Find the files and folders in a store that no entry owns, with their sizes in bytes; none is removed.

    Raises:
        StoreFailure: when the store can't be read.
    """
    from . import verification

    return verification.find_orphans(_disk_behind(store))


def remove_orphans(store: Store, findings: Iterable[Finding]) -> list[Finding]:
    """Remove what `find_orphans` has found; give each as mended, if it is gone."""
    from . import verification

    return verification.remove_orphans(_disk_behind(store), findings)


def shared_figures(store: Store) -> list[SharedInfo]:
    """Return the figures of the shared stores behind a folder, over its life; none for another kind of store.

    Raises:
        StoreFailure: when the store can't be read.
    """
    return _disk_behind(store).outbox.figures() if store.keeps and store.folder is not None else []


def count_expired(store: Store) -> int:
    """Count the entries that have expired and are still in a folder.

    Raises:
        StoreFailure: when the store can't be read.
    """
    return _disk_behind(store).removals.count_expired()


def remove_expired(store: Store) -> int:
    """Remove the entries that have expired from a folder, and return how many there were.

    Raises:
        StoreFailure: when the store can't be written.
    """
    return _disk_behind(store).removals.remove_expired()


def excess(store: Store, limits: Limits) -> tuple[int, int]:
    """Return how many entries a store has beyond limits, and how many bytes they take.

    Raises:
        StoreFailure: when the store can't be read.
    """
    rows = _disk_behind(store).removals.excess(limits)
    return len(rows), sum(size for _, _, size in rows)


def shrink(store: Store, limits: Limits, function: str | None = None) -> int:
    """Remove the least recently used entries, or those of a function, beyond limits, and return how many there were.

    Raises:
        BencherJobError: when the store keeps nothing.
        StoreFailure: when the store can't be written.
    """
    return _disk_behind(store).removals.shrink(limits, function)


def replace_database(store: Store, reason: str) -> bool:
    """Replace a damaged database by a new one with everything that can be read; whether it was damaged.

    Raises:
        StoreFailure: when that can't be done.
    """
    return _disk_behind(store).files.replace_database(reason)


def footprint_of(directory: Path) -> Footprint:
    """Measure what a store's folder takes on the disk, by what lies in it; no database is opened.

    Raises:
        OSError: when a folder can't be read.
    """
    from . import verification

    return verification.footprint_of(directory)


def media_files(directory: Path, record: Record) -> dict[Path, int]:
    """Return the paths of the files that the run of a record wrote, with their sizes in bytes."""
    from . import verification

    return verification.media_files(directory, record)


def store_exists(directory: Path) -> bool:
    """Whether there is a store in a folder."""
    if _open_stores.make is not None:
        return _open_stores.has(directory)
    from .database import DATABASE_NAME  # takes long to import

    return os.path.exists(directory / DATABASE_NAME)


def stores_in(directory: Path) -> list[Path]:
    """Return the folders of all stores in a cache directory, sorted by name; a store's own folder returns itself.

    Raises:
        StoreFailure: when the directory can't be read.
        StoreMissing: when it isn't there.
    """
    from .database import DATABASE_NAME

    if os.path.exists(directory / DATABASE_NAME):
        return [directory]
    try:
        folders = [directory / name for name in sorted(os.listdir(directory))]
        found = [folder for folder in folders if os.path.exists(folder / DATABASE_NAME)]
        if not found:
            for folder in folders:  # a folder that this user can't read may hold a store
                if folder.is_dir():
                    os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreMissing(f"{directory} is not a cache directory: {error.strerror}") from error
    except OSError as error:
        raise StoreFailure(f"{error.filename} can't be read: {error.strerror}") from error
    return found


def look_into(directory: Path, *, trusted: bool = False, patience: float = PATIENCE) -> Store:
    """Open the store in a folder read-only. The caller closes it.

    It makes and changes no file: no use is counted, a damaged entry stays where it is, and each method that writes
    raises `StoreFailure`. Other processes may use the store at the same time; `patience` is how many seconds to wait
    for one that keeps it locked.

    Raises:
        StoreMissing: when there is none.
        StoreDamaged: when its database is damaged.
        StoreBusy: when others keep it locked.
        StoreFailure: when it can't be read, or is of another version.
        UntrustedCache: when another user owns the folder or can write to it.
    """
    from .embedded import DiskStore

    store = DiskStore(directory, size_limit=sys.maxsize, trusted=trusted, only_looks=True, patience=patience)
    store.open()
    return store


def open_existing(directory: Path, *, trusted: bool = False, patience: float = PATIENCE) -> Store:
    """Open the store in a folder to change it, if there is one; it evicts nothing.

    Raises:
        StoreFailure: as for `look_into`, but a damaged store is mended, with a `CacheWarning`.
        UntrustedCache: when another user owns the folder or can write to it.
    """
    from .embedded import DiskStore

    damage = ""
    try:
        look_into(directory, trusted=trusted, patience=patience).close()
    except StoreDamaged as error:
        damage = str(error)
    store = DiskStore(directory, size_limit=sys.maxsize, trusted=trusted, patience=patience)
    store.open()
    if damage:
        store.files.replace_database(damage)
    return store


def end_stores(under: Path) -> None:
    """Close the stores below a folder. They never open again: results of jobs that still run are not stored."""
    _open_stores.end(under)
