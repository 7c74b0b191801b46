"""Data that people see: records, selections, figures of caches and functions, plans."""

from __future__ import annotations

import ast
import itertools
import re
import reprlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from . import _text
from ._fields import IS_PATH, flat
from ._text import counted, is_writable, roughly, seconds_text, size_text

RECORDS_SHOWN: Final = 20
"""Maximum number of records that a notebook shows."""

LONGEST_SHORT_FORM: Final = 200
"""Maximum length in characters of an argument's text in a record."""

LARGEST_INT_BITS: Final = 600
"""Maximum size in bits of an int that a record holds as it is."""

_ADDRESS: Final = r" at 0x[0-9a-f]+"
"""An object's address in memory, which means nothing later."""

_PLAIN: Final = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything known about one entry, except its value."""

    key: str
    """The job key."""
    function: str
    """Module and qualified name of the function."""
    tag: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments by name: small plain values as they are, others as a short text. A config is shown by the name of its
    class, and by its fields, as `cfg.lr`."""
    created: datetime
    """When the function started, in UTC."""
    seconds: float = 0.0
    """How long the function ran, in seconds."""
    size: int = 0
    """Size in bytes of the result as it is stored, and of the files that the job wrote."""
    media: str | None = None
    """Name of the run's folder in the store's media folder, if the job wrote files."""
    executor: str = "SERIAL"
    host: str = ""
    """The machine that ran the function."""
    pid: int = 0
    """The process that ran the function."""
    python: str = ""
    """Version of the Python that ran the function."""
    library: str = ""
    """Version of this library."""
    platform: str = ""
    """System, kernel and processor of the machine that ran the function: `Linux-6.1-x86_64`."""
    commit: str = ""
    """The git commit of the function's file; empty outside a repository."""
    dirty: bool | None = None
    """Whether files in that repository differed from the commit; None if git didn't answer."""
    fingerprint: str = ""
    """Digest of the function's code, in hexadecimal; empty if the key was given as `job_key`."""
    version: str = ""
    """The `version` option of the function, as text."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def __reduce__(self) -> tuple[object, ...]:
        state = {name: getattr(self, name) for name in self.__slots__}
        return _record_of, ({**state, "arguments": dict(self.arguments)},)

    def _repr_html_(self) -> str:
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "arguments"}
        arguments = _text.fact_table({name: short_form(value) for name, value in self.arguments.items()})
        facts = {"function": shown.pop("function"), "arguments": arguments, **shown}
        return _text.fact_table({name: fact for name, fact in facts.items() if fact not in {"", None}})

    def __str__(self) -> str:
        call = f"{self.function}({_text.arguments_text(self.arguments)})"
        return f"{call}, {self.seconds:.3g} s on {self.created:%Y-%m-%d %H:%M:%S} UTC"


DIGITS_SHOWN: Final = 10
"""Number of digits of a fingerprint that people see."""


def code_label(fingerprint: str, version: str) -> str:
    """Name a version of a function's code: by the first digits of its fingerprint, and the `version` option if given.

    >>> code_label("3f9a2c01b2d4e5f6", ""), code_label("3f9a2c01b2d4e5f6", "2"), code_label("", "")
    ('3f9a2c01b2', '3f9a2c01b2 version 2', '')
    """
    return fingerprint[:DIGITS_SHOWN] + (f" version {version}" if version else "")


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job whose latest run raised an exception, or was ended by its timeout or the death of its worker."""

    record: Record
    """What is known of the run."""
    error: str
    """The exception's class and message."""
    traceback: str
    """The traceback, with that of the worker."""


_COLUMNS: Final = ("function", "arguments", "tag", "created, UTC", "time", "size")


