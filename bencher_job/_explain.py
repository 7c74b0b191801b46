"""Explain why a call is a hit or a miss, and adopt results of earlier code.

    own entry -> removed entry -> same arguments, other code -> same code, other arguments -> other code -> first call

`explain` looks for the first of these that applies. It computes nothing and changes nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ._errors import BencherJobError, warn_caller
from ._keys import KEY_VERSION, FunctionVersion, Identity, StoredFunctionVersion
from ._keys.hashing import WITH_CODE, join_key
from ._record import Record, shown_arguments
from ._stores import Entry, Gone, History, Keyed, Miss, Store
from ._text import arguments_text, counted

if TYPE_CHECKING:
    from rich.console import RenderableType


NOT_IN_KEY: Final = "not in the key"
"""Replaces the version of a distribution that is not part of the key."""

_DIGEST: Final = re.compile(r"[0-9a-f]{16}|not tracked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How two versions of a function differ."""

    code_changed: tuple[CodeChange, ...] = ()
    distributions_changed: tuple[tuple[str, str, str], ...] = ()
    """Installed distributions in the key whose version changed: name, version then, version now."""
    version_changed: tuple[str, str] | None = None
    """The earlier `version` option, and the present one."""
    parameters_changed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """The parameters that entered the earlier key, and those that do now."""

    def facts(self) -> Iterator[str]:
        """The details, one line each."""
        if self.version_changed is not None:
            yield f"version: {self.version_changed[0] or 'none'} -> {self.version_changed[1] or 'none'}"
        if self.parameters_changed is not None:
            before, now = map(", ".join, self.parameters_changed)
            yield f"parameters in the key: {before or 'none'} -> {now or 'none'}"
        yield from map(str, self.code_changed)
        for name, before, now in self.distributions_changed:
            yield f"{name} {before} -> {now}"


def differences(before: StoredFunctionVersion, now: StoredFunctionVersion) -> Differences:
    """Compare two versions of a function."""
    code: list[CodeChange] = []
    distributions: list[tuple[str, str, str]] = []
    for name, old, new in _changed(before, now):
        if _is_code(old, new):
            kind = "new" if old is None else "gone" if new is None else "changed"
            diff = _diff(name, before.sources.get(name, ""), now.sources.get(name, ""))
            code.append(CodeChange(name, kind, diff))
        else:
            distributions.append((name, old or NOT_IN_KEY, new or NOT_IN_KEY))
    return Differences(
        code_changed=tuple(code),
        distributions_changed=tuple(distributions),
        version_changed=None if before.version == now.version else (before.version, now.version),
        parameters_changed=None
        if before.parameters == now.parameters
        else (before.parameters, now.parameters),
    )


def distributions_of(version: StoredFunctionVersion) -> dict[str, str]:
    """Return the installed distributions that the code of a version names, with their versions."""
    return {name: shown for name, shown in version.manifest.items() if not _is_code(shown, None)}


def _changed(
    before: StoredFunctionVersion, now: StoredFunctionVersion
) -> Iterator[tuple[str, str | None, str | None]]:
    for name in sorted({*before.manifest, *now.manifest}):
        old, new = before.manifest.get(name), now.manifest.get(name)
        if old != new:
            yield name, old, new


def _is_code(old: str | None, new: str | None) -> bool:
    return all(_DIGEST.fullmatch(shown) for shown in (old, new) if shown is not None)


def _diff(name: str, before: str, now: str) -> str:
    import difflib  # slow to import, and rarely needed

    lines = before.splitlines(), now.splitlines()
    return "\n".join(
        difflib.unified_diff(*lines, fromfile=f"{name}, then", tofile=f"{name}, now", lineterm="")
    )


def argument_changes(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    ignored: Collection[str],
    attributes: tuple[Mapping[str, bytes], Mapping[str, bytes]] = ({}, {}),
) -> tuple[ArgumentChange, ...]:
    """List the arguments that changed, as records show them.

    Where all look the same, list those that a record shows as a short text, or of these the ones with an attribute
    that differs. `attributes` maps attribute paths to digests, of the earlier call and of this one.
    """
    then, seen = attributes
    paths = [path for path in {**seen, **then} if then.get(path) != seen.get(path)] if then and seen else []
    looks_then, looks_now = _looks(before, ignored), _looks(now, ignored)
    names = {**looks_now, **looks_then}
    changed = [name for name in names if looks_then.get(name) != looks_now.get(name)]
    changed = changed or [name for name in names if any(path.startswith(f"{name}.") for path in paths)]
    changed = changed or [name for name in names if isinstance(now[name], str)]
    absent = ArgumentChange.ABSENT
    changes = []
    for name in changed:
        start = f"{name}."
        differing = sorted(path.removeprefix(start) for path in paths if path.startswith(start))
        changes.append(
            ArgumentChange(name, before.get(name, absent), now.get(name, absent), tuple(differing))
        )
    return tuple(changes)


