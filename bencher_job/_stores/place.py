"""Knows the folder that a store lies in: how it is set up, and when it is not to be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from .._errors import UntrustedCache
from .._folders import make_private

__all__ = ["refuse_untrusted", "set_up"]

TAG_NAME: Final = "CACHEDIR.TAG"
TAG_TEXT: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder holds a cache that bencher_job made. Backup programs may leave it out: https://bford.info/cachedir/\n"
)
"""The text that the Cache Directory Tagging Specification asks for."""

GITIGNORE_TEXT: Final = "# Made by bencher_job: nothing in a cache belongs in a repository.\n*\n"


def set_up(directory: Path) -> None:
    """Make a store's folder and what is missing above it, for the owner only and marked as a cache.

    The marks stand in the topmost folder that is new, or in the store's own where its parent was there before.

    Raises:
        OSError: when a folder can't be made.
    """
    if make_private(directory.parent):
        _mark(directory.parent)
        make_private(directory)
    elif make_private(directory):
        _mark(directory)


def _mark(directory: Path) -> None:
    for name, text in ((TAG_NAME, TAG_TEXT), (".gitignore", GITIGNORE_TEXT)):
        path = directory / name
        if not path.exists():
            path.write_text(text)


def refuse_untrusted(directory: Path) -> None:
    """Refuse a store whose folder or database another user owns or could write to.

    A database that the folder keeps from others may have any mode.

    Raises:
        UntrustedCache: naming the path and the remedy.
    """
    reach = stat.S_IWGRP | stat.S_IWOTH
    """Those who could write, as the bits of a mode: to the files, only who may search the folder."""
    for path in (directory, directory / "cache.db", directory / "cache.db-wal"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid != os.geteuid():
            raise UntrustedCache(
                os.fspath(path),
                f"belongs to the user number {status.st_uid}",
                "Choose a folder of your own with cache_dir= or BENCHER_JOB_CACHE_DIR, or say trusted=True.",
            )
        if status.st_mode & reach:
            raise UntrustedCache(
                os.fspath(path),
                f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})",
                f"If only you have written to it so far, run: chmod -R go-w {directory}",
            )
        if path == directory:
            reach &= (status.st_mode & (stat.S_IXGRP | stat.S_IXOTH)) << 1
