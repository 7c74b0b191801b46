"""Knows how a large result is written where it was made: a worker writes its file, and its submitter commits it.

    Depository.terms ~~> a worker: write_deposit: do the terms hold? seal, write ab/cd/....val
                read <~~ Deposit: the file's name and size
                commit its row, or discard it

The worker writes only to the folder that its submitter has opened, as the same user and with the same secret. Where
anything is otherwise, or the disk refuses, it writes nothing and the value travels.
"""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Final, NamedTuple

from ..._errors import BencherJobError, UntrustedCache
from .codec import Payload, seal, unseal
from .compression import compression_named
from .faults import DamagedEntry, MissignedEntry
from .files import new_filename, read_file, write_file
from .signature import Signature, personal_signature, signature_from_environment

__all__ = [
    "LARGE",
    "Deposit",
    "DepositLost",
    "Depository",
    "database_of",
    "discard",
    "place_of",
    "write_deposit",
]

LARGE: Final = 1 << 21
"""Size in bytes from which a worker writes a value itself: that takes half the time, and at half a megabyte as long."""

_log = logging.getLogger(__name__)


class DepositLost(BencherJobError):
    """What a worker has written is no longer there, or can't be read: its message says why."""


class Deposit(NamedTuple):
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


class Depository:
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

    def read(self, deposit: Deposit, key: str) -> Payload:
        """Read and verify what a worker has written, into memory that becomes the value's own.

        Raises:
            DepositLost: when it is not there, or not what was written.
            UnreadableEntry: when there is too little memory for it.
        """
        try:
            entry = read_file(os.path.join(self._directory, deposit.filename), trusted=self._trusted)
            return unseal(entry, key, signature=self._signature)
        except (OSError, DamagedEntry, MissignedEntry, UntrustedCache) as error:
            raise DepositLost(f"{type(error).__name__}: {error}") from error

    def has(self, deposit: Deposit) -> bool:
        """Whether what a worker has written is still there, in the folder that was opened."""
        try:
            size = os.lstat(os.path.join(self._directory, deposit.filename)).st_size
            return size == deposit.nbytes and place_of(database_of(self._directory)) == self._place
        except OSError:
            return False

    def discard(self, deposit: Deposit) -> None:
        """Remove what a worker has written and nobody will commit."""
        discard(self._directory, deposit)


def write_deposit(terms: bytes, payload: Payload, key: str) -> Deposit | None:
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
    return Deposit(filename, sealed.size)


def database_of(directory: str | os.PathLike[str]) -> str:
    """Give the path of a store's database."""
    return os.path.join(directory, "cache.db")


def place_of(database: str) -> tuple[int, int]:
    """Tell where a store's database lies on the disk, so that a new store in its place is seen to be another.

    Raises:
        FileNotFoundError: when there is none.
    """
    status = os.stat(database)
    return status.st_dev, status.st_ino


def discard(directory: Path, deposit: Deposit) -> None:
    """Remove a value file that nobody will commit; where that fails, `verify` finds it later."""
    try:
        Path(directory, deposit.filename).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s in %s can't be removed: %s", deposit.filename, directory, error)