def _looks(arguments: Mapping[str, Any], ignored: Collection[str]) -> dict[str, tuple[type, str]]:
    """Return type and repr of each argument. The repr of a float has the sign of zero, and NaN equals itself."""
    return {
        name: (type(value), repr(value))
        for name, value in arguments.items()
        if name.partition(".")[0] not in ignored
    }


class Cause(StrEnum):
    """Why a call is a hit or a miss. The value is a phrase for people."""

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
    INVALID = "the entry is not valid"
    CLEARED = "the entry was cleared"
    FORGOTTEN = "the entry was forgotten"
    EVICTED = "the entry was evicted to make room"
    DAMAGED = "the entry is damaged"
    UNREADABLE = "the entry can't be read or verified here"


@dataclass(frozen=True, slots=True)
class ArgumentChange:
    """An argument whose value differs from the nearest entry's, as records show it."""

    ABSENT: ClassVar[str] = "(not given)"

    name: str
    before: Any
    now: Any
    attributes: tuple[str, ...] = ()
    """The attributes that differ, as far as those of the other call are kept."""

    def __str__(self) -> str:
        before, now = [self.ABSENT if each == self.ABSENT else repr(each) for each in (self.before, self.now)]
        if before != now:
            return f"{self.name}: {before} -> {now}"
        attributes = " and ".join(f"{self.name}.{attribute}" for attribute in self.attributes)
        change = "its value or the code of its class differs"
        if attributes:
            change = f"{attributes} {'differs' if len(self.attributes) == 1 else 'differ'}"
        return f"{self.name}: it looks the same, {self.now}; {change}"


@dataclass(frozen=True, slots=True)
class CodeChange:
    """A function, a class or a global that changed."""

    name: str
    kind: str
    """"changed", "new" or "gone"."""
    diff: str
    """Unified diff of its source; empty if the source is the same or not available."""

    def __str__(self) -> str:
        if not self.diff and self.kind == "changed":
            return f"{self.name}: its source is the same or not available; a value that it holds may differ"
        return f"{self.name}: {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Differences):
    """Why a call is a hit, or would be a miss. `print` it, or show it in a notebook."""

    key: str
    """The job key."""
    function: str
    """Module and qualified name of the function."""
    arguments: Mapping[str, Any]
    """Arguments by name, as records show them."""
    cause: Cause
    record: Record | None = None
    """The record of the call's own entry, or of the nearest."""
    at: datetime | None = None
    """When the entry was removed, in UTC."""
    reason: str = ""
    """What is wrong with an entry that is damaged or can't be read."""
    arguments_changed: tuple[ArgumentChange, ...] = ()
    untracked: tuple[str, ...] = ()
    """Globals that the function reads but that can't be part of the key, so their changes go unnoticed."""

    @property
    def is_hit(self) -> bool:
        """Whether the call would be answered from the cache."""
        return self.cause is Cause.HIT

    @property
    def headline(self) -> str:
        """The answer in one line."""
        verdict = "a hit" if self.is_hit else "a miss"
        return f"{self.function}({arguments_text(self.arguments)}): {verdict}, {self.cause.value}"

    def facts(self) -> Iterator[str]:
        """The details, one line each."""
        if self.at is not None:
            yield f"removed on {self.at:%Y-%m-%d %H:%M:%S} UTC"
        if self.reason:
            yield self.reason
        if self.record is not None:
            record, own = self.record, self.record.key == self.key
            tag = f", tag {record.tag}" if record.tag else ""
            yield (
                f"{'computed' if own else 'nearest entry: computed'} on {record.created:%Y-%m-%d %H:%M:%S} UTC "
                f"in {record.seconds:.3g} s, {record.size} bytes, by process {record.pid} "
                f"on {record.host or 'an unknown host'} ({record.executor}){tag}"
            )
        yield from map(str, self.arguments_changed)
        yield from Differences.facts(self)
        if self.untracked:
            yield f"not tracked: {', '.join(self.untracked)}"

    @property
    def _diffs(self) -> list[str]:
        return [change.diff for change in self.code_changed if change.diff]

    def __str__(self) -> str:
        return "\n\n".join(("\n  ".join((self.headline, *self.facts())), *self._diffs))

    __repr__ = __str__

    def __rich__(self) -> RenderableType:
        """Render in colours for rich."""
        from rich.console import Group  # only rich calls this, so it is installed
        from rich.syntax import Syntax
        from rich.text import Text

        head = Text(self.headline, style="bold green" if self.is_hit else "bold yellow")
        diffs = [Syntax(diff, "diff", background_color="default") for diff in self._diffs]
        return Group(head, *(Text("  " + fact) for fact in self.facts()), *diffs)

    def _repr_html_(self) -> str:
        import html  # slow to import, and only notebooks need it

        colour = "#1a7f37" if self.is_hit else "#9a6700"
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.facts())
        diffs = "".join(
            f"<pre style='margin:0.5em 0'>{_coloured(html.escape(diff))}</pre>" for diff in self._diffs
        )
        return f"<div><b style='color:{colour}'>{html.escape(self.headline)}</b><ul>{facts}</ul>{diffs}</div>"


