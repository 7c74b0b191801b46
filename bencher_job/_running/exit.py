"""Knows what is to be finished when the program ends."""

from __future__ import annotations

import _thread
import atexit
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from .._inside import is_inside

__all__ = ["Finishes", "do_outside", "finish_at_exit"]

LOOK_EVERY: Final = 0.001
"""Seconds between two looks whether a thread is outside of the library."""

_log = logging.getLogger(__name__)


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


class _Postponed:
    """What a thread does as soon as another one is outside of the library."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._thread = threading.get_ident()
        self._is_done = threading.Event()

    def run(self) -> None:
        try:
            while self._is_inside():
                time.sleep(LOOK_EVERY)
            self._act()
        except Exception:  # noqa: BLE001 - nobody waits for it who could be told
            _log.exception("what a signal handler wanted done has failed")
        finally:
            self._is_done.set()
            _postponed.discard(self)

    def _is_inside(self) -> bool:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the one way to ask
        return frame is not None and is_inside(frame)

    def finish(self, *, wait: bool) -> None:
        """Wait until it is done, if it is to be waited for."""
        if wait:
            self._is_done.wait()


_postponed: set[_Postponed] = set()


def do_outside(act: Callable[[], None]) -> None:
    """Have a thread do something as soon as this one is outside of the library, and the end of the program wait for it.

    `threading` waits for the start of a thread, which may need a lock of `threading` that this one holds.
    """
    if sys.is_finalizing():  # what was in flight has been finished
        return
    postponed = _Postponed(act)
    _postponed.add(postponed)
    finish_at_exit(postponed)
    _thread.start_new_thread(postponed.run, ())


def _finish() -> None:
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for owner in list(_owners):
        owner.finish(wait=not interrupted)
