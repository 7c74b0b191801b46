"""Receive the results of finished runs, commit them, and count what happened.

    engine's thread: put(run) -> queue -> commit thread: receive all that are there, commit them together, resolve

To receive a result is to unpickle it. That runs code of the value's class, and may hang. Then another thread goes on
with the other results.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import _media
from .._errors import BencherJobError
from .._executors import LARGEST_SENT, Outcome, error_text, write_files
from .._job import Job
from .._keys import qualified_name
from .._keys.files import is_unchanged
from .._keys.fingerprint import libraries_in_arguments
from .._keys.hashing import WITH_CODE
from .._keys.libraries import other_versions
from .._options import StoreOptions, required_parameters
from .._processes import renew_after_fork
from .._record import Draft, FailedJob, Origin, shown_arguments
from .._stores import (
    Blob,
    Entry,
    Hit,
    NullStore,
    Payload,
    Store,
    StoreFailure,
    discard,
    dump_result,
)
from .._text import printable, size_text
from .._timer import timer
from .._version import VERSION
from .running import RunningJob

if TYPE_CHECKING:
    from .._origin import GitState
    from .coordinator import Coordinator


MOST_HITS_KEPT: Final = 1000
"""How many hits are counted one by one before they are added up."""


class _Counters:
    def __init__(self) -> None:
        self.submitted = self.hits = self.joined = self.computed = 0
        self.retried = self.failed = self.unsaved = self.unkept = 0
        self.seconds_saved = 0.0


class Counts:
    """The figures of one cache, counted in any thread.

    Attributes:
        seconds_of_hits: how long the function of each hit had run, for hits that are not added up yet.
    """

    def __init__(self) -> None:
        self._figures = _Counters()
        self.seconds_of_hits: deque[float] = deque()  # appending takes no lock
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock in a forked child."""
        self._reentrant = threading.RLock()

    @property
    def now(self) -> _Counters:
        """The current figures."""
        self.add_up()
        return self._figures

    def add(self, **numbers: int) -> None:
        """Add to figures: `submitted`, `joined`, `computed`, `retried`, `failed`, `unsaved`, `unkept`."""
        with self._reentrant:
            figures = vars(self._figures)
            for name, number in numbers.items():
                figures[name] += number

    def hit(self, *seconds: float) -> None:
        """Count jobs that were answered from the store, by how long their functions had run."""
        with self._reentrant:
            figures = self._figures
            figures.seconds_saved += sum(seconds)
            figures.hits += len(seconds)
            figures.submitted += len(seconds)

    def add_up(self) -> None:
        """Add up the hits that were counted one by one."""
        hits = self.seconds_of_hits
        with self._reentrant:
            figures = self._figures
            for _ in range(len(hits)):
                try:
                    seconds = hits.popleft()
                except IndexError:  # a hit in a signal handler has added up the rest
                    return
                figures.seconds_saved += seconds
                figures.hits += 1
                figures.submitted += 1

    def clear(self) -> None:
        """Reset all figures."""
        with self._reentrant:
            self.seconds_of_hits.clear()
            self._figures = _Counters()

    def as_dict(self) -> dict[str, float]:
        """Return all figures by name, as of one moment."""
        with self._reentrant:
            self.add_up()
            return dict(vars(self._figures))


NOT_ENDED: Final = Outcome()


