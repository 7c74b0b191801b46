"""Entries in files: written once, read fast or mapped, and refused where others could have written."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from bencher_job import UntrustedCache
from bencher_job._stores import blobs
from bencher_job._stores.blobs import map_file, read_file
from bencher_job._stores.codec import dump, seal, unseal
from bencher_job._stores.database import IN_ROW_BELOW, EntryDisk, Written
from bencher_job._stores.parts import (
    PIECE,
    DamagedEntry,
    MissignedEntry,
    StreamingRead,
    UnreadableEntry,
    Zstd,
)
from bencher_job._stores.signature import Signature

ARRIVING_FROM = 2 * PIECE
SIZES = [IN_ROW_BELOW, ARRIVING_FROM - 1000, ARRIVING_FROM, ARRIVING_FROM + PIECE + 1, 5 * PIECE]
SIGNATURE = Signature(b"a secret")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EntryDisk:
    monkeypatch.setattr(blobs, "ARRIVING_FROM", ARRIVING_FROM)  # smaller, so that the tests are fast
    tmp_path.chmod(0o700)
    (tmp_path / "cache.db").touch()
    return EntryDisk(str(tmp_path), min_file_size=IN_ROW_BELOW)


def array_of(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, size, np.uint8)


def written(disk: EntryDisk, value: object, **options: object) -> Written:
    return disk.write(seal(dump(value), "key", signature=SIGNATURE, **options), 0)


def read(disk: EntryDisk, row: Written) -> np.ndarray:
    _, mode, filename, value, *_ = row
    return unseal(disk.fetch(mode, filename, value), "key", signature=SIGNATURE).load_in_place()


def mapped(disk: EntryDisk, row: Written) -> np.ndarray:
    _, mode, filename, value, *_ = row
    return unseal(disk.fetch(mode, filename, value, mapped=True), "key", signature=SIGNATURE).load_in_place()


def file_of(disk: EntryDisk, row: Written) -> Path:
    assert row.filename is not None
    return Path(disk._directory, row.filename)


@pytest.mark.parametrize("size", [0, 100, *SIZES])
def test_an_array_that_is_read_is_equal_and_writable(disk: EntryDisk, size: int) -> None:
    row = written(disk, array_of(size))
    back = read(disk, row)
    assert np.array_equal(back, array_of(size))
    assert back.flags.writeable
    back[:] = 1
    assert np.array_equal(read(disk, row), array_of(size))


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_array_that_is_mapped_is_equal_and_read_only(disk: EntryDisk, size: int) -> None:
    back = mapped(disk, written(disk, array_of(size)))
    assert np.array_equal(back, array_of(size))
    assert not back.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        back.flags.writeable = True


def test_what_is_mapped_takes_no_memory_of_its_own(disk: EntryDisk) -> None:
    back = mapped(disk, written(disk, array_of(ARRIVING_FROM)))
    address = back.__array_interface__["data"][0]
    places = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    (place,) = [
        words
        for words in places
        if int(words[0].split("-")[0], 16) <= address < int(words[0].split("-")[1], 16)
    ]
    assert place[1] == "r--s"
    assert place[-1].startswith(disk._directory)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_may_go_while_it_is_mapped(disk: EntryDisk, change: str) -> None:
    row = written(disk, array_of(ARRIVING_FROM))
    back = mapped(disk, row)
    if change == "removed":
        disk.remove(row.filename)
    else:
        other = written(disk, array_of(ARRIVING_FROM) + 1)
        os.replace(file_of(disk, other), file_of(disk, row))
    gc.collect()
    assert np.array_equal(back, array_of(ARRIVING_FROM))


def test_a_row_is_given_as_it_is_where_a_map_is_wanted(disk: EntryDisk) -> None:
    assert mapped(disk, written(disk, [1, 2])) == [1, 2]


def test_compressed_parts_of_a_mapped_file_are_expanded(disk: EntryDisk) -> None:
    zeros, noise = mapped(disk, written(disk, [np.zeros(100_000), array_of(100_000)], compression=Zstd()))
    assert (zeros == 0).all()
    assert not noise.flags.writeable


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("take", [read, mapped])
def test_a_file_that_is_cut_or_changed_is_damage(disk: EntryDisk, size: int, take: object) -> None:
    row = written(disk, array_of(size))
    path = file_of(disk, row)
    good = path.read_bytes()
    for bad in (b"", good[:39], good[:-1], good[: len(good) // 2], good + b"x", good[:-1] + b"~"):
        path.unlink()
        path.write_bytes(bad)
        path.chmod(0o600)
        with pytest.raises((DamagedEntry, MissignedEntry)):
            take(disk, row)


def test_a_file_that_shrinks_while_it_is_read_is_damage(disk: EntryDisk) -> None:
    row = written(disk, array_of(3 * ARRIVING_FROM))
    path = file_of(disk, row)
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    os.truncate(path, size - 1)
    with pytest.raises((DamagedEntry, MissignedEntry)):
        unseal(StreamingRead(descriptor, size), "key", signature=SIGNATURE)


def test_an_error_of_the_reading_thread_reaches_who_waits(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    arrival = StreamingRead(descriptor, ARRIVING_FROM)
    with pytest.raises(IsADirectoryError):
        list(arrival)


def test_bytes_arrive_where_no_thread_can_begin(disk: EntryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the interpreter is ending."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert np.array_equal(read(disk, written(disk, array_of(5 * PIECE))), array_of(5 * PIECE))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_and_its_folders_are_for_the_owner_only(disk: EntryDisk, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = file_of(disk, written(disk, array_of(IN_ROW_BELOW)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_has_its_name_only_when_it_is_whole(disk: EntryDisk) -> None:
    """What a kill leaves has another name, so it is never taken for an entry."""
    program = f"""
        import os
        from bencher_job._stores.codec import Payload, SealedEntry, seal
        from bencher_job._stores.database import EntryDisk

        disk = EntryDisk({disk._directory!r}, min_file_size=1000)
        SealedEntry._digest = lambda self: os._exit(9)
        disk.write(seal(Payload(bytes(100_000)), "key"), 0)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert ended.returncode == 9
    left = [path.name for path in Path(disk._directory).rglob("*") if path.is_file()]
    assert [name for name in left if name.endswith(".val")] == []
    assert len([name for name in left if name.endswith(".val.part")]) == 1


