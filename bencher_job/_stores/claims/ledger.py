"""Knows the file that says who computes what: its header, its owners' seats, its table of claims, and its one lock.

    header | a record per seat | table of claims (elsewhere in the file when it has grown)

Who changes anything holds the first byte of the file meanwhile. Who has a seat holds the first byte of its record as
long as it lives. A larger table is written beside the old one, and the header, rewritten last, points at it. So a
process may be killed at any moment: what it leaves is the file before or after.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from functools import lru_cache
from time import monotonic
from typing import Final, NamedTuple

from ..._processes import Process, this_process
from .bytelocks import LockedFile, open_locked
from .owners import Owner
from .slots import (
    SLOT_SIZE,
    Damaged,
    Slot,
    Table,
    WholeTable,
    pack_slot,
    read_all,
    seal,
    table_of,
    unseal,
    write_all,
)

__all__ = ["Ledger"]

MAGIC: Final = b"BJclaim1"
SEATS: Final = 4096
"""Processes that can compute with one store at a time."""

MIN_CAPACITY: Final = 4096
"""Slots of the smallest table."""

NUMBERS_AT_ONCE: Final = 64
"""Fencing numbers that a process takes at once at least."""

LOOK_EVERY: Final = 0.005
"""Seconds between two looks whether the file was removed: a write costs twice as much after each."""

_HEADER: Final = struct.Struct("<8sQQQQQQ4x")
_HEADER_SIZE: Final = _HEADER.size + 4
_RECORD: Final = struct.Struct("<QQQQ36s184s")
_RECORD_SIZE: Final = _RECORD.size + 4
_SEATS_AT: Final = 4096
_TABLE_AT: Final = _SEATS_AT + SEATS * _RECORD_SIZE
_LOCK: Final = 0


class _Header(NamedTuple):
    """What is to be known about the file.

    Attributes:
        epoch: the first number that was given in this file since it was started anew.
        table: a number for the table, another one when it is made anew.
        number: the greatest number that was given.
        used: slots that are not free at most.
    """

    magic: bytes
    epoch: int
    table: int
    number: int
    offset: int
    capacity: int
    used: int


class Ledger:
    """One open file. Between `lock` and `unlock` its methods see and leave it sound.

    Attributes:
        slots: the table, to look few keys up in.
        next_of_ours: a number that is greater than none of those that `next_number` will give.
        serial: the number that came with our seat, 0 as long as we have none.
        written: where we have written claims that we have not released, by number, and the bytes of their slots.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: LockedFile = open_locked(path)
        status = os.fstat(self._file.descriptor)
        self._identity = status.st_ino, status.st_dev
        self._look_again = 0.0
        self._raw: bytes | None = None
        self._header = _Header(MAGIC, 0, 0, 0, 0, 0, 0)
        self.slots = Table(self._file, 0, 0)
        self.next_of_ours, self._last = 1, 0
        self.serial = self._seat = self._seated_in = 0
        self._alive: dict[int, bool] = {}
        self.written: dict[int, tuple[int, bytes]] = {}

    def close(self) -> None:
        """Give up our seat: all our claims are free."""
        self._file.close()

    def leave(self) -> None:
        """Close what a forked child inherited."""
        self._file.leave()

    def begins(self) -> bool:
        """Keep all other processes out, if that is to be had at once and nothing is to be looked at before.

        Where it isn't, `lock`, `is_in_place` and `load` tell why.
        """
        return (
            self._file.try_lock(_LOCK)
            and monotonic() < self._look_again
            and os.pread(self._file.descriptor, _HEADER_SIZE, 0) == self._raw
        )

    def lock(self, patience: float) -> None:
        """Keep all other processes out; who has done so already may do it again.

        Raises:
            TimeoutError: when nobody claimed anything for so many seconds, and still the lock wasn't to be had.
        """
        if self._file.try_lock(_LOCK):
            return
        deadline, pulse = monotonic() + patience, self._pulse()
        while not self._file.try_lock(_LOCK):
            if monotonic() > deadline:
                before, pulse = pulse, self._pulse()
                if pulse == before:
                    raise TimeoutError(errno.ETIMEDOUT, f"somebody held its lock for {patience} seconds")
                deadline = monotonic() + patience
            time.sleep(
                20e-6 + time.perf_counter_ns() % 480 * 1e-6
            )  # by chance, so that waiters don't keep step

    def _pulse(self) -> bytes:
        return os.pread(self._file.descriptor, _HEADER_SIZE, 0)

    def unlock(self) -> None:
        """Let the others in."""
        if self._alive:
            self._alive.clear()
        self._file.unlock(_LOCK)

    def is_in_place(self) -> bool:
        """Whether the file that we have open still is the one under its path. It looks at most every `LOOK_EVERY`."""
        now = monotonic()
        if now < self._look_again:
            return True
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        if (status.st_ino, status.st_dev) != self._identity:
            return False
        self._look_again = now + LOOK_EVERY
        return True

    @property
    def is_unused(self) -> bool:
        """Whether the file was made just now."""
        return not self.serial and not os.fstat(self._file.descriptor).st_size

    def load(self) -> None:
        """Read the header.

        Raises:
            Damaged: when it isn't one.
        """
        raw = os.pread(self._file.descriptor, _HEADER_SIZE, 0)
        if raw != self._raw:
            header = _Header._make(_HEADER.unpack(unseal(raw)))
            if header.magic != MAGIC:
                raise Damaged("is of another format")
            self._adopt(header, raw)

    def _adopt(self, header: _Header, raw: bytes) -> None:
        if header.table != self._header.table:
            self.next_of_ours, self._last = 1, 0  # the right to fill free slots was for the table before
            self.written.clear()
        self.slots = Table(self._file, header.offset, header.capacity)
        self._header, self._raw = header, raw  # last, since who is interrupted here reads them again

    def _store(self, header: _Header) -> None:
        raw = seal(_HEADER.pack(*header))
        write_all(self._file, memoryview(raw), 0)
        self._adopt(header, raw)

    def start_anew(self) -> None:
        """Forget all claims and owners. Each owner takes its seat again at its next claim."""
        os.ftruncate(self._file.descriptor, 0)
        os.ftruncate(self._file.descriptor, _TABLE_AT + MIN_CAPACITY * SLOT_SIZE)
        # A number that nothing in this place has had, so a claim from before doesn't match one from after.
        epoch = max(time.time_ns(), self._header.number + 1)
        self._store(_Header(MAGIC, epoch, epoch, epoch, _TABLE_AT, MIN_CAPACITY, 0))
        self._alive.clear()

    def _take_seat(self) -> None:
        """Have a place in the file that says who we are, and that we live."""
        if not self.serial:
            self._seat = self._free_seat()
        process = this_process()
        serial = self._header.number + 1
        self._store(self._header._replace(number=serial))
        texts = process.boot.encode()[:36], process.host.encode()[:184]
        record = _RECORD.pack(serial, process.pid, process.started, process.namespace, *texts)
        write_all(self._file, memoryview(seal(record)), _at(self._seat))
        self.serial, self._seated_in = serial, self._header.epoch

    def _free_seat(self) -> int:
        first = os.getpid()
        for number in range(first, first + SEATS):
            if self._file.try_lock(_at(number % SEATS)):
                return number % SEATS
        raise OSError(errno.EUSERS, f"more than {SEATS} processes compute with it")

    def _process(self, slot: Slot) -> Process | None:
        """Give who took the seat that a slot names, or None where another has taken it since."""
        if slot.seat >= SEATS:
            raise Damaged("names a seat that there is not")
        serial, process = _unpacked(read_all(self._file, _RECORD_SIZE, _at(slot.seat)))
        return process if serial == slot.serial else None

    def owner(self, slot: Slot) -> Owner | None:
        """Give the owner of a claim, or None where it is dead."""
        process = self._process(slot)
        if process is None or not self._is_held(slot):
            return None
        return Owner(process, slot.number, slot.since)

    def _is_held(self, slot: Slot) -> bool:
        return slot.serial == self.serial or self._file.is_locked(_at(slot.seat))

    def is_alive(self, slot: Slot) -> bool:
        """Whether the owner of a claim lives. It is looked up once between `lock` and `unlock`."""
        if slot.serial not in self._alive:
            self._alive[slot.serial] = self._is_held(slot) and self._process(slot) is not None
        return self._alive[slot.serial]

    def next_number(self, slot: Slot | None, count: int) -> int:
        """Give a number that nobody has had, greater than the one in the slot; so many will be asked for.

        They are taken in bulk, and with each the right to fill a free slot. Those not used are lost.
        """
        if self.next_of_ours > self._last or (slot is not None and slot.number >= self.next_of_ours):
            count = max(count, NUMBERS_AT_ONCE)
            first, used = self._header.number + 1, self._header.used + count
            self._store(self._header._replace(number=first + count - 1, used=used))
            self.next_of_ours, self._last = first, first + count - 1
        self.next_of_ours += 1
        return self.next_of_ours - 1

    def write_claim(self, table: Table, place: int, digest: bytes, number: int, waited: int) -> None:
        """Write a claim of ours."""
        slot = pack_slot(digest, number, self.serial, time.time(), self._seat, 1, waited)
        table.write(place, slot)
        self.written[number] = place, slot

    def table(self, count: int) -> Table:
        """Give the table to look so many keys up in."""
        if count == 1 or count * 64 < self._header.capacity:
            return self.slots
        return WholeTable(self._file, self._header.offset, self._header.capacity)

    def make_room(self, count: int) -> None:
        """Let this process claim so many keys.

        Raises:
            OSError: when all seats are taken, or the disk is full.
        """
        if self._seated_in != self._header.epoch:
            self._take_seat()
        if (self._header.used + max(count, NUMBERS_AT_ONCE)) * 2 > self._header.capacity:
            self._renew_table(count)

    def _renew_table(self, count: int) -> None:
        """Make the table anew, without what is free, and as large as so many more need."""
        header = self._header
        table = WholeTable(self._file, header.offset, header.capacity)
        slots = [raw for raw, slot in table if slot.claimed and self.is_alive(slot)]
        capacity = MIN_CAPACITY
        while capacity < 2.5 * (len(slots) + count):
            capacity *= 2
        raw = table_of(slots, capacity)
        fits_before = _TABLE_AT + len(raw) <= header.offset
        offset = _TABLE_AT if fits_before else header.offset + header.capacity * SLOT_SIZE
        write_all(self._file, memoryview(raw), offset)
        number = header.number + 1
        self._store(_Header(MAGIC, header.epoch, number, number, offset, capacity, len(slots)))
        os.ftruncate(self._file.descriptor, offset + len(raw))


def _at(seat: int) -> int:
    return _SEATS_AT + seat * _RECORD_SIZE


@lru_cache(256)
def _unpacked(record: bytes) -> tuple[int, Process]:
    serial, pid, started, namespace, boot, host = _RECORD.unpack(unseal(record))
    return serial, Process(_text(host), _text(boot), pid, started, namespace)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
