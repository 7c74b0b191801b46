"""Open the stores of a cache directory by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .._stores import Store, StoreMissing, look_into, open_existing, stores_in
from .listing import Listing

__all__ = ["Shown", "Stores"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A store that the page shows, opened read-only."""

    name: str
    store: Store
    listing: Listing

    def stamp(self) -> str:
        """Return a text that differs after any change in the store. Reads no database."""
        return self.store.history.stamp()


class Stores:
    """All stores of one directory.

    Attributes:
        directory: the cache directory, or the folder of one store; it may not exist yet.
        trusted: whether to show stores that another user owns or can write to.
        unpickles: whether to unpickle values that can't be shown otherwise.
        read_only: whether the page changes nothing.
    """

    def __init__(
        self, directory: Path, *, trusted: bool = False, unpickles: bool = False, read_only: bool = False
    ) -> None:
        self.directory = directory
        self.read_only = read_only
        self.trusted = trusted
        self.unpickles = unpickles
        self._open: dict[str, Shown] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of all existing stores.

        Raises:
            StoreFailure: when the directory can't be read.
        """
        try:
            return [path.name for path in stores_in(self.directory)]
        except StoreMissing:
            return []

    def get(self, name: str) -> Shown:
        """Return the store with a name.

        Raises:
            StoreMissing: when there is none.
            StoreFailure: when it can't be read.
            UntrustedCache: when another user owns it or can write to it, and it is not trusted.
        """
        path = self._path(name)
        with self._lock:
            shown = self._open.get(name)
            if shown is None:
                store = look_into(path, trusted=self.trusted)
                shown = self._open[name] = Shown(name, store, Listing(store, unpickles=self.unpickles))
        return shown

    def _path(self, name: str) -> Path:
        for path in stores_in(self.directory):
            if path.name == name:
                return path
        raise StoreMissing(f"{self.directory} holds no cache of the name {name!r} any more.")

    @contextmanager
    def to_change(self, name: str) -> Iterator[Store]:
        """Open the store with a name for a change.

        Raises:
            StoreMissing: when there is none.
            StoreFailure: when it can't be opened.
            UntrustedCache: as for `get`.
        """
        store = open_existing(self._path(name), trusted=self.trusted)
        try:
            yield store
        finally:
            store.close()

    def close(self) -> None:
        """Close all stores."""
        with self._lock:
            shown, self._open = list(self._open.values()), {}
        for each in shown:
            each.store.close()
