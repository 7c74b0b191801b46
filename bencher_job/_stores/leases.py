"""Leases: which process computes a key.

    waits ─> holds the key's byte of the file of claims: looks, again and again ─> sees the end, lets go
          └> another one holds it: a thread sleeps until that one lets go or dies ─> wakes up, looks

So fifty who wait cost little more than one does.

    claim -> ours: compute, then holding -> still ours: commit, release
          -> another's: wait_for, look at owner() now and then -> dead: claim | stopped: take_over

A claim is a hint: one that is lost costs a second computation, never a wrong value. That only one process commits is
what `holding` is for: a process that was taken over from, and comes back, finds that its claim is another's.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from pathlib import Path
from threading import get_ident
from typing import Any, Final, NamedTuple, TypeVar

from .._processes import renew_after_fork
from .gate import operation as keeping_forks_away
from .lease_table import Damaged, Ledger, Owner, Slot, Table, Wait, digest_of, freed

__all__ = ["Claim", "Claims", "ClaimsUnavailable", "Held", "Lookout", "Owner", "Wait"]


MOST_ASLEEP: Final = 32
"""How many of a process's keys are slept for at a time, each with a thread; for more, the process looks itself."""

_TRY: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_WAIT: Final[int | None] = getattr(fcntl, "F_OFD_SETLKW", None)
_FIRST_BYTE: Final = 1 << 40
"""Where the keys' bytes begin: far behind what is ever in the file."""

_log = logging.getLogger(__name__)
_asleep = threading.BoundedSemaphore(MOST_ASLEEP)


class Lookout:
    """One who waits for a key. It looks, unless another one does; `wake` is called, in a thread, when that one stops.

    Where the system has no such locks each one looks.
    """

    def __init__(self, path: str, key: str, wake: Callable[[], None]) -> None:
        self._path = path
        self._lock = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, _byte_of(key), 1, 0)
        self._wake = wake
        self._held: int | None = None
        self._sleeper: _Sleeper | None = None
        renew_after_fork(self)
        self._begin()

    def renew(self) -> None:
        """Leave to the parent what it holds."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)
        self._sleeper = None

    def looks(self) -> bool:
        """Whether it is on this one to look now."""
        if self._sleeper is not None and self._sleeper.is_awake:
            self._sleeper = None
            self._begin()
        return self._sleeper is None

    def _begin(self) -> None:
        """Hold the key's byte, or sleep until it is free."""
        if _TRY is None:
            return
        sleeper = None
        try:
            with keeping_forks_away:  # so that a child knows, and closes, what it inherits
                descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                if _is_held(descriptor, self._lock):
                    self._held = descriptor
                else:
                    sleeper = _Sleeper(descriptor, self._lock, self._wake)
        except OSError as error:
            _log.info("who waits for a key looks for its end itself: %s", error)
        if sleeper is not None and sleeper.start():
            self._sleeper = sleeper

    def close(self) -> None:
        """Have the others look, or sleep no more."""
        held, self._held = self._held, None
        if held is not None:
            _let_go(held)
        if self._sleeper is not None:
            self._sleeper.is_wanted = False


