"""Knows how a call is answered that memory has answered before: from its arguments as they are written, in one step.

    call ─> its bytes ─> Kept ─> a new value     where code, store and generation are what they were
                └─> else it is bound, its key is made and looked up; what memory answers then is known from now on

Only calls whose arguments can't change are known. Their bytes are those of `marshal`, which tells 1, 1.0 and True
apart, and 0.0 and -0.0, so that equal bytes are the same call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from marshal import dumps
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from . import _settings
from ._keys import UNCHANGEABLE, Edition
from ._running.counts import MOST_HITS_KEPT

if TYPE_CHECKING:
    from ._function_cache import JobFunctionCache
    from ._running.counts import Counts
    from ._stores.shelf import Shelf
    from ._stores.uses import Kept

__all__ = ["NOTHING_KNOWN", "Known", "Unanswered", "answering", "learn"]

_log = logging.getLogger(__name__)

LONGEST_CALL: Final = 256
"""Size in bytes of the longest call that is known."""

MOST_CALLS: Final = 4096
"""How many calls of one function are known at most."""


class Known(NamedTuple):
    """Calls that memory has answered, as long as the code is unchanged and the cache has the same store."""

    unchanged: Callable[[], bool]
    epoch: int
    memory: Shelf | None
    calls: dict[bytes, Kept]


class Unanswered(NamedTuple):
    """A call that memory has not answered before, with its bytes if it may be known by them from now on."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call: bytes | None = None


def _never() -> bool:
    return False


NOTHING_KNOWN: Final = Known(_never, -1, None, {})


def answering(cache: JobFunctionCache, counts: Counts, compute: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function that answers the calls of a cache's function, and has the others computed.

    It is written in one piece, since it takes less time than calling three others would.
    """
    seconds_of_hits = counts.seconds_of_hits

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            if type(value) not in UNCHANGEABLE and not _is_flat_tuple(value):
                return compute(args, kwargs)
        if kwargs:
            for value in kwargs.values():
                if type(value) not in UNCHANGEABLE and not _is_flat_tuple(value):
                    return compute(args, kwargs)
        try:
            known = dumps((args, kwargs) if kwargs else args, 2)
        except ValueError:  # a text of 2 GiB
            return compute(args, kwargs)
        if len(known) > LONGEST_CALL:
            return compute(args, kwargs)
        unchanged, epoch, memory, calls = cache.known
        try:
            if (
                unchanged()
                and epoch == _settings.epoch
                and not cache.overwrite
                and (kept := calls.get(known)) is not None
            ):
                give, now = kept.give, monotonic()
                if (
                    (now < memory.sure_until or memory.is_sure())  # type: ignore[union-attr]
                    and kept.read is memory.read  # type: ignore[union-attr]
                    and (kept.expires is None or kept.expires > time())
                ):
                    given = give()  # type: ignore[misc]
                    kept.used = now
                    kept.is_recent = True
                    kept.uses = uses = kept.uses + 1
                    if uses == 1:
                        memory.note_first(kept)  # type: ignore[union-attr]
                    seconds_of_hits.append(kept.seconds)
                    if len(seconds_of_hits) > MOST_HITS_KEPT:
                        counts.add_up()
                    return given
        except Exception:  # noqa: BLE001 - code or a class that is gone: the long way tells of it
            _log.debug("a call can't be answered at once", exc_info=True)
        return compute(args, kwargs, known)

    return call


def _is_flat_tuple(value: object) -> bool:
    return type(value) is tuple and UNCHANGEABLE.issuperset(map(type, value))


def learn(cache: JobFunctionCache, call: bytes, edition: Edition | None, kept: Kept, value: object) -> None:
    """Know from now on how a call is answered, which an entry in memory has just answered with this value."""
    epoch, memory = cache.memory()
    unchanged = cache.keys.check_of(edition)
    if memory is None or unchanged is None:
        return
    known = cache.known
    if known.unchanged is not unchanged or known.epoch != epoch:
        known = cache.known = Known(unchanged, epoch, memory.shelf, {})
    if len(known.calls) >= MOST_CALLS:
        known.calls.clear()
    kept.learn(value)
    known.calls[call] = kept
