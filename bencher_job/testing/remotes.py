"""The contract of remotes: stores that machines share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, Protocol

from .._shared import Remote, entry_address, media_address, source_address
from .tools import in_threads

__all__ = ["RemoteContract"]

PATIENCE: Final = 60.0
"""Seconds after which a test has failed."""


class Connect(Protocol):
    """Connects to one store, which is new for each test, under a new session at each call, as other machines do."""

    def __call__(self, *, lease_seconds: float = 60.0) -> Remote: ...


def _address(name: object, function: str = "module.f") -> str:
    return entry_address(function, str(name))


class RemoteContract:
    """The tests that every remote must pass. Provide the fixture `connect`, a `Connect`.

    What one session stores others find at once. What it removes or replaces others may find for some seconds more.
    """

    many = 1200
    """How many entries are stored at once: more than one request holds."""

    def test_a_new_store_is_empty(self, connect: Connect) -> None:
        """Nothing is found, nobody runs anything, and nothing was removed."""
        remote = connect()
        assert remote.get_many([_address(1)]) == {}
        assert remote.get_many([]) == {}
        assert list(remote.names("e/")) == []
        assert remote.running() == {}
        assert remote.running([_address(1)]) == {}
        assert remote.changes().addresses == frozenset()

    def test_what_one_stores_all_find(self, connect: Connect) -> None:
        """Bytes of all sizes come back as they were, from all kinds of addresses."""
        here, there = connect(), connect()
        contents = [b"", b"\0", b"x" * 100_000, os.urandom(1_000_000), os.urandom(3_500_000)]
        entries = {_address(number): content for number, content in enumerate(contents)}
        entries |= {source_address("ab" * 32): b"source", media_address("cd" * 32): b"media"}
        assert here.put_many(entries) == {}
        assert there.get_many([*entries, _address("absent")]) == entries

    def test_the_first_stored_bytes_stay(self, connect: Connect) -> None:
        """A later session gets the bytes of the first; the first gets nothing when it stores them again."""
        here, there = connect(), connect()
        for first, second in ((b"first", b"second"), (os.urandom(1_500_000), os.urandom(1_500_000))):
            address = _address(len(first))
            assert here.put_many({address: first}) == {}
            assert there.put_many({address: second}) == {address: first}
            assert here.put_many({address: first}) == {}
            assert there.get_many([address]) == {address: first}

    def test_many_are_stored_and_found_at_once(self, connect: Connect) -> None:
        """A lookup of many addresses returns those that exist."""
        here, there = connect(), connect()
        entries = {_address(number): str(number).encode() for number in range(self.many)}
        assert here.put_many(entries) == {}
        assert there.get_many([*entries, _address("absent")]) == entries
        asked = there.ask([*entries, _address("absent")])
        assert asked.found == entries
        assert set(asked.leases) == {_address("absent")}

    def test_one_session_has_the_lease(self, connect: Connect) -> None:
        """The first session gets it, and gets it again, since the first answer may have been lost."""
        here, there = connect(), connect()
        address = _address(1)
        (lease,) = here.ask([address]).leases.values()
        assert (lease.address, lease.session) == (address, here.session)
        assert there.ask([address]) == ({}, {})
        (again,) = here.ask([address]).leases.values()
        assert again.session == here.session

    def test_a_result_releases_the_lease(self, connect: Connect) -> None:
        """The next session finds the result, and gets the lease once the result is removed."""
        here, there = connect(), connect()
        address = _address(1)
        assert set(here.ask([address]).leases) == {address}
        here.put_many({address: b"value"})
        assert here.running([address]) == {}
        assert there.ask([address]) == ({address: b"value"}, {})
        there.remove([address])
        assert set(there.ask([address]).leases) == {address}

    def test_a_lease_can_be_given_back(self, connect: Connect) -> None:
        """The next session gets it. Giving it back twice changes nothing."""
        here, there = connect(), connect()
        address = _address(1)
        leases = here.ask([address]).leases.values()
        here.release(leases)
        theirs = there.ask([address]).leases
        assert set(theirs) == {address}
        here.release(leases)
        assert here.ask([address]) == ({}, {})
        assert _owner(there, address) == there.session

    def test_a_heartbeat_keeps_leases(self, connect: Connect) -> None:
        """As long as its process lives, a job may take longer than a lease."""
        here, there = connect(lease_seconds=0.8), connect(lease_seconds=0.8)
        address = _address(1)
        here.ask([address])
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert there.ask([address]) == ({}, {})
            time.sleep(0.05)
        assert _owner(there, address) == here.session

    def test_a_closed_session_has_no_leases(self, connect: Connect) -> None:
        """Others get them at once, and what is closed can be used again."""
        here, there = connect(), connect()
        addresses = [_address(1), _address(2)]
        here.ask(addresses)
        here.close()
        assert set(there.ask(addresses).leases) == set(addresses)
        assert here.ask([_address(3)]).leases
        here.close()
        here.close()

    def test_what_is_removed_is_gone_for_all(self, connect: Connect) -> None:
        """Others learn of it, and it can be stored again."""
        here, there = connect(), connect()
        address, large, other = _address(1), _address(2), _address(3)
        here.put_many({address: b"old", large: os.urandom(1_200_000), other: b"stays"})
        cursor = there.changes().cursor
        here.remove([address, large, _address("absent")])
        here.remove([address])
        assert _until(lambda: there.get_many([address, large, other]) == {other: b"stays"})
        changes = there.changes(cursor)
        assert {address, large} <= changes.addresses
        assert other not in changes.addresses
        assert {address, large} <= there.changes().addresses
        assert there.put_many({address: b"new", large: b"small"}) == {}
        assert _until(lambda: here.get_many([address, large]) == {address: b"new", large: b"small"})

    def test_a_replacement_counts_for_all(self, connect: Connect) -> None:
        """It replaces the old bytes, others notice, and the lease is released."""
        here, there = connect(), connect()
        address = _address(1)
        here.ask([address])
        for content in (b"first", os.urandom(2_200_000), b"third"):
            here.replace(address, content)
            assert _until(lambda: there.get_many([address]) == {address: content})  # noqa: B023 - called here
            assert address in there.changes().addresses
        assert here.running([address]) == {}

    def test_threads_may_use_it_together(self, connect: Connect) -> None:
        """Each gets its own answers."""
        remote = connect()

        def use(number: int) -> None:
            for turn in range(5):
                address, content = _address((number, turn)), f"{number} {turn}".encode()
                assert set(remote.ask([address]).leases) == {address}
                assert remote.put_many({address: content}) == {}
                assert remote.get_many([address]) == {address: content}

        in_threads(8, use)
        assert remote.running() == {}


def _until(holds: Callable[[], bool]) -> bool:
    """Wait until something holds; whether it does in the end."""
    end = time.monotonic() + PATIENCE
    while not (answer := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer


def _owner(remote: Remote, address: str) -> str | None:
    """Return the session that has the lease of an address."""
    return next((owner.session for owner in remote.running([address]).values()), None)