class _Sleeper:
    """A thread that sleeps until a byte can be held, and lets go of it at once.

    Attributes:
        is_awake: whether it has been so.
        is_wanted: whether anybody is to be told.
    """

    def __init__(self, descriptor: int, lock: bytes, wake: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._lock = lock
        self._wake = wake
        self._places = _asleep
        self.is_awake = False
        self.is_wanted = True
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave to the parent what it sleeps for."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def start(self) -> bool:
        """Begin to sleep; False where too many do, or the interpreter is ending."""
        if not self._places.acquire(blocking=False):
            self.renew()
            return False
        try:
            threading.Thread(target=self._sleep, name="bencher_job lookout", daemon=True).start()
        except RuntimeError:
            self._places.release()
            self.renew()
            return False
        return True

    def _sleep(self) -> None:
        try:
            fcntl.fcntl(self._descriptor, _WAIT or 0, self._lock)
        except OSError as error:
            _log.info("who waits for a key looks for its end itself: %s", error)
        finally:
            descriptor, self._descriptor = self._descriptor, -1
            _let_go(descriptor)
            self._places.release()
            self.is_awake = True
            if self.is_wanted:
                self._wake()


def _is_held(descriptor: int, lock: bytes) -> bool:
    """Hold a byte by an open file; whether it was free. Where nobody can tell the file is closed.

    Raises:
        OSError: when the system has no such locks for the file.
    """
    try:
        fcntl.fcntl(descriptor, _TRY or 0, lock)
    except (BlockingIOError, PermissionError):
        return False
    except BaseException:
        os.close(descriptor)
        raise
    return True


def _let_go(descriptor: int) -> None:
    """Let go of a file's byte, be it that a child that was forked behind Python's back has the file open still."""
    try:
        fcntl.fcntl(descriptor, _TRY or 0, struct.pack("hhqqi0q", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(descriptor)


def _byte_of(key: str) -> int:
    return _FIRST_BYTE + int.from_bytes(digest_of(key)[:5])


PATIENCE: Final = 2.0
"""Seconds for which an operation waits for other processes, as long as none of them claims anything."""

AFTER_A_FAILURE: Final = 0.01
"""Seconds for which the operations after one that waited in vain wait."""

AT_ONCE: Final = 20_000
"""Keys that are claimed or released in one go; others get their turn between."""
_T = TypeVar("_T")


class ClaimsUnavailable(OSError):
    """Nobody can say who computes a key, so who asks computes unprotected."""


class Claim(NamedTuple):
    """A key that was ours to compute at one time.

    Attributes:
        number: the fencing number. Each claim in a file has a greater one than those before it.
    """

    key: str
    number: int


class Held:
    """The claims that nobody can take over at present.

    Attributes:
        keys: the keys of those that are still ours.
        lost: those that are not, be it that another one of the same key is.
    """

    __slots__ = ("_ledger", "_slots", "_table", "keys", "lost")

    def __init__(self, ledger: Ledger, claims: Sequence[Claim]) -> None:
        self._ledger = ledger
        self._table = table = ledger.table(len(claims))
        self._slots: dict[str, tuple[int, int, bytes]] = {}
        self.lost: list[Claim] = []
        for claim in claims:
            key, number = claim
            written = ledger.written.get(number)
            if written is None or table.read(written[0]) != written[1]:
                written = self._found(claim)  # it was moved, or somebody waits for it
            if written is None:
                self.lost.append(claim)
            else:
                self._slots[key] = number, *written
        self.keys: AbstractSet[str] = self._slots.keys()

    def _found(self, claim: Claim) -> tuple[int, bytes] | None:
        """Look for a claim: its place and the bytes of its slot, if it is still ours."""
        place, slot = self._table.find(digest_of(claim.key))
        ours = claim.number, self._ledger.serial
        if slot is not None and slot.claimed and (slot.number, slot.serial) == ours:
            return place, self._table.read(place)
        self._ledger.written.pop(claim.number, None)
        return None

    def release(self) -> None:
        """Free those that are still ours.

        Raises:
            ClaimsUnavailable: when the file can't be written to.
        """
        try:
            for number, place, slot in self._slots.values():
                self._table.write(place, freed(slot))
                self._ledger.written.pop(number, None)
            self._table.flush()
        except OSError as error:
            raise ClaimsUnavailable(f"Claims can't be released: {error}.") from error


class Claims:
    """The claims of all processes that share a file.

    Any method but `release` and `close` may raise `ClaimsUnavailable`, and all do inside `holding`.

    The file is made at the first use. A forked child is another owner than its parent.

    Attributes:
        turn: the lock of this process's threads. It is taken by `with` alone, so that no interrupt leaves it taken.
    """

    def __init__(self, path: Path) -> None:
        self._ledger: Ledger | None = None
        self._path = os.path.abspath(path)
        self._patience = PATIENCE
        self.turn = threading.Lock()
        self._inside = 0
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave the parent's claims to it, and make the lock anew."""
        self.turn = threading.Lock()
        self._inside = 0
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.leave()

    def __del__(self) -> None:
        if self._ledger is not None:
            self._ledger.close()

    def claim(self, key: str) -> Claim | None:
        """Claim a key; None where a living process has it, be it our own."""
        return self._run(_claim_one, key)

    def claim_many(self, keys: Iterable[str]) -> dict[str, Claim]:
        """Claim those keys that no living process has. When the file becomes unavailable, it gives those it has."""
        wanted = list(dict.fromkeys(keys))
        claimed: dict[str, Claim] = {}
        for some in _in_turns(wanted):
            room = len(wanted) - len(claimed)
            try:
                claimed.update(self._run(_claim_many, some, room))
            except ClaimsUnavailable:
                if not claimed:
                    raise
                break
        return claimed

    def owner(self, key: str) -> Owner | None:
        """Give the living process that has a key. It changes nothing and waits for nobody, so poll it."""

        def look(ledger: Ledger) -> Owner | None:
            slot = _slot(ledger, key)
            return ledger.owner(slot) if slot is not None and slot.claimed else None

        return self._look(look)

    def wait_for(self, key: str, number: int) -> bool:
        """Tell the owner of a claim that somebody waits; False when the claim is no longer there."""

        def mark(ledger: Ledger) -> bool:
            table = ledger.slots
            place, slot = table.find(digest_of(key))
            if slot is None or not slot.claimed or slot.number != number:
                return False
            if not slot.waited:
                table.write(place, slot.marked())
            return True

        return self._run(mark)

    def lookout(self, key: str, wake: Callable[[], None]) -> Lookout:
        """Have one of all who wait for a key look for its end; `wake` is called when another one stops to do so."""
        return Lookout(self._path, key, wake)

    def is_waited_for(self, claim: Claim) -> bool:
        """Whether somebody waits for a claim."""

        def look(ledger: Ledger) -> bool:
            slot = _slot(ledger, claim.key)
            return slot is not None and slot.number == claim.number and slot.waited == 1

        return self._look(look)

    def take_over(self, key: str, number: int) -> Claim | None:
        """Put a claim of ours in the place of the one with this number; None when that is no longer there."""

        def replace(ledger: Ledger) -> Claim | None:
            ledger.make_room(1)
            table = ledger.slots
            place, slot = table.find(digest_of(key))
            if slot is None or not slot.claimed or slot.number != number:
                return None
            claim = Claim(key, ledger.next_number(slot, 1))
            ledger.write_claim(table, place, slot.digest, claim.number, slot.waited)
            return claim

        return self._run(replace)

    @property
    def mark(self) -> int:
        """A number that is greater than none of those that the claims of this process will have from now on."""
        ledger = self._ledger
        return 0 if ledger is None else ledger.next_of_ours

    def forsake(self, keys: Iterable[str], mark: int) -> None:
        """Free what this process has claimed of keys since a mark, and does not know to be its, after an interrupt."""
        self._run(_forsake, list(keys), mark)

    def holding(self, claims: Sequence[Claim]) -> AbstractContextManager[Held]:
        """Keep others from claiming anything while results are committed, and tell which claims are still ours.

        Other threads of this process are kept away by `turn`, which the caller takes first. Only what the context
        gives is to be called inside.
        """
        return _Holding(self, claims)

    def release(self, claims: Sequence[Claim]) -> None:
        """Free those claims that are still ours: all of this process where the file is unavailable."""
        self._refuse_inside()
        try:
            for some in _in_turns(claims):
                self._run(_release, some)
        except ClaimsUnavailable as error:
            _log.warning("%s All claims of this process are given up.", error)
            self.close()

    def close(self) -> None:
        """Free all claims of this process and close the file; the next use opens it again."""
        if self._inside == get_ident():  # a signal's handler
            self._drop()
        else:
            with self.turn:
                self._drop()

    def _drop(self) -> None:
        with keeping_forks_away:
            ledger, self._ledger = self._ledger, None
            if ledger is not None:
                ledger.close()

    def _look(self, operation: Callable[[Ledger], _T]) -> _T:
        """Do what only reads without the lock, and under it where another is just writing."""
        self._refuse_inside()
        with self.turn:
            try:
                self._inside = get_ident()
                ledger = self._ledger
                if ledger is not None and ledger.is_in_place():
                    ledger.load()
                    return operation(ledger)
            except Damaged:
                pass  # or half written, which the lock tells
            except OSError as error:
                raise self._unavailable(error) from error
            finally:
                self._inside = 0
        return self._run(operation)

    def _run(self, operation: Callable[..., _T], *given: Any) -> _T:
        """Do what changes the file, while nobody else changes it."""
        if self._inside:
            self._refuse_inside()
        with self.turn:
            try:
                return self._sound(self._enter(), operation, *given)
            finally:
                self._leave()

    def _sound(self, ledger: Ledger, operation: Callable[..., _T], *given: Any) -> _T:
        """Do an operation, with an empty file where it finds this one damaged."""
        try:
            try:
                return operation(ledger, *given)
            except Damaged as damage:
                self._start_anew(ledger, damage)
                return operation(ledger, *given)
        except (OSError, Damaged) as error:
            self._drop()  # what is written by half is nobody's then
            raise self._unavailable(error) from error

    def _start_anew(self, ledger: Ledger, damage: Damaged) -> None:
        if not ledger.is_unused:
            _log.warning(
                "%s %s. It is started anew; what is being computed may be computed twice.", self._path, damage
            )
        ledger.start_anew()

    def _enter(self) -> Ledger:
        """Lock out other processes, and give the file that lies under our path now."""
        self._inside = get_ident()
        ledger = self._ledger
        try:
            begins = ledger is not None and ledger.begins()
            if ledger is None or not begins:
                ledger = self._locked()
        except OSError as error:
            if isinstance(error, TimeoutError):
                self._patience = AFTER_A_FAILURE
            raise self._unavailable(error) from error
        self._patience = PATIENCE
        if not begins:
            self._sound(ledger, Ledger.load)
        return ledger

    def _locked(self) -> Ledger:
        while True:
            ledger = self._ledger or self._open()
            ledger.lock(self._patience)
            if ledger.is_in_place():
                return ledger
            _log.info("%s was removed or replaced while it was open; claims begin anew", self._path)
            self._drop()

    def _leave(self) -> None:
        """Let the others in, though an interrupt comes meanwhile."""
        self._inside = 0
        ledger = self._ledger
        if ledger is not None:
            try:
                ledger.unlock()
            except BaseException:
                ledger.unlock()
                raise

    def _refuse_inside(self) -> None:
        """Refuse who is inside already: it would wait for itself."""
        if (
            self._inside == get_ident() and self.turn.locked()
        ):  # else an interrupt has kept it from being noted
            raise self._unavailable(RuntimeError("this thread is using it already"))

    def _open(self) -> Ledger:
        with keeping_forks_away:  # so that a child knows, and closes, all that it inherits
            self._ledger = ledger = Ledger(self._path)
        return ledger

    def _unavailable(self, error: Exception) -> ClaimsUnavailable:
        return ClaimsUnavailable(
            f"{self._path} can't say who computes what ({error}), so jobs may be computed twice."
        )


class _Holding:
    """The context of `Claims.holding`."""

    __slots__ = ("_all", "_claims")

    def __init__(self, all_claims: Claims, claims: Sequence[Claim]) -> None:
        self._all = all_claims
        self._claims = claims

    def __enter__(self) -> Held:
        """Begin.

        Raises:
            ClaimsUnavailable: when nobody can say which of the claims are ours.
        """
        claims = self._all
        if claims._inside:
            claims._refuse_inside()
        try:
            return claims._sound(claims._enter(), Held, self._claims)
        except BaseException as error:
            self.__exit__(None, error, None)
            raise

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        claims = self._all
        try:
            if isinstance(error, ClaimsUnavailable):
                claims._drop()  # so that nobody waits for what could not be released
        finally:
            claims._leave()


def _in_turns(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), AT_ONCE):
        if start:
            time.sleep(0.001)  # whoever waits tries again within this time
        yield items[start : start + AT_ONCE]


def _slot(ledger: Ledger, key: str) -> Slot | None:
    return ledger.slots.find(digest_of(key))[1]


def _claim_one(ledger: Ledger, key: str) -> Claim | None:
    ledger.make_room(1)
    return _claim_in(ledger.slots, ledger, key, 1)


def _claim_many(ledger: Ledger, keys: Sequence[str], room: int) -> dict[str, Claim]:
    ledger.make_room(room)
    table = ledger.table(len(keys))
    claimed = {}
    for done, key in enumerate(keys):
        claim = _claim_in(table, ledger, key, len(keys) - done)
        if claim is not None:
            claimed[key] = claim
    table.flush()
    return claimed


def _claim_in(table: Table, ledger: Ledger, key: str, left: int) -> Claim | None:
    digest = digest_of(key)
    place, slot = table.find(digest)
    if slot is not None and slot.claimed and ledger.is_alive(slot):
        return None
    number = ledger.next_number(slot, left)
    ledger.write_claim(table, place, digest, number, 0 if slot is None or not slot.claimed else slot.waited)
    return Claim(key, number)


def _release(ledger: Ledger, claims: Sequence[Claim]) -> None:
    Held(ledger, claims).release()


def _forsake(ledger: Ledger, keys: Sequence[str], mark: int) -> None:
    table = ledger.table(len(keys))
    slots = {key: table.find(digest_of(key))[1] for key in keys}
    ours = [
        Claim(key, slot.number)
        for key, slot in slots.items()
        if slot is not None and slot.claimed and slot.serial == ledger.serial and slot.number >= mark
    ]
    _release(ledger, ours)
