"""Knows how a store is found by its folder alone, and opened to look at it or to change it; none is ever made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .base import StoreBusy, StoreDamaged, StoreFailure, StoreMissing
from .database import DATABASE_NAME
from .disk import DiskStore

__all__ = ["look_into", "open_existing", "stores_in"]


def stores_in(directory: Path) -> list[Path]:
    """Give the folders of all stores in a cache directory, sorted by name; a store's own folder gives itself.

    Raises:
        StoreFailure: when the directory can't be read.
        StoreMissing: when it isn't there.
    """
    if os.path.exists(directory / DATABASE_NAME):
        return [directory]
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreMissing(f"{directory} is no cache directory: {error.strerror}") from error
    except OSError as error:
        raise StoreFailure(f"{directory} can't be read: {error.strerror}") from error
    return [directory / name for name in names if os.path.exists(directory / name / DATABASE_NAME)]


def look_into(directory: Path, *, trusted: bool = False) -> DiskStore:
    """Open the store in a folder to read it and nothing else.

    It makes no file, and changes none: no use is counted, a damaged entry stays where it is, and each method that
    writes raises `StoreFailure`. Other processes may use the store meanwhile. Whoever opens it closes it.

    Raises:
        StoreMissing: when there is none.
        StoreDamaged: when its database is damaged.
        StoreBusy: when others keep it locked.
        StoreFailure: when it can't be read, or is of another version.
        UntrustedCache: when another user owns the folder or can write to it.
    """
    store = DiskStore(directory, size_limit=sys.maxsize, trusted=trusted, only_looks=True)
    store.open()
    return store


def open_existing(directory: Path, *, trusted: bool = False) -> DiskStore:
    """Open the store in a folder to change it, if there is one that is whole; it evicts nothing.

    Raises:
        StoreFailure: as for `look_into`, but a store of an earlier version is brought up to date.
        UntrustedCache: when another user owns the folder or can write to it.
    """
    try:
        look_into(directory, trusted=trusted).close()
    except (StoreBusy, StoreDamaged, StoreMissing):
        raise
    except StoreFailure:  # of an earlier version, which is brought up to date, or it fails again
        pass
    store = DiskStore(directory, size_limit=sys.maxsize, trusted=trusted)
    store.open()
    return store
