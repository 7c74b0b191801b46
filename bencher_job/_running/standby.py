"""Knows how jobs wait whose keys another process computes: for its value, its exception, or their own turn.

    turn_or_wait ─> Turn: run the job, and commit under the claim
                 └> Waiting ── look, again and again ─> Hit | Raised | Turn

The owner of a key that dies leaves its turn to one of those who wait; so does one that was stopped for long. Of all who
wait for a key one looks often, and the others look when that one has seen something.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from .._executors import is_submitter
from .._forks import renew_after_fork
from .._stores import Claim, Claims, ClaimsUnavailable, Hit, Lookout, Miss, Owner, Store, Wait

__all__ = ["GIVEN_UP", "Ended", "GivenUp", "Raised", "Standby", "Turn", "Waiting", "turn_or_wait"]

SHORTEST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks: the first comes soon, since many a job is short."""

ALONE_FOR: Final = 0.01
"""Seconds for which each one looks by itself: many a job has ended by then."""

PAUSE_WHILE_ANOTHER_LOOKS: Final = 1.0
"""Seconds between two looks of those who sleep: the one that looks may be stopped."""

PAUSE_PER_SECOND: Final = 0.02
"""How long a pause is at most for each second that was waited, so that a wait gets two hundredths longer by it."""

WORKER_PATIENCE: Final = 60.0
"""Seconds that a worker waits for another process at most. Two programs' workers could wait for jobs that are queued
behind them; then one job runs twice."""

_ATTEMPTS: Final = 8
_log = logging.getLogger(__name__)


class Turn:
    """The job is to run now, under a claim; without one where claims can't be had."""

    def __init__(self, claim: Claim | None) -> None:
        self.claim = claim


class Raised:
    """The job raised in the other process; its exception, pickled."""

    def __init__(self, error: bytes) -> None:
        self.error = error


class GivenUp:
    """The type of `GIVEN_UP`."""


GIVEN_UP: Final = GivenUp()
"""Nobody waits any more."""

Ended = Hit | Raised | Turn | GivenUp


class Waiting:
    """One job that another process computes.

    Attributes:
        news: set when it is worth another look at once.
    """

    def __init__(self, store: Store, key: str, owner: Owner, patience: float) -> None:
        self._store = store
        self._key = key
        self._number = owner.number
        self._wait = Wait()
        self._since = time.monotonic()
        self._until = self._since + patience
        self.is_given_up = False
        self.news = threading.Event()
        self._lookout: Lookout | None = None
        self._mark(owner)

    def look(self) -> Ended | None:
        """Look how the job stands; None while the other process is at it."""
        ended = self._look()
        if ended is not None:
            self.leave()
        return ended

    def give_up(self) -> None:
        """Wait no more: the next look, which comes at once, says so."""
        self.is_given_up = True
        self.news.set()

    def leave(self) -> None:
        """Have another one look who waits for the same job."""
        lookout, self._lookout = self._lookout, None
        if lookout is not None:
            lookout.close()

    def _look(self) -> Ended | None:
        if self.is_given_up:
            return GIVEN_UP
        try:
            owner = self._store.claims.owner(self._key)
            if owner is None:
                self.leave()  # before the value is read, so that nobody waits for that
                return self._after_its_end()
            if (
                owner.number != self._number
            ):  # one who waited as well has taken over, and may have ended already
                self._mark(owner)
            elif self._wait.is_overdue(owner):
                return self._take_over(owner)
        except ClaimsUnavailable as error:
            _log.warning("%s; the job of %s runs here as well", error, self._key)
            return Turn(None)
        if time.monotonic() > self._until:
            _log.warning("a worker waited long enough for %s, and computes it as well", self._key)
            return Turn(None)
        return None

    def until_it_ends(self) -> Ended:
        """Wait in this thread."""
        try:
            while (ended := self.look()) is None:
                self.news.wait(self.pause())
                self.news.clear()
        finally:
            self.leave()
        return ended

    def pause(self) -> float:
        """Give the seconds until it is worth another look, unless there is news before."""
        waited = time.monotonic() - self._since
        if waited < ALONE_FOR:
            return SHORTEST_PAUSE
        if self._lookout is None:
            self._lookout = self._store.claims.lookout(self._key, self.news.set)
        if not self._lookout.looks():
            return PAUSE_WHILE_ANOTHER_LOOKS
        return min(max(SHORTEST_PAUSE, waited * PAUSE_PER_SECOND), LONGEST_PAUSE)

    def _mark(self, owner: Owner) -> None:
        self._number = owner.number
        self._store.claims.wait_for(self._key, owner.number)

    def _after_its_end(self) -> Ended | None:
        error = self._store.failure(self._key, self._number)
        if error is not None:
            return Raised(error)
        puts = self._store.puts
        hit = self._store.get(self._key)
        if not isinstance(hit, Miss):
            return hit
        claim = self._store.claims.claim(self._key)
        if claim is None:
            return None  # another one was quicker
        if self._store.puts != puts:
            hit = self._store.get(self._key)
            if not isinstance(hit, Miss):
                self._store.claims.release([claim])
                return hit
        return Turn(claim)

    def _take_over(self, owner: Owner) -> Turn | None:
        claim = self._store.claims.take_over(self._key, owner.number)
        if claim is None:
            return None
        process = owner.process
        _log.warning(
            "process %s on %s is stopped, so %s is computed here", process.pid, process.host, self._key
        )
        return Turn(claim)


