"""Large values in files of their own, written where the value was made.

    x.val.part -> written, renamed -> x.val -> committed in the database, and only then seen

A file that others could have written is not read: who can write to it could have put another's bytes there.

    BlobWriter.terms ~~> a worker: write_blob: do the terms hold? seal, write ab/cd/....val
                read <~~ Blob: the file's name and size
                commit its row, or discard it

The worker writes only to the folder that its submitter has opened, as the same user and with the same secret. Where
anything is otherwise, or the disk refuses, it writes nothing and the value travels.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import pickle
import stat
from pathlib import Path
from typing import Final, NamedTuple

from .._errors import BencherJobError, UntrustedCache
from .._processes import process_name
from .codec import Payload, SealedEntry, seal, unseal
from .parts import (
    ARRIVING_FROM,
    Buffer,
    DamagedEntry,
    MissignedEntry,
    StreamingRead,
    compression_named,
    fill,
    writable_memory,
)
from .signature import Signature, personal_signature, signature_from_environment

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
    on a fast disk whose machine has no free memory, but as long as the disk takes on any other, and the next hit
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


def read_file(path: str, *, trusted: bool = False) -> Buffer | StreamingRead:
    """Read an entry's file into memory that may be written to; a large one is then still on its way.

    Raises:
        UntrustedCache: when others could have written it.
        UnreadableEntry: when there is too little memory for it.
        FileNotFoundError: when it is gone.
        OSError: when it can't be read.
    """
    descriptor, size = _open(path, trusted=trusted)
    if size >= ARRIVING_FROM:
        return StreamingRead(descriptor, size)
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
        raise _untrusted(path, "is not a regular file")
    if not trusted and (reason := exposure(status)):
        raise _untrusted(path, reason)


def exposure(status: os.stat_result, writers: int = stat.S_IWGRP | stat.S_IWOTH) -> str:
    """Say why others can write to a file or folder, given the mode bits of those who could; empty if they can't."""
    if status.st_uid != os.geteuid():
        return f"belongs to the user number {status.st_uid}"
    if status.st_mode & writers:
        return f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def _untrusted(path: str, reason: str) -> UntrustedCache:
    return UntrustedCache(
        path, reason, "No entry is written so. Remove the cache if you don't know who did it."
    )


LARGE: Final = 1 << 21
"""Size in bytes from which a worker writes a value itself: that takes half the time, and at half a megabyte as long."""

_log = logging.getLogger(__name__)


class BlobLost(BencherJobError):
    """What a worker has written is no longer there, or can't be read: its message says why."""


class Blob(NamedTuple):
    """A value file that a worker has written and that no row names yet: its path in the store, its size in bytes."""

    filename: str
    nbytes: int


class _Terms(NamedTuple):
    """What a worker must find as its submitter has, and how it writes."""

    directory: str
    place: tuple[int, int]
    user: int
    mark: bytes
    compression: str | None
    is_personal: bool
    """Whether entries are signed with the user's own key."""

    def hold(self, signature: Signature) -> bool:
        """Whether all is here as it is where the job was submitted.

        Raises:
            OSError: when there is no such store.
        """
        is_same_user = os.geteuid() == self.user and signature.mark == self.mark
        return is_same_user and place_of(database_of(self.directory)) == self.place


class BlobWriter:
    """The folder of a store, as the process has opened it that submits jobs.

    Attributes:
        terms: what a worker needs to write there, as bytes.
    """

    def __init__(
        self,
        directory: Path,
        place: tuple[int, int],
        signature: Signature,
        compression: str | None,
        *,
        trusted: bool,
    ) -> None:
        self._directory = directory
        self._place = place
        self._signature = signature
        self._trusted = trusted
        terms = _Terms(
            os.path.abspath(directory),
            place,
            os.geteuid(),
            signature.mark,
            compression,
            signature.is_personal,
        )
        self.terms: Final = pickle.dumps(tuple(terms), protocol=5)

    def read(self, blob: Blob, key: str) -> Payload:
        """Read and verify what a worker has written, into memory that becomes the value's own.

        Raises:
            BlobLost: when it is not there, or not what was written.
            UnreadableEntry: when there is too little memory for it.
        """
        try:
            entry = read_file(os.path.join(self._directory, blob.filename), trusted=self._trusted)
            return unseal(entry, key, signature=self._signature)
        except (OSError, DamagedEntry, MissignedEntry, UntrustedCache) as error:
            raise BlobLost(f"{type(error).__name__}: {error}") from error

    def has(self, blob: Blob) -> bool:
        """Whether what a worker has written is still there, in the folder that was opened."""
        try:
            size = os.lstat(os.path.join(self._directory, blob.filename)).st_size
            return size == blob.nbytes and place_of(database_of(self._directory)) == self._place
        except OSError:
            return False

    def discard(self, blob: Blob) -> None:
        """Remove what a worker has written and nobody will commit."""
        discard(self._directory, blob)


def write_blob(terms: bytes, payload: Payload, key: str) -> Blob | None:
    """Write a value's file in a worker; None where that can't be, and the value has to travel."""
    given = _Terms(*pickle.loads(terms))
    try:
        signature = personal_signature(given.directory) if given.is_personal else signature_from_environment()
        if not given.hold(signature):
            _log.info("%s is another store here, so a result travels", given.directory)
            return None
        compression = compression_named(given.compression)
        sealed = seal(payload, key, signature=signature, compression=compression)
        filename = new_filename()
        write_file(os.path.join(given.directory, filename), sealed)
    except (OSError, MemoryError, BencherJobError) as error:
        _log.info("a result can't be written to %s from here, so it travels: %s", given.directory, error)
        return None
    return Blob(filename, sealed.size)


def database_of(directory: str | os.PathLike[str]) -> str:
    """Return the path of a store's database."""
    return os.path.join(directory, "cache.db")


def place_of(database: str) -> tuple[int, int]:
    """Identify a store's database on the disk, so that a new store in its place is recognised as another.

    Raises:
        FileNotFoundError: when there is none.
    """
    status = os.stat(database)
    return status.st_dev, status.st_ino


def discard(directory: Path, blob: Blob) -> None:
    """Remove a value file that nobody will commit; where that fails, `verify` finds it later."""
    try:
        Path(directory, blob.filename).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s in %s can't be removed: %s", blob.filename, directory, error)
