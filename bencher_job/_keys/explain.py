"""Knows the difference between two editions of a function, and between the arguments of two calls, in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from .._explanation import ArgumentChange, CodeChange
from .editions import PastEdition

__all__ = [
    "NOT_IN_KEY",
    "argument_changes",
    "code_changes",
    "distribution_changes",
    "equal_arguments",
    "is_same_code",
]

NOT_IN_KEY: Final = "not in the key"
"""What stands for a version where a distribution doesn't count."""

_DIGEST: Final = re.compile(r"[0-9a-f]{16}|not tracked")
_MISSING: Final = object()


def code_changes(before: PastEdition, now: PastEdition) -> tuple[CodeChange, ...]:
    """Tell the parts of the code that are not what they were, with the differences of their texts."""
    return tuple(
        CodeChange(name, _kind(old, new), _diff(name, before.sources.get(name), now.sources.get(name)))
        for name, old, new in _changed(before, now)
        if _is_code(old, new)
    )


def distribution_changes(before: PastEdition, now: PastEdition) -> tuple[tuple[str, str, str], ...]:
    """Tell the installed distributions whose versions are not what they were: name, version then, version now."""
    return tuple(
        (name, old or NOT_IN_KEY, new or NOT_IN_KEY)
        for name, old, new in _changed(before, now)
        if not _is_code(old, new)
    )


def is_same_code(before: PastEdition, now: PastEdition) -> bool:
    """Whether nothing but versions of distributions differs."""
    return not any(_is_code(old, new) for _, old, new in _changed(before, now))


def _changed(before: PastEdition, now: PastEdition) -> Iterator[tuple[str, str | None, str | None]]:
    for name in sorted({*before.manifest, *now.manifest}):
        old, new = before.manifest.get(name), now.manifest.get(name)
        if old != new:
            yield name, old, new


def _is_code(old: str | None, new: str | None) -> bool:
    return all(_DIGEST.fullmatch(shown) for shown in (old, new) if shown is not None)


def _kind(old: str | None, new: str | None) -> str:
    if old is None:
        return "new"
    return "gone" if new is None else "changed"


def _diff(name: str, before: str | None, now: str | None) -> str:
    if before == now or (before is None and now is None):
        return ""
    import difflib  # takes long to import, and few programs ask

    lines = difflib.unified_diff(
        (before or "").splitlines(), (now or "").splitlines(), f"{name}, then", f"{name}, now", lineterm=""
    )
    return "\n".join(lines)


def argument_changes(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    ignored: Collection[str],
    attributes: tuple[Mapping[str, bytes], Mapping[str, bytes]] = ({}, {}),
) -> tuple[ArgumentChange, ...]:
    """Tell the arguments that are not what they were, as records show them.

    Where all look the same, those are told of which a record shows only a short text, and of these the ones with an
    attribute that differs where there are such: `attributes` has what these were then and are now.
    """
    differing = _differing(*attributes)
    names = [name for name in {**now, **before} if name not in ignored]
    changed = [name for name in names if not _are_same(before.get(name, _MISSING), now.get(name, _MISSING))]
    if not changed:
        changed = [name for name in names if name in differing]
        changed = changed or [name for name in names if isinstance(now[name], str)]
    return tuple(
        ArgumentChange(
            name,
            before.get(name, ArgumentChange.ABSENT),
            now.get(name, ArgumentChange.ABSENT),
            tuple(differing.get(name, ())),
        )
        for name in changed
    )


def _differing(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> dict[str, list[str]]:
    """List the attributes that differ by argument; none where those of one of the two calls are not known."""
    differing: dict[str, list[str]] = {}
    if before and now:
        for path in sorted(before.keys() | now.keys()):
            if before.get(path) != now.get(path):
                argument, _, attribute = path.partition(".")
                differing.setdefault(argument, []).append(attribute)
    return differing


def equal_arguments(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str]) -> int:
    """Count the arguments that look the same in two records."""
    return sum(
        _are_same(value, now.get(name, _MISSING)) for name, value in before.items() if name not in ignored
    )


def _are_same(before: object, now: object) -> bool:
    return type(before) is type(now) and repr(before) == repr(
        now
    )  # of floats it tells NaN and the sign of zero