class Records(Iterator[Record]):
    """An iterator over records. A notebook and a REPL show the first of those left, without consuming them."""

    def __init__(self, records: Iterator[Record], note: Callable[[], str] = str) -> None:
        self._records = records
        self._note = note
        self._looked_at: deque[Record] = deque()

    def __next__(self) -> Record:
        return self._looked_at.popleft() if self._looked_at else next(self._records)

    def _shown(self) -> tuple[list[Sequence[str]], list[str]]:
        """Return the rows of the first records, and sentences on those that are not shown."""
        missing = RECORDS_SHOWN + 1 - len(self._looked_at)
        self._looked_at.extend(itertools.islice(self._records, max(0, missing)))
        rows: list[Sequence[str]] = [
            (
                record.function,
                ", ".join(f"{name}={short_form(value)!r}" for name, value in record.arguments.items()),
                record.tag,
                f"{record.created:%Y-%m-%d %H:%M:%S}",
                seconds_text(record.seconds),
                size_text(record.size),
            )
            for record in itertools.islice(self._looked_at, RECORDS_SHOWN)
        ]
        has_more = len(self._looked_at) > RECORDS_SHOWN
        more = f"the first {RECORDS_SHOWN}; there are more" if has_more else ""
        return rows, [*filter(None, (more, self._note()))]

    def __repr__(self) -> str:
        rows, more = self._shown()
        if not rows:
            return "\n".join(["<no more records>", *more])
        lines = _text.aligned([_COLUMNS, *([_text.visible(cell) for cell in row] for row in rows)])
        return "\n".join([*lines, *more])

    def _repr_html_(self) -> str:
        rows, more = self._shown()
        return _text.joined(_text.table(_COLUMNS, rows), *more)


def _record_of(state: dict[str, Any]) -> Record:
    return Record(**state)


class Origin(NamedTuple):
    """How, where and at which commit a function ran, which many entries have in common."""

    executor: str
    host: str
    pid: int
    python: str
    library: str
    platform: str
    commit: str
    dirty: bool | None


_origin_of: Final = attrgetter(*Origin._fields)


class Draft(NamedTuple):
    """The record of an entry that is not stored yet, in the form in which a store keeps it.

    Attributes:
        created: when the function started, in seconds since the epoch.
    """

    key: str
    function: str
    tag: str
    arguments: Mapping[str, Any]
    created: float
    seconds: float
    media: str | None
    origin: Origin

    @classmethod
    def of(cls, record: Record) -> Draft:
        """Take a record apart."""
        return cls(
            record.key,
            record.function,
            record.tag,
            record.arguments,
            record.created.timestamp(),
            record.seconds,
            record.media,
            Origin(*_origin_of(record)),
        )

    def finished(self) -> Record:
        """Make the record. The size of its entry is not known yet."""
        return Record(
            key=self.key,
            function=self.function,
            tag=self.tag,
            arguments=self.arguments,
            created=datetime.fromtimestamp(self.created, UTC),
            seconds=self.seconds,
            media=self.media,
            **self.origin._asdict(),
        )

    def __str__(self) -> str:
        return str(self.finished())


class Totals(NamedTuple):
    """Hits and misses of all processes that ever used a store, as far as they have reported them."""

    hits: int
    misses: int
    seconds_saved: float
    """Recorded running time of the hits, in seconds."""


class Figures(NamedTuple):
    """The figures of a store."""

    entries: int
    size: int
    """Size of the entries and their media in bytes."""
    total: Totals


class _ShortText(reprlib.Repr):
    """Shortens long texts, and shows arrays by their shape, whose own repr can be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_SHORT_FORM
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 10

    def repr_instance(self, x: object, level: int) -> str:
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if isinstance(shape, tuple) and shape:
            return f"<{type(x).__name__} {'x'.join(map(str, shape))}{'' if dtype is None else f' {dtype}'}>"
        if callable(x) and (name := getattr(x, "__qualname__", None)):
            return f"<{name}>"
        return super().repr_instance(x, level)


_short_text = _ShortText()


def short_form(value: object) -> Any:
    """Return a value as a record shows it: small plain values themselves, a short text for anything else.

    >>> short_form(0.5), short_form([1, "a"])
    (0.5, "[1, 'a']")
    """
    if type(value) is int and value.bit_length() > LARGEST_INT_BITS:
        return f"<int of {value.bit_length()} bits>"
    if type(value) in _PLAIN and not (type(value) is str and len(value) > LONGEST_SHORT_FORM):
        return value
    try:
        return re.sub(_ADDRESS, "", _short_text.repr(value))[: 2 * LONGEST_SHORT_FORM]
    except Exception:  # noqa: BLE001 - a class's own repr failed, which must not cost a result
        return f"<{type(value).__qualname__}>"


def shown_arguments(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Return arguments as a record shows them, configs by their fields.

    >>> shown_arguments({"cfg": {"lr": 0.1, "layers": [8, 8]}, "seed": 1})
    {'cfg.lr': 0.1, 'cfg.layers': '[8, 8]', 'seed': 1}
    """
    return {name: short_form(value) for name, value in flat(arguments).items()}


