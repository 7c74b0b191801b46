"""Knows why a call is a hit or a miss, as data and in words, for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from ._record import Record

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["ArgumentChange", "Cause", "CodeChange", "Explanation"]


class Cause(StrEnum):
    """Why a call is a hit or a miss; the value says it in words."""

    HIT = "it is remembered"
    IN_FLIGHT = "it is running now"
    OVERWRITE = "overwrite=True, so that every call runs"
    OFF = "nothing is remembered here: caching is off, or the cache can't be opened"
    FIRST_CALL = "nothing of this function is remembered"
    ARGUMENTS = "it was not called with these arguments"
    CODE = "the code has changed"
    DISTRIBUTION = "a library has another version"
    VERSION = "the version has changed"
    PARAMETERS = "other parameters enter the key"
    LIBRARY = "bencher_job makes keys in another way since"
    EXPIRED = "the entry has expired"
    CLEARED = "the entry was cleared"
    FORGOTTEN = "the entry was forgotten"
    EVICTED = "the entry was evicted to stay within the size limit"
    DAMAGED = "the entry is damaged"
    UNREADABLE = "the entry can't be read or verified here"


@dataclass(frozen=True, slots=True)
class ArgumentChange:
    """An argument that the nearest entry had another value of, as records show it."""

    ABSENT: ClassVar[str] = "(not given)"

    name: str
    before: Any
    now: Any
    attributes: tuple[str, ...] = ()
    """Attributes of it that differ, as far as those of the other call are kept."""

    def __str__(self) -> str:
        if type(self.before) is type(self.now) and repr(self.before) == repr(self.now):
            attributes = " and ".join(f"{self.name}.{attribute}" for attribute in self.attributes)
            another = "its value is another, or the code of its class"
            if attributes:
                another = f"{attributes} {'differs' if len(self.attributes) == 1 else 'differ'}"
            return f"{self.name}: it looks the same, {self.now}; {another}"
        return f"{self.name}: {self.before!r} -> {self.now!r}"


@dataclass(frozen=True, slots=True)
class CodeChange:
    """A function, a class or a global that is not what it was."""

    name: str
    kind: str
    """"changed", "new" or "gone"."""
    diff: str
    """Unified diff of its text; empty where that is the same, or not at hand."""

    def __str__(self) -> str:
        if not self.diff and self.kind == "changed":
            return f"{self.name}: its text is the same or not at hand; a value that it holds may be another"
        return f"{self.name}: {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a call is a hit, or would be a miss.

    `print` it, or show it in a notebook; the fields hold what it says.
    """

    key: str
    """The job key."""
    function: str
    """Module and qualified name of the function."""
    arguments: Mapping[str, Any]
    """Arguments by name, as records show them."""
    cause: Cause
    record: Record | None = None
    """Of the call's own entry, or of the nearest."""
    at: datetime | None = None
    """When the entry was removed, in UTC."""
    reason: str = ""
    """What is wrong with an entry that is damaged or can't be read."""
    arguments_changed: tuple[ArgumentChange, ...] = ()
    code_changed: tuple[CodeChange, ...] = ()
    distributions_changed: tuple[tuple[str, str, str], ...] = ()
    """Installed distributions in the key with another version since: name, then, now."""
    version_changed: tuple[str, str] | None = None
    """The version of the nearest entry, and the present one."""
    parameters_changed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """The parameters that entered the key of the nearest entry, and those that do now."""
    untracked: tuple[str, ...] = field(default=())
    """Globals that the function reads and no key can be made of, so that no change of them is noticed."""

    @property
    def is_hit(self) -> bool:
        """Whether the call would be answered from the cache."""
        return self.cause is Cause.HIT

    @property
    def headline(self) -> str:
        """The answer in one line."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        verdict = "a hit" if self.is_hit else "a miss"
        return f"{self.function}({arguments}): {verdict}, {self.cause.value}"

    def facts(self) -> Iterator[str]:
        """What there is to say besides, a line each."""
        if self.at is not None:
            yield f"removed on {self.at:%Y-%m-%d %H:%M:%S} UTC"
        if self.reason:
            yield self.reason
        if self.record is not None:
            own = self.record.key == self.key
            yield f"{'computed' if own else 'nearest entry: computed'} {_told(self.record)}"
        yield from map(str, self.arguments_changed)
        if self.version_changed is not None:
            yield f"version: {self.version_changed[0] or 'none'} -> {self.version_changed[1] or 'none'}"
        if self.parameters_changed is not None:
            before, now = map(", ".join, self.parameters_changed)
            yield f"parameters in the key: {before or 'none'} -> {now or 'none'}"
        yield from map(str, self.code_changed)
        for name, before, now in self.distributions_changed:
            yield f"{name} {before} -> {now}"
        if self.untracked:
            yield f"not tracked: {', '.join(self.untracked)}"

    def __str__(self) -> str:
        diffs = "".join(f"\n\n{change.diff}" for change in self.code_changed if change.diff)
        return "\n  ".join((self.headline, *self.facts())) + diffs

    def __rich__(self) -> RenderableType:
        """Show it in colours, where rich prints it."""
        from rich.console import Group  # only rich asks, so it is there
        from rich.syntax import Syntax
        from rich.text import Text

        head = Text(self.headline, style="bold green" if self.is_hit else "bold yellow")
        diffs = [
            Syntax(change.diff, "diff", background_color="default")
            for change in self.code_changed
            if change.diff
        ]
        return Group(head, *(Text("  " + fact) for fact in self.facts()), *diffs)

    def _repr_html_(self) -> str:
        import html  # takes long to import, and only a notebook asks

        colour = "#1a7f37" if self.is_hit else "#9a6700"
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.facts())
        diffs = "".join(
            f"<pre style='margin:0.5em 0'>{_coloured(html.escape(change.diff))}</pre>"
            for change in self.code_changed
            if change.diff
        )
        return f"<div><b style='color:{colour}'>{html.escape(self.headline)}</b><ul>{facts}</ul>{diffs}</div>"


def _told(record: Record) -> str:
    tag = f", tag {record.tag}" if record.tag else ""
    return (
        f"on {record.created:%Y-%m-%d %H:%M:%S} UTC in {record.seconds:.3g} s, {record.size} bytes, by process "
        f"{record.pid} on {record.host or 'an unknown host'} ({record.executor}){tag}"
    )


def _coloured(diff: str) -> str:
    colours = {"+": "#1a7f37", "-": "#cf222e", "@": "#8250df"}
    lines = (
        f"<span style='color:{colours.get(line[:1], 'inherit')}'>{line}</span>" for line in diff.splitlines()
    )
    return "\n".join(lines)


for _public in (Cause, Explanation):  # which the package imports when they are asked for
    _public.__module__ = __package__
