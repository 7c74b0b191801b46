"""The file in which the processes of this machine note who computes what.

The kernel lets go of them when the process dies, however it dies. No process number is compared, so neither a number
that is used again nor another container's numbers mislead anybody.

A table has 2**n slots of 64 bytes, a key stands in the first free one from where its digest points (linear probing),
and stays there, freed or not, until the table is made anew. A slot never crosses a page, so a process that is killed
writes it wholly or not at all; who reads while another writes knows by the checksum.

    header | a record per seat | table of claims (elsewhere in the file when it has grown)

Who changes anything holds the first byte of the file meanwhile. Who has a seat holds the first byte of its record as
long as it lives. A larger table is written beside the old one, and the header, rewritten last, points at it. So a
process may be killed at any moment: what it leaves is the file before or after.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from time import monotonic
from typing import ClassVar, Final, NamedTuple, Protocol
from zlib import crc32

from .._processes import Process, is_stopped, this_process

__all__ = [
    "SLOT_SIZE",
    "Damaged",
    "Ledger",
    "LockedFile",
    "Owner",
    "Slot",
    "Table",
    "Wait",
    "WholeTable",
    "digest_of",
    "freed",
    "open_locked",
    "pack_slot",
    "read_all",
    "seal",
    "table_of",
    "unseal",
    "write_all",
]


class LockedFile(Protocol):
    """A file, made if it isn't there, whose bytes can be held against everybody else who has opened it."""

    descriptor: int

    def try_lock(self, byte: int) -> bool:
        """Hold a byte until `unlock`, `close` or this process's death; False where somebody else holds it."""

    def unlock(self, byte: int) -> None:
        """Let go of a byte."""

    def is_locked(self, byte: int) -> bool:
        """Whether somebody else holds a byte."""

    def close(self) -> None:
        """Let go of all bytes."""

    def leave(self) -> None:
        """Close what a forked child inherits; the parent goes on holding its bytes."""


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@lru_cache(1024)
def _flock(kind: int, start: int, length: int = 1) -> bytes:
    """Give the C structure that names a lock. A length of 0 means all that follows."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)


_UNLOCKED: Final = struct.pack("h", fcntl.F_UNLCK)
_SET: Final = getattr(fcntl, "F_OFD_SETLK", 0)
_EXCLUSIVE, _NONE = fcntl.F_WRLCK, fcntl.F_UNLCK


class _OpenFile:
    """Holds bytes by the locks of an open file (`F_OFD_SETLK`), which go with its last descriptor."""

    def __init__(self, path: str) -> None:
        self.descriptor = _open(path)

    def try_lock(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self.descriptor, _SET, _flock(_EXCLUSIVE, byte))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, byte: int) -> None:
        fcntl.fcntl(self.descriptor, _SET, _flock(_NONE, byte))

    def is_locked(self, byte: int) -> bool:
        found = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, _flock(_EXCLUSIVE, byte))
        return found[:2] != _UNLOCKED

    def close(self) -> None:
        try:
            # A child that was forked behind Python's back may have the file open still.
            fcntl.fcntl(self.descriptor, _SET, _flock(_NONE, 0, 0))
        finally:
            self.leave()

    def leave(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


class _ProcessFile:
    """Holds bytes by the locks of a process (`lockf`), where the system has no others.

    Closing any descriptor of a file drops all of them, so a process opens a file once and never closes it. Inside the
    process they hold nobody off, so a set of the bytes held does that.
    """

    _descriptors: ClassVar[dict[tuple[int, int], int]] = {}
    _held: ClassVar[set[tuple[int, int]]] = set()
    _guard: ClassVar = threading.RLock()

    def __init__(self, path: str) -> None:
        self._own: set[int] = set()
        with self._guard:
            try:
                status = os.stat(path)
                self.descriptor = self._descriptors[status.st_dev, status.st_ino]
            except (FileNotFoundError, KeyError):
                self.descriptor = _open(path)
                status = os.fstat(self.descriptor)
                self._descriptors[status.st_dev, status.st_ino] = self.descriptor

    def try_lock(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte in self._own
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):
                return False
            self._held.add((self.descriptor, byte))
            self._own.add(byte)
            return True

    def unlock(self, byte: int) -> None:
        with self._guard:
            if byte in self._own:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte)
                self._own.discard(byte)
                self._held.discard((self.descriptor, byte))

    def is_locked(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte not in self._own
            locked = not self.try_lock(byte)
            self.unlock(byte)
            return locked

    def close(self) -> None:
        for byte in list(self._own):
            self.unlock(byte)

    def leave(self) -> None:
        """Forget the descriptor, which `forget_parent` closes. The child has none of the locks."""
        self.descriptor = -1
        self._own.clear()

    @classmethod
    def forget_parent(cls) -> None:
        """Close in a forked child what its parent had open."""
        for descriptor in cls._descriptors.values():
            os.close(descriptor)
        cls._descriptors.clear()
        cls._held.clear()
        cls._guard = threading.RLock()


os.register_at_fork(after_in_child=_ProcessFile.forget_parent)

_KIND: type[_OpenFile | _ProcessFile] = _OpenFile if sys.platform == "linux" else _ProcessFile


def open_locked(path: str) -> LockedFile:
    """Open a file, made if it isn't there, so that bytes of it can be held.

    Raises:
        OSError: when it can't be opened or made.
    """
    return _KIND(path)


SLOT_SIZE: Final = 64

READ_AT_ONCE: Final = 8
"""Slots that one look reads: in a table that is half full few keys stand farther off."""

BLOCK: Final = 1 << 16
"""Bytes of a whole table that are written together."""

_SLOT: Final = struct.Struct("<32sQQdHBB")
_STATE_AT: Final = _SLOT.size - 2
_FREE: Final = b"\0\0"
_WORDS: Final = struct.Struct("<4Q")
_EMPTY: Final = bytes(SLOT_SIZE)
_WHOLE: Final = 0x2144DF1C
"""The CRC-32 of any bytes that their own CRC-32 follows."""


class Damaged(Exception):
    """The file holds what nobody wrote."""


def seal(content: bytes) -> bytes:
    """Append a checksum."""
    return content + crc32(content).to_bytes(4, "little")


def unseal(sealed: bytes) -> bytes:
    """Give back what was sealed.

    Raises:
        Damaged: when the checksum doesn't match.
    """
    if crc32(sealed) != _WHOLE:
        raise Damaged("has a checksum that doesn't match")
    return sealed[:-4]


def digest_of(key: str) -> bytes:
    """Give 32 bytes that stand for a key: those that it spells, where it is a digest itself."""
    if len(key) == 64:
        try:
            digest = bytes.fromhex(key)
        except ValueError:
            digest = b""
        if digest.hex() == key:
            return digest
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Slot(NamedTuple):
    """One key's claim.

    Attributes:
        number: the fencing number.
        serial: the number that its owner got with its seat.
        since: when it was claimed, in seconds since 1970.
        seat: where its owner's record is.
        claimed: 0 where it was released.
        waited: 1 where somebody waits for it.
    """

    digest: bytes
    number: int
    serial: int
    since: float
    seat: int
    claimed: int
    waited: int

    def marked(self) -> bytes:
        """Give the bytes of the slot as it is once somebody waits."""
        return pack_slot(*self[:6], 1)


def pack_slot(
    digest: bytes, number: int, serial: int, since: float, seat: int, claimed: int, waited: int
) -> bytes:
    """Give the bytes of a slot."""
    content = _SLOT.pack(digest, number, serial, since, seat, claimed, waited)
    return content + crc32(content).to_bytes(4, "little")


def freed(slot: bytes) -> bytes:
    """Give the bytes of a slot as it is once its claim is released."""
    content = slot[:_STATE_AT] + _FREE
    return content + crc32(content).to_bytes(4, "little")


def _unpacked_lease(raw: bytes) -> Slot:
    if crc32(raw) != _WHOLE:
        raise Damaged("has a checksum that doesn't match")
    return Slot(*_SLOT.unpack_from(raw))


def read_all(file: LockedFile, size: int, offset: int) -> bytes:
    """Read so many bytes, or raise `Damaged`."""
    raw = os.pread(file.descriptor, size, offset)
    if len(raw) != size:
        raise Damaged("is cut off")
    return raw


def write_all(file: LockedFile, content: memoryview, offset: int) -> None:
    """Write all of it, however often the system takes only a part."""
    written = 0
    while written < len(content):
        written += os.pwrite(file.descriptor, content[written:], offset + written)


class Table:
    """Reads and writes slots one by one, at once."""

    def __init__(self, file: LockedFile, offset: int, capacity: int) -> None:
        self._file = file
        self._offset = offset
        self._capacity = capacity

    def find(self, digest: bytes) -> tuple[int, Slot | None]:
        """Give the place of a key and its slot; None where it has none and the place is free for it.

        Raises:
            Damaged: when the slot is, or no place is free.
        """
        place = first = _first_place(digest, self._capacity)
        raw = self.read(place)  # as most keys stand there, or nothing does
        if raw == _EMPTY:
            return place, None
        if raw.startswith(digest):
            return place, _unpacked_lease(raw)
        while place < first + self._capacity:
            raw = self._read(place % self._capacity)
            for at in range(0, len(raw), SLOT_SIZE):
                if raw.startswith(_EMPTY, at):
                    return place % self._capacity, None
                if raw.startswith(digest, at):
                    return place % self._capacity, _unpacked_lease(raw[at : at + SLOT_SIZE])
                place += 1
        raise Damaged("has no free slot")

    def _read(self, place: int) -> bytes:
        count = min(READ_AT_ONCE, self._capacity - place)
        return read_all(self._file, count * SLOT_SIZE, self._offset + place * SLOT_SIZE)

    def read(self, place: int) -> bytes:
        """Give the bytes of a slot, fewer where the file is cut off."""
        return os.pread(self._file.descriptor, SLOT_SIZE, self._offset + place * SLOT_SIZE)

    def write(self, place: int, slot: bytes) -> None:
        """Write a slot."""
        os.pwrite(self._file.descriptor, slot, self._offset + place * SLOT_SIZE)

    def flush(self) -> None:
        """Write what is not written yet."""


class WholeTable(Table):
    """Reads all slots at first and writes what changed at last, which pays where there are many."""

    def __init__(self, file: LockedFile, offset: int, capacity: int) -> None:
        super().__init__(file, offset, capacity)
        self._raw = bytearray(read_all(file, capacity * SLOT_SIZE, offset))
        self._changed: set[int] = set()

    def __iter__(self) -> Iterator[tuple[bytes, Slot]]:
        """Give all slots that were ever claimed, with their bytes."""
        for at in range(0, len(self._raw), SLOT_SIZE):
            if not self._raw.startswith(_EMPTY, at):
                raw = bytes(self._raw[at : at + SLOT_SIZE])
                yield raw, _unpacked_lease(raw)

    def _read(self, place: int) -> bytes:
        at = place * SLOT_SIZE
        return bytes(self._raw[at : at + READ_AT_ONCE * SLOT_SIZE])

    def read(self, place: int) -> bytes:
        """Give the bytes of a slot."""
        return bytes(self._raw[place * SLOT_SIZE : (place + 1) * SLOT_SIZE])

    def write(self, place: int, slot: bytes) -> None:
        """Note a slot to be written."""
        at = place * SLOT_SIZE
        self._raw[at : at + SLOT_SIZE] = slot
        self._changed.add(at // BLOCK)

    def flush(self) -> None:
        """Write the blocks with changed slots."""
        with memoryview(self._raw) as raw:
            for block in sorted(self._changed):
                at = block * BLOCK
                write_all(self._file, raw[at : at + BLOCK], self._offset + at)
        self._changed.clear()


def table_of(slots: Iterable[bytes], capacity: int) -> bytearray:
    """Give the bytes of a table of so many slots with some in it."""
    raw = bytearray(capacity * SLOT_SIZE)
    for slot in slots:
        at = _first_place(slot, capacity) * SLOT_SIZE
        while not raw.startswith(_EMPTY, at):
            at = (at + SLOT_SIZE) % len(raw)
        raw[at : at + SLOT_SIZE] = slot
    return raw


def _first_place(digest: bytes, capacity: int) -> int:
    """Fold all of a key's digits, since those of a user's own may differ in the last ones only."""
    first, second, third, fourth = _WORDS.unpack_from(digest)
    place: int = (first ^ second ^ third ^ fourth) % capacity
    return place


STOPPED_PATIENCE: Final = 10.0
"""Seconds for which an owner is seen stopped before its claim is taken over."""

LOOK_AT_OWNER_EVERY: Final = 0.1
"""Seconds between two looks at an owner's state."""

