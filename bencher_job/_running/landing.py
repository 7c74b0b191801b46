"""Knows what becomes of a run that has ended: it is received from its engine, made an entry, and committed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .. import _media
from .._errors import BencherJobError
from .._executors import Outcome, told
from .._job import Job
from .._keys import qualified_name
from .._keys.files import is_unchanged
from .._keys.fingerprint import Fingerprint, libraries_in_arguments
from .._keys.hashing import WITH_CODE
from .._keys.libraries import other_versions
from .._record import Draft, Origin
from .._stores import Claim, Deposit, Entry, NullStore, Payload, Store, StoreFailure, discard, dump_result
from .._version import VERSION
from .flights import Flight, flights_of

if TYPE_CHECKING:
    from .._origin import GitState

__all__ = ["UNLOADABLE", "Keeping", "Landing", "Returned", "Run", "commit", "outcome_of"]

_log = logging.getLogger(__name__)


UNLOADABLE: Final[set[str]] = set()
"""Keys of entries that can't be unpickled here, as a warning has said, until their jobs have run again."""


class Keeping(NamedTuple):
    """How a cache keeps its results: for how many seconds, and how they are compressed."""

    ttl: float | None = None
    compression: str | None = None


class Run(NamedTuple):
    """One run of a job: who waits for it, where it runs, and where and how its result is kept."""

    flight: Flight
    job: Job
    store: Store
    keeping: Keeping
    executor: str
    git_state: GitState | None


@dataclass(slots=True, eq=False)
class Landing:
    """A run that has ended, and what came of it.

    Attributes:
        has_begun: whether it may have begun; False where it was cancelled before.
    """

    run: Run
    outcome: Outcome
    has_begun: bool = True

    @property
    def is_closed_off(self) -> bool:
        """Whether a result could not be kept because the store could not be opened."""
        store = self.run.store
        return isinstance(store, NullStore) and store.is_closed_off and self.outcome.error is None

    def payload(self) -> Payload:
        """Pickle the value, unless its worker has.

        Raises:
            Exception: whatever the pickling of the value raises.
        """
        given = self.outcome.payload
        return dump_result(self.outcome.value, self.run.job.function) if given is None else given

    def written(self) -> Deposit | None:
        """Give the file that the worker has written, if it has, and nobody has removed it meanwhile."""
        deposit, depository = self.outcome.deposit, self.run.job.depository
        is_there = deposit is not None and depository is not None and depository.has(deposit)
        return deposit if is_there else None

    def discard_written(self) -> None:
        """Remove the file that the worker has written, if it has."""
        deposit, depository = self.outcome.deposit, self.run.job.depository
        if deposit is not None and depository is not None:
            depository.discard(deposit)

    def pickled_for_all(self) -> Payload | None:
        """Pickle the value of which several get copies; None where it can't be, and they share it."""
        try:
            return self.payload()
        except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
            _log.warning(
                "the value of %r can't be copied, so all who asked share it: %s", self.run.job, error
            )
            return None

    def entry(self, payload: Payload | Deposit) -> Entry:
        """Make the entry of a value's bytes, or of the file that has them."""
        run, outcome = self.run, self.outcome
        job, state, ttl = run.job, run.git_state, run.keeping.ttl
        media, place = job.media_folder if outcome.may_have_files else None, outcome.place
        origin = Origin(
            run.executor,
            place.host,
            place.pid,
            place.python,
            VERSION,
            place.platform,
            "" if state is None else state.commit,
            None if state is None else state.is_dirty,
        )
        return Entry(
            payload,
            Draft(
                job.job_key,
                qualified_name(job.function) if job.edition is None else job.edition.function,
                job.tag,
                job.arguments,
                outcome.started,
                outcome.seconds,
                os.path.basename(media) if media is not None and os.access(media, os.F_OK) else None,
                origin,
            ),
            job.bound,
            job.edition,
            run.flight.claim,
            run.keeping.compression,
            None if ttl is None else time.time() + ttl,
            attributes=None if job.keys is None else job.keys.attributes(job.job_key),
        )


class Returned(NamedTuple):
    """A run that an engine is done with, on its way to the writer."""

    run: Run
    done: Future[Any]
    receive: Callable[[Future[Any]], Outcome]

    def is_void(self) -> bool:
        """Whether another thread has taken the job over before it began."""
        return self.run.flight.is_taken_over and self.done.cancelled()

    def received(self) -> Landing:
        """Say how the run ended, in this thread."""
        try:
            outcome, was_cancelled = self.receive(self.done), self.done.cancelled()
        except BaseException as error:  # noqa: BLE001 - unpickling runs code of the value's class
            outcome, was_cancelled = Outcome(error=error), False
        return Landing(self.run, outcome, has_begun=not was_cancelled)


