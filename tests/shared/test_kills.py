"""Whoever is killed or stopped: one value for each key, and nobody waits for the dead."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bencher_job._shared import Remote, Unreachable, entry_address, init_remote, open_remote
from bencher_job._stores.signature import Signature

from .machines import Client, Place
from .proxy import Proxy
from .servers import BUCKET, Postgres, Seaweed, Server, until
from .test_sharing import SECRET, Hosts, program

Connected = Callable[..., Remote]
Starter = Callable[..., Client]

FILE_EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}


def took_over(remote: Remote, address: str, value: bytes) -> bytes:
    """Wait for a value, or compute it when its owner is dead."""
    result: list[bytes] = []

    def is_there() -> bool:
        asked = remote.ask([address])
        if address in asked.leases:
            result.append(remote.put_many({address: value}).get(address, value))
        else:
            result.extend(asked.found.values())
        return bool(result)

    until(is_there, "nobody computes it")
    return result[0]


def test_a_client_may_be_killed_at_each_answer(
    network: tuple[Place, Place, Proxy], connected: Connected, client: Starter
) -> None:
    direct, behind, proxy = network
    other, third = connected(direct, lease_seconds=0.3), connected(direct)
    for number in range(1, 7):
        address = entry_address("f", str(number))
        victim = client(behind, lease_seconds=0.3)
        proxy.lose_at = number
        proxy.on_loss = victim.process.kill
        with contextlib.suppress(BrokenPipeError):  # it is dead by now
            victim.do("ask", str(number))
            victim.do("put", str(number), "victim's")
        proxy.lose_at = 0
        victim.close()
        value = took_over(other, address, b"other's")
        assert third.get_many([address]) == {address: value}
    third.tidy(-1000)
    assert third.running() == {}


def test_a_client_may_be_killed_at_each_file_operation(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    with_remote = open_remote(folder, lease_seconds=0.2)
    number = 0
    while True:
        number += 1
        address = entry_address("f", str(number))
        child = os.fork()
        if child == 0:
            try:
                _die_at(number, str(folder))
                remote = open_remote(folder, lease_seconds=0.2)
                remote.ask([address])
                remote.put_many({address: b"child's"})
                remote.remove([entry_address("g", "1")])
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        value = took_over(with_remote, address, b"parent's")
        assert with_remote.get_many([address]) == {address: value}
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert number > 15
    with_remote.tidy(-1000)
    assert with_remote.running() == {}
    assert not [*folder.rglob("*.part")]
    with_remote.close()


def _die_at(number: int, folder: str) -> None:
    left = number

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in FILE_EVENTS and any(
            isinstance(each, str) and each.startswith(folder) for each in arguments
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def test_a_stopped_owner_loses_its_lease_and_takes_the_value(
    place: Place, connected: Connected, client: Starter
) -> None:
    """It was stopped for longer than a lease: another has computed, and the first stored result counts."""
    other = connected(place)
    address = entry_address("f", "1")
    owner = client(place)
    assert owner.do("ask", "1") == [None, True]
    owner.process.send_signal(signal.SIGSTOP)
    try:
        assert took_over(other, address, b"other's") == b"other's"
    finally:
        owner.process.send_signal(signal.SIGCONT)
    assert owner.do("put", "1", "owner's") == ["other's"]
    assert owner.do("ask", "2") == [None, True]
    assert other.ask([entry_address("f", "2")]) == ({}, {})


def test_a_killed_owner_is_noticed_after_a_lease(place: Place, connected: Connected, client: Starter) -> None:
    other = connected(place)
    owner = client(place)
    assert owner.do("ask", "1") == [None, True]
    owner.process.kill()
    owner.process.wait()
    started = time.monotonic()
    assert took_over(other, entry_address("f", "1"), b"other's") == b"other's"
    assert time.monotonic() - started < 30


@pytest.fixture(params=[Postgres, Seaweed])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test's own."""
    pytest.importorskip("psycopg" if request.param is Postgres else "obstore", exc_type=ImportError)
    server: Server = request.param()
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_a_server_may_be_killed(own_server: Server, connected: Connected) -> None:
    """What was stored is there when it is back, and jobs go on without opening anything again."""
    if isinstance(own_server, Postgres):
        from bencher_job._shared.rows import init_rows

        init_rows(own_server.url())
        place = Place(own_server.url(), "bencher_job")
    else:
        assert isinstance(own_server, Seaweed)
        place = Place(f"s3://{BUCKET}/own", environment=own_server.settings())
    remote, other = connected(place, lease_seconds=0.3), connected(place, lease_seconds=0.3)
    stored, running = entry_address("f", "1"), entry_address("f", "2")
    remote.put_many({stored: b"value"})
    assert remote.ask([running]).leases
    own_server.kill()
    for act in (remote.get_many, remote.ask, other.ask):
        with pytest.raises(Unreachable):
            act([stored])
    own_server.start()
    assert remote.get_many([stored]) == {stored: b"value"}
    # Its owner has the lease again, or another has it by now.
    value = remote.put_many({running: b"owner's"}).get(running, b"owner's")
    assert took_over(other, running, b"other's") == value


