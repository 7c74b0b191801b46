"""Select entries by options of the command line."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

from .._function_cache import JobFunctionCache
from .._record import FailedJob, FunctionInfo, Record, Selection, VersionInfo
from .._stores import Found, Gone, LeasesUnavailable, Store, StoreFailure, look_into
from .._text import did_you_mean, moment_text
from .command import Exit, Failed, Misused
from .places import FAILURES, complain, look_at_each, stores_of

_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_AGE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([wdhms])", re.ASCII)


def age(text: str) -> timedelta:
    """Parse an age: numbers, each with `w`, `d`, `h`, `m` or `s`.

    Raises:
        ArgumentTypeError: when the text is something else.

    >>> age("1d12h"), age("1.5m")
    (datetime.timedelta(days=1, seconds=43200), datetime.timedelta(seconds=90))
    """
    parts = _AGE.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ArgumentTypeError(f"{text!r} is not an age. Write 30d, 12h or 1h30m: weeks, days, h, m, s.")
    try:
        return sum((timedelta(seconds=float(number) * _UNITS[unit]) for number, unit in parts), timedelta())
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is too long ago. Give fewer days.") from None


_SIZES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_in(text: str) -> int:
    """Parse a size in bytes.

    >>> bytes_in("1.5GB"), bytes_in("512")
    (1500000000, 512)
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text)
    if parts is None:
        raise ArgumentTypeError(f"{text!r} is not a size. Write 500MB, 1.5GB or a number of bytes.")
    return round(float(parts[1]) * _SIZES[parts[2]])


def moment(text: str) -> datetime | timedelta:
    """Parse a time: an age, or a date with or without a time of day, local unless it has a zone.

    Raises:
        ArgumentTypeError: when the text is something else.

    >>> moment("2026-01-31"), moment("7d")
    (datetime.datetime(2026, 1, 31, 0, 0), datetime.timedelta(days=7))
    """
    if _AGE.match(text):
        return age(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is not a time. Write an age as 30d or 12h, or a date as 2026-01-31 or 2026-01-31T12:00."
        ) from None


PATIENCE: Final = 0.2
"""Seconds that completion waits for a store that another process has locked."""

MOST_KEYS: Final = 20
"""Maximum number of keys that completion offers."""


def _asked(line: Namespace, ask: Callable[[Store], Iterable[str]]) -> list[str]:
    """Collect completions from all stores that can be read."""
    found: list[str] = []
    place = {name: getattr(line, name, None) for name in ("cache_dir", "cache_name", "trusted")}
    try:
        for directory in stores_of(Namespace(**place)):
            with closing(look_into(directory, trusted=bool(place["trusted"]), patience=PATIENCE)) as store:
                found += ask(store)
    except FAILURES:  # nothing to complete; the command itself will report the reason
        pass
    return sorted(set(found))


