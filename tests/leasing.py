"""Leases in tests: acquire one, take one over from a stopped owner, and see whether one is waited for."""

from __future__ import annotations

from bencher_job._stores import Lease, Store
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier


def acquired(store: Store, lease: Lease) -> bool:
    """Whether a lease can be acquired."""
    store.leases.acquire([lease])
    return lease.held


def taken_over(store: Store, lease: Lease, number: int) -> bool:
    """Whether a lease can be acquired in place of the one with a number."""
    lease.replaces = number
    return acquired(store, lease)


def is_waited_for(store: DiskStore | MemoryTier, lease: Lease) -> bool:
    """Whether the owner of a lease was told of a waiter."""
    statement = "SELECT 1 FROM Lease WHERE key = ? AND number = ? AND waited"
    disk = store.behind if isinstance(store, MemoryTier) else store
    assert isinstance(disk, DiskStore)
    return bool(disk.files.query(statement, (lease.key, lease.number)))
