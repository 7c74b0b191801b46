"""Knows how an exception reaches those who wait for a key in other processes: it is kept for a minute, sealed."""

from __future__ import annotations

import logging
import time
from typing import Final

from .base import StoreFailure
from .claims.claims import Claim, ClaimsUnavailable
from .database import Database
from .entries.codec import Payload, seal, unseal
from .entries.faults import DamagedEntry, UnreadableEntry
from .folder import Folder
from .tables import PUT_FAILURE

__all__ = ["Failures"]

KEPT: Final = 60.0
"""Seconds for which an exception is kept at least."""

_log = logging.getLogger(__name__)


class Failures:
    """The exceptions that those who wait for a store's keys can read."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def publish(self, claim: Claim, error: bytes) -> None:
        """Keep an exception's bytes, if anybody waits for the claim, and release it.

        Where they can't be kept, one of those who wait runs the job itself.
        """
        try:
            if self._folder.claims.is_waited_for(claim):
                self._folder.changed(lambda database: self._put(database, claim, error))
        except (ClaimsUnavailable, StoreFailure) as problem:
            _log.warning("those who wait for %s are not told of its exception: %s", claim.key, problem)
        finally:
            self._folder.claims.release([claim])

    def _put(self, database: Database, claim: Claim, error: bytes) -> None:
        name = _name(claim.key, claim.number)
        sealed = bytes(seal(Payload(error), name, signature=self._folder.open().signature))
        now = time.time()
        with database.transaction() as transaction:
            # Those of the future too: they are from before a clock was set back.
            database.execute("DELETE FROM Failure WHERE NOT at BETWEEN ? AND ?", (now - KEPT, now + KEPT))
            database.execute(PUT_FAILURE, (claim.key, claim.number, now, sealed))
            transaction.commit()

    def get(self, key: str, number: int) -> bytes | None:
        """Give the exception's bytes that were published for a claim, if they are there and good."""
        try:
            rows = self._folder.query("SELECT error FROM Failure WHERE key = ? AND number = ?", (key, number))
            if not rows:
                return None
            payload = unseal(
                rows[0][0], _name(key, number), signature=self._folder.open().signature, most_expanded=0
            )
        except (StoreFailure, DamagedEntry, UnreadableEntry, TypeError) as problem:
            _log.warning("the exception that was raised for %s can't be read: %s", key, problem)
            return None
        return bytes(payload.stream)


def _name(key: str, number: int) -> str:
    """Name what is sealed, as no entry is named: so its bytes serve for nothing else."""
    return f"\0failure {number}\0{key}"