_ABSENT: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A filter of entries. A field that is None or empty matches all entries.

    Raises:
        TypeError: when a field is of the wrong type.
        ValueError: when no entry could match.

    >>> recent = Selection(tag="nightly", since=timedelta(days=7), where={"model": "svm", "c": lambda c: c > 1})
    >>> recent.matches(Record(key="k", function="f", created=datetime.now(UTC), tag="weekly"))
    False
    """

    function: str | None = None
    """Module and qualified name, as records show it."""
    tag: str | None = None
    """The tag; `""` matches entries without one."""
    since: datetime | timedelta | None = None
    """The earliest start of a run. A timedelta counts back from now, a naive datetime is local time. Stored as a
    datetime in UTC."""
    until: datetime | timedelta | None = None
    """The time before which a run started, in the same forms as `since`."""
    where: Mapping[str, object] = field(default_factory=dict)
    """Conditions on arguments and on fields of configs, as `cfg.lr`, by name. A function gets the argument as the
    record shows it and returns whether it matches; any other value must look the same there, so `1`, `1.0` and `True`
    differ, and of a config each field must. An entry without the argument doesn't match."""
    versions: Collection[tuple[str, str]] | None = None
    """Versions of the code: pairs of a fingerprint and a `version`, as records have them."""

    def __post_init__(self) -> None:
        for name in ("function", "tag"):
            if not isinstance(given := getattr(self, name), str | None):
                raise TypeError(f"{name} must be a str, not {type(given).__name__}")
        now = datetime.now(UTC)
        for name in ("since", "until"):
            object.__setattr__(self, name, _moment(name, getattr(self, name), now))
        since, until = self.bounds()
        if since is not None and until is not None and since >= until:
            raise ValueError(
                f"since={since} is not before until={until}, so no entry could match. Swap them."
            )
        object.__setattr__(self, "where", MappingProxyType(_checked(self.where)))

    @staticmethod
    def parse_where(*texts: str) -> dict[str, object]:
        """Parse filters written as `name=value`, as on a command line, for `where`.

        A value matches every argument that could be written so: `1` the number and the str, `1e-3` also 0.001, `[1,2]`
        also `[1, 2]`. Numbers of different types match, such as `1` and `1.0`, but `True` does not.

        Raises:
            ValueError: when a text is not a filter, or two are for the same argument.

        >>> where = Selection.parse_where("c=0.1", "model=svm")
        >>> Selection(where=where).where
        mappingproxy({'c': written('0.1'), 'model': written('svm')})
        """
        where: dict[str, object] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            name = name.strip()
            if not equals or not IS_PATH(name) or value.startswith("="):
                raise ValueError(f"{text!r} is not a filter. Write name=value, as in c=0.1.")
            if name in where:
                raise ValueError(
                    f"There are two filters for {name}, and an argument has one value. Give one."
                )
            where[name] = _Written(value.strip())
        return where

    def shown_as(self, name: str) -> tuple[object, ...] | None:
        """Return all plain values that an argument can have in matching records; None if they can't be listed.

        A number represents all that are equal to it: 1 also 1.0 and True.

        >>> Selection(where={"c": 0.1}).shown_as("c")
        (0.1,)
        """
        wanted = self.where[name]
        if isinstance(wanted, _Written):
            return wanted.shown_as()
        return None if callable(wanted) else _plain(wanted)

    def matches(self, record: Record) -> bool:
        """Whether an entry matches all filters.

        Raises:
            Exception: what a function in `where` raises, with a note that names the argument and the entry.
        """
        since, until = self.bounds()
        return (
            self.function in {None, record.function}
            and self.tag in {None, record.tag}
            and (since is None or record.created >= since)
            and (until is None or record.created < until)
            and (self.versions is None or (record.fingerprint, record.version) in self.versions)
            and all(_holds(wanted, name, record) for name, wanted in self.where.items())
        )

    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """Return `since` and `until` as datetimes."""
        return self.since, self.until  # type: ignore[return-value]  # converted by __post_init__


