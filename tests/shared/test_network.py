"""Whatever the network does: one value for each key, no hang, and few round trips."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from bencher_job._shared import Remote, Unreachable, entry_address

from .machines import Place
from .proxy import Proxy
from .servers import until

Network = tuple[Place, Place, Proxy]
Connected = Callable[..., Remote]


def compute(remote: Remote, address: str, value: bytes) -> bytes:
    """Do what a call does, again and again while the store is unreachable; return what it has then."""
    for _ in range(5):
        try:
            asked = remote.ask([address])
            if address in asked.found:
                return asked.found[address]
            assert address in asked.leases
            return remote.put_many({address: value}).get(address, value)
        except Unreachable:
            pass
    raise AssertionError("the store stays unreachable")


def test_a_lost_answer_changes_nothing(network: Network, connected: Connected) -> None:
    """Whichever answer it is, of the first contact or of a computed job."""
    direct, behind, proxy = network
    other = connected(direct)
    for number in range(1, 12):
        address = entry_address("f", str(number))
        proxy.lose_at = number
        remote = connected(behind)
        started = time.monotonic()
        mine = compute(remote, address, b"mine")
        was_lost, proxy.lose_at = not proxy.lose_at, 0
        assert time.monotonic() - started < 30
        assert (mine, compute(other, address, b"other")) == (b"mine", b"mine")
        assert other.running([address]) == {}
        assert was_lost or number > 6
        remote.close()


@pytest.mark.parametrize("size", [2_500_000])
def test_a_lost_answer_to_a_large_value_changes_nothing(
    network: Network, connected: Connected, size: int
) -> None:
    direct, behind, proxy = network
    remote, other = connected(behind), connected(direct)
    remote.ask([entry_address("f", "first")])
    for number in range(1, 5):
        address, value = entry_address("f", str(number)), os.urandom(size)
        remote.ask([address])
        proxy.lose_at = number
        assert compute(remote, address, value) == value
        proxy.lose_at = number
        assert compute(remote, address, b"") == value
        proxy.lose_at = 0
        assert other.get_many([address]) == {address: value}


def test_a_slow_network_is_waited_for(network: Network, connected: Connected) -> None:
    _, behind, proxy = network
    proxy.delay = 0.05
    assert compute(connected(behind), entry_address("f", "1"), b"value") == b"value"


def test_a_refused_connection_is_told_at_once(network: Network, connected: Connected) -> None:
    """And it works again as soon as the server does."""
    _, behind, proxy = network
    address = entry_address("f", "1")
    remote = connected(behind)
    proxy.refuse()
    started = time.monotonic()
    with pytest.raises(Unreachable):
        remote.get_many([address])
    assert time.monotonic() - started < 4
    proxy.is_refusing = False
    assert compute(remote, address, b"value") == b"value"


def test_a_cut_is_told_after_a_time_and_ends(network: Network, connected: Connected) -> None:
    """Meanwhile the leases run out, and the first stored result counts."""
    direct, behind, proxy = network
    address = entry_address("f", "1")
    remote, other = connected(behind), connected(direct)
    assert remote.ask([address]).leases
    proxy.is_cut = True
    started = time.monotonic()
    with pytest.raises(Unreachable):
        remote.put_many({address: b"mine"})
    assert 4 < time.monotonic() - started < 40
    proxy.reset()
    until(lambda: address in (asked := other.ask([address])).leases or address in asked.found, "no lease")
    theirs = other.put_many({address: b"theirs"}).get(address, b"theirs")
    proxy.is_cut = False
    until(lambda: compute(remote, address, b"mine") == theirs, "they differ")
    assert remote.put_many({address: b"mine"}) == ({address: theirs} if theirs != b"mine" else {})


def test_round_trips_are_few(network: Network, connected: Connected) -> None:
    """One for a hit, two for a computed job with rows, and five with objects."""
    _, behind, proxy = network
    remote = connected(behind, lease_seconds=60)
    first, second = entry_address("f", "1"), entry_address("f", "2")
    compute(remote, first, b"value")

    def counted(act: Callable[[], object]) -> int:
        before = proxy.round_trips
        act()
        return proxy.round_trips - before

    assert counted(lambda: remote.get_many([first])) == 1
    assert counted(lambda: remote.ask([first])) == 1
    is_rows = bool(behind.schema)
    assert counted(lambda: compute(remote, second, b"value")) <= (2 if is_rows else 5)
    if is_rows:
        entries = {entry_address("f", str(number)): b"x" * 500 for number in range(10_000)}
        assert counted(lambda: remote.put_many(entries)) <= 12
        assert counted(lambda: remote.get_many(entries)) <= 12
        assert len(remote.get_many(entries)) == 10_000
    else:
        remote.put_many({entry_address("g", str(number)): b"" for number in range(50)})
        assert counted(lambda: list(remote.names("e/"))) == 1


def test_a_connection_that_was_lost_while_idle_is_made_again(network: Network, connected: Connected) -> None:
    """By each kind of request, unnoticed by the caller."""
    _, behind, proxy = network
    remote, address = connected(behind), entry_address("f", "1")
    compute(remote, address, b"value")
    for ask in (lambda: remote.get_many([address]), lambda: remote.ask([address]).found):
        proxy.reset()
        assert ask() == {address: b"value"}
