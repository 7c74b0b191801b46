"""Make folders and files that only their owner can read, even while other processes make or remove them."""

from __future__ import annotations

import os
import stat
from typing import Final

__all__ = ["make_private", "owner_only"]

_ATTEMPTS: Final = 100
"""How often to try to make a folder that other processes keep removing."""


def make_private(folder: str | os.PathLike[str]) -> bool:
    """Make a folder and its parents, readable by the owner only. Return whether it is new.

    A folder that another process removes in between is made again.

    Raises:
        OSError: when it can't be made, or other processes keep removing it.
    """
    path = os.path.abspath(folder)
    for _ in range(_ATTEMPTS - 1):
        try:
            return _made(path)
        except (FileExistsError, FileNotFoundError):
            if _is_no_folder(path):
                raise
    return _made(path)


def _is_no_folder(path: str) -> bool:
    """Tell whether something else has this name, by one look: between two, another process may remove a folder."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return os.path.islink(path)  # that leads nowhere


def owner_only(path: str, flags: int) -> int:
    """Open a file so that only the owner can read a new one, as in `open(..., opener=owner_only)`."""
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
