"""Knows why an entry's bytes are refused."""

from __future__ import annotations

__all__ = ["DamagedEntry", "LargeEntry", "MissignedEntry", "UnreadableEntry"]


class DamagedEntry(Exception):
    """Bytes that are not the entry that was written; its message says how they differ."""


class UnreadableEntry(Exception):
    """A good entry that can't be read here and now; its message says what it takes."""


class LargeEntry(UnreadableEntry):
    """An entry that takes more memory, once it is expanded, than its reader wants to give; it is not expanded."""


class MissignedEntry(UnreadableEntry):
    """An entry that another secret, or none, may have made whole; its message says how it differs from ours.

    Attributes:
        is_signed: whether it says that it was made with a secret.
    """

    def __init__(self, message: str, *, is_signed: bool) -> None:
        self.is_signed = is_signed
        super().__init__(message)
