"""Each store keeps the contract, alone and behind the memory cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bencher_job._stores import NullStore, Store
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier
from bencher_job.testing import StoreContract
from tests.dict_store import DictStore


class TestDiskStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = DiskStore(tmp_path / "store", size_limit=10**9)
        yield store
        store.close()


class TestMemoryTier(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        disk = DiskStore(tmp_path / "store", size_limit=10**9)
        store = MemoryTier(disk)
        yield store
        store.close()


class TestDictStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return DictStore()


class TestMemoryTierOverDict(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryTier(DictStore())


def test_the_null_store_keeps_nothing() -> None:
    store = NullStore()
    assert (len(store), store.has("a"), store.remove(["a"]), store.clear()) == (0, False, 0, 0)
    assert not store.keeps
    assert list(store.records()) == []
