"""The files that jobs wrote: what a row says of them, and whether that is still true.

A commit notes size and digest of each. A hit looks at the sizes only; `verify`, `export` and `push` read the files.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from .._cores import cores
from .._folders import NameOf, path_of
from .codec import MOST_THREADS, PARALLEL_FROM
from .parts import DamagedEntry
from .signature import UNSIGNED

PIECE: Final = 1 << 22
"""Size in bytes of the pieces in which files are read."""


class StoredFile(NamedTuple):
    """A file that a job wrote, as it was when its entry was stored."""

    path: str
    """Where it lies in the run's folder."""
    size: int
    digest: str
    """In hexadecimal."""


def files_in(folder: Path) -> list[StoredFile]:
    """Read all regular files in a run's folder, sorted by path; none if there is no folder.

    Raises:
        OSError: when one can't be read.
    """
    paths = [path for path in sorted(folder.rglob("*")) if not path.is_symlink() and path.is_file()]
    return [StoredFile(path.relative_to(folder).as_posix(), *_read(path)) for path in paths]


def _read(path: Path) -> tuple[int, str]:
    """Return size and digest of a file."""
    with path.open("rb", buffering=0) as file:
        threads = min(cores(), MOST_THREADS) if os.fstat(file.fileno()).st_size >= PARALLEL_FROM else 1
        hasher, size = UNSIGNED.hasher(b"", threads), 0
        while piece := file.read(PIECE):
            hasher.update(piece)
            size += len(piece)
    return size, hasher.hexdigest()


def files_to_json(files: Iterable[StoredFile]) -> str:
    """Write the files of an entry as text."""
    return json.dumps([list(file) for file in files])


def files_from(text: object) -> list[StoredFile]:
    """Read what `files_to_json` has written.

    Raises:
        DamagedEntry: when the text is something else.
    """
    try:
        files = [StoredFile(*each) for each in json.loads(text)]  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedEntry(f"its list of files is damaged: {error}") from None
    if not all(
        NameOf.RUN_FILE.match(path) and type(size) is int and type(digest) is str
        for path, size, digest in files
    ):
        raise DamagedEntry("its list of files is damaged")
    return files


def check_sizes(directory: Path, media: object, files: object) -> Path:
    """Check that all files of an entry are there and none is shorter than it was; return their folder.

    Raises:
        DamagedEntry: when one is missing or shorter.
        ForeignName: when no run's folder has such a name.
    """
    folder = path_of(directory, NameOf.RUN_FOLDER, media)
    for path, size, _ in files_from(files):
        try:
            status = os.lstat(f"{folder}/{path}")
        except OSError:
            raise DamagedEntry(f"its media are missing: {path}") from None
        if status.st_size < size or not stat.S_ISREG(status.st_mode):
            raise DamagedEntry(f"its media are missing: {path} is shorter than it was")
    return folder


def check_contents(directory: Path, media: object, files: object) -> list[tuple[StoredFile, Path]]:
    """Check that all files of an entry are what they were; return each with its path.

    Raises:
        DamagedEntry: when one is missing or altered.
        ForeignName: when no run's folder has such a name.
    """
    folder = check_sizes(directory, media, files)
    found = [(file, folder / file.path) for file in files_from(files)]
    for file, path in found:
        try:
            is_same = _read(path) == file[1:]
        except OSError as error:
            raise DamagedEntry(f"its media can't be read: {file.path}: {error.strerror}") from None
        if not is_same:
            raise DamagedEntry(f"its media were altered: {file.path}")
    return found
