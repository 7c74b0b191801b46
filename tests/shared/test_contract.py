"""All remotes keep one contract."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bencher_job._shared import Unreachable, media_address, source_address
from bencher_job._shared.rows import RowRemote
from bencher_job.testing import RemoteContract
from bencher_job.testing.remotes import Connect, _address, _owner, _until

from .conftest import Opened
from .memory import Memory, MemoryRemote
from .servers import BUCKET, Azurite, PgBouncer, Postgres, TwoMounts


class Contract(RemoteContract):
    """What the command line, forks and damage ask of a remote as well."""

    def test_the_owner_of_a_lease_is_known(self, connect: Connect) -> None:
        """Host and process, until the lease is given back."""
        here, there = connect(), connect()
        address, other = _address(1), _address(2)
        leases = here.ask([address, other]).leases
        (owner,) = there.running([address]).values()
        assert (owner.session, owner.host, owner.pid) == (here.session, os.uname().nodename, os.getpid())
        assert there.running() == {each.rpartition("/")[2]: owner for each in (address, other)}
        here.release([leases[address]])
        assert there.running([address]) == {}
        assert list(there.running([address, other])) == [other.rpartition("/")[2]]

    def test_names_are_listed_by_folder(self, connect: Connect) -> None:
        """With their sizes and times, and without anything but what was asked for."""
        here, there = connect(), connect()
        first = {_address(number, "module.f"): b"x" * number for number in range(30)}
        second = {_address(number, "module.f2"): b"yy" for number in range(3)}
        source, media = source_address("ab" * 32), media_address("cd" * 32)
        here.put_many(first | second | {source: b"source", media: os.urandom(1_100_000)})
        here.ask([_address("running")])
        listed = list(there.names("e/"))
        assert {name.address: name.size for name in listed} == {
            address: len(content) for address, content in (first | second).items()
        }
        assert all(abs(name.stored - time.time()) < 3600 for name in listed)
        assert {name.address for name in there.names("e/module.f/")} == set(first)
        assert [(name.address, name.size) for name in there.names("f/")] == [(source, 6)]
        assert [(name.address, name.size) for name in there.names("m/")] == [(media, 1_100_000)]
        assert list(there.names("e/nothing/")) == []

    def test_what_is_no_address_is_refused(self, connect: Connect) -> None:
        """It could lead anywhere."""
        remote = connect()
        good = _address(1)
        digest = good.rpartition("/")[2]
        uses: list[Callable[[Any], object]] = [
            lambda address: remote.get_many([good, address]),
            lambda address: remote.ask([good, address]),
            lambda address: remote.put_many({good: b"", address: b""}),
            lambda address: remote.replace(address, b""),
            lambda address: remote.remove([good, address]),
            lambda address: remote.running([address]),
        ]
        climbing = "../x", f"e/../ab/{digest}", f"e/.f/ab/{digest}"
        for bad in ("", "e", *climbing, f"/{good}", f"{good}/x", f"c/{digest}/1"):
            for use in uses:
                try:
                    use(bad)
                except ValueError:
                    pass
                else:
                    raise AssertionError(f"{bad!r} is accepted")
        assert remote.get_many([good]) == {}

    def test_a_forked_child_hangs_nobody(self, connect: Connect) -> None:
        """It finds what is there or gets `Unreachable`, has a session of its own, and leaves that of its parent."""
        here, there = connect(), connect()
        address, mine = _address(1), _address(2)
        here.put_many({address: b"value"})
        here.ask([mine])
        session, child = here.session, os.fork()
        if child == 0:
            try:
                found = here.get_many([address])
                os._exit(0 if found == {address: b"value"} and here.session != session else 1)
            except Unreachable:
                os._exit(0)
            finally:
                os._exit(2)
        for _ in range(3):
            assert here.get_many([address]) == {address: b"value"}
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert here.get_many([address]) == {address: b"value"}
        assert _owner(there, mine) == session

    def test_tidying_keeps_what_is_needed(self, connect: Connect) -> None:
        """Old change records go, and entries and leases of the living stay."""
        here, there = connect(), connect()
        here.put_many({_address(1): b"stays", _address(2): b"goes"})
        here.ask([_address(3)])
        here.remove([_address(2)])
        assert there.tidy(3600) == 0
        assert there.changes().addresses == {_address(2)}
        assert _until(lambda: there.tidy(0.001) >= 0 and there.changes().addresses == frozenset())
        assert here.get_many([_address(1)]) == {_address(1): b"stays"}


class TestMemory(Contract):
    @pytest.fixture
    def connect(self, opened: Opened) -> Opened:
        memory = Memory()
        return lambda **_: opened(lambda: MemoryRemote(memory))


class TestFolder(Contract):
    @pytest.fixture
    def connect(self, tmp_path: Path, opened: Opened) -> Opened:
        return lambda **options: opened(tmp_path / "shared", **options)


class TestTwoMounts(Contract):
    many = 150

    @pytest.fixture
    def connect(self, two_mounts: TwoMounts, opened: Opened) -> Opened:
        name, mounts = uuid.uuid4().hex, itertools.cycle(two_mounts.mounts)
        return lambda **options: opened(next(mounts) / name, **options)


class TestPostgres(Contract):
    @pytest.fixture
    def connect(self, postgres: Postgres, schema: str, opened: Opened) -> Opened:
        return lambda **options: opened(lambda: RowRemote(postgres.url(), schema=schema, **options))


class TestPooler(Contract):
    """PostgreSQL behind a pooler, for which each transaction may use another connection."""

    @pytest.fixture
    def connect(self, postgres: Postgres, pooler: PgBouncer, schema: str, opened: Opened) -> Opened:
        url = postgres.url(pooler.port)
        return lambda **options: opened(lambda: RowRemote(url, schema=schema, **options))


class TestSeaweed(Contract):
    many = 150

    @pytest.fixture
    def connect(self, bucket: str, opened: Opened) -> Opened:
        return lambda **options: opened(bucket, **options)


class TestAzurite(Contract):
    many = 50

    @pytest.fixture
    def connect(
        self, azurite: Azurite, environment: Callable[[dict[str, str]], None], opened: Opened
    ) -> Opened:
        environment(azurite.settings())
        url = f"az://{BUCKET}/{uuid.uuid4().hex}"
        return lambda **options: opened(url, **options)
