"""Knows the file of an archive: a tar file, so that other tools can look into it.

    bencher_job.json              what it is, and how many entries it has
    editions/<prefix>.json        a function as it stood, before its first entry
    entries/<number>/value        an entry's bytes as they are in the store, sealed
    entries/<number>/media/...    the files that its job wrote
    entries/<number>/entry.json   its record and encoded arguments, size and digest of its other parts

Nothing in it is believed. Each part is read where it is whole, whatever lies damaged before it; names of members never
become paths; nothing is unpickled.
"""

from __future__ import annotations

import itertools
import os
import re
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from ..entries.codec import Buffer
from ..entries.signature import UNSIGNED

__all__ = [
    "ARCHIVE_VERSION",
    "EDITION",
    "FORMAT",
    "HEAD",
    "HEAD_SIZE",
    "Member",
    "Unwhole",
    "copy_member",
    "groups",
    "is_too_long",
    "members",
    "pieces",
    "write_end",
    "write_member",
]

ARCHIVE_VERSION: Final = 1
FORMAT: Final = "bencher_job archive"
HEAD: Final = "bencher_job.json"
HEAD_SIZE: Final = 512

EDITION: Final = re.compile(r"editions/([0-9a-f]{2,128})\.json", re.ASCII)
PIECE: Final = 1 << 20

_ENTRY: Final = re.compile(r"entries/([0-9]{1,15})/(.+)", re.ASCII)
_BLOCK: Final = tarfile.BLOCKSIZE
_LONGEST_LABEL: Final = 100
"""Length in bytes of the longest name that one block of a tar file holds."""


class Unwhole(Exception):
    """A part of an archive, or an entry on its way into one, that is not whole; its message says how."""


@dataclass(frozen=True, slots=True)
class Member:
    """A part of an archive: its name, and where its bytes are."""

    name: str
    start: int
    size: int


def write_member(file: BinaryIO, label: str, content: Buffer) -> None:
    """Write a part whose bytes are at hand."""
    file.write(_header(label, len(content)))
    file.write(content)
    file.write(bytes(-len(content) % _BLOCK))


def copy_member(file: BinaryIO, label: str, source: BinaryIO, size: int) -> str:
    """Write a part that is in another file; give its digest.

    Raises:
        Unwhole: when the other file can't be read, or has become shorter.
    """
    file.write(_header(label, size))
    hasher = UNSIGNED.hasher(b"")
    for piece in pieces(source, size):
        hasher.update(piece)
        file.write(piece)
    file.write(bytes(-size % _BLOCK))
    return hasher.hexdigest()


def write_end(file: BinaryIO, head: bytes) -> None:
    """End an archive, and write its first part anew, which is of the same size."""
    file.write(bytes(2 * _BLOCK))
    file.seek(_BLOCK)
    file.write(head)


def is_too_long(label: str) -> bool:
    """Whether a name is longer than that of a part may be."""
    return len(os.fsencode(label)) > _LONGEST_LABEL


def _header(label: str, size: int) -> bytes:
    info = tarfile.TarInfo(label)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Read so many bytes.

    Raises:
        Unwhole: when they are not there.
    """
    while size:
        try:
            piece = file.read(min(size, PIECE))
        except OSError as error:
            raise Unwhole(str(error)) from error
        if not piece:
            raise Unwhole("a file ends too early")
        size -= len(piece)
        yield piece


def members(file: BinaryIO, end: int) -> Iterator[Member]:
    """Give the whole members of a tar file. Behind a damaged one the next is looked for."""
    at = 0
    while at + _BLOCK <= end:
        file.seek(at)
        block = file.read(_BLOCK)
        at += _BLOCK
        if block[257:262] != b"ustar":
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            continue
        if info.type == tarfile.REGTYPE and 0 <= info.size <= end - at:
            yield Member(info.name, at, info.size)
            at += info.size + -info.size % _BLOCK


def groups(found: Iterable[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Give the members that are ours, those of one entry together, by their names within it."""
    for name, group in itertools.groupby(found, lambda member: _group_of(member.name)):
        if name:
            yield name, {member.name.removeprefix(name + "/"): member for member in group}


def _group_of(name: str) -> str:
    if entry := _ENTRY.fullmatch(name):
        return f"entries/{entry[1]}"
    return name if name == HEAD or EDITION.fullmatch(name) else ""
