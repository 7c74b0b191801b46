"""Digest the content of files and folders; unchanged files are not read again.

path ──> stamps of its files ──> digest known for these? ──> digest
                                      └─ no: read ──────────┘
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from marshal import dumps
from pathlib import Path, PurePath
from typing import Final

from blake3 import blake3

from .names import qualified_name

_SAME_TICK: Final = 2_100_000_000
"""Nanoseconds within which two changes of a file can leave the same times: FAT has a resolution of two seconds."""

_REMEMBERED: Final = 1 << 14
"""How many paths keep their digests; each takes about 300 bytes."""

_BLOCK: Final = 1 << 20
_FOLDER: Final = "bencher_job: names and contents of the files in a folder"


def content_digest(path: str | os.PathLike[str]) -> bytes:
    """Return the 32-byte BLAKE3 digest of a file's bytes, or of the names and contents of all files in a folder.

    A symbolic link counts as its target. Files in a folder count with their paths relative to it. Empty folders,
    broken links and special files in a folder don't count. An unchanged file is recognized by its times, size and
    inode, and is not read again. A file that changed within the last two seconds is read again, since it may change
    once more and keep its times. A write through a memory map changes the times at the next flush.

    Raises:
        FileNotFoundError: when the path doesn't exist.
        OSError: when something there can't be read, is neither a file nor a folder, or is a link to a folder that
            contains it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "data.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write("a,b")
    ...     content_digest(path) == blake3(b"a,b").digest()
    True
    """
    looked = time.time_ns()
    status = os.stat(path)
    where = os.path.join(os.getcwd(), os.fsdecode(path))
    if stat.S_ISDIR(status.st_mode):
        return _folder_digest(where, looked)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is neither a file nor a folder", where)
    return _file_digest(where, status, looked)[0]


def by_content(value: object) -> object:
    """Return the canonical form of a path by its content, of None, or of each path in a list or a tuple.

    Raises:
        FileNotFoundError: when a path doesn't exist.
        OSError: see `content_digest`.
        TypeError: when the value is anything else.

    >>> by_content(None), by_content([None, None])
    (None, (None, None))
    """
    if isinstance(value, list | tuple):
        return tuple(map(_one_by_content, value))
    return _one_by_content(value)


def absolute(value: object) -> object:
    """Make a relative path, or each one in a list or a tuple, absolute; return other values as they are.

    >>> absolute("/data/one.csv"), absolute([None, "/data/one.csv"])
    ('/data/one.csv', [None, '/data/one.csv'])
    """
    if isinstance(value, list | tuple):
        items = list(map(absolute, value))
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    if isinstance(value, str):
        return os.path.join(os.getcwd(), value)
    if isinstance(value, PurePath) and not value.is_absolute():
        return value.absolute() if isinstance(value, Path) else type(value)(os.getcwd(), value)
    return value


def is_unchanged(value: object, content: object) -> bool:
    """Whether `by_content(value)` still returns `content`."""
    try:
        return by_content(value) == content
    except OSError:
        return False


def _one_by_content(value: object) -> tuple[str, bytes] | None:
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return "content", content_digest(value)
    raise TypeError(
        f"it must be a path, None, or a list or a tuple of these, not {qualified_name(type(value))}"
    )


def _walk(folder: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield relative name, path and status of each file in a folder; follows symbolic links."""
    pending = [("", folder, frozenset[tuple[int, int]]())]
    while pending:
        prefix, inside, above = pending.pop()
        status = os.stat(inside)
        identity = status.st_dev, status.st_ino
        if identity in above:
            raise OSError(errno.ELOOP, "leads back to a folder that it is in", inside)
        with os.scandir(inside) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a broken link
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append((f"{prefix}{entry.name}/", entry.path, above | {identity}))
                elif stat.S_ISREG(status.st_mode):
                    yield prefix + entry.name, entry.path, status


def _folder_digest(folder: str, looked: int) -> bytes:
    files = sorted(_walk(folder))
    stamps = blake3(dumps([(os.fsencode(name), *_stamps(status)) for name, _, status in files], 2)).digest()

    def read() -> tuple[bytes, bool]:
        hasher = blake3(derive_key_context=_FOLDER)
        all_last = True
        for name, path, status in files:
            encoded = os.fsencode(name)
            digest, lasts = _file_digest(path, status, looked)
            hasher.update(b"%d:%b%b" % (len(encoded), encoded, digest))
            all_last = all_last and lasts
        return hasher.digest(), all_last

    return _digest_for(folder, stamps, read)[0]


def _file_digest(path: str, status: os.stat_result, looked: int) -> tuple[bytes, bool]:
    stamps = _stamps(status)
    settled = max(stamps[:2]) < looked - _SAME_TICK

    def read() -> tuple[bytes, bool]:
        hasher = blake3()
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
            return hasher.digest(), settled and _stamps(os.fstat(file.fileno())) == stamps

    return _digest_for(path, stamps, read)


def _stamps(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file's content. A program can set the first, mtime, but not the second, ctime."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


_known: Final[dict[str, tuple[object, bytes]]] = {}
"""The digests of recent paths, each with the stamps at which the path was read."""


def _digest_for(path: str, stamps: object, read: Callable[[], tuple[bytes, bool]]) -> tuple[bytes, bool]:
    """Return the digest for these stamps, and whether it holds as long as the stamps do.

    It does not if the file changed a moment ago, since it may change again and keep its stamps, or if it changed
    while it was read.
    """
    known = _known.get(path)
    if known is not None and known[0] == stamps:
        return known[1], True
    digest, lasts = read()
    if lasts:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[path] = stamps, digest
    return digest, lasts
