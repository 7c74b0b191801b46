"""Knows why an entry's bytes are refused."""

from __future__ import annotations

__all__ = ["DamagedEntry", "UnreadableEntry"]


class DamagedEntry(Exception):
    """Bytes that are not the entry that was written; its message says how they differ."""


class UnreadableEntry(Exception):
    """A good entry that can't be read here and now; its message says what it takes."""