def _coloured(diff: str) -> str:
    colours = {"+": "#1a7f37", "-": "#cf222e", "@": "#8250df"}
    lines = (
        f"<span style='color:{colours.get(line[:1], 'inherit')}'>{line}</span>" for line in diff.splitlines()
    )
    return "\n".join(lines)


for _public in (Cause, Explanation):  # the package imports them on first use
    _public.__module__ = __package__

ENTRIES_COMPARED: Final = 2000
"""How many of the latest entries of a function version are searched for the nearest."""


def explain(
    store: Store,
    identity: Identity,
    current: FunctionVersion,
    arguments: Mapping[str, Any],
    ignored: Collection[str],
    attributes: Mapping[str, Mapping[str, bytes]],
) -> Explanation:
    """Explain one call of a function, by its key and its named arguments.

    `attributes` has the attributes of a call's arguments by the call's key, as far as they are known.

    Raises:
        StoreFailure: when the store can't be read.
    """
    key, bound, _ = identity
    shown, history = shown_arguments(arguments), store.history
    answer = partial(
        Explanation,
        key=key,
        function=current.function,
        arguments=shown,
        untracked=current.fingerprint.untracked,
    )
    found = history.examine(key)
    if isinstance(found, Gone):
        return answer(cause=Cause[found.reason.upper()], at=found.at)
    if found is not None:
        damaged = Cause.UNREADABLE if found.may_be_whole else Cause.DAMAGED
        cause = damaged if found.damage else Cause.HIT
        return answer(cause=cause, record=found.record, reason=found.damage)
    nearest = _nearest(history, bound, current, shown, ignored)
    if nearest is None:
        return answer(cause=Cause.FIRST_CALL)
    before, other = nearest
    now = current.as_stored()
    differing = differences(before, now)
    if before.key_version != now.key_version:
        cause = Cause.LIBRARY
    elif before.fingerprint != now.fingerprint:
        is_library = differing.distributions_changed and not differing.code_changed
        cause = Cause.DISTRIBUTION if is_library else Cause.CODE
    elif before.parameters != now.parameters:
        cause = Cause.PARAMETERS
    else:
        cause = Cause.ARGUMENTS if before.prefix == now.prefix else Cause.VERSION
    seen = attributes.get(other.record.key) or other.attributes, attributes.get(key, {})
    changed = argument_changes(other.record.arguments, shown, ignored, seen)
    if cause is not Cause.ARGUMENTS and all(str(change.before) == str(change.now) for change in changed):
        changed = ()
    return answer(
        cause=cause,
        record=other.record,
        arguments_changed=changed,
        code_changed=differing.code_changed,
        distributions_changed=differing.distributions_changed,
        version_changed=differing.version_changed,
        parameters_changed=differing.parameters_changed,
    )


def _nearest(
    history: History,
    bound: bytes,
    current: FunctionVersion,
    arguments: Mapping[str, Any],
    ignored: Collection[str],
) -> tuple[StoredFunctionVersion, Keyed] | None:
    """Find the entry that is nearest to this call."""
    versions = {past.prefix: past for past in history.versions(current.function)}
    alike = {prefix for prefix, past in versions.items() if past.parameters == current.parameters}
    if alike - {
        current.prefix
    }:  # an entry of these arguments and the current version would be the call's own
        for keyed in history.of_version(current.function, bound=bound):
            if keyed.prefix in alike:
                return versions[keyed.prefix], keyed
    chosen = versions.get(current.prefix) or next(iter(versions.values()), None)
    if chosen is None:
        return None
    latest = list(history.of_version(current.function, prefix=chosen.prefix, limit=ENTRIES_COMPARED))
    if not latest:  # removed since the versions were listed
        return None

    looks = _looks(arguments, ignored).items()

    def likeness(keyed: Keyed) -> tuple[int, int]:
        """Rank by equal arguments, then by how few arguments there are that the call lacks, such as a repeat."""
        others = keyed.record.arguments
        return len(looks & _looks(others, ignored).items()), -len(others.keys() - arguments.keys())

    return chosen, max(latest, key=likeness)


ENTRIES_AT_ONCE: Final = 200
"""How many entries `adopt` copies in one transaction."""