def commit(landings: Sequence[Landing]) -> tuple[dict[Landing, Payload], list[str]]:
    """Put the results of runs that succeeded into their stores, and remove the media of those that failed.

    The claims of all are given back. Returns the bytes of values that no worker has written, and a sentence for each
    result that could not be kept; it is empty where the same was said of another one.
    """
    entries: dict[Store, list[Entry]] = {}
    payloads: dict[Landing, Payload] = {}
    unsaved: list[str] = []
    for landing in landings:
        run = landing.run
        UNLOADABLE.discard(run.job.job_key)
        if landing.outcome.error is not None:
            _fail(run, landing.outcome.error)
        elif run.store.directory is not None:
            job = run.job
            changed = _changed(job) if job.has_changed or job.files else None
            if changed is None:
                changed = _of_another_library(job, landing.outcome)
            if changed is not None:
                unsaved.append(changed)
                landing.discard_written()
                _give_back(run.store, run.flight.claim)
                continue
            try:
                written = None if landing.outcome.deposit is None else landing.written()
                if written is None:
                    payloads[landing] = landing.payload()
            except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
                unsaved.append(
                    f"The result of {run.job!r} can't be pickled ({type(error).__name__}: {error})"
                )
                _give_back(run.store, run.flight.claim)
            else:
                entry = landing.entry(payloads[landing] if written is None else written)
                entries.setdefault(run.store, []).append(entry)
    for store, group in entries.items():
        _put(store, group, unsaved)
    return payloads, unsaved


def _changed(job: Job) -> str | None:
    """Say what has changed since the key of a job was made, so that its result is that of another job."""
    if job.has_changed:
        return (
            f"An argument of {job!r} was changed after the call and before the job began, so it ran with the new "
            f"value, and its result is not kept under the key of the old one. Give each call objects of its own"
        )
    for value, then in job.files:
        if not is_unchanged(value, then):
            return f"{job!r} counts {value} by content, which has changed meanwhile"
    return None


_said: set[str] = set()
"""What was said of the libraries of functions, once in this process."""


def _of_another_library(job: Job, outcome: Outcome) -> str | None:
    """Say why nobody knows that a result is of the versions in its key; nothing where that was said before."""
    libraries = {} if job.edition is None else _libraries_of(job, job.edition.fingerprint)
    if not (outcome.other_versions or libraries):
        return None
    name = qualified_name(job.function)
    if others := outcome.other_versions:
        those = ", ".join(f"{each} {there} instead of {ours}" for each, ours, there in others)
        said = f"The result of {name} is not kept: a worker has {those}. Install the same versions there"
    elif others := other_versions(libraries):
        those = ", ".join(each for each, _, _ in others)
        versions = ", ".join(f"{then} is in the key, and here is {here}" for _, then, here in others)
        said = (
            f"The result of {name} is not kept: {those} was installed, upgraded or removed after this process started, "
            f"which may have loaded another version ({versions}). Start it again"
        )
    else:
        return None
    if said in _said:
        _log.info("%r: %s", job, said)
        return ""
    _said.add(said)
    return said


def _libraries_of(job: Job, fingerprint: Fingerprint) -> Mapping[str, str]:
    if fingerprint.counts_all and job.bound.startswith(WITH_CODE):
        return {**fingerprint.libraries, **libraries_in_arguments()}
    return fingerprint.libraries


def _fail(run: Run, error: BaseException) -> None:
    """Remove the media of a run that failed, and tell those who wait for it in other processes.

    Only the function's own exceptions are theirs as well. When this process was interrupted, or lost its worker, one of
    them runs the job.
    """
    if run.job.media_folder is not None:
        _media.discard(run.job.media_folder)
    is_its_own = isinstance(error, Exception) and not isinstance(error, BencherJobError | CancelledError)
    flights, store, claim = flights_of(run.store), run.store, run.flight.claim
    if is_its_own and claim is not None and store.claims.is_waited_for(claim):
        from .._executors.raised import dump_error  # takes long to import

        if flights.take_claim(run.flight) is not None:
            store.publish_failure(claim, dump_error(error, for_same_program=True))
    flights.give_back_claim(run.flight, lambda given_back: _give_back(store, given_back))


def _give_back(store: Store, claim: Claim | None) -> None:
    if claim is not None:
        store.claims.release([claim])


def _put(store: Store, entries: Sequence[Entry], unsaved: list[str]) -> None:
    try:
        store.put_many(entries)
    except Exception as error:  # noqa: BLE001 - whatever a store raises, those who wait get their values
        if not isinstance(error, StoreFailure):
            _log.warning("a store has failed", exc_info=True)
        if len(entries) > 1:  # one of them may be what doesn't fit
            for entry in entries:
                _put(store, [entry], unsaved)
        else:
            (entry,) = entries
            unsaved.append(
                f"The result of {entry.record} can't be kept in {store.directory} ({_told(error)})"
            )
            if isinstance(entry.payload, Deposit) and store.directory is not None:
                discard(store.directory, entry.payload)
            _give_back(store, entry.claim)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, StoreFailure) else told(error)


def outcome_of(done: Future[Any]) -> Outcome:
    """Say how the job of any future that is done has ended."""
    if done.cancelled():
        return Outcome(error=CancelledError())
    error = done.exception()
    return Outcome(error=error) if error is not None else Outcome(value=done.result(), started=time.time())
