"""Make folders and files for their owner only, while other processes make or remove the same folders."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["make_private", "owner_only"]

_ATTEMPTS: Final = 100
"""How often a folder is made that others go on removing."""


def make_private(folder: str | os.PathLike[str]) -> bool:
    """Make a folder, and those above it, for the owner only; whether it is new.

    A folder that others remove because it is empty, or with all that is in it, is made again.

    Raises:
        OSError: when it can't be made, or others go on removing it.
    """
    path = os.path.abspath(folder)
    for _ in range(_ATTEMPTS - 1):
        try:
            return _made(path)
        except (FileExistsError, FileNotFoundError):
            if os.path.lexists(path) and not os.path.isdir(path):
                raise
    return _made(path)


def owner_only(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=owner_only)`, so that nobody else may read a new one."""
    return os.open(path, flags, 0o600)


def _made(path: str) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.isdir(path):
            return False
        raise
    except FileNotFoundError:
        make_private(os.path.dirname(path))
        os.mkdir(path, 0o700)
    return True