class EarlierVersions:
    """Results of a function with the same code that were computed with other versions of its libraries."""

    def __init__(self, store: Store, current: FunctionVersion) -> None:
        self.current = current
        self._store = store
        now = current.as_stored()
        known = store.history.versions(current.function, unused=True)
        self._upgrades = [(past, upgraded) for past in known if (upgraded := _upgraded(past, now))]

    def warning(self, bound: bytes) -> str | None:
        """Return a warning if an earlier version has the result of this miss."""
        if bound.startswith(WITH_CODE):  # its key can't be translated
            return None
        current, store = self.current, self._store
        for past, upgraded in self._upgrades:
            if store.has(join_key(bound, past.prefix)):
                latest = _earlier_versions(store, current)[0]
                which = "" if latest.prefix == past.prefix else repr(past.fingerprint[:16])
                return (
                    f"Results of {current.function} were computed with another version of a library, {upgraded}, so "
                    f"its jobs run again. To accept those results without computing, call "
                    f"{current.function.rpartition('.')[2]}.cache.adopt({which})."
                )
        return None


def _upgraded(past: StoredFunctionVersion, now: StoredFunctionVersion) -> str:
    """Name the libraries that were upgraded; empty if something else differs, too."""
    alike = past.key_version, past.version, past.parameters
    if alike != (now.key_version, now.version, now.parameters):
        return ""
    changed = list(_changed(past, now))
    if any(_is_code(before, after) for _, before, after in changed):
        return ""
    return ", ".join(f"{name} {before} -> {after}" for name, before, after in changed if before and after)


def adopt(store: Store, current: FunctionVersion, fingerprint: str | None, *, dry_run: bool = False) -> int:
    """Copy the entries of an earlier version to the present keys of their calls. Return how many were copied.

    With `dry_run` nothing is copied, and the number is that of entries that would be.

    Raises:
        BencherJobError: when no earlier version has entries, or its keys can't be translated.
    """
    past = _earlier(store, current, fingerprint)
    if past is None:
        return 0
    _check_translatable(past, current)
    found = list(store.history.of_version(current.function, prefix=past.prefix))
    plain = [keyed for keyed in found if not keyed.bound.startswith(WITH_CODE)]
    if len(plain) < len(found):
        warn_caller(
            f"{counted(len(found) - len(plain), 'result')} of {current.function} not adopted: the arguments bring "
            f"code of their own, objects of your classes or functions, so the keys can't be translated."
        )
    entries = _copied(store, plain, current)
    if dry_run:
        return sum(1 for _ in entries)
    adopted = 0
    while some := list(itertools.islice(entries, ENTRIES_AT_ONCE)):
        store.put_many(some)
        adopted += len(some)
    return adopted


def _earlier(store: Store, current: FunctionVersion, fingerprint: str | None) -> StoredFunctionVersion | None:
    earlier = _earlier_versions(store, current)
    if fingerprint is not None:
        named = [past for past in earlier if past.fingerprint.startswith(fingerprint)]
        if len({past.fingerprint for past in named}) != 1:
            listed = ", ".join(past.fingerprint[:16] for past in earlier) or "none"
            raise BencherJobError(
                f"fingerprint={fingerprint!r} matches {'several earlier versions' if named else 'no earlier version'} "
                f"of {current.function} with entries. Use one of: {listed}."
            )
        earlier = named
    return next(iter(earlier), None)


def _earlier_versions(store: Store, current: FunctionVersion) -> list[StoredFunctionVersion]:
    """Return versions of other code, the latest first, and before all others those of the same `version`."""
    present = current.fingerprint.digest.hex()
    earlier = [past for past in store.history.versions(current.function) if past.fingerprint != present]
    return sorted(earlier, key=lambda past: past.version != current.version)


def _check_translatable(past: StoredFunctionVersion, current: FunctionVersion) -> None:
    for what, before, now in (
        ("its version", past.version or "none", current.version or "none"),
        ("the list of parameters in the key", *map(", ".join, (past.parameters, current.parameters))),
        ("the key version", past.key_version, KEY_VERSION),
    ):
        if before != now:
            raise BencherJobError(
                f"The results of the earlier code of {current.function} can't be adopted: {what} was {before} and is "
                f"{now}. Name a version with fingerprint=, or let the jobs run again."
            )


def _copied(store: Store, found: list[Keyed], current: FunctionVersion) -> Iterator[Entry]:
    for keyed in found:
        key = join_key(keyed.bound, current.prefix)
        if store.has(key):
            continue
        hit = store.get(keyed.record.key)
        if not isinstance(hit, Miss):  # else damaged or removed since, and a warning said so
            yield Entry(hit.payload, replace(keyed.record, key=key), keyed.bound, current, is_copy=True)
