"""Knows what is to be finished when the program ends."""

from __future__ import annotations

import atexit
import sys
import weakref
from typing import Protocol

__all__ = ["Finishes", "finish_at_exit"]


class Finishes(Protocol):
    """What may have jobs in flight."""

    def finish(self, *, wait: bool) -> None:
        """Commit what has come back, and what is still in flight if it is to be waited for."""


_owners: weakref.WeakSet[Finishes] = weakref.WeakSet()


def finish_at_exit(owner: Finishes) -> None:
    """Have what was submitted finished when the program ends, as `concurrent.futures` does.

    After Ctrl-C only what is done is kept. Call it when an engine has been started: the hook is then set after the
    engine's own, and so runs before it, while the workers are still there.
    """
    if not _owners:
        atexit.unregister(_finish)
        atexit.register(_finish)
    _owners.add(owner)


def _finish() -> None:
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for owner in list(_owners):
        owner.finish(wait=not interrupted)
