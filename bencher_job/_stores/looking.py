"""Find the store of a folder and open it, read-only or to change it. No store is made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .base import PATIENCE, StoreDamaged, StoreFailure, StoreMissing
from .database import DATABASE_NAME
from .embedded import DiskStore

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
        folders = [directory / name for name in sorted(os.listdir(directory))]
        found = [folder for folder in folders if os.path.exists(folder / DATABASE_NAME)]
        if not found:
            for folder in folders:  # one that this user may not look into is none that isn't there
                if folder.is_dir():
                    os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreMissing(f"{directory} is no cache directory: {error.strerror}") from error
    except OSError as error:
        raise StoreFailure(f"{error.filename} can't be read: {error.strerror}") from error
    return found


def look_into(directory: Path, *, trusted: bool = False, patience: float = PATIENCE) -> DiskStore:
    """Open the store in a folder to read it and nothing else.

    It makes no file, and changes none: no use is counted, a damaged entry stays where it is, and each method that
    writes raises `StoreFailure`. Other processes may use the store meanwhile; `patience` is how long in seconds it is
    waited for one that keeps it locked. Whoever opens it closes it.

    Raises:
        StoreMissing: when there is none.
        StoreDamaged: when its database is damaged.
        StoreBusy: when others keep it locked.
        StoreFailure: when it can't be read, or is of another version.
        UntrustedCache: when another user owns the folder or can write to it.
    """
    store = DiskStore(directory, size_limit=sys.maxsize, trusted=trusted, only_looks=True, patience=patience)
    store.open()
    return store


def open_existing(directory: Path, *, trusted: bool = False, patience: float = PATIENCE) -> DiskStore:
    """Open the store in a folder to change it, if there is one; it evicts nothing.

    Raises:
        StoreFailure: as for `look_into`, but a damaged store is mended, with a `CacheWarning`.
        UntrustedCache: when another user owns the folder or can write to it.
    """
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
