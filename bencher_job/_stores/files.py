"""Knows how diskcache keeps an entry's bytes: in its row, or in a file of its own that is written before the row."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW

from .codec import Buffer, DamagedEntry

__all__ = ["IN_ROW_BELOW", "EntryDisk", "Written"]

IN_ROW_BELOW: Final = 1 << 15
"""Size in bytes below which an entry lies in its database row."""


@dataclass(frozen=True, slots=True)
class Written:
    """An entry whose bytes are ready for its row: there, or in a file that is written."""

    size: int
    """Size of the entry in bytes."""
    filename: str | None
    row: bytes | None
    media_size: int

    @property
    def columns(self) -> tuple[int, int, str | None, bytes | None]:
        """Give the columns size, mode, filename and value; diskcache counts only what is not in the row as size."""
        if self.filename is None:
            return self.media_size, MODE_RAW, None, self.row
        return self.size + self.media_size, MODE_BINARY, self.filename, None


class EntryDisk(diskcache.Disk):  # type: ignore[misc]
    """Writes and reads sealed entries only, and so never unpickles."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._local = threading.local()

    def write(self, buffers: list[Buffer], media_size: int) -> Written:
        """Write an entry to a file of its own, if it is large.

        Raises:
            OSError: when it can't be written; nothing is left then.
        """
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        if size < self.min_file_size:
            return Written(size, None, b"".join(buffers), media_size)
        filename, full_path = self.filename()
        path = Path(full_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.writelines(buffers)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Written(size, filename, None, media_size)

    def store(self, value: Written, read: bool, key: object = None) -> tuple[int, int, str | None, bytes | None]:  # noqa: ARG002
        """Give the columns of an entry that is written."""
        return value.columns

    def fetch(self, mode: int, filename: str | None, value: Buffer, read: bool) -> Buffer:  # noqa: ARG002
        """Read an entry's bytes.

        Raises:
            DamagedEntry: when they are not there, or the row is none of ours.
            FileNotFoundError: when their file is gone.
        """
        if mode == MODE_RAW and isinstance(value, bytes):
            return value
        if mode != MODE_BINARY or filename is None:
            raise DamagedEntry(f"its row is of the mode {mode} and the type {type(value).__name__}, as no entry is")
        with open(os.path.join(self._directory, filename), "rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
        return data

    @contextmanager
    def removing_after_commit(self) -> Iterator[None]:
        """Put off the removal of files on this thread until the transaction within is over, and only if it succeeds."""
        kept: list[str] = []
        self._local.kept = kept
        try:
            yield
        finally:
            self._local.kept = None
        for path in kept:
            super().remove(path)

    def remove(self, file_path: str) -> None:
        """Remove a file, now or when the transaction is over."""
        kept = getattr(self._local, "kept", None)
        if kept is None:
            super().remove(file_path)
        else:
            kept.append(file_path)
