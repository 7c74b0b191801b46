"""Knows how the results of a function's earlier code are accepted for its present code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ._errors import BencherJobError, warn_caller
from ._keys import KEY_VERSION, Edition, PastEdition
from ._keys.hashing import WITH_CODE, join_key
from ._stores import Entry, Found, Miss, Store

__all__ = ["adopt"]

ENTRIES_AT_ONCE: Final = 200


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
    present = edition.fingerprint.digest.hex()
    earlier = [past for past in store.history.editions(edition.function) if past.fingerprint != present]
    if fingerprint is not None:
        named = [past for past in earlier if past.fingerprint.startswith(fingerprint)]
        if len({past.fingerprint for past in named}) != 1:
            raise BencherJobError(
                f"fingerprint={fingerprint!r} is that of {'several' if named else 'no'} earlier code of "
                f"{edition.function} with entries. Those have {_listed(earlier)}."
            )
        earlier = named
    same_version = [past for past in earlier if past.version == edition.version]
    past = next(iter(same_version or earlier), None)
    if past is not None:
        _check_translatable(past, edition)
    return past


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
