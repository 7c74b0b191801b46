"""Check the names of files and folders in a store, and make private ones.

A name comes from a row, an archive or a request. `path_of` is the only way from it to a path: a database can hold any
text, so a name that this library would not make counts as damage and is never used as a path.
"""

from __future__ import annotations

import os
import re
import stat
from enum import Enum
from pathlib import Path
from typing import Final

from ._processes import PROCESS_NAME

MEDIA_FOLDER: Final = "media"
"""Name of the folder in a store's folder that holds the run folders."""

DAMAGED_FOLDER: Final = "damaged"
"""Name of the folder in a store's folder that holds quarantined files."""

_PART: Final = r"(?!\.{1,2}(?:/|\Z))[^/\0]+"


class ForeignName(ValueError):
    """A name that this library would not give to a file or folder of its kind."""


class NameOf(Enum):
    """A kind of name: the folder that it lies in, and the regular expression that it matches."""

    VALUE_FILE = (
        "",
        rf"[0-9a-f]{{2}}/[0-9a-f]{{2}}/[\w-]{{1,64}}(\.(?P<process>{PROCESS_NAME}))?\.val(\.part)?",
    )
    """Relative to the store's folder."""
    RUN_FOLDER = (MEDIA_FOLDER, rf"[0-9a-f]{{16}}\.(?P<process>{PROCESS_NAME})\.[0-9]{{1,20}}")
    """Relative to the media folder: a digest of the key, the process, and a number."""
    QUARANTINE = (DAMAGED_FOLDER, r"[0-9]{1,20}")
    """Relative to the quarantine folder: the time in nanoseconds."""
    RUN_FILE = ("", rf"{_PART}(?:/{_PART})*")
    """Relative to a run folder, and inside it."""

    def __init__(self, folder: str, pattern: str) -> None:
        self.folder = folder
        self.pattern = re.compile(pattern, re.ASCII)

    def match(self, name: object) -> re.Match[str] | None:
        """Match a name of this kind, or return None."""
        return self.pattern.fullmatch(name) if isinstance(name, str) else None


def checked(kind: NameOf, name: object) -> str:
    """Return the name if it is valid.

    Raises:
        ForeignName: when it isn't a name of this kind, and could lead anywhere.
    """
    if kind.match(name) is None:
        what = kind.name.lower().replace("_", " ")
        raise ForeignName(f"it names the {what} {name!a:.200}, and no {what} has such a name")
    return str(name)


def path_of(directory: Path, kind: NameOf, name: object) -> Path:
    """Return the path of a name in a store's folder, or of a file in a run folder.

    Raises:
        ForeignName: when it isn't a name of this kind.
    """
    return directory / kind.folder / checked(kind, name)


# Folders and files that only their owner can read, even while other processes make or remove them

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
