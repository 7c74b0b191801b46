"""Knows the files that large entries lie in: each is written under a name of its own, and never changed afterwards.

    x.val.part -> written, renamed -> x.val -> committed in the database, and only then seen

A file that others could have written is not read: who can write to it could have put another's bytes there.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path
from typing import Final

from ..._errors import UntrustedCache
from ..._processes import process_name
from .arrival import ARRIVING_FROM, Arrival, fill
from .codec import Buffer, SealedEntry
from .pages import writable_memory

__all__ = ["map_file", "new_filename", "read_file", "write_file"]

PART_SUFFIX: Final = ".part"

_ATTEMPTS: Final = 100
"""How often folders are made for a file, while others remove them because they are empty."""


def new_filename() -> str:
    """Make up the path in a store of a file that this process is about to write, whose name tells so."""
    name = os.urandom(16).hex()
    return f"{name[:2]}/{name[2:4]}/{name[4:]}.{process_name()}.val"


def write_file(path: str, entry: SealedEntry) -> None:
    """Write an entry to a new file, for the owner only.

    It is not synchronized with the disk: a process that is killed leaves its bytes with the kernel, and what a power
    failure leaves of them fails its check and is a miss. Waiting for the disk would make a commit three times as slow.

    It goes through the system's own memory, as a bare write does. Past that (`O_DIRECT`) it takes a third of the time
    on a fast disk whose machine has no memory at hand, but as long as the disk takes on any other, and the next hit
    reads from the disk. Nor is room reserved first: on ext4 that saves a third of the processor's time, and on btrfs
    it keeps the file from being compressed.

    Raises:
        OSError: when it can't be written; nothing is left then.
    """
    part = path + PART_SUFFIX
    descriptor = _create(part)
    try:
        with open(descriptor, "wb") as file:
            entry.write_to(file)
        os.rename(part, path)
    except BaseException:
        for name in (part, path):
            Path(name).unlink(missing_ok=True)
        raise


def _create(path: str) -> int:
    """Create a file, and the two folders that it lies in; give its descriptor."""
    for attempt in range(_ATTEMPTS):
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
        # None above them: what is written for a store that was removed must not bring its folder back.
        inner = Path(path).parent
        for folder in (inner.parent, inner):
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                pass
            except FileNotFoundError:  # the outer one was empty, and is removed again already
                break
    raise AssertionError("the last attempt returns or raises")


def read_file(path: str, *, trusted: bool = False) -> Buffer | Arrival:
    """Read an entry's file into memory that may be written to; a large one is then still on its way.

    Raises:
        UntrustedCache: when others could have written it.
        UnreadableEntry: when there is too little memory for it.
        FileNotFoundError: when it is gone.
        OSError: when it can't be read.
    """
    descriptor, size = _open(path, trusted=trusted)
    if size >= ARRIVING_FROM:
        return Arrival(descriptor, size)
    try:
        memory = writable_memory(size)
        return memory[: fill(memory, descriptor)]
    finally:
        os.close(descriptor)


def map_file(path: str, *, trusted: bool = False) -> Buffer:
    """Map an entry's file into memory, read-only; the map outlives the removal of the file.

    Raises:
        UntrustedCache: when others could have written it.
        FileNotFoundError: when it is gone.
        OSError: when it can't be mapped.
    """
    descriptor, size = _open(path, trusted=trusted)
    try:
        if size == 0:  # which can't be mapped
            return b""
        return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _open(path: str, *, trusted: bool) -> tuple[int, int]:
    """Open a file to read; give its descriptor and its size in bytes."""
    try:
        # Without waiting, as the opening of a pipe would do until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _untrusted(path, "is a symbolic link") from None
        raise
    try:
        status = os.fstat(descriptor)
        _refuse_untrusted(path, status, trusted=trusted)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def _refuse_untrusted(path: str, status: os.stat_result, *, trusted: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _untrusted(path, "is no regular file")
    if trusted:
        return
    if status.st_uid != os.geteuid():
        raise _untrusted(path, f"belongs to the user number {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _untrusted(path, f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})")


def _untrusted(path: str, reason: str) -> UntrustedCache:
    return UntrustedCache(
        path, reason, "No entry is written so. Remove the cache if you don't know who did it."
    )
