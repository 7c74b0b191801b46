"""Knows the table of claims: where a key stands in it, and whether what stands there is whole.

A table has 2**n slots of 64 bytes, a key stands in the first free one from where its digest points (linear probing),
and stays there, freed or not, until the table is made anew. A slot never crosses a page, so a process that is killed
writes it wholly or not at all; who reads while another writes knows by the checksum.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from zlib import crc32

from .bytelocks import LockedFile

__all__ = [
    "SLOT_SIZE",
    "Damaged",
    "Slot",
    "Table",
    "WholeTable",
    "digest_of",
    "freed",
    "pack_slot",
    "read_all",
    "seal",
    "table_of",
    "unseal",
    "write_all",
]

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


def _unpacked(raw: bytes) -> Slot:
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
            return place, _unpacked(raw)
        while place < first + self._capacity:
            raw = self._read(place % self._capacity)
            for at in range(0, len(raw), SLOT_SIZE):
                if raw.startswith(_EMPTY, at):
                    return place % self._capacity, None
                if raw.startswith(digest, at):
                    return place % self._capacity, _unpacked(raw[at : at + SLOT_SIZE])
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
                yield raw, _unpacked(raw)

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
