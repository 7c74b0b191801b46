"""A store in a dict, its own history, which passes the whole contract of stores."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from bencher_job import _stores as st
from bencher_job._keys import StoredFunctionVersion
from bencher_job._processes import this_process
from bencher_job._query import ArgumentColumn, EntryInfo, Query
from bencher_job._record import (
    EVERYTHING,
    FailedJob,
    Figures,
    FunctionInfo,
    Record,
    Selection,
    Totals,
    VersionInfo,
)
from bencher_job._stores.base import SURE_FOR, Items


class DictLeases:
    def __init__(self, store: DictStore) -> None:
        self._store = store
        self.held: dict[str, st.Lease] = {}
        self.failures: dict[int, bytes | None] = {}  # None for a lease that is waited for

    def acquire(self, leases: Sequence[st.Lease]) -> None:
        for lease in leases:
            lease.held = self.held.setdefault(lease.key, lease) is lease
            lease.has_entry = self._store.has(lease.key)

    def taken(self, keys: Collection[str]) -> set[str]:
        return self.held.keys() & keys

    def running(self) -> list[st.LeaseInfo]:
        held = self.held.values()
        return [st.LeaseInfo(each.key, this_process(), 0.0, each.function, each.arguments) for each in held]

    def wait(self, lease: st.Lease) -> DictWait:
        return DictWait(self, lease.key)

    def release(self, leases: Iterable[st.Lease]) -> None:
        for lease in leases:
            if self.held.get(lease.key) is lease:
                del self.held[lease.key]
            lease.held = False

    def fail(
        self, lease: st.Lease, dump: Callable[[], bytes] | None, failed: FailedJob | None = None
    ) -> None:
        if dump and lease.number in self.failures:
            self.failures[lease.number] = dump()
        if failed and not self._store.has(lease.key):
            self._store._failed[lease.key] = failed
        self.release([lease])


class DictWait:
    def __init__(self, leases: DictLeases, key: str) -> None:
        self._leases, self._key, self._number, self.owner = leases, key, 0, this_process()

    def look(self) -> Literal["running", "free"] | bytes:
        holder = self._leases.held.get(self._key)
        if holder is None:
            return self._leases.failures.get(self._number) or "free"
        self._number = holder.number
        self._leases.failures.setdefault(self._number)
        return "running"


class DictStore(Items):
    keeps, folder = True, None

    def __init__(self) -> None:
        self.tally, self.leases, self.history = st.Tally(), DictLeases(self), self
        self._lock = threading.RLock()
        self._values: dict[str, st.Payload] = {}
        self._infos: dict[str, EntryInfo] = {}
        self._entries: dict[str, st.Entry] = {}
        self._gone: dict[str, st.Gone] = {}
        self._versions: dict[bytes, StoredFunctionVersion] = {}
        self._failed: dict[str, FailedJob] = {}
        self._changes = self._puts = self._misses = 0
        self._uses: list[st.Use] = []

    def get(self, key: str, mapped: bool = False) -> st.Hit | st.Miss:
        return self.get_many([key], mapped).get(key, st.MISS)

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> st.Hits:
        found = st.Hits()
        with self._lock:
            for info in self.infos([*dict.fromkeys(keys)]):
                key, seconds = info.record.key, info.record.seconds
                value = self._values[key]
                if largest is None or value.nbytes <= largest:
                    parts = value.stream, tuple(map(bytearray, value.buffers))
                    found.others[key] = st.Hit(*parts, seconds, info.record.created.timestamp())
                    self.count_uses([st.Use(key, 1, time.time(), seconds)] if counts else [])
        return found

    def put_many(self, entries: Sequence[st.Entry]) -> Mapping[str, st.Hit | st.Miss]:
        with self._lock:
            held = {id(lease) for lease in self.leases.held.values()}
            lost = {each.record.key: st.MISS for each in entries if each.lease and id(each.lease) not in held}
            for entry in (each for each in entries if each.record.key not in lost):
                key, stored, payload = entry.record.key, entry.version, entry.payload
                assert isinstance(payload, st.Payload)
                self.remove([key] if key in self._values or key in self._failed else [], "cleared")
                self._values[key] = st.Payload(bytes(payload.stream), tuple(map(bytes, payload.buffers)))
                self._infos[key], self._entries[key] = entry.info(payload.nbytes, time.time()), entry
                self._versions |= {stored.prefix: stored} if stored else {}
                self._misses += not entry.is_copy
                self.leases.release([entry.lease] if entry.lease else [])
            self._puts += 1
            return lost

    def remove(self, keys: Iterable[str], reason: st.Reason = "forgotten") -> int:
        with self._lock:
            keys = dict.fromkeys(keys)
            self._failed = {key: job for key, job in self._failed.items() if key not in keys}
            gone = [key for key in keys if key in self._infos]
            self._changes += bool(gone)
            time.sleep(SURE_FOR)
            for key in gone:
                del self._infos[key], self._entries[key], self._values[key]
                self._gone[key] = st.Gone(reason, datetime.now(UTC))
            return len(gone)

    def clear(self, selection: Selection = EVERYTHING) -> int:
        chosen = [*self.records(selection), *(each.record for each in self.failures(selection))]
        return self.remove([record.key for record in chosen], "cleared")

    def count_uses(self, uses: Sequence[st.Use]) -> None:
        for use in uses:
            self._uses.append(use)
            if info := self._infos.get(use.key):
                self._infos[use.key] = replace(info, hits=info.hits + use.hits, used=max(use.at, info.used))

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        return {info.record.key: info.record.seconds for info in self.infos([*keys])}

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        found = [info.record for info in self.infos([*self._infos]) if selection.matches(info.record)]
        return iter(sorted(found, key=lambda record: record.created)[-latest if latest else 0 :])

    def functions(self) -> list[FunctionInfo]:
        return functions_of(self.infos([*self._infos]), self._failed.values())

    def figures(self) -> Figures:
        sizes = [value.nbytes for value in self._values.values()]
        saved = sum(use.hits * use.seconds for use in self._uses)
        return Figures(
            len(sizes), sum(sizes), Totals(sum(use.hits for use in self._uses), self._misses, saved)
        )

    def blob_writer(self, compression: str | None) -> None: ...

    def changed_since(self, mark: object) -> object:
        return None if mark == self._changes else self._changes

    def close(self) -> None: ...

    def examine(self, key: str) -> st.Found | st.Gone | None:
        return st.Found(self._infos[key].record) if key in self._infos else self._gone.get(key)

    def infos(self, keys: Sequence[str]) -> list[EntryInfo]:
        return [self._infos[key] for key in keys if key in self._infos]

    def find(self, query: Query) -> list[str]:
        return query.select(self.infos([*self._infos]))

    def columns(self, function: str) -> list[ArgumentColumn]:
        return argument_columns(self.records(Selection(function=function)))

    def keys(self, prefix: str, limit: int, *, removed: bool = False) -> list[str]:
        return sorted(key for key in (self._gone if removed else self._infos) if key.startswith(prefix))[
            :limit
        ]

    def removed(self) -> dict[str, int]:
        return dict(Counter(gone.reason for gone in self._gone.values()))

    def versions(self, function: str, *, unused: bool = False) -> list[StoredFunctionVersion]:
        prefixes = [keyed.prefix for keyed in self.of_version(function)] + [*self._versions] * unused
        known = (self._versions[prefix] for prefix in dict.fromkeys(prefixes))
        return [version for version in known if version.function == function]

    def of_version(self, function: str, *, limit: int | None = None, **chosen: Any) -> Iterator[st.Keyed]:
        found: list[st.Keyed] = []
        for record in self.records(Selection(function=function)):
            entry = self._entries[record.key]
            if version := entry.version:
                found[:0] = [st.Keyed(version.prefix, entry.bound, entry.attributes or {}, record)]
        wanted = {name: value for name, value in chosen.items() if value is not None}
        return iter(
            [each for each in found if all(getattr(each, name) == wanted[name] for name in wanted)][:limit]
        )

    def failures(self, selection: Selection = EVERYTHING) -> list[FailedJob]:
        found = [each for each in self._failed.values() if selection.matches(each.record)]
        return sorted(found, key=lambda each: each.record.created, reverse=True)

    def stamp(self) -> str:
        return f"{self._puts} {self._changes} {len(self._uses)} {len(self._failed)}"


def argument_columns(records: Iterable[Record]) -> list[ArgumentColumn]:
    """Return the arguments of some records."""
    cells: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.arguments.items():
            cells.setdefault(name, []).append(value)
    return [
        ArgumentColumn(
            name, len(values), sum(isinstance(value, int | float) for value in values), len({*values})
        )
        for name, values in cells.items()
    ]


def functions_of(infos: Iterable[EntryInfo], failed: Iterable[FailedJob] = ()) -> list[FunctionInfo]:
    """Return the figures of the functions of some entries and failed jobs, sorted by name."""
    by_name: dict[str, list[EntryInfo]] = {}
    for info in infos:
        by_name.setdefault(info.record.function, []).append(info)
    failures: dict[str, list[float]] = {}
    for job in failed:
        by_name.setdefault(job.record.function, [])
        failures.setdefault(job.record.function, []).append(job.record.created.timestamp())
    return [
        FunctionInfo(
            name=name,
            entries=len(of_name),
            size=sum(info.record.size for info in of_name),
            hits=sum(info.hits for info in of_name),
            seconds_saved=sum(info.hits * info.record.seconds for info in of_name),
            seconds=sum(info.record.seconds for info in of_name),
            last_used=datetime.fromtimestamp(max([info.used for info in of_name] or failures[name]), UTC),
            tags=tuple(sorted({info.record.tag for info in of_name} - {""})),
            versions=_versions_of(of_name),
            failed=len(failures.get(name, ())),
        )
        for name, of_name in sorted(by_name.items())
    ]


def _versions_of(infos: Iterable[EntryInfo]) -> tuple[VersionInfo, ...]:
    by_version: dict[tuple[str, str], list[EntryInfo]] = {}
    for info in sorted(infos, key=lambda info: info.record.created):
        by_version.setdefault((info.record.fingerprint, info.record.version), []).append(info)
    found = [
        VersionInfo(
            *version,
            len(some),
            sum(info.record.size for info in some),
            some[0].record.created,
            datetime.fromtimestamp(max(info.used for info in some), UTC),
            some[0].record.commit,
        )
        for version, some in by_version.items()
    ]
    return tuple(sorted(found, key=VersionInfo.recency, reverse=True))
