"""The courier: pushes the outbox of a local store, and brings what others have removed or replaced.

    outbox -> entries, and before them what they refer to -> the remote -> stored: the row of the outbox is removed
                                                                        -> another was first: its result replaces ours

It is a thread of its own, which also commits copies. What one process leaves undone the next one does.

A circuit breaker asks nothing of a remote that has just failed:

    closed --failed--> open for 1, 2, 4 ... 30 s --pause is over--> the courier asks --worked--> closed
                          ^-------------------------------failed----------'
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from .._errors import warn_caller
from .._processes import renew_after_fork
from .._stores.base import Hit, Miss, StoreFailure
from .base import Remote, Unreachable, chunks, entry_address, source_address
from .entry import Packed, keys_at, pack, pack_sources

if TYPE_CHECKING:
    from .._stores.outbox import Outbox, Pending
    from .tier import SharedStore


FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0

AT_ONCE: Final = 256
"""How many rows of the outbox are pushed together, as far as their entries are small."""

BYTES_AT_ONCE: Final = 64_000_000
"""Size of entries that are pushed together, and so are in memory."""

CHANGES_EVERY: Final = 30.0
"""Seconds between two looks at what others have removed or replaced."""

LAST_PUSH: Final = 10.0
"""Seconds that closing, or the end of the program, waits for the outbox."""

LAST_STEP: Final = 2.0
"""Seconds that they wait for a step of the courier: the end of the program must not find it in the database."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Breaker:
    """The way to a remote, as long as it answers.

    Attributes:
        remote: the remote itself.
        reason: what the last failure said; empty while the remote answers.
        is_closing: whether nothing is asked any more.
    """

    def __init__(self, remote: Remote, wake: Callable[[], None]) -> None:
        """`wake` is called when the remote is to be tried again after a while."""
        self.remote = remote
        self._wake = wake
        self._until = 0.0
        self._pause = 0.0
        self._has_warned = False
        self.reason = ""
        self.is_closing = False

    def ask(self, work: Callable[[Remote], T]) -> T | None:
        """Make a request; return None if the remote doesn't answer."""
        if self.reason and not self.is_closing:
            self._wake()
        return None if self.reason or self.is_closing else self._try(work)

    def does(self, work: Callable[[Remote], object]) -> bool:
        """Make a request without a result; whether the remote has answered."""
        return self.ask(lambda remote: (work(remote),)) is not None

    def probe(self) -> float:
        """Try an unreachable remote again, once its pause is over. Return the seconds until then; 0 if it answers."""
        if self.reason and time.monotonic() >= self._until:
            self._try(lambda remote: remote.get_many([entry_address("", "")]))
        return max(0.0, self._until - time.monotonic()) if self.reason else 0.0

    def _try(self, work: Callable[[Remote], T]) -> T | None:
        try:
            result = work(self.remote)
        except Unreachable as error:
            if not self.is_closing:  # which ends requests
                self._open(str(error) or type(error).__name__)
            return None
        self.reason, self._pause = "", 0.0
        return None if self.is_closing else result

    def _open(self, reason: str) -> None:
        """Make no requests for a while, and warn once."""
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        self._until = time.monotonic() + self._pause
        self.reason = reason
        self._wake()
        if not self._has_warned:
            self._has_warned = True
            warn_caller(
                f"the shared store {self.remote.place} can't be reached ({reason}). Results are kept on this "
                "machine, and pushed when it answers again."
            )


