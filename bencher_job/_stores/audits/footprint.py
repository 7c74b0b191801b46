"""Knows how much of a disk a store takes, by what lies in its folder; no database is opened for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..._names import DAMAGED_FOLDER, MEDIA_FOLDER, NameOf, path_of
from ..._record import Record
from ..database import DATABASE_NAME

__all__ = ["Footprint", "bytes_of", "files_under", "footprint_of", "media_files"]

_BLOCK: Final = 512
"""Bytes of the blocks that `stat` counts, whatever the file system's own are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What lies in a store's folder, each in bytes that it takes on the disk."""

    directory: Path
    database: int = 0
    """The table of entries, with the small ones in it, and SQLite's log."""
    values: int = 0
    """The files of large entries."""
    media: int = 0
    """The files that jobs wrote."""
    damaged: int = 0
    """What was set aside."""
    other: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.database + self.values + self.media + self.damaged + self.other


def footprint_of(directory: Path) -> Footprint:
    """Measure a store's folder; what others remove meanwhile counts or doesn't.

    Raises:
        OSError: when a folder can't be read.
    """
    kinds = dict.fromkeys(("database", "values", "media", "damaged", "other"), 0)
    for path in files_under(directory):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        kinds[_kind(path.relative_to(directory))] += status.st_blocks * _BLOCK
    return Footprint(directory=directory, **kinds)


def _kind(path: Path) -> str:
    top = path.parts[0]
    if len(path.parts) == 1:
        return "database" if top.startswith(DATABASE_NAME) else "other"
    if top in {MEDIA_FOLDER, DAMAGED_FOLDER}:
        return "media" if top == MEDIA_FOLDER else "damaged"
    return "values" if path.suffix == ".val" else "other"


def bytes_of(path: Path) -> int:
    """Add up the sizes of a file, or of all files in a folder, in bytes; 0 where there is neither."""
    total = 0
    for file in files_under(path) if path.is_dir() and not path.is_symlink() else (path,):
        try:
            total += file.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def media_files(directory: Path, record: Record) -> dict[Path, int]:
    """Give the files that the run of a record has written, by their paths, with their sizes in bytes."""
    if record.media is None:
        return {}
    folder = path_of(directory, NameOf.RUN_FOLDER, record.media)
    return {} if folder.is_symlink() else {path: bytes_of(path) for path in sorted(files_under(folder))}


def files_under(directory: Path) -> Iterator[Path]:
    """Give all that is no folder in a folder and below it; links are not followed."""
    for folder, _, names in os.walk(directory, onerror=_raise_unless_gone):
        yield from (Path(folder, name) for name in names)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
