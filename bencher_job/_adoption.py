"""Knows how the results of a function's earlier code, or of other libraries, are accepted for its present code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ._errors import BencherJobError, warn_caller
from ._keys import KEY_VERSION, Edition, PastEdition
from ._keys.explain import NOT_IN_KEY, distribution_changes, is_same_code
from ._keys.hashing import WITH_CODE, join_key
from ._stores import Entry, Found, Miss, Store

__all__ = ["EarlierVersions", "adopt"]

ENTRIES_AT_ONCE: Final = 200


class EarlierVersions:
    """The results of a function as it stands that were computed with other versions of its libraries."""

    def __init__(self, store: Store, edition: Edition) -> None:
        self.edition = edition
        self._store = store
        now, history = edition.as_past(), store.history
        known = history.known_editions(edition.function)
        self._upgrades = [
            (past, ", ".join(upgraded))
            for past in known
            if _is_same_but_for_libraries(past, now) and (upgraded := _upgraded(past, now))
        ]
        self._is_new = bool(self._upgrades) and all(past.prefix != edition.prefix for past in known)

    def __bool__(self) -> bool:
        return bool(self._upgrades)

    def warning(self, bound: bytes) -> str | None:
        """Say so if they have the result of a call that misses, or if there are no others yet."""
        if bound.startswith(WITH_CODE):  # its key can't be translated
            return None
        edition, store = self.edition, self._store
        for past, upgraded in self._upgrades:
            if self._is_new:
                has_some = bool(store.history.latest(edition.function, past.prefix, 1))
            else:
                has_some = store.has(join_key(bound, past.prefix))
            if has_some and not store.has(join_key(bound, edition.prefix)):
                latest = _latest(_earlier_editions(store, edition), edition)
                which = "" if latest is None or latest.prefix == past.prefix else repr(past.fingerprint[:16])
                return (
                    f"Results of {edition.function} were computed with another version of a library, {upgraded}, so "
                    f"its jobs run again. To accept those results without computing, call "
                    f"{edition.function.rpartition('.')[2]}.cache.adopt({which})."
                )
        self._is_new = False
        return None


def _upgraded(past: PastEdition, now: PastEdition) -> list[str]:
    return [
        f"{name} {before} -> {after}"
        for name, before, after in distribution_changes(past, now)
        if NOT_IN_KEY not in {before, after}
    ]


def _is_same_but_for_libraries(past: PastEdition, now: PastEdition) -> bool:
    alike = past.key_version, past.version, past.parameters
    return alike == (now.key_version, now.version, now.parameters) and is_same_code(past, now)


def adopt(store: Store, edition: Edition, fingerprint: str | None) -> int:
    """Copy the entries of an earlier edition to the keys that their calls have now, and give how many were copied.

    Raises:
        BencherJobError: when no earlier edition has entries, or its keys can't be translated.
    """
    past = _earlier(store, edition, fingerprint)
    if past is None:
        return 0
    bindings = store.history.bindings(edition.function, past.prefix)
    plain = [(key, bound) for key, bound in bindings if not bound.startswith(WITH_CODE)]
    if len(plain) < len(bindings):
        warn_caller(
            f"{len(bindings) - len(plain)} results of {edition.function} are not adopted: their arguments bring code "
            f"of their own, objects of your classes or functions, so their keys can't be translated."
        )
    adopted = 0
    entries = _copied(store, plain, edition)
    while some := list(itertools.islice(entries, ENTRIES_AT_ONCE)):
        store.put_many(some)
        adopted += len(some)
    return adopted


def _earlier(store: Store, edition: Edition, fingerprint: str | None) -> PastEdition | None:
    earlier = _earlier_editions(store, edition)
    if fingerprint is not None:
        named = [past for past in earlier if past.fingerprint.startswith(fingerprint)]
        if len({past.fingerprint for past in named}) != 1:
            raise BencherJobError(
                f"fingerprint={fingerprint!r} is that of {'several' if named else 'no'} earlier code of "
                f"{edition.function} with entries. Those have {_listed(earlier)}."
            )
        earlier = named
    past = _latest(earlier, edition)
    if past is not None:
        _check_translatable(past, edition)
    return past


def _earlier_editions(store: Store, edition: Edition) -> list[PastEdition]:
    present = edition.fingerprint.digest.hex()
    return [past for past in store.history.editions(edition.function) if past.fingerprint != present]


def _latest(earlier: list[PastEdition], edition: Edition) -> PastEdition | None:
    same_version = [past for past in earlier if past.version == edition.version]
    return next(iter(same_version or earlier), None)


def _listed(editions: list[PastEdition]) -> str:
    return ", ".join(past.fingerprint[:16] for past in editions) or "none"


def _check_translatable(past: PastEdition, edition: Edition) -> None:
    for what, before, now in (
        ("the version", past.version or "none", edition.version or "none"),
        ("what enters the key of the arguments", ", ".join(past.parameters), ", ".join(edition.parameters)),
        ("the version of how keys are made", past.key_version, KEY_VERSION),
    ):
        if before != now:
            raise BencherJobError(
                f"The results of the earlier code of {edition.function} can't be adopted: {what} was {before} and is "
                f"{now}. Name an edition with fingerprint=, or let the jobs run again."
            )


def _copied(store: Store, bindings: list[tuple[str, bytes]], edition: Edition) -> Iterator[Entry]:
    for old, bound in bindings:
        key = join_key(bound, edition.prefix)
        if store.has(key):
            continue
        known, hit = store.history.examine(old), store.get(old)
        if isinstance(hit, Miss) or not isinstance(known, Found) or known.record is None:
            continue  # damaged or removed meanwhile, which was warned of
        yield Entry(hit.payload, replace(known.record, key=key), bound, edition, is_copy=True)