LONGEST_GAP: Final = 2.0
"""Seconds that count at most between two looks: a waiter that was stopped itself has seen nothing meanwhile."""


class Owner(NamedTuple):
    """Tells people who computes a key.

    Attributes:
        number: the fencing number of its claim.
        since: when it claimed the key, in seconds since 1970.
    """

    process: Process
    number: int
    since: float


class Wait:
    """Knows for how long one waiter has seen an owner stopped.

    wait = Wait()
    while owner := claims.owner(key):
        if wait.is_overdue(owner):
            claim = claims.take_over(key, owner.number)
    """

    def __init__(self) -> None:
        self._number = 0
        self._stopped = False
        self._looked = 0.0
        self._seconds = 0.0

    def is_overdue(self, owner: Owner) -> bool:
        """Whether the owner was stopped at each look for `STOPPED_PATIENCE` seconds. It costs little at every poll."""
        now = time.monotonic()
        if owner.number != self._number:
            self._number, self._stopped, self._seconds = owner.number, False, 0.0
        elif now - self._looked < LOOK_AT_OWNER_EVERY:
            return self._seconds >= STOPPED_PATIENCE
        before, self._stopped = self._stopped, is_stopped(owner.process)
        if not self._stopped:
            self._seconds = 0.0
        elif before:
            self._seconds += min(now - self._looked, LONGEST_GAP)
        self._looked = now
        return self._seconds >= STOPPED_PATIENCE


MAGIC: Final = b"BJclaim1"
SEATS: Final = 4096
"""Processes that can compute with one store at a time."""

MIN_CAPACITY: Final = 4096
"""Slots of the smallest table."""

NUMBERS_AT_ONCE: Final = 64
"""Fencing numbers that a process takes at once at least."""

LOOK_AT_FILE_EVERY: Final = 0.005
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
        self._look_again = now + LOOK_AT_FILE_EVERY
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
        serial, process = _unpacked_owner(read_all(self._file, _RECORD_SIZE, _at(slot.seat)))
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
def _unpacked_owner(record: bytes) -> tuple[int, Process]:
    serial, pid, started, namespace, boot, host = _RECORD.unpack(unseal(record))
    return serial, Process(_text(host), _text(boot), pid, started, namespace)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