def test_programs_go_on_while_a_server_is_killed_and_push_when_it_is_back(
    own_server: Server, tmp_path: Path
) -> None:
    hosts = Hosts(tmp_path)
    if isinstance(own_server, Postgres):
        hosts.shared, hosts.environment = own_server.url(), {}
        init_remote(own_server.url(), mark=Signature(SECRET.encode()).shared_mark)
    else:
        assert isinstance(own_server, Seaweed)
        hosts.shared, hosts.environment = f"s3://{BUCKET}/own", own_server.settings()
    source = program(
        """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert work(0) == expected([0])[0]
        assert work.cache.cache.behind.courier.flush(10) == 0
        tell("is on")
        wait_for("is killed")
        assert [work(x) for x in range(1, 20)] == expected(range(1, 20))
        assert list(work.map(range(20, 40))) == expected(range(20, 40))
        assert work.cache.info().shared.outbox == 39
        tell("has computed")
        wait_for("is back", 60)
        deadline = time.monotonic() + 60
        while (now := work.cache.info().shared).outbox or now.problem:
            assert time.monotonic() < deadline, now
            time.sleep(0.02)
    print(len([each for each in caught if "can't be reached" in str(each.message)]), len(caught))
    """
    )
    try:
        running = hosts.on("a", source)
        hosts.wait_for("a.is on")
        own_server.kill()
        hosts.tell("is killed")
        hosts.wait_for("a.has computed")
        own_server.start()
        hosts.tell("is back")
        assert hosts.output(running) == "1 1"
        hosts.output(hosts.on("b", program("assert list(work.map(range(40))) == expected(range(40))")))
        assert hosts.count("run") == 40
    finally:
        hosts.end()


def test_a_server_that_comes_later_is_used(
    tmp_path: Path, through: Callable[[int], Proxy], postgres: Postgres, schema: str, connected: Connected
) -> None:
    """Until then each operation says at once that it is unreachable."""
    proxy = through(postgres.port)
    proxy.refuse()
    remote = connected(Place(postgres.url(proxy.port), schema))
    address = entry_address("f", "1")
    for _ in range(2):
        with pytest.raises(Unreachable):
            remote.ask([address])
    proxy.is_refusing = False
    assert set(remote.ask([address]).leases) == {address}


def test_the_first_lease_of_a_session_is_kept(postgres: Postgres, schema: str) -> None:
    """Another process that waits for it sees the lease, but not yet the session, which began in one transaction."""
    import psycopg

    from bencher_job._shared.rows import RowRemote

    address = entry_address("f", "key")
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with (
        contextlib.closing(RowRemote(postgres.url(), schema=schema)) as remote,
        psycopg.connect(postgres.url()) as other,
        psycopg.connect(postgres.url(), autocommit=True) as looking,
        ThreadPoolExecutor(1) as threads,
    ):
        remote.open()
        asked = other.execute(
            f"select number from {schema}.ask(%s, %s, 'host', 1, 60)", ([address], uuid.uuid4())
        )
        assert len(asked.fetchall()) == 1
        asking = threads.submit(remote.ask, [address])
        until(lambda: looking.execute(waits).fetchone() == (1,), "nobody waits for the lease")
        other.commit()

        assert asking.result(60).leases == {}


def test_eight_processes_compute_each_key_once(place: Place, client: Starter) -> None:
    """All ask for all keys, each from its own position on, and all get the same values."""
    count = 100 if place.environment else 1000
    keys = [str(number) for number in range(count)]
    clients = [client(place, lease_seconds=60) for _ in range(8)]
    start = time.time() + 0.5
    for number, each in enumerate(clients):
        each.send("race", keys, number * count // 8, 20, start)
    answers = [each.answer() for each in clients]
    assert sum(runs for runs, _ in answers) == count
    first = answers[0][1]
    assert set(first) == set(keys)
    assert all(values == first for _, values in answers)