def test_nothing_is_left_of_a_file_that_can_not_be_written(
    disk: EntryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        written(disk, array_of(IN_ROW_BELOW))
    assert [path for path in Path(disk._directory).rglob("*.val*") if path.is_file()] == []


def test_folders_that_others_remove_are_made_again(disk: EntryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir
    removed = iter([True, False, True])

    def make_and_lose(self: Path, *args: object, **options: object) -> None:
        make(self, *args, **options)
        if next(removed, False):
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    row = written(disk, array_of(IN_ROW_BELOW))
    assert len(read(disk, row)) == IN_ROW_BELOW


@pytest.mark.parametrize("take", [read, mapped])
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_to_is_refused(disk: EntryDisk, mode: int, take: object) -> None:
    row = written(disk, array_of(IN_ROW_BELOW))
    file_of(disk, row).chmod(mode)
    with pytest.raises(UntrustedCache, match=f"can be written to by others .mode {mode:o}"):
        take(disk, row)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("take", [read, mapped])
def test_a_file_of_another_user_is_refused(disk: EntryDisk, take: object) -> None:
    row = written(disk, array_of(IN_ROW_BELOW))
    os.chown(file_of(disk, row), 12345, -1)
    with pytest.raises(UntrustedCache, match="belongs to the user number 12345"):
        take(disk, row)


@pytest.mark.parametrize("take", [read, mapped])
def test_a_symbolic_link_is_refused_even_to_a_good_entry(disk: EntryDisk, take: object) -> None:
    row = written(disk, array_of(IN_ROW_BELOW))
    path = file_of(disk, row)
    path.symlink_to(path.rename(path.with_name("other")))
    with pytest.raises(UntrustedCache, match="is a symbolic link"):
        take(disk, row)


@pytest.mark.parametrize("take", [read_file, map_file])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_without_waiting(
    tmp_path: Path, make: object, take: object
) -> None:
    make(tmp_path / "x.val", 0o600)
    with pytest.raises(UntrustedCache, match="is not a regular file"):
        take(str(tmp_path / "x.val"))


@pytest.mark.parametrize("take", [read, mapped])
def test_no_descriptor_and_no_thread_stays(disk: EntryDisk, take: object) -> None:
    row, other = written(disk, array_of(ARRIVING_FROM)), written(disk, array_of(ARRIVING_FROM))
    file_of(disk, other).chmod(0o666)
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        take(disk, row)
        with pytest.raises(UntrustedCache):
            take(disk, other)
        assert threading.active_count() <= threads
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_file_that_takes_too_much_memory_is_not_damaged(disk: EntryDisk) -> None:
    row = written(disk, array_of(ARRIVING_FROM))
    descriptor = os.open(file_of(disk, row), os.O_RDONLY)
    with pytest.raises(UnreadableEntry, match="bytes of memory"):
        StreamingRead(descriptor, 1 << 60)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_child_that_writes_to_an_array_does_not_change_its_parents() -> None:
    program = """
        import os
        from bencher_job._stores.parts import LARGE_FROM, writable_memory

        memory = writable_memory(LARGE_FROM)
        child = os.fork()
        if child == 0:
            memory[0] = 1
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert memory[0] == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