def complete_keys_and_functions(prefix: str, parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the functions in the stores, and the first keys with a prefix."""

    def ask(store: Store) -> Iterable[str]:
        keys = store.history.keys(prefix, MOST_KEYS) if prefix else []
        names = [function.name for function in store.functions()]
        if prefix and not any(name.startswith(prefix) for name in names):
            names = [end for name in names for end in _endings(name) if end.startswith(prefix)]
        return [*names, *keys]

    return _asked(parsed_args, ask)


def complete_tags(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the tags in the stores."""
    return _asked(parsed_args, lambda store: [tag for function in store.functions() for tag in function.tags])


def complete_versions(parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the versions of the code of the functions in the stores."""
    return _asked(
        parsed_args,
        lambda store: [
            each.label for function in store.functions() for each in function.versions if each.label
        ],
    )


def add_targets(parser: ArgumentParser, *, what: str) -> None:
    """Add the positional arguments that name functions and keys."""
    targets = parser.add_argument(
        "targets",
        nargs="*",
        default=(),  # or argparse names it in the error for another missing argument
        metavar="FUNCTION|KEY",
        help=f"{what}: a function, with or without its module, or the first digits of a key; MODULE:FUNCTION imports a "
        "function, to know its code as it is now",
    )
    targets.completer = complete_keys_and_functions  # type: ignore[attr-defined]


def add_filters(parser: ArgumentParser) -> None:
    """Add the options that select entries by tag, argument and time."""
    filters = parser.add_argument_group("which entries")
    tag = filters.add_argument("--tag", help="those with this tag; '' for those without")
    tag.completer = complete_tags  # type: ignore[attr-defined]
    filters.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="those with this argument, as records show it; may be given for several arguments",
    )
    for name, which in (("since", "begun then or later"), ("until", "begun before")):
        filters.add_argument(
            f"--{name}", type=moment, metavar="WHEN", help=f"those {which}: 30d or 12h ago, or 2026-01-31"
        )

    code = filters.add_argument(
        "--code", metavar="DIGITS", help="those of this version of the code, as `versions` lists it"
    )
    code.completer = complete_versions  # type: ignore[attr-defined]


def add_all_versions(parser: ArgumentParser) -> None:
    """Add the option `--all-versions`, where else the current version of the code is chosen, or the latest."""
    parser.add_argument(
        "--all-versions",
        action="store_true",
        help="those of all versions of the code, not only of the latest; for MODULE:FUNCTION, of the code as it is now",
    )


def selection_of(arguments: Namespace) -> Selection:
    """Return the selection that the options describe.

    Raises:
        Misused: when no entry could match, or two filters are for the same argument.
    """
    try:
        return Selection(
            tag=arguments.tag,
            since=arguments.since,
            until=arguments.until,
            where=Selection.parse_where(*arguments.where),
        )
    except ValueError as error:
        raise Misused(str(error)) from error


Pairs = frozenset[tuple[str, str]]
"""Versions of the code, as in a selection: fingerprints with the `version` option."""

SHORTEST_PREFIX: Final = 4
"""Minimum number of digits that identify a key."""

KEYS_SHOWN: Final = 4
"""Maximum number of keys with the same first digits that an error lists."""

_HEXADECIMAL: Final = frozenset("0123456789abcdef")


def running_in(store: Store) -> list[Record]:
    """Return what is known of the jobs that run now, the latest last; `created` is when they began."""
    try:
        running = store.leases.running()
    except LeasesUnavailable:  # others keep the database locked for a moment
        return []
    return [
        Record(
            key=job.key,
            function=job.function,
            arguments=job.arguments,
            created=datetime.fromtimestamp(job.since, UTC),
            host=job.process.host,
            pid=job.process.pid,
        )
        for job in running
    ]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The functions and keys of a store that a command line names, or everything, filtered by a selection."""

    store: Store
    directory: Path
    selection: Selection
    functions: tuple[str, ...]
    keys: tuple[str, ...]
    is_everything: bool
    versions: tuple[VersionInfo, ...]
    """Those of the chosen functions that have entries, also those that are not selected."""
    by_default: bool
    """Whether no option selects versions of the code. Then all versions of keys are chosen."""

    def records(self) -> Iterator[Record]:
        """Yield the chosen records; those of a function in order of age, the oldest first."""
        for selection in self._selections():
            yield from self.store.records(selection)
        yield from self.of_keys()

    def _selections(self) -> list[Selection]:
        if self.is_everything:
            return [self.selection]
        return [replace(self.selection, function=function) for function in self.functions]

    def _of_any_version(self) -> Selection:
        """Return what is asked for of chosen keys."""
        return replace(self.selection, versions=None) if self.by_default else self.selection

    def of_keys(self) -> Iterator[Record]:
        """Yield the records of the chosen keys, except those of chosen functions."""
        for key in self.keys:
            found = self.store.history.examine(key)
            if isinstance(found, Found) and found.record is None:
                why = found.damage if found.may_be_whole else "its record is damaged"
                raise StoreFailure(f"the entry {key} can't be shown: {why}")
        selection = self._of_any_version()
        for info in self.store.history.infos(self.keys):
            if info.record.function not in self.functions and selection.matches(info.record):
                yield info.record

    def running(self) -> list[Record]:
        """Return what is known of the chosen jobs that run now, the latest last."""
        selection = replace(self.selection, versions=None)
        return [each for each in running_in(self.store) if self._is_meant(each) and selection.matches(each)]

    def failed(self, *, of_all_versions: bool = False) -> list[FailedJob]:
        """Return the chosen failed jobs, the latest last."""
        selection = replace(self.selection, versions=None) if of_all_versions else self.selection
        return [
            each
            for each in reversed(self.store.history.failures(self._of_any_version()))
            if each.record.key in self.keys
            or (self._is_meant(each.record) and selection.matches(each.record))
        ]

    def _is_meant(self, record: Record) -> bool:
        """Whether a job is of a chosen function, or has a chosen key."""
        return self.is_everything or record.function in self.functions or record.key in self.keys

    def latest(self, limit: int) -> tuple[list[Record], bool]:
        """Return the latest records of each chosen function (0 for all), and whether there are more."""
        found: list[Record] = []
        has_more = False
        for selection in self._selections():
            records = list(self.store.records(selection, limit + 1 if limit else None))
            has_more = has_more or 0 < limit < len(records)
            found += records[-limit:]
        return found, has_more


def _versions(
    arguments: Namespace,
    functions: Sequence[FunctionInfo],
    current: Mapping[str, Pairs],
    failed: Sequence[FailedJob],
) -> tuple[Collection[tuple[str, str]] | None, bool]:
    """Return which versions of the code the options choose, None for all, and whether none of them does.

    `current` has the versions of functions that were imported.
    """
    options = {"all_versions": True, "stale": False} | vars(arguments)
    known = {each[:2]: each for function in functions for each in function.versions}
    if arguments.code is not None:
        pairs = {pair for pair, each in known.items() if each.is_called(arguments.code)}
        jobs = [(each.record.fingerprint, each.record.version) for each in failed]
        return pairs.union(pair for pair in jobs if pair[0].startswith(arguments.code)), False
    if options["all_versions"] and not options["stale"]:
        return None, False
    latest = Pairs().union(*(current.get(each.name) or each.latest(failed) for each in functions))
    return (known.keys() - latest, False) if options["stale"] else (latest, True)


def cache_of(name: str) -> JobFunctionCache:
    """Import a decorated function, and return its cache.

    Raises:
        Misused: when there is no such function.
        Failed: when its module can't be imported.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise Misused(f"{name!r} names no function. Write MODULE:FUNCTION, as in study:score.")
    sys.path.insert(0, os.getcwd())
    sys.dont_write_bytecode = True  # a query must not write files
    try:
        with redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module's own code can raise anything
        raise Failed(f"{module_name} can't be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        found = inspect.getattr_static(found, part, None)
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    cache = getattr(found, "cache", None)
    if not isinstance(cache, JobFunctionCache):
        raise Misused(f"{module_name} has no {path} that cached_job decorates.")
    return cache


def _current(name: str) -> tuple[str, Pairs]:
    """Import a function, and return its name and the version of its code.

    Raises:
        Misused: when there is no such function.
        Failed: when its module can't be imported.
    """
    cache = cache_of(name)
    version = cache.keys.function_version
    return cache.name, frozenset([(version.fingerprint.digest.hex(), version.version), ("", "")])


def look_for(arguments: Namespace, work: Callable[[Chosen], object], *, mends: bool = False) -> int:
    """Call `work` with the chosen functions and keys of each store, as `look_at_each` does.

    Names that are in no store are reported.

    Raises:
        StoreFailure: when there are no stores.
        Misused: when a name is ambiguous, or no entry could match the options.
        Failed: when no store can be opened or read.
    """
    selection = selection_of(arguments)
    current: dict[str, Pairs] = {}
    unknown: dict[str, str] = {}
    for name in arguments.targets:
        try:
            imported, versions = _current(name) if ":" in name else (name, None)
        except (Failed, Misused) as error:  # it may be a key that was given
            imported, versions, unknown[name] = name, None, str(error)
        unknown.setdefault(imported, "")
        if versions is not None:
            current[imported] = versions
    names = tuple(unknown)
    known: dict[str, None] = {}

    def look(store: Store, directory: Path) -> None:
        infos = {function.name: function for function in store.functions()}
        failed = store.history.failures() if vars(arguments).get("failed") else []
        running = running_in(store) if vars(arguments).get("running") else []
        functions_here = [*dict.fromkeys([*infos, *(job.function for job in running)])]
        known.update((each, None) for name in functions_here for each in (*_endings(name), name))
        jobs = [*(each.record.key for each in failed), *(job.key for job in running)]
        functions: dict[str, None] = {}
        keys: dict[str, None] = {}
        for name in names:
            if (function := _function(name, functions_here)) == name:
                functions[name] = None
            elif (key := _key(store, name, jobs)) is not None:
                keys[key] = None
            elif function is not None:
                functions[function] = None
            else:
                if name in unknown and (removed := _removed(store, name)):
                    unknown[name] = removed
                continue
            unknown.pop(name, None)
        if functions or keys or not names:
            chosen = [infos[name] for name in (functions if names else infos) if name in infos]
            versions, by_default = _versions(arguments, chosen, current, failed)
            of_versions = replace(selection, versions=versions)
            all_versions = tuple(each for function in chosen for each in function.versions)
            work(
                Chosen(
                    store,
                    directory,
                    of_versions,
                    tuple(functions),
                    tuple(keys),
                    not names,
                    all_versions,
                    by_default,
                )
            )

    status = look_at_each(arguments, look, mends=mends)
    if status != Exit.DONE:  # the unknown names may be in a store that can't be read
        return status
    for name, removed in unknown.items():
        complain(removed or f"no function is called {name}, and no key begins so{did_you_mean(name, known)}")
    return Exit.FOUND if unknown else status


def report_none(arguments: Namespace, told: TextIO | None = None) -> None:
    """Print that no entry matches, and the arguments and tags that may have been meant."""
    print("no entries", file=told or sys.stdout)
    names: dict[str, None] = {}
    tags: dict[str, None] = {}

    def look(store: Store, _: Path) -> None:
        for function in store.functions():
            tags.update(dict.fromkeys(function.tags))
            for record in store.records(Selection(function=function.name), RECORDS_ASKED):
                names.update(dict.fromkeys(record.arguments))

    selection = selection_of(arguments)
    if selection.where or selection.tag:
        look_at_each(arguments, look)
    for name in selection.where:
        if name not in names and (hint := did_you_mean(name, names)):
            complain(f"no entry has an argument called {name}{hint}")
    tag = selection.tag
    if tag and tag not in tags and (hint := did_you_mean(tag, tags)):
        complain(f"no entry has the tag {tag}{hint}")


RECORDS_ASKED: Final = 100
"""How many of a function's latest records are asked for the names of its arguments."""


def _endings(name: str) -> list[str]:
    """Return the ends of a function's name that also name it: without its module, and without its class."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(1, len(parts))]


def _function(name: str, known: Collection[str]) -> str | None:
    """Return the function that a name stands for: itself, or the only one that ends so.

    Raises:
        Misused: when several end so, and none is called so.
    """
    found = [name] if name in known else [function for function in known if function.endswith(f".{name}")]
    if len(found) > 1:
        raise Misused(f"{name} stands for several functions: {', '.join(found)}. Give the module too.")
    return found[0] if found else None


def _key(store: Store, name: str, others: Sequence[str]) -> str | None:
    """Return the key that is the name or starts with it, of an entry or one of others, or None.

    A given `job_key` may be any str.
    """
    found = [key for key in others if key.startswith(name)] or store.history.keys(name, KEYS_SHOWN + 1)
    if name in found:
        return name
    if len(name) < SHORTEST_PREFIX or not _HEXADECIMAL.issuperset(name):
        return None
    if len(found) > 1:
        shown = ", ".join(key[: len(name) + 8] for key in found[:KEYS_SHOWN])
        more = ", and more" if len(found) > KEYS_SHOWN else ""
        raise Misused(f"{name} is the beginning of several keys: {shown}{more}. Give more digits.")
    return found[0] if found else None


def _removed(store: Store, name: str) -> str:
    """Describe the removal of the entry whose key starts with some digits; empty if none is recorded."""
    if len(name) < SHORTEST_PREFIX:
        return ""
    for key in store.history.keys(name, 1, removed=True):
        gone = store.history.examine(key)
        if isinstance(gone, Gone):
            return f"the entry {key} was {gone.reason} on {moment_text(gone.at)}"
    return ""