@dataclass(slots=True, eq=False)
class Run:
    """One attempt to run a job, in this thread or on an engine.

    An engine that acquires leases when a worker is free asks `begin` before it runs the job.
    """

    coordinator: Coordinator
    running: RunningJob
    job: Job
    executor: str
    git_state: GitState | None
    outcome: Outcome = NOT_ENDED
    """How it ended, once it has."""
    payload: Payload | None = None
    """The pickled value, once it is committed and unless a worker has written it."""
    is_withdrawn: bool = False
    """Whether another process runs the job instead, so that the end of this run doesn't count."""
    is_taken_over: bool = False
    """Whether another thread runs it, if this run is cancelled in time."""
    attempts_before: int = field(init=False)
    """How many attempts had been made, as many as there are again if this one doesn't begin."""

    def __post_init__(self) -> None:
        self.attempts_before = self.running.attempt

    def begin(self, runs: Sequence[Run]) -> list[bool]:
        """Acquire the leases of jobs that begin together. Return for each whether it is to run here."""
        return self.coordinator.begin(runs)

    def step_back(self, runs: Sequence[Run]) -> None:
        """Release the leases of jobs that have not begun after all, so that other processes can run them."""
        for run in runs:
            run.running.release()

    def receive(self, done: Future[Any], receive: Callable[[Future[Any]], Outcome]) -> Outcome | None:
        """Receive the outcome of an engine's future, in this thread; None if the run was withdrawn."""
        try:
            if self.is_withdrawn or (self.is_taken_over and done.cancelled()):
                return None
            return receive(done)
        except BaseException as error:  # noqa: BLE001 - unpickling runs code of the value's class
            return Outcome(error=error)

    def written(self) -> Blob | None:
        """Return the value file that the worker has written, if it is still there."""
        blob, blob_writer = self.outcome.blob, self.job.blob_writer
        is_there = blob is not None and blob_writer is not None and blob_writer.has(blob)
        return blob if is_there else None

    def discard_written(self, outcome: Outcome) -> None:
        """Remove the value file that the worker has written, if any."""
        if outcome.blob is not None and self.job.blob_writer is not None:
            self.job.blob_writer.discard(outcome.blob)

    def pickled(self) -> Payload:
        """Pickle the value, unless the worker has."""
        return self.outcome.payload or dump_result(self.outcome.value, self.job.function)

    def pickled_for_all(self) -> Payload | None:
        """Pickle the value to copy it for several callers; None if it can't be pickled, and they share it."""
        try:
            return self.pickled()
        except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
            _log.warning("the value of %r can't be copied, so its callers share it: %s", self.job, error)
            return None

    def draft(self) -> Draft:
        """Make the record of the run."""
        job, outcome, state = self.job, self.outcome, self.git_state
        media, place = job.media_folder if outcome.may_have_files else None, outcome.place
        origin = Origin(
            self.executor,
            place.host,
            place.pid,
            place.python,
            VERSION,
            place.platform,
            "" if state is None else state.commit,
            None if state is None else state.is_dirty,
        )
        return Draft(
            job.job_key,
            job.function_name,
            job.tag,
            job.arguments,
            outcome.started,
            outcome.seconds,
            os.path.basename(media) if media is not None and os.access(media, os.F_OK) else None,
            origin,
        )

    def entry(self, payload: Payload | Blob, options: StoreOptions) -> Entry:
        """Make the entry of a pickled value, or of the file that holds it."""
        job, lease = self.job, self.running.lease
        return Entry(
            payload,
            self.draft(),
            job.bound,
            job.function_version,
            lease if lease is not None and lease.held else None,
            options.compression,
            None if options.ttl is None else time.time() + options.ttl,
            attributes=None if job.keys is None else job.keys.attributes.get(job.job_key),
            replaces=self.running.replaces,
        )

    def failed(self, error: BaseException) -> FailedJob:
        """Return what is known of the run, and how it failed."""
        import traceback  # slow to import

        draft, version = self.draft(), self.job.function_version
        record = replace(
            draft._replace(created=draft.created or time.time()).finished(),
            arguments=shown_arguments(draft.arguments),
            fingerprint="" if version is None else version.fingerprint.digest.hex(),
            version="" if version is None else version.version,
        )
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename.startswith(LIBRARY):
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
        return FailedJob(record, error_text(error)[:LONGEST_ERROR], printable(text)[-LONGEST_TRACEBACK:])


LIBRARY: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
"""Where the frames are that lead to the function's own."""

LONGEST_ERROR: Final = 2_000
LONGEST_TRACEBACK: Final = 50_000
"""How many characters of an error's message, and of the end of a traceback, are kept of a failed job."""

