"""Knows what can stand for a value while it is hashed.

An object that isn't a builtin container is hashed by its class's label and by a stand-in: plain values, or
nodes of the kinds below, that hold all of what makes two objects of the class the same, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .._errors import UnkeyableArgument
from .names import module_of, qualified_name
from .provenance import is_own_class
from .refusals import leave_out, tell_key

__all__ = [
    "Attributes",
    "Content",
    "Named",
    "Parts",
    "Raised",
    "Refusal",
    "StandIn",
    "refuse",
    "rooted_name",
    "told",
]


class Attributes(dict[str, object]):
    """What an object holds under names of its own; an error's path goes through them as `.name`."""


class Parts(dict[str, object]):
    """What an object is made of, under names of ours, which no path mentions."""


class Named(NamedTuple):
    """A class or a function that is meant by its name, whatever its code."""

    obj: object


class Content(NamedTuple):
    """The bytes of a large buffer, block by block, so that they needn't be copied as a whole."""

    nbytes: int
    blocks: Iterable[bytes | bytearray | memoryview]


class Refusal(Exception):  # nobody sees it: it becomes an UnkeyableArgument
    """A value has no key; while this unwinds, each container it passes adds its step to the path.

    Attributes:
        steps: the way from the refused value outwards.
        remedy: what to do about a class on this way: the user's innermost, or else the outermost.
    """

    def __init__(self, type_name: str, reason: str, remedy: str = "") -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason
        self.steps: list[str] = []
        self.remedy = remedy
        self._is_final = False

    def at(self, parameter: str) -> UnkeyableArgument:
        """The error that the caller sees, for a value that came in a parameter, which has its stars."""
        steps = self.steps[::-1]
        remedies = [leave_out(parameter, steps), self.remedy]
        if len(steps) > 20:
            steps = [*steps[:10], "...", *steps[-10:]]
        path = parameter.lstrip("*") + "".join(steps)
        return UnkeyableArgument(path, self.type_name, self.reason, sentence(*remedies))

    def passes(self, cls: type, remedy: str | None = None) -> None:
        """Note that an object of a class holds the value, and what can be done about that class."""
        if not self._is_final:
            self.remedy = remedy or tell_key(cls) or self.remedy
            self._is_final = remedy is not None or is_own_class(cls)


class Raised(Exception):  # nobody sees it: the error that it carries reaches the caller
    """A `__job_key__` of the user's raised an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class StandIn(NamedTuple):
    """How the objects of one class, and of its subclasses, are taken apart.

    Attributes:
        function: gives what stands for an object.
        label: the class in the key; by default its own name below its library's.
        leaf: an object refers to none that could refer back to it.
        internal: attributes that the class keeps for itself, which don't count in an object of a subclass.
        sealed: the library's own subclasses go by `label` too, since which of them it is says nothing.
        is_open: an object of the class itself can be given attributes, which count.
        keeps_private: names that begin with an underscore, and those that its class has as well, are internal, too.
        is_whole: an object of the library's own subclasses, or of one that has no room for attributes, holds nothing
            else, and goes by the name of its class.
    """

    function: Callable[[Any], object]
    label: str = ""
    leaf: bool = False
    sealed: bool = False
    is_whole: bool = False
    internal: frozenset[str] = frozenset()
    is_open: bool = False
    keeps_private: bool = False


def rooted_name(cls: type) -> str:
    """A class's name below its library's, without the modules between, which move from version to version.

    >>> from collections import OrderedDict
    >>> from json.decoder import JSONDecoder
    >>> rooted_name(OrderedDict), rooted_name(JSONDecoder), rooted_name(dict)
    ('collections.OrderedDict', 'json.JSONDecoder', 'dict')
    """
    library = module_of(cls).partition(".")[0]
    return cls.__qualname__ if library in {"", "builtins"} else f"{library}.{cls.__qualname__}"


def told(error: BaseException) -> str:
    """Name an error with its text, as far as it has one."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a foreign class's own text
        return type(error).__name__


def refuse(cls: type, reason: str) -> Refusal:
    """The refusal of a value of this class."""
    return Refusal(qualified_name(cls), reason, tell_key(cls))


def sentence(*remedies: str) -> str:
    """Join what can be done, as a sentence."""
    text = ", or ".join(filter(None, remedies))
    return f"{text[:1].upper()}{text[1:]}." if text else ""
