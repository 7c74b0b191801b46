"""Knows what a shell may complete a word to: functions, keys, tags and names of the caches that the line is about."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from ..._stores import look_into
from .places import FAILURES, stores_of

if TYPE_CHECKING:
    from ..._stores.disk import DiskStore

__all__ = ["complete_keys_and_functions", "complete_tags"]

PATIENCE: Final = 0.2
"""Seconds that somebody who has typed a tabulator waits for other processes."""

MOST_KEYS: Final = 20


def _asked(line: Namespace, ask: Callable[[DiskStore], Iterable[str]]) -> list[str]:
    """Ask all stores that can be read."""
    found: list[str] = []
    place = {name: getattr(line, name, None) for name in ("cache_dir", "cache_name", "trusted")}
    try:
        for directory in stores_of(Namespace(**place)):
            with closing(look_into(directory, trusted=bool(place["trusted"]), patience=PATIENCE)) as store:
                found += ask(store)
    except FAILURES:  # there is nothing to complete then; the command itself will say why
        pass
    return sorted(set(found))


def complete_keys_and_functions(prefix: str, parsed_args: Namespace, **_: Any) -> list[str]:
    """Give the functions of the stores, and the keys that begin so if they are few."""

    def ask(store: DiskStore) -> Iterable[str]:
        keys = store.history.beginning_with(prefix, MOST_KEYS) if prefix else []
        return [*(function.name for function in store.functions()), *keys]

    return _asked(parsed_args, ask)


def complete_tags(parsed_args: Namespace, **_: Any) -> list[str]:
    """Give the tags of the stores."""
    return _asked(parsed_args, lambda store: [tag for function in store.functions() for tag in function.tags])