LARGEST_BATCH: Final = 256
"""Maximum number of results that are committed together."""

PATIENCE: Final = 0.5
"""Seconds that receiving one result may take before another thread goes on with the others."""

Receive = Callable[[], Outcome | None]
_Queue = queue.SimpleQueue["tuple[CommitThread, Run, Receive] | None"]


class CommitThread:
    """Receives and commits finished runs of one cache, many at a time, in a thread of its own.

    `commit` gets runs with their outcomes, and `withdrawn` each run that does not count. `give_up` is asked about a run
    whose result has been received for so many seconds. It returns the outcome to commit in its place, or None to wait
    on. What is received later is dropped. Its threads are in `resolving` while they resolve futures.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Run]], None],
        withdrawn: Callable[[Run], None],
        give_up: Callable[[Run, float], Outcome | None],
        resolving: set[int],
        name: str,
    ) -> None:
        self._commit = commit
        self._withdrawn = withdrawn
        self._give_up = give_up
        self._resolving = resolving
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the threads, which a forked child doesn't have."""
        self._lock = threading.RLock()
        self._receiving: dict[Run, tuple[int, float]] = {}  # the thread that receives a run, and since when
        self._received: deque[Run] = deque()
        self._left: set[int] = set()
        self._is_watched = False
        self._items: _Queue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._end: weakref.finalize[..., CommitThread] | None = None

    def start(self) -> None:
        """Start the thread unless it runs, and that of the timer with it.

        Call this before `put`: no thread can start while the program ends.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                timer.start()
                self._thread = self._started(None)
                self._end = weakref.finalize(self, self._items.put, None)
                self._end.atexit = False

    def _started(self, owner: CommitThread | None) -> threading.Thread:
        thread = threading.Thread(target=_serve, args=(self._items, owner), name=self._name, daemon=True)
        thread.start()
        return thread

    def put(self, run: Run, receive: Receive) -> None:
        """Hand over a finished run. `receive` returns its outcome, or None if the run was withdrawn."""
        with self._lock:
            self._items.put((self, run, receive))
            with suppress(RuntimeError):  # the program ends
                self.start()

    def close(self) -> None:
        """Wait until all that was handed over is committed, and end the thread."""
        with self._lock:
            items, self._items = (
                self._items,
                queue.SimpleQueue(),
            )  # first, so that Ctrl-C leaves a queue that works
            thread, self._thread = self._thread, None
            items.put(None)
            if self._end is not None:
                self._end.detach()
        if thread is not None and threading.get_ident() not in self._resolving:
            thread.join()

    def handle(self, items: _Queue, item: tuple[CommitThread, Run, Receive] | None) -> bool:
        """Receive a finished run and all that follow, and commit what is received. Return whether to go on serving."""
        thread = threading.get_ident()
        self._resolving.add(thread)
        try:
            while item is not None:
                self._receive(thread, *item[1:])
                item = None if len(self._received) >= LARGEST_BATCH else _next(items)
            received = []
            with suppress(IndexError):
                while True:
                    received.append(self._received.popleft())
            if received:
                self._commit(received)
        finally:
            self._resolving.discard(thread)
        is_left = thread in self._left
        self._left.discard(thread)
        return not is_left

    def _receive(self, thread: int, run: Run, receive: Receive) -> None:
        self._receiving[run] = thread, time.monotonic()
        with self._lock:
            is_watched, self._is_watched = self._is_watched, True
        if not is_watched:
            timer.add(PATIENCE, self._look)
        outcome = receive()
        is_given_up = self._receiving.pop(run, None) is None
        if outcome is None:
            self._withdrawn(run)
        elif is_given_up:
            run.discard_written(outcome)
        else:
            run.outcome = outcome
            self._received.append(run)

    def _look(self) -> None:
        """Let other threads continue while one receives a long result."""
        with self._lock:
            now = time.monotonic()
            for run, (thread, since) in list(self._receiving.items()):
                if now - since < PATIENCE:
                    continue
                if thread not in self._left:
                    self._left.add(thread)
                    self._thread = self._started(self)
                instead = self._give_up(run, now - since)
                if instead is not None and self._receiving.pop(run, None) is not None:
                    self._items.put((self, run, partial(_given, instead)))
            self._is_watched = bool(self._receiving)
        if self._is_watched:
            timer.add(PATIENCE, self._look)


def _given(outcome: Outcome) -> Outcome:
    return outcome


def _serve(items: _Queue, owner: CommitThread | None) -> None:
    """Handle what another thread has left, and then what arrives in a queue, until its end.

    An idle thread refers only to the queue, and keeps no cache alive.
    """
    goes_on = owner is None or owner.handle(items, None)
    owner = None
    while goes_on and (item := items.get()) is not None:
        goes_on = item[0].handle(items, item)
        item = None
    if goes_on:
        items.put(None)  # for a second thread, which Ctrl-C may have left while the first one started


def _next(items: _Queue) -> tuple[CommitThread, Run, Receive] | None:
    """Return the next item that is there, or None."""
    try:
        item = items.get_nowait()
    except queue.Empty:
        return None
    if item is None:
        items.put(None)
    return item


_log = logging.getLogger(__name__)


UNLOADABLE: Final[set[str]] = set()
"""Keys of entries that can't be unpickled here, as a warning has said, until their jobs have run again."""


