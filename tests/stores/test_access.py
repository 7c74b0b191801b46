"""Stores of others, stores that can't be written, maps, and compression."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from bencher_job import CacheWarning, Record, UntrustedCache
from bencher_job._stores import Entry, Hit, Lease, LeasesUnavailable, StoreFailure, dump, open_store
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier

AS_NOBODY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def entry(key: str, value: object, **given: object) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC)))._replace(**given)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryTier]:
    store = MemoryTier(DiskStore(tmp_path / "store", size_limit=10**9))
    yield store
    store.close()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="bencher_job-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def read_as_nobody(directory: Path) -> list[object]:
    """Use a store as a user who can only read it, and say what came of it."""
    seen: list[object] = []
    with pytest.raises(UntrustedCache):
        DiskStore(directory, size_limit=10**9).open()
    store = MemoryTier(DiskStore(directory, size_limit=10**9, trusted=True))
    seen += [
        store.get("small").load(),
        store.get("small").load(),
        len(store.get("large").load()),
        len(store),
    ]
    for write in (lambda: store.put_many([entry("new", 1)]), store.clear):
        with pytest.raises(StoreFailure) as failure:
            write()
        seen.append(str(failure.value))
    with pytest.raises(LeasesUnavailable):
        store.leases.acquire([Lease("new")])
    seen += [store.figures().total.hits, store.get("small").load()]
    store.close()
    return seen


@AS_NOBODY
@pytest.mark.parametrize("is_open", [False, True])
def test_a_store_that_can_be_read_only_gives_hits_and_fails_each_put(
    public_folder: Path, is_open: bool
) -> None:
    store = DiskStore(public_folder / "store", size_limit=10**9)
    store.put_many([entry("small", 1), entry("large", "x" * 100_000)])
    if not is_open:
        store.close()
    for path in [store.directory, *store.directory.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, repr(read_as_nobody(store.directory)).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    seen = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    store.close()
    refusal = f"{store.directory} can be read, but not written"
    assert seen == repr([1, 1, 100_000, 2, refusal, refusal, 0, 1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_trust_overrides_the_refusal_of_folder_and_files(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", size_limit=10**9)
    store.put_many([entry("large", "x" * 100_000)])
    store.close()
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        os.chown(path, 12345, -1)
    with pytest.raises(UntrustedCache, match="trusted=True"):
        open_store(tmp_path / "store", size_limit=10**9)
    trusting = open_store(tmp_path / "store", size_limit=10**9, trusted=True)
    assert len(trusting.get("large").load()) == 100_000
    assert len(trusting.get("large", mapped=True).load()) == 100_000
    with pytest.raises(UntrustedCache):  # of those who don't trust it nobody is let in meanwhile
        open_store(tmp_path / "store", size_limit=10**9)
    trusting.close()


def test_who_asks_about_an_entry_is_told_that_others_can_write_to_its_file(store: MemoryTier) -> None:
    store.put_many([entry("large", "x" * 100_000)])
    for path in store.directory.glob("*/*/*.val"):
        path.chmod(0o666)
    found = store.history.examine("large")
    assert found.record.key == "large"
    assert "can be written to by others (mode 666)" in found.damage
    with pytest.raises(UntrustedCache):
        store.get("large")


def test_a_mapped_hit_shares_the_files_memory_and_can_not_be_written_to(store: MemoryTier) -> None:
    store.put_many([entry("array", np.arange(100_000))])
    for _ in range(2):
        hit = store.get("array", mapped=True)
        (buffer,) = hit.payload.buffers
        assert isinstance(buffer.obj, mmap.mmap)
        array = hit.load()
        assert not array.flags.writeable
        assert array.sum() == 99_999 * 50_000
    assert store.get("array", mapped=True) is store.get("array", mapped=True)  # kept in memory
    assert store.get_many(["array"], mapped=True)["array"] is store.get("array", mapped=True)


def test_who_asks_without_maps_gets_none(store: MemoryTier) -> None:
    store.put_many([entry("array", np.arange(100_000))])
    assert not store.get("array", mapped=True).load().flags.writeable
    for hit in (store.get("array"), store.get_many(["array"])["array"]):
        array = hit.load()
        assert array.flags.writeable
        array[:] = 0
    assert store.get("array", mapped=True).load().sum() > 0


def test_a_map_outlives_what_is_replaced_and_is_not_given_again(store: MemoryTier) -> None:
    store.put_many([entry("array", np.full(100_000, 1.0))])
    old = store.get("array", mapped=True).load()
    store.put_many([entry("array", np.full(100_000, 2.0))])
    assert store.get("array", mapped=True).load()[0] == 2.0
    assert (old == 1.0).all()
    store.remove(["array"])
    assert not store.get("array", mapped=True)


def test_memory_keeps_a_bounded_number_of_maps(store: MemoryTier) -> None:
    store.put_many([entry(f"key-{number}", np.full(10_000, number)) for number in range(200)])
    for number in range(200):
        assert store.get(f"key-{number}", mapped=True).load()[0] == number
    assert len(store.shelf._mapped) == 128


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_a_compressed_entry_takes_less_and_is_the_same(store: MemoryTier, name: str) -> None:
    value = np.zeros(1_000_000)
    store.put_many([entry("plain", value), entry("small", value, compression=name)])
    plain, small = (record.size for record in store.records())
    assert small < plain / 10
    for mapped in (False, True):
        hit = store.get("small", mapped=mapped)
        array = hit.load()
        assert (array == value).all()
        array[:] = 1  # expanded for this caller alone
    assert (store.get("small", mapped=True).load() == 0).all()


def test_a_compression_that_is_not_there_fails_the_put(store: MemoryTier) -> None:
    with pytest.raises(StoreFailure, match="not known"):
        store.put_many([entry("key", 1, compression="rot13")])
    assert not store.get("key")


def test_an_entry_whose_package_is_missing_is_told_by_name_and_left(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many([entry("key", np.zeros(100_000), compression="zstd")])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.warns(CacheWarning, match="The entry key in .* is good, but can't be read here: .*zstandard"):
        assert not store.get("key")
    monkeypatch.undo()
    assert isinstance(store.get("key"), Hit)
