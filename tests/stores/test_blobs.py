"""Files that workers write for a store of another process: when they do, and that none is left without a row."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bencher_job import Job, Record
from bencher_job._coordinator.commits import Run, commit
from bencher_job._coordinator.coordinator import Coordinator
from bencher_job._coordinator.running import RunningJob, running_jobs
from bencher_job._executors import Outcome
from bencher_job._options import Options, StoreOptions
from bencher_job._stores import Blob, BlobLost, BlobWriter, Entry, Lease, StoreFailure, dump
from bencher_job._stores.blobs import LARGE, write_blob
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier
from tests.leasing import acquired, taken_over

VALUE = np.arange(LARGE // 8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryTier]:
    behind = DiskStore(tmp_path / "store", size_limit=10**9)
    behind.open()
    store = MemoryTier(behind)
    yield store
    store.close()


def blob_writer_of(store: MemoryTier) -> BlobWriter:
    writer = store.blob_writer(None)
    assert writer is not None
    return writer


def blob_in(store: MemoryTier, key: str = "key") -> Blob:
    """Do what a worker does."""
    blob = write_blob(blob_writer_of(store).terms, dump(VALUE), key)
    assert blob is not None
    return blob


def entry(blob: Blob, key: str = "key", **given: Any) -> Entry:
    return Entry(blob, Record(key=key, function="f", created=datetime.now(UTC)))._replace(**given)


def value_files(store: MemoryTier) -> list[Path]:
    return list(store.directory.glob("*/*/*.val*"))


def test_what_is_large_never_fits_in_a_row() -> None:
    assert LARGE >= IN_ROW_BELOW


def test_a_blob_is_committed_as_any_other_entry(store: MemoryTier) -> None:
    lease = Lease("key")
    assert acquired(store, lease)
    assert store.put_many([entry(blob_in(store), lease=lease)]) == {}
    hit = store.get("key")
    assert hit
    assert np.array_equal(hit.load(), VALUE)
    assert store.leases.owner_of("key") is None
    (record,), (path,) = store.records(), value_files(store)
    assert record.size == path.stat().st_size


@pytest.mark.parametrize("otherwise", ["directory", "place", "user", "secret", "compression"])
def test_a_worker_writes_nothing_where_anything_is_otherwise(
    store: MemoryTier, tmp_path: Path, otherwise: str
) -> None:
    directory, place, user, mark, compression, is_personal = pickle.loads(blob_writer_of(store).terms)
    others = {
        "directory": (str(tmp_path / "gone"), place, user, mark, compression, is_personal),
        "place": (directory, (place[0], place[1] + 1), user, mark, compression, is_personal),
        "user": (directory, place, user + 1, mark, compression, is_personal),
        "secret": (directory, place, user, bytes(32), compression, is_personal),
        "compression": (directory, place, user, mark, "none that is installed", is_personal),
    }
    assert write_blob(pickle.dumps(others[otherwise]), dump(VALUE), "key") is None
    assert value_files(store) == []
    assert not (tmp_path / "gone").exists()


def test_a_store_that_is_not_open_or_can_only_be_read_has_nothing_written(tmp_path: Path) -> None:
    behind = DiskStore(tmp_path / "store", size_limit=10**9)
    assert behind.blob_writer(None) is None
    behind.open()
    assert behind.blob_writer(None) is not None
    behind.close()
    looking = DiskStore(tmp_path / "store", size_limit=10**9, only_looks=True)
    looking.open()
    assert looking.blob_writer(None) is None
    looking.close()


def test_no_row_is_committed_without_its_file(store: MemoryTier) -> None:
    """Nothing of the whole group is then, and what workers have written for the others stays for a second try."""
    gone, other = blob_in(store, "gone"), blob_in(store, "other")
    blob_writer_of(store).discard(gone)
    with pytest.raises(StoreFailure, match="FileNotFoundError"):
        store.put_many([entry(other, "other"), entry(gone, "gone")])
    assert len(store) == 0
    assert blob_writer_of(store).has(other)
    store.put_many([entry(other, "other")])
    assert store.get("other")


def test_the_file_of_a_lost_lease_is_removed(store: MemoryTier) -> None:
    lease = Lease("key")
    assert acquired(store, lease)
    assert taken_over(store, Lease("key"), lease.number)
    assert store.put_many([entry(blob_in(store), lease=lease)]).keys() == {"key"}
    assert value_files(store) == []


def test_what_is_under_another_key_is_lost(store: MemoryTier) -> None:
    blob = blob_in(store, "one key")
    with pytest.raises(BlobLost, match="it belongs to the key one key"):
        blob_writer_of(store).read(blob, "another key")


def test_a_file_that_is_removed_after_it_was_read_is_written_again(store: MemoryTier) -> None:
    """As one is whose worker has ended, by somebody who takes it for what a dead process has left."""
    job = Job("job", np.arange, {"stop": VALUE.size}, "key").for_run(None, blob_writer_of(store))
    blob = blob_in(store)
    value = blob_writer_of(store).read(blob, "key").load_in_place()
    blob_writer_of(store).discard(blob)
    coordinator = Coordinator(Options.of({}), lambda _: None)
    run = Run(coordinator, RunningJob(job, store, running_jobs(store)), job, "MULTIPROCESSING", None)
    run.outcome = Outcome(value, blob=blob)
    assert commit([run], StoreOptions())[0] == []
    hit = store.get("key")
    assert hit
    assert np.array_equal(hit.load(), VALUE)