def commit(runs: Sequence[Run], options: StoreOptions) -> tuple[list[str], dict[str, Hit]]:
    """Store the results of runs that succeeded, and remove the media of those that failed. Release all leases.

    Returns a sentence for each result that could not be stored, which is empty if the same was said before, and the
    results of other machines that were stored first, by key.
    """
    entries: dict[Store, list[Entry]] = {}
    unsaved: list[str] = []
    winners: dict[str, Hit] = {}
    for run in runs:
        outcome, store = run.outcome, run.running.store
        UNLOADABLE.discard(run.job.job_key)
        if outcome.error is not None:
            _fail(run, outcome.error)
        elif store.keeps:
            if (entry := _entry_of(run, outcome, options, unsaved)) is not None:
                entries.setdefault(store, []).append(entry)
            else:
                run.discard_written(outcome)
                run.running.release()
        elif isinstance(store, NullStore) and store.is_closed_off:
            unsaved.append("")  # a warning has said that it can't be opened
    for store, group in entries.items():
        _put(store, group, unsaved, winners)
    return unsaved, winners


def _entry_of(run: Run, outcome: Outcome, options: StoreOptions, unsaved: list[str]) -> Entry | None:
    """Make the entry of a run, or say in `unsaved` why there is none."""
    if options.keep is not None and not _is_kept(options.keep, run, options, unsaved):
        return None
    refusal = _refusal(run.job, outcome)
    if refusal is None:
        try:
            written = None if outcome.blob is None else run.written()
            if written is None:
                run.payload = run.pickled()
            return run.entry(run.payload or written, options)  # type: ignore[arg-type]  # one of them is there
        except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
            refusal = f"The result of {run.job!r} can't be pickled ({type(error).__name__}: {error})"
    unsaved.append(refusal)
    return None


def _is_kept(keep: Callable[..., object], run: Run, options: StoreOptions, unsaved: list[str]) -> bool:
    """Whether `keep` accepts a result. One that it refuses is counted; if it raises, that is said in `unsaved`."""
    value = run.outcome.value
    try:
        if required_parameters(keep) < 2:
            is_kept = bool(keep(value))
        else:
            is_kept = bool(keep(value, run.entry(Payload(b"", ()), options).info(0, 0.0).record))
    except Exception as error:  # noqa: BLE001 - the caller's own function
        unsaved.append(f"keep={keep!r} failed on the result of {run.job!r} ({error_text(error)})")
        return False
    if not is_kept:
        _log.info("keep refuses the result of %r, so it is not stored", run.job)
        run.coordinator.counts.add(unkept=1)
    return is_kept


