"""Knows how to find out why a call is a hit or a miss: what the store tells of its key, and of the nearest entry.

    own entry -> removed entry -> same arguments, other code -> same code, other arguments -> other code -> first call

It computes nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from ._explanation import Cause, Explanation
from ._keys import Edition, Identity, PastEdition
from ._keys.explain import argument_changes, code_changes, distribution_changes, equal_arguments
from ._record import Record, short_form
from ._stores import Found, Gone, Store

__all__ = ["explain"]

ENTRIES_COMPARED: Final = 2000
"""How many entries of an edition, the latest, the nearest is looked for among."""

_GONE: Final = {
    "cleared": Cause.CLEARED,
    "forgotten": Cause.FORGOTTEN,
    "evicted": Cause.EVICTED,
    "expired": Cause.EXPIRED,
    "damaged": Cause.DAMAGED,
}


def explain(
    store: Store,
    identity: Identity,
    edition: Edition,
    arguments: Mapping[str, Any],
    ignored: Collection[str],
    attributes: Callable[[str], Mapping[str, bytes]] = lambda key: {},  # noqa: ARG005
) -> Explanation:
    """Explain one call of a function, by its key and its named arguments.

    `attributes` gives what the attributes of the arguments were of a call of this process, by its key.

    Raises:
        StoreFailure: when the store can't be read.
    """
    key, bound, _ = identity
    shown = {name: short_form(value) for name, value in arguments.items()}
    plain = Explanation(
        key=key,
        function=edition.function,
        arguments=shown,
        cause=Cause.FIRST_CALL,
        untracked=edition.fingerprint.untracked,
    )
    found = store.history.examine(key)
    if isinstance(found, Gone):
        return replace(plain, cause=_GONE[found.reason], at=found.at)
    if found is not None:
        return replace(plain, cause=_cause_of(found), record=found.record, reason=found.damage)
    nearest = _nearest(store, bound, edition, shown, ignored)
    if nearest is None:
        return plain
    other = nearest[1].key
    seen = attributes(other) or store.history.attributes(other), attributes(key)
    return _compared(plain, *nearest, edition.as_past(), ignored, seen)


def _cause_of(found: Found) -> Cause:
    if not found.damage:
        return Cause.HIT
    return Cause.UNREADABLE if found.may_be_whole else Cause.DAMAGED


def _nearest(
    store: Store, bound: bytes, edition: Edition, arguments: Mapping[str, Any], ignored: Collection[str]
) -> tuple[PastEdition, Record] | None:
    """Find the entry that this call would have hit, had less changed."""
    history = store.history
    editions = {past.prefix: past for past in history.editions(edition.function)}
    for prefix, record in history.with_arguments(edition.function, bound):
        if prefix in editions and editions[prefix].parameters == edition.parameters:
            return editions[prefix], record
    chosen = editions.get(edition.prefix) or next(iter(editions.values()), None)
    if chosen is None:
        return None
    records = history.latest(edition.function, chosen.prefix, ENTRIES_COMPARED)
    if not records:  # removed since the editions were listed
        return None
    return chosen, max(records, key=lambda record: _likeness(record, arguments, ignored))


def _likeness(record: Record, arguments: Mapping[str, Any], ignored: Collection[str]) -> tuple[int, int]:
    """Rank a record by the arguments that are equal, then by how few it has that the call doesn't: a repeat, say."""
    equal = equal_arguments(record.arguments, arguments, ignored)
    return equal, -len(record.arguments.keys() - arguments.keys())


def _compared(
    explanation: Explanation,
    before: PastEdition,
    record: Record,
    now: PastEdition,
    ignored: Collection[str],
    attributes: tuple[Mapping[str, bytes], Mapping[str, bytes]],
) -> Explanation:
    is_same_code = before.fingerprint == now.fingerprint
    changes = () if is_same_code else code_changes(before, now)
    distributions = distribution_changes(before, now)
    if before.key_version != now.key_version:
        cause = Cause.LIBRARY
    elif not is_same_code:
        cause = Cause.DISTRIBUTION if distributions and not changes else Cause.CODE
    elif before.parameters != now.parameters:
        cause = Cause.PARAMETERS
    elif before.prefix != now.prefix:
        cause = Cause.VERSION
    else:
        cause = Cause.ARGUMENTS
    changed = argument_changes(record.arguments, explanation.arguments, ignored, attributes)
    differ = cause is Cause.ARGUMENTS or any(str(change.before) != str(change.now) for change in changed)
    return replace(
        explanation,
        cause=cause,
        record=record,
        arguments_changed=changed if differ else (),
        code_changed=changes,
        distributions_changed=distributions,
        version_changed=None if before.version == now.version else (before.version, now.version),
        parameters_changed=None
        if before.parameters == now.parameters
        else (before.parameters, now.parameters),
    )
