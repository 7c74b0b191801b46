"""Knows what becomes of a run that has ended: it is received from its engine, made an entry, and committed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from . import _media
from ._executors import Outcome
from ._flights import Flight
from ._job import Job
from ._keys import qualified_name
from ._record import Record
from ._stores import Entry, Payload, Store, StoreFailure, dump
from ._version import VERSION

__all__ = ["Landing", "Returned", "commit", "outcome_of"]


_PYTHON: Final = sys.version.partition(" ")[0]


@dataclass(slots=True, eq=False)
class Landing:
    """A run that has ended: what came of it, where it is kept, and who waits."""

    flight: Flight
    run: Job
    store: Store
    executor: str
    outcome: Outcome

    def payload(self) -> Payload:
        """Pickle the value, unless its worker has.

        Raises:
            Exception: whatever the pickling of the value raises.
        """
        return dump(self.outcome.value) if self.outcome.payload is None else self.outcome.payload

    def entry(self, payload: Payload) -> Entry:
        """Make the entry of a value's bytes."""
        run, outcome = self.run, self.outcome
        media = run.media_folder
        return Entry(
            payload,
            Record(
                key=run.job_key,
                function=qualified_name(run.function),
                tag=run.tag,
                arguments=run.arguments,
                created=datetime.fromtimestamp(outcome.started, UTC),
                seconds=outcome.seconds,
                media=media.name if media is not None and media.is_dir() else None,
                executor=self.executor,
                host=outcome.host,
                pid=outcome.pid,
                python=_PYTHON,
                library=VERSION,
            ),
            run.bound,
            run.edition,
        )


@dataclass(frozen=True, slots=True)
class Returned:
    """A run that an engine is done with, on its way to the writer."""

    flight: Flight
    run: Job
    store: Store
    executor: str
    done: Future[Any]
    receive: Callable[[Future[Any]], Outcome]

    def is_void(self) -> bool:
        """Whether another thread has taken the job over before it began."""
        return self.flight.is_taken_over and self.done.cancelled()

    def received(self) -> Landing:
        """Say how the run ended, in this thread."""
        try:
            outcome = self.receive(self.done)
        except BaseException as error:  # noqa: BLE001 - unpickling runs code of the value's class
            outcome = Outcome(error=error)
        return Landing(self.flight, self.run, self.store, self.executor, outcome)


def commit(landings: Sequence[Landing]) -> tuple[dict[Landing, Payload], list[str]]:
    """Put the results of runs that succeeded into their stores, and remove the media of those that failed.

    Returns the values' bytes, and a sentence for each result that could not be kept.
    """
    entries: dict[Store, list[Entry]] = {}
    payloads: dict[Landing, Payload] = {}
    unsaved: list[str] = []
    for landing in landings:
        if landing.outcome.error is not None:
            if landing.run.media_folder is not None:
                _media.discard(landing.run.media_folder)
        elif landing.store.directory is not None:
            try:
                payload = payloads[landing] = landing.payload()
            except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
                unsaved.append(
                    f"The result of {landing.run!r} can't be pickled ({type(error).__name__}: {error})"
                )
            else:
                entries.setdefault(landing.store, []).append(landing.entry(payload))
    for store, group in entries.items():
        _put(store, group, unsaved)
    return payloads, unsaved


def _put(store: Store, entries: Sequence[Entry], unsaved: list[str]) -> None:
    try:
        store.put_many(entries)
    except StoreFailure as error:
        if len(entries) > 1:  # one of them may be what doesn't fit
            for entry in entries:
                _put(store, [entry], unsaved)
        else:
            unsaved.append(f"The result of {entries[0].record} can't be kept in {store.directory} ({error})")


def outcome_of(done: Future[Any]) -> Outcome:
    """Say how the job of any future that is done has ended."""
    if done.cancelled():
        return Outcome(error=CancelledError())
    error = done.exception()
    return Outcome(error=error) if error is not None else Outcome(value=done.result(), started=time.time())
