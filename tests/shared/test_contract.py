"""All remotes keep one contract."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from bencher_job._shared.rows import RowRemote
from bencher_job.testing import RemoteContract

from .conftest import Opened
from .memory import Memory, MemoryRemote
from .servers import BUCKET, Azurite, PgBouncer, Postgres, TwoMounts


class TestMemory(RemoteContract):
    @pytest.fixture
    def connect(self, opened: Opened) -> Opened:
        memory = Memory()
        return lambda **_: opened(lambda: MemoryRemote(memory))


class TestFolder(RemoteContract):
    @pytest.fixture
    def connect(self, tmp_path: Path, opened: Opened) -> Opened:
        return lambda **options: opened(tmp_path / "shared", **options)


class TestTwoMounts(RemoteContract):
    many = 150

    @pytest.fixture
    def connect(self, two_mounts: TwoMounts, opened: Opened) -> Opened:
        name, mounts = uuid.uuid4().hex, itertools.cycle(two_mounts.mounts)
        return lambda **options: opened(next(mounts) / name, **options)


class TestPostgres(RemoteContract):
    @pytest.fixture
    def connect(self, postgres: Postgres, schema: str, opened: Opened) -> Opened:
        return lambda **options: opened(lambda: RowRemote(postgres.url(), schema=schema, **options))


class TestPooler(RemoteContract):
    """PostgreSQL behind a pooler, for which each transaction may use another connection."""

    @pytest.fixture
    def connect(self, postgres: Postgres, pooler: PgBouncer, schema: str, opened: Opened) -> Opened:
        url = postgres.url(pooler.port)
        return lambda **options: opened(lambda: RowRemote(url, schema=schema, **options))


class TestSeaweed(RemoteContract):
    many = 150

    @pytest.fixture
    def connect(self, bucket: str, opened: Opened) -> Opened:
        return lambda **options: opened(bucket, **options)


class TestAzurite(RemoteContract):
    many = 50

    @pytest.fixture
    def connect(
        self, azurite: Azurite, environment: Callable[[dict[str, str]], None], opened: Opened
    ) -> Opened:
        environment(azurite.settings())
        url = f"az://{BUCKET}/{uuid.uuid4().hex}"
        return lambda **options: opened(url, **options)
