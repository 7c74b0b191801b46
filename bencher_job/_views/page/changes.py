"""Knows what the page may do with entries that somebody has chosen: remove them, or write them to an archive."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..._errors import BencherJobError
from ..._stores.archives.exporting import export
from ..._stores.rows import keys_at
from .listing import Query
from .shelf import Shelf

__all__ = ["Archives", "Changed", "chosen_keys", "remove"]

MOST_ARCHIVES: Final = 4
"""How many archives wait for their download; an older one is removed then."""


class Changed(BencherJobError):
    """Other entries than those that somebody was asked about would be changed."""


def chosen_keys(shelf: Shelf, name: str, given: Mapping[str, Any], query: Query | None) -> list[str]:
    """Give the keys that a request names: some, or all that a query gives, if these still are as many as it says.

    Raises:
        Changed: when they are others now.
        StoreFailure: when the store can't be read.
    """
    if query is None:
        return [str(key) for key in given["keys"]]
    shown = shelf.get(name)
    keys = keys_at(shown.store.folder, shown.listing.numbers(query, shown.stamp()))
    if len(keys) != given.get("count"):
        raise Changed(
            f"There are {len(keys):,} entries now, and you were asked about {given.get('count'):,}."
        )
    return keys


def remove(shelf: Shelf, name: str, keys: Sequence[str]) -> int:
    """Remove the entries of some keys, with their files; how many there were.

    Raises:
        StoreFailure: when the store can't be written.
    """
    with shelf.to_change(name) as store:
        return store.forget_many(keys)


@dataclass(frozen=True, slots=True)
class _Archive:
    path: Path
    name: str


class Archives:
    """Archives that were asked for and wait for their download, in a folder for their owner only."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bencher_job-")
        self._waiting: dict[str, _Archive] = {}
        self._lock = threading.Lock()

    def make(self, shelf: Shelf, name: str, keys: Sequence[str], label: str) -> tuple[str, int]:
        """Write an archive of the entries of some keys; what it is to be asked for by, and how many entries it has.

        Raises:
            StoreFailure: when the store can't be read, or the archive can't be written.
        """
        ticket = secrets.token_urlsafe(12)
        path = Path(self._folder.name, ticket)
        count = export(shelf.get(name).store, path, keys=keys)
        with self._lock:
            self._waiting[ticket] = _Archive(path, f"{label}.tar")
            while len(self._waiting) > MOST_ARCHIVES:
                self._waiting.pop(next(iter(self._waiting))).path.unlink(missing_ok=True)
        return ticket, count

    def get(self, ticket: str) -> tuple[Path, str] | None:
        """Give the path of an archive and the name to download it under, or None where it is no longer there."""
        with self._lock:
            archive = self._waiting.get(ticket)
        return None if archive is None else (archive.path, archive.name)

    def close(self) -> None:
        """Remove all archives."""
        self._folder.cleanup()