def _refusal(job: Job, outcome: Outcome) -> str | None:
    """Return why a result can't be stored under its key: None if it can, empty if it was reported before."""
    if job.has_changed:
        return (
            f"An argument of {job!r} was changed after the call and before the job began, so it ran with the new "
            f"value, and its result is not kept under the key of the old one. Give each call objects of its own"
        )
    for value, then in job.files:
        if not is_unchanged(value, then):
            return f"{job!r} counts {value} by content, which has changed since the call"
    fingerprint = None if job.function_version is None else job.function_version.fingerprint
    if outcome.other_versions or (
        fingerprint is not None and (fingerprint.libraries or job.bound.startswith(WITH_CODE))
    ):
        refusal = _of_another_library(job, outcome)
        if refusal is not None:
            return refusal
    return _bring_files(job, outcome) if outcome.files != () else None


def _bring_files(job: Job, outcome: Outcome) -> str | None:
    """Write the files that a worker on another machine has sent. Return why that failed, or None."""
    if job.media_folder is None:
        return None
    if outcome.files is None:
        if os.access(job.media_folder, os.F_OK):
            return None
        return (
            f"{job!r} wrote more than {size_text(LARGEST_SENT)} of files on {outcome.place.host}, which this process "
            "can't see. Put the cache directory on a file system that its workers mount"
        )
    try:
        write_files(Path(job.media_folder), outcome.files)
    except (ValueError, OSError) as error:
        return f"The files of {job!r} can't be written ({error})"
    return None


_said: set[str] = set()
"""Sentences about libraries of functions, each of which is said once in a process."""


def _of_another_library(job: Job, outcome: Outcome) -> str | None:
    """Return a warning on libraries of other versions than the key's, or None; empty if it was given before."""
    libraries: Mapping[str, str] = {}
    if job.function_version is not None:
        fingerprint = job.function_version.fingerprint
        libraries = fingerprint.libraries
        if fingerprint.counts_all and job.bound.startswith(WITH_CODE):
            libraries = {**libraries, **libraries_in_arguments()}
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


def _fail(run: Run, error: BaseException) -> None:
    """Remove the media of a run that failed, list the failure, and pass the function's own exception on to waiters.

    If this process was interrupted, or lost its worker, one of the waiters in other processes runs the job instead.
    """
    if run.job.media_folder is not None:
        _media.discard(run.job.media_folder)
    store, lease = run.running.store, run.running.lease
    has_failed = isinstance(error, Exception) and not isinstance(error, CancelledError)
    failed = run.failed(error) if has_failed and store.keeps else None
    if lease is not None:
        is_its_own = lease.held and has_failed and not isinstance(error, BencherJobError)
        store.leases.fail(lease, partial(_dumped, error) if is_its_own else None, failed)
        if isinstance(error, CancelledError):
            run.running.jobs.acquire_after(run.running)


def _dumped(error: BaseException) -> bytes:
    from .._executors.pickling import dump_error  # slow to import

    return dump_error(error, for_same_program=True)


def _put(store: Store, entries: Sequence[Entry], unsaved: list[str], winners: dict[str, Hit]) -> None:
    try:
        others = store.put_many(entries)
        if others:
            winners.update((key, hit) for key, hit in others.items() if isinstance(hit, Hit))
    except Exception as error:  # noqa: BLE001 - whatever a store raises, callers get their values
        if not isinstance(error, StoreFailure):
            _log.warning("a store has failed", exc_info=True)
        if len(entries) > 1:  # perhaps only one of them doesn't fit
            for entry in entries:
                _put(store, [entry], unsaved, winners)
        else:
            (entry,) = entries
            reason = str(error) if isinstance(error, StoreFailure) else error_text(error)
            unsaved.append(
                f"The result of {entry.record} can't be kept in {store.folder or 'its store'} ({reason})"
            )
            if isinstance(entry.payload, Blob) and store.folder is not None:
                discard(store.folder, entry.payload)
            if entry.lease is not None:
                store.leases.release([entry.lease])
