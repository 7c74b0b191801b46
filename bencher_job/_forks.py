"""Knows who holds locks, so that a forked child finds them free: the threads that held them are not in the child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["HasLocks", "renew_after_fork"]


class HasLocks(Protocol):
    """What has locks or threads of its own."""

    def renew(self) -> None:
        """Make all locks anew, and forget what only the parent's threads could finish."""


_owners: weakref.WeakSet[HasLocks] = weakref.WeakSet()


def renew_after_fork(owner: HasLocks) -> None:
    """Let an object's `renew()` be called in each forked child, as long as the object lives."""
    _owners.add(owner)


def _renew() -> None:
    for owner in list(_owners):
        owner.renew()


os.register_at_fork(after_in_child=_renew)