class _Written(NamedTuple):
    """An argument's value as typed on a command line."""

    text: str

    def __call__(self, shown: object) -> bool:
        if self.text in {str(shown), repr(shown)}:
            return True
        try:
            meant = ast.literal_eval(self.text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # not a literal
            return False
        if _is_number(meant) and _is_number(shown):
            return bool(meant == shown)
        return _look_same(short_form(meant), shown)

    def shown_as(self) -> tuple[object, ...] | None:
        """Return all plain values that the text may mean; None if it may mean a list or a mapping."""
        try:
            meant = ast.literal_eval(self.text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return _plain(self.text)
        plain, text = _plain(meant), _plain(self.text)
        return None if plain is None or text is None else plain + text

    def __repr__(self) -> str:
        return f"written({self.text!r})"


LARGEST_EXACT: Final = 1 << 62
"""Magnitude below which a database stores an int exactly."""


def _plain(value: object) -> tuple[object, ...] | None:
    """Return a tuple of the value if a database can store it exactly, else None."""
    if value is None or isinstance(value, bool):
        return (value,)
    if isinstance(value, int | float):
        return (value,) if -LARGEST_EXACT < value < LARGEST_EXACT else None
    return (value,) if isinstance(value, str) and is_writable(value) and "\0" not in value else None


def _moment(name: str, given: object, now: datetime) -> datetime | None:
    if given is None:
        return None
    if isinstance(given, timedelta):
        if given < timedelta(0):
            raise ValueError(f"{name}={given!r} is in the future. Give how long ago, as timedelta(days=7).")
        try:
            return now - given
        except OverflowError:
            raise ValueError(f"{name}={given!r} is before the year 1. Leave it out.") from None
    if isinstance(given, datetime):
        try:
            return given.astimezone(UTC)
        except (OverflowError, OSError, ValueError):
            raise ValueError(f"{name}={given!r} is outside the years 1 to 9999. Leave it out.") from None
    raise TypeError(f"{name} must be a datetime or a timedelta, not {type(given).__name__}")


def _checked(where: object) -> dict[str, object]:
    if not isinstance(where, Mapping):
        raise TypeError(f"where must be a mapping of arguments, not {type(where).__name__}")
    for name, wanted in where.items():
        if not isinstance(name, str):
            raise TypeError(f"where must have str keys, not {type(name).__name__}")
        if isinstance(wanted, type):
            raise TypeError(
                f"where[{name!r}] is the class {wanted.__qualname__}. Give a value, or a function that returns whether "
                "an argument matches."
            )
    checked: dict[str, object] = {}
    for name, wanted in where.items():
        checked |= {name: wanted} if callable(wanted) else shown_arguments({name: wanted})
    return checked


def _holds(wanted: object | Callable[[Any], object], name: str, record: Record) -> bool:
    shown = record.arguments.get(name, _ABSENT)
    if shown is _ABSENT:
        return False
    if not callable(wanted):
        return _look_same(wanted, shown)
    try:
        return bool(wanted(shown))
    except Exception as error:
        error.add_note(f"where[{name!r}] was called with {shown!r}, of {record}")
        raise


def _is_number(value: object) -> bool:
    return type(value) in {int, float}


def _look_same(wanted: object, shown: object) -> bool:
    """Whether two values of records are the same; NaN equals NaN."""
    return type(wanted) is type(shown) and (wanted == shown or (wanted != wanted and shown != shown))  # noqa: PLR0124


EVERYTHING: Final = Selection()
"""Matches all entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedInfo:
    """The figures of the shared store behind a cache. Counts are of this process."""

    place: str
    """Its path or URL."""
    hits: int
    """Entries that were fetched from it."""
    superseded: int
    """Results that gave way to one of the same job, which another machine had stored first."""
    outbox: int
    """Entries and removals that are not there yet."""
    problem: str
    """Why it is not asked at present; empty if it is."""

    def __str__(self) -> str:
        parts = [f"shared with {self.place}: {self.hits:,} hits"]
        if self.superseded:
            parts.append(f"{self.superseded} superseded")
        if self.outbox:
            parts.append(f"{self.outbox} to push")
        return ", ".join(parts) + (f" (unreachable: {self.problem})" if self.problem else "")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheInfo:
    """The figures of one cache. Counts are of this process, since the last `clear_call_counts()`."""

    submitted: int
    """Jobs that were submitted."""
    hits: int
    """Jobs that were answered from the cache."""
    joined: int
    """Jobs that waited for the same job, which was already running."""
    computed: int
    """Jobs whose function ran."""
    retried: int
    """Runs that failed and were repeated, because of `retries`."""
    failed: int
    """Jobs whose function, worker or engine failed, after all retries."""
    unsaved: int
    """Results that reached the caller but could not be stored."""
    unkept: int
    """Results that reached the caller and were not stored, because `keep` refused them."""
    damaged: int
    """Entries of this store that were found damaged and quarantined."""
    evicted: int
    """Entries of this store that were removed to stay within the size limit."""
    expired: int
    """Entries of this store that were removed because they had expired."""
    unleased: int
    """Jobs of this store that ran without a lease, so another process may have run them as well."""
    seconds_saved: float
    """Recorded running time of the jobs that were answered from the cache, in seconds."""
    total: Totals
    """Hits and misses of all processes that ever used the store."""
    entries: int
    """Entries in the store, of all functions that share it."""
    size: int
    """What counts for `size_limit`, in bytes: the sizes of all entries, and 512 for the record of each."""
    size_limit: int
    """Size in bytes above which the least recently used entries are evicted."""
    shared: SharedInfo | None = None
    """The shared store behind this one."""

    def _facts(self) -> dict[str, str]:
        figures = {
            "entries": f"{self.entries:,}",
            "size": f"{size_text(self.size)} of {size_text(self.size_limit)}",
            "hits": f"{self.hits:,}, {seconds_text(self.seconds_saved)} saved",
            "hits in all": f"{self.total.hits:,}, {seconds_text(self.total.seconds_saved)} saved",
            "computed": f"{self.computed:,}",
        }
        odd = {
            name: f"{getattr(self, name):,}"
            for name in ("joined", "failed", "unsaved", "unkept", "damaged", "evicted", "expired", "unleased")
            if getattr(self, name)
        }
        return figures | odd | ({} if self.shared is None else {"shared": str(self.shared)})

    def __repr__(self) -> str:
        return "\n".join(_text.aligned(self._facts().items()))

    def _repr_html_(self) -> str:
        return _text.fact_table(self._facts())

    def __str__(self) -> str:
        return (
            f"cache size :{self.size // 1_000_000}MB / {self.size_limit // 1_000_000}MB, "
            f"{counted(self.entries, 'entry')}; "
            f"{counted(self.hits, 'hit')}, {self.computed:,} computed, {self.seconds_saved:.1f} s saved; "
            f"{counted(self.total.hits, 'hit')} and {self.total.seconds_saved:.1f} s saved in all"
            f"{'' if self.shared is None else f'; {self.shared}'}"
        )


class CallInfo(NamedTuple):
    """The result of `cache_info()` of a cached function, with the fields of `functools.lru_cache`."""

    hits: int
    """Calls that were answered from the cache, in this process."""
    misses: int
    """Calls whose function ran, in this process."""
    maxsize: None
    """None: a store is limited in bytes, not in entries."""
    currsize: int
    """Entries of this function in the store."""


class VersionInfo(NamedTuple):
    """The figures of the entries that one version of a function's code has."""

    fingerprint: str
    """Digest of the code and of the versions of libraries that it names; empty for entries whose key was given."""
    version: str
    """The `version` option of the function, as text."""
    entries: int
    size: int
    """Size of the entries in bytes."""
    first_seen: datetime
    """When the first run of this version began, in UTC, also if its entry was removed since."""
    last_used: datetime
    """When one was last stored or hit, in UTC."""
    commit: str
    """The git commit at which it was first seen; empty outside a repository."""

    @property
    def label(self) -> str:
        """The name that people see."""
        return code_label(self.fingerprint, self.version)

    def recency(self) -> tuple[datetime, datetime]:
        """Sort versions by their last use; of those that a table has read together, the later one was used last."""
        return self.last_used, self.first_seen

    def is_called(self, name: str) -> bool:
        """Whether a name means this version: its label, or the first digits of its fingerprint."""
        return bool(name) and (name == self.label or self.fingerprint.startswith(name))


def hidden_text(versions: Iterable[VersionInfo], shown: Collection[tuple[str, str]]) -> str:
    """Return a sentence on how many entries of other versions of the code are not shown; empty if there are none.

    >>> one = VersionInfo("3f9a2c01b2d4", "", 12, 0, datetime.now(UTC), datetime.now(UTC), "")
    >>> hidden_text([one], {("55d1", "")}), hidden_text([one], {("3f9a2c01b2d4", "")})
    ('12 entries of another version of the code are not shown', '')
    """
    others = [each for each in versions if each[:2] not in shown]
    if not others:
        return ""
    entries = sum(each.entries for each in others)
    which = "another version" if len(others) == 1 else f"{len(others):,} other versions"
    return f"{counted(entries, 'entry')} of {which} of the code {'is' if entries == 1 else 'are'} not shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionInfo:
    """The figures of one function in a store, over the entries that are in it now."""

    name: str
    """Module and qualified name."""
    entries: int
    size: int
    """Size of the entries in bytes: of the results as they are stored, and of the files that the jobs wrote."""
    hits: int
    """Hits of the entries in all processes, as far as these have reported them."""
    seconds_saved: float
    """Recorded running time of these hits, in seconds."""
    seconds: float
    """Recorded running time of the entries, in seconds."""
    last_used: datetime
    """When an entry was last stored or hit, in UTC."""
    tags: tuple[str, ...] = ()
    """The tags of the entries, sorted."""
    versions: tuple[VersionInfo, ...] = ()
    """The versions of its code that have entries, the one that was used last first."""
    failed: int = 0
    """Jobs whose latest run failed, and that have no entry."""

    def latest(self, failed: Iterable[FailedJob] = ()) -> frozenset[tuple[str, str]]:
        """Return the version that was used last, for a selection, and that of entries whose keys were given.

        Of failed jobs, the latest first, the first one counts too, unless the code was changed and succeeded since.
        """
        latest = next((each for each in self.versions if each.fingerprint), None)
        found = {("", "")} if latest is None else {("", ""), latest[:2]}
        for record in [each.record for each in failed if each.record.function == self.name][:1]:
            if latest is None or record.created > latest.first_seen:
                found.add((record.fingerprint, record.version))
        return frozenset(found)


for _public in (CacheInfo, FunctionInfo, Record):  # the package imports them on first use
    _public.__module__ = __package__


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep would do. `print` it for a sentence.

    >>> print(Plan(hits=412, misses=88, seconds=89_000.0, workers=8))
    412 hits, 88 to run, about 3.1 h on 8 workers
    """

    hits: int
    """Jobs whose results are stored."""
    misses: int
    """Jobs that would run."""
    seconds: float | None = None
    """Expected total running time of the misses, from recorded times; None if there are none."""
    workers: int | None = None
    """How many jobs run at once; None if the executor doesn't tell."""

    @property
    def duration(self) -> float | None:
        """Expected seconds until all jobs have run on the workers."""
        if self.seconds is None:
            return None
        return self.seconds / max(1, min(self.workers or 1, self.misses))

    def _repr_html_(self) -> str:
        return _text.joined(str(self))

    def __str__(self) -> str:
        text = f"{counted(self.hits, 'hit')}, {self.misses:,} to run"
        if self.duration is None or not self.misses:
            return text
        on = counted(self.workers, "worker") if self.workers is not None else "one worker"
        return f"{text}, about {roughly(self.duration)} on {on}"


Plan.__module__ = __package__  # the package imports it on first use