def turn_or_wait(store: Store, claims: Claims, key: str, *, in_worker: bool) -> Turn | Waiting:
    """Claim a key among the claims of a store, or find out who is at it.

    A worker doesn't wait for the process that it works for: the job may be queued behind its own.
    """
    try:
        for _ in range(_ATTEMPTS):
            claim = claims.claim(key)
            if claim is not None:
                return Turn(claim)
            owner = claims.owner(key)
            if owner is not None:
                break
        else:
            return Turn(None)
        if is_submitter(owner.process.host, owner.process.pid):
            return Turn(None)
        return Waiting(store, key, owner, WORKER_PATIENCE if in_worker else float("inf"))
    except ClaimsUnavailable as error:
        _log.warning("%s; the job of %s runs, be it that another process computes it", error, key)
        return Turn(None)


class Standby:
    """Looks after the jobs of a cache that wait while their threads don't, in a thread of its own as long as needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have nobody wait, as in a forked child."""
        self._lock = threading.Lock()
        self._waiting: list[tuple[Waiting, Callable[[Ended], None]]] = []
        self._is_running = False
        self._threads: set[int] = set()
        self._news = threading.Event()

    def is_here(self) -> bool:
        """Whether this is a thread of its own, which must not wait for what it will end itself."""
        return threading.get_ident() in self._threads

    def add(self, waiting: Waiting, go_on: Callable[[Ended], None]) -> None:
        """Have somebody wait; `go_on` is called in the thread, and must not raise."""
        with self._lock:
            waiting.news = self._news
            self._waiting.append((waiting, go_on))
            self._news.set()
            if not self._is_running:
                self._is_running = True
                self._start(self._run)

    def _start(self, act: Callable[..., None], *given: Any) -> None:
        threading.Thread(target=self._act, args=(act, given), name=self._name, daemon=True).start()

    def _act(self, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        self._threads.add(threading.get_ident())
        try:
            act(*given)
        finally:
            self._threads.discard(threading.get_ident())

    def _tell(self, go_on: Callable[[Ended], None], ended: Ended) -> None:
        """Tell one who waited how that has ended; apart from the others if that unpickles something, which may hang."""
        if isinstance(ended, Hit | Raised):
            try:
                self._start(go_on, ended)
            except RuntimeError:  # the program ends
                go_on(ended)
        else:
            go_on(ended)

    def _all_waiting(self) -> list[tuple[Waiting, Callable[[Ended], None]]]:
        with self._lock:
            self._is_running = bool(self._waiting)
            return list(self._waiting)

    def _remove(self, one: tuple[Waiting, Callable[[Ended], None]]) -> None:
        with self._lock:
            self._waiting.remove(one)

    def _run(self) -> None:
        while waiting := self._all_waiting():
            pause = PAUSE_WHILE_ANOTHER_LOOKS
            for one in waiting:
                ended = one[0].look()
                if ended is None:
                    pause = min(pause, one[0].pause())
                    continue
                self._remove(one)
                self._tell(one[1], ended)
            self._news.wait(pause)
            self._news.clear()
