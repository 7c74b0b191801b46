"""Knows which entries of which stores the words of a command mean."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ..._record import Record
from ..._selection import Selection
from ..._stores import Gone
from ..._words import moment_text
from .command import Exit, Misused
from .filters import selection_of
from .places import complain, look_at_each

if TYPE_CHECKING:
    from ..._stores.disk import DiskStore

__all__ = ["Chosen", "look_for"]

SHORTEST_PREFIX: Final = 4
"""How many digits of a key stand for it at least."""

KEYS_TOLD: Final = 4
"""How many keys are told that begin with the same digits."""

_HEXADECIMAL: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is meant in a store: functions and keys by name, or everything; and of that what a selection chooses."""

    store: DiskStore
    selection: Selection
    functions: tuple[str, ...]
    keys: tuple[str, ...]
    is_everything: bool

    def records(self) -> Iterator[Record]:
        """Give the records that are meant, those of a function the oldest first."""
        if self.is_everything:
            yield from self.store.records(self.selection)
        for function in self.functions:
            yield from self.store.records(replace(self.selection, function=function))
        yield from self.of_keys()

    def of_keys(self) -> Iterator[Record]:
        """Give the records of the keys that are meant, but for those of functions that are meant as well."""
        for key in self.keys:
            record = self.store.history.record(key)
            if (
                record is not None
                and record.function not in self.functions
                and self.selection.matches(record)
            ):
                yield record

    def latest(self, limit: int) -> tuple[list[Record], bool]:
        """Give the latest records of each function that is meant, 0 for all; and whether there are more."""
        wanted = [self.selection] if self.is_everything else []
        wanted += [replace(self.selection, function=function) for function in self.functions]
        found: list[Record] = []
        has_more = False
        for selection in wanted:
            records = self.store.latest_records(limit + 1, selection) if limit else []
            has_more = has_more or len(records) > limit
            found += records[-limit:] if limit else self.store.records(selection)
        return found, has_more


def look_for(arguments: Namespace, work: Callable[[Chosen], object], *, mends: bool = False) -> int:
    """Do some work with what the words of a command mean in each store, as `look_at_each` does.

    A name that stands for nothing in any store is told of.

    Raises:
        StoreFailure: when there are no stores.
        Misused: when a name stands for several things, or the options choose nothing.
        Failed: when no store can be opened or read.
    """
    selection = selection_of(arguments)
    names = tuple(dict.fromkeys(arguments.targets))
    unknown = {name: f"no function is called {name}, and no key begins so" for name in names}

    def look(store: DiskStore) -> None:
        meant = _meant(store, names)
        for name in names:
            if name in meant:
                unknown.pop(name, None)
            elif name in unknown and (removed := _removed(store, name)):
                unknown[name] = removed
        functions = tuple(dict.fromkeys(name for kind, name in meant.values() if kind is _FUNCTION))
        keys = tuple(dict.fromkeys(name for kind, name in meant.values() if kind is _KEY))
        if meant or not names:
            work(Chosen(store, selection, functions, keys, not names))

    status = look_at_each(arguments, look, mends=mends)
    if status != Exit.DONE:  # what is unknown may be in a store that can't be read
        return status
    for told in unknown.values():
        complain(told)
    return Exit.FOUND if unknown else status


_FUNCTION: Final = "function"
_KEY: Final = "key"


def _meant(store: DiskStore, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Find out what names stand for in a store; those that stand for nothing there are left out.

    A name is, in this order: a function, a key or the first digits of one, the end of a function's name.

    Raises:
        Misused: when a name stands for several.
    """
    known = [function.name for function in store.functions()] if names else []
    meant: dict[str, tuple[str, str]] = {}
    for name in names:
        if name in known:
            meant[name] = _FUNCTION, name
        elif (key := _key(store, name)) is not None:
            meant[name] = _KEY, key
        elif (function := _ending_with(name, known)) is not None:
            meant[name] = _FUNCTION, function
    return meant


def _key(store: DiskStore, name: str) -> str | None:
    """Give the key that begins with some digits, or is the name itself, since keys that are given may be anything."""
    found = store.history.beginning_with(name, KEYS_TOLD + 1)
    if name in found:
        return name
    if len(name) < SHORTEST_PREFIX or not _HEXADECIMAL.issuperset(name):
        return None
    if len(found) > 1:
        told = ", ".join(key[: len(name) + 8] for key in found[:KEYS_TOLD])
        more = ", and more" if len(found) > KEYS_TOLD else ""
        raise Misused(f"{name} is the beginning of several keys: {told}{more}. Give more digits.")
    return found[0] if found else None


def _removed(store: DiskStore, name: str) -> str:
    """Say what became of the entry whose key begins with some digits; nothing where none is known to be removed."""
    if len(name) < SHORTEST_PREFIX:
        return ""
    for key in store.history.gone_beginning_with(name, 1):
        gone = store.history.examine(key)
        if isinstance(gone, Gone):
            return f"the entry {key} was {gone.reason} on {moment_text(gone.at)}"
    return ""


def _ending_with(name: str, known: Sequence[str]) -> str | None:
    found = [function for function in known if function.endswith(f".{name}")]
    if len(found) > 1:
        raise Misused(f"{name} stands for several functions: {', '.join(found)}. Give the module too.")
    return found[0] if found else None
