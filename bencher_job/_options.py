"""Knows how options are told that are not what they should be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["names_of", "tuple_of"]


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
