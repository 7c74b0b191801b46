"""Set damaged files aside.

damaged/<time>/...   the latest are kept, up to a size in bytes
"""

from __future__ import annotations

import logging
import os
import stat
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from .. import _media
from .._folders import make_private, owner_only
from .._names import DAMAGED_FOLDER, NameOf, path_of

__all__ = ["KEPT_ASIDE", "Aside"]


KEPT_ASIDE: Final = 1 << 30
"""Bytes that are kept of what was set aside; of that, the latest is kept however large it is."""

OVERHEAD: Final = 1 << 13
"""Bytes that a folder with a small file takes on the disk."""

LONGEST_NAME: Final = 100

_log = logging.getLogger(__name__)


class Aside:
    """Keeps what is damaged in one store, out of the way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._folder = directory / DAMAGED_FOLDER
        self._added = (
            KEPT_ASIDE  # since it was last looked how much there is: so much that the first time looks
        )

    def keep_bytes(self, name: str, content: bytes) -> None:
        """Keep bytes.

        Raises:
            OSError: when they can't be written.
        """
        with open(self.new_folder() / _plain(name), "xb", opener=owner_only) as file:
            file.write(content)
        self._count(len(content))

    def keep_file(self, name: str, path: Path) -> None:
        """Keep a file, which stays where it is as well; one that is gone, or no regular file, is left.

        Raises:
            OSError: when it can't be linked.
        """
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            os.link(path, self.new_folder() / _plain(name), follow_symlinks=False)
            self._count(status.st_size)

    def move(self, paths: list[Path], folder: Path) -> None:
        """Move files into a folder that `new_folder` has made; one that is gone is no error.

        Raises:
            OSError: when they can't be moved.
        """
        for path in paths:
            with suppress(FileNotFoundError):
                path.rename(folder / path.name)
        self._count(_media.size_of(folder))

    def new_folder(self) -> Path:
        """Make a folder for what is set aside together.

        Raises:
            OSError: when it can't be made.
        """
        folder = path_of(self._directory, NameOf.QUARANTINE, f"{time.time_ns()}")
        make_private(folder)
        return folder

    def _count(self, size: int) -> None:
        self._added += size + OVERHEAD
        if self._added >= KEPT_ASIDE // 8:
            self._added = 0
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        folders = sorted(each for each in self._folder.iterdir() if NameOf.QUARANTINE.match(each.name))
        sizes = [_media.size_of(folder) + OVERHEAD for folder in folders]
        excess = sum(sizes) - KEPT_ASIDE
        for folder, size in zip(folders[:-1], sizes, strict=False):
            if excess <= 0:
                break
            _media.discard(folder)
            excess -= size
            _log.warning(
                "removed %s, which takes %s bytes, since more than %s bytes were set aside",
                folder,
                size,
                KEPT_ASIDE,
            )


def _plain(name: str) -> str:
    """Give a name that a file can have: that of a key, or its digest where the key is a user's own."""
    if len(name) <= LONGEST_NAME and name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return name
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
