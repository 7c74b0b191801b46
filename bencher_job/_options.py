"""Knows how options are told that are not what they should be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["libraries_of", "names_of", "tuple_of"]


def tuple_of(option: str, given: Iterable[Any]) -> tuple[Any, ...]:
    """Give the members of an option that takes several; a text by itself is one.

    Raises:
        TypeError: when it is no collection.
    """
    if isinstance(given, str):
        return (given,)
    try:
        return tuple(given)
    except TypeError:
        raise TypeError(f"{option}={given!r} is no list. Give a list or a tuple, even of one.") from None


def names_of(option: str, given: Iterable[str]) -> tuple[str, ...]:
    """Give the names in an option that takes names of parameters.

    Raises:
        TypeError: when one of them is no text.
    """
    names = tuple_of(option, given)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{option} has {name!r}, which is no name. Give names of parameters as texts.")
    return names


def libraries_of(given: bool | Iterable[str]) -> bool | tuple[str, ...]:
    """Give the option `libraries`: True, False, or the names of those that count.

    Raises:
        TypeError: when it is something else.
    """
    if isinstance(given, bool):
        return given
    try:
        names = tuple_of("libraries", given)
    except TypeError:
        names = (given,)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"libraries must be True, False or names of distributions, not {type(name).__name__}"
            )
    return names