class Courier:
    """The courier of one store. Its thread ends with the store."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._sources: set[bytes] = set()
        self._told_left = 0
        self._counted = 0, 0, ""
        self._changes_at = 0.0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start without a thread, as in a forked child."""
        self._lock = threading.Lock()
        self._pushing = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread look at what is to be done."""
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(
                    target=_run, args=(weakref.ref(self), self._wake), name="bencher_job courier", daemon=True
                )
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError:  # the interpreter is ending: the outbox is pushed by `flush`
                    pass

    @property
    def is_over(self) -> bool:
        """Whether the store is being closed."""
        return self._store.breaker.is_closing

    @property
    def _outbox(self) -> Outbox:
        return self._store.disk.outbox

    def work(self) -> float:
        """Do what is to be done; return for how many seconds there is nothing more."""
        store = self._store
        if store.copies and not store.copies.seconds_left:
            store.copies.commit()
        seconds = store.copies.seconds_left if store.copies else CHANGES_EVERY
        if left := store.breaker.probe():
            return min(seconds, left)
        store.shared_leases.release_there()
        if store.writes:
            self._drain(time.monotonic() + CHANGES_EVERY)
        if time.monotonic() - self._changes_at >= CHANGES_EVERY:
            self._changes_at = time.monotonic()
            self._read_changes()
            self._note_figures()
        is_idle = self.is_over or not store.writes or store.breaker.reason or not self._outbox.count()
        return seconds if is_idle else 0.0

    def _note_figures(self) -> None:
        """Write what was counted since this was last done, for readers of the local store."""
        store = self._store
        with self._lock:  # the thread and `close` must not both write the same
            hits, superseded, _ = self._counted
            now = store.hits, store.superseded, store.breaker.reason
            if now == self._counted or self.is_over:
                return
            try:
                self._outbox.add_figures(store.place, now[0] - hits, now[1] - superseded, now[2])
            except StoreFailure as error:
                _log.info("the figures of %s can't be written: %s", store.place, error)
            self._counted = now

    def push_all(self) -> int:
        """Push the whole outbox; return how many rows are done."""
        before = self._outbox.count()
        while self._drain(math.inf):
            pass
        return before - self._outbox.count()

    def push_now(self, addresses: Collection[str]) -> dict[str, Hit | Miss]:
        """Push what was just committed, or later if that fails; return results that were stored first, by key."""
        try:
            with self._pushing:
                return self._push(self._outbox.of(addresses))
        except StoreFailure as error:
            _log.warning("results of %s are pushed later: %s", self._store.folder, error)
            self.start()
            return {}

    def end(self) -> None:
        """Push what is left for some seconds, and end the thread."""
        self._store.copies.commit()
        self.flush(LAST_PUSH)
        self._note_figures()
        self._store.breaker.is_closing = True
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(LAST_STEP)

    def flush(self, seconds: float) -> int:
        """Push the outbox, for so many seconds at most; return what is left. Warn if that isn't nothing."""
        store = self._store
        if not store.writes or self.is_over:
            return 0
        end = time.monotonic() + seconds
        try:
            while not store.breaker.reason and self._drain(end):
                pass
            left = self._outbox.count()
        except StoreFailure as error:
            _log.warning("the outbox of %s can't be read: %s", store.folder, error)
            return 0
        is_news, self._told_left = left > self._told_left, left
        if is_news:
            warn_caller(
                f"{left} results of {store.folder} were not pushed to {store.place} yet. The next process on this "
                "machine that uses both pushes them, or `bencher-job push`."
            )
        return left

    def _drain(self, end: float) -> bool:
        """Push some of the outbox; whether there may be more, and time."""
        if not self._pushing.acquire(timeout=min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX)):
            return False
        try:
            pending = self._outbox.pending(AT_ONCE)
            if pending:
                self._push(pending, end)
        finally:
            self._pushing.release()
        return not self._store.breaker.reason and len(pending) == AT_ONCE and time.monotonic() < end

    def _push(self, pending: Sequence[Pending], end: float = math.inf) -> dict[str, Hit | Miss]:
        """Push entries and removals, as long as there is time; return the results that were stored first, by key."""
        store = self._store
        rows = {each.key: each for each in pending if each.action != "remove"}
        others: dict[str, Hit | Miss] = {}
        left = set(pending)
        packed = ((rows[key], each) for key, each in pack(store.disk, rows, store.signature))
        for group in chunks(packed, AT_ONCE, size=BYTES_AT_ONCE, size_of=lambda each: len(each[1].content)):
            taken = self._push_group(dict(group))
            if taken is None:
                return others
            others |= taken
            left.difference_update(row for row, _ in group)
            if time.monotonic() > end:
                return others
        # What was to be replaced, and is gone by now, was removed after it was put.
        removed = [each.address for each in left if each.action != "put"]
        if not removed or store.breaker.does(lambda remote: remote.remove(removed)):
            self._outbox.done(list(left))
        store.shared_leases.release_there(each.key for each in left)
        return others

    def _push_group(self, group: Mapping[Pending, Packed]) -> dict[str, Hit | Miss] | None:
        """Push entries; return the results that were stored first by others, by key; None without an answer."""
        store = self._store
        rest = {row.address: packed.content for row, packed in group.items() if row.action == "put"}

        def send(remote: Remote) -> dict[str, bytes]:
            self._send_parts(remote, group.values())
            for row, packed in group.items():
                if row.action == "replace":
                    remote.replace(row.address, packed.content)
            return remote.put_many(rest) if rest else {}

        moment = store.copies.moment()
        first = store.breaker.ask(send)
        if first is None:
            return None
        taken = store.take(first, moment, at_once=True)
        self._outbox.done(list(group))
        store.shared_leases.pushed(row.key for row in group)
        store.superseded += len(taken.keys)
        store.hits -= len(taken.keys)
        return {key: store.disk.get(key) for key in taken.keys}

    def _send_parts(self, remote: Remote, packed: Iterable[Packed]) -> None:
        """Store what entries refer to before the entries: large files, and the sources of functions."""
        for each in packed:
            for address, path in each.large.items():
                try:
                    remote.put_many({address: path.read_bytes()})
                except OSError as error:  # removed just now, with its entry
                    _log.info("%s is not shared: %s", path, error)
            if each.prefix and each.prefix not in self._sources:
                content = pack_sources(self._store.disk, each.prefix, self._store.signature)
                if content is not None:
                    remote.put_many({source_address(each.prefix.hex()): content})
                self._sources.add(each.prefix)

    def _read_changes(self) -> None:
        """Drop local copies of what others have removed or replaced."""
        store = self._store
        cursor, moment = self._outbox.cursor(store.place), store.copies.moment()
        changes = store.breaker.ask(lambda remote: remote.changes(cursor))
        if changes is None or changes.cursor == cursor:
            return
        store.bad -= changes.addresses
        here = keys_at(store.local, changes.addresses)
        for each in self._outbox.of(here):
            del here[each.address]
        if here:
            now = store.breaker.ask(lambda remote: remote.get_many(here))
            if now is None:
                return
            ours = {key: each.content for key, each in pack(store.disk, here.values(), store.signature)}
            others = {each: content for each, content in now.items() if content != ours.get(here[each])}
            store.take(others, moment, at_once=True)
            store.disk.remove([key for address, key in here.items() if address not in now], "forgotten")
        self._outbox.move_cursor(store.place, changes.cursor)


def _run(reference: weakref.ref[Courier], wake: threading.Event) -> None:
    """Work for a store until it is closed or forgotten."""
    seconds = 0.0
    while True:
        wake.wait(seconds)
        wake.clear()
        courier = reference()
        if courier is None or courier.is_over:
            return
        try:
            seconds = courier.work()
        except StoreFailure as error:
            _log.warning("the courier can't use the local store: %s", error)
            seconds = CHANGES_EVERY
        del courier
