from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from bencher_job._shared import Remote, open_remote

from .machines import Client, Place
from .proxy import Proxy
from .servers import BUCKET, Azurite, PgBouncer, Postgres, Rclone, Seaweed, Server, TwoMounts

S = TypeVar("S", bound=Server)

Opened = Callable[..., Remote]


def _served(server: S) -> Iterator[S]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="the extra postgresql is not installed", exc_type=ImportError)
    yield from _served(Postgres())


@pytest.fixture(scope="session")
def pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    yield from _served(PgBouncer(postgres))


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    pytest.importorskip("obstore", reason="the extra objects is not installed")
    yield from _served(Seaweed())


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    pytest.importorskip("obstore", reason="the extra objects is not installed")
    yield from _served(Azurite())


@pytest.fixture(scope="session")
def rclone() -> Iterator[Rclone]:
    pytest.importorskip("obstore", reason="the extra objects is not installed")
    yield from _served(Rclone())


@pytest.fixture(scope="session")
def two_mounts() -> Iterator[TwoMounts]:
    yield from _served(TwoMounts())


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Open remotes, and close them when the test is over."""
    remotes: list[Remote] = []

    def open_one(place: str | Path | Callable[[], Remote], **options: object) -> Remote:
        remotes.append(place() if callable(place) else open_remote(place, **options))  # type: ignore[arg-type]
        return remotes[-1]

    yield open_one
    for remote in remotes:
        remote.close()


@pytest.fixture
def schema(postgres: Postgres) -> Iterator[str]:
    """A schema of the test's own, with the tables of a shared store."""
    import psycopg

    from bencher_job._shared.rows import init_rows

    name = f"test_{uuid.uuid4().hex[:12]}"
    init_rows(postgres.url(), schema=name)
    yield name
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"drop schema {name} cascade")


@pytest.fixture
def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix of the test's own, and the environment that leads to its server."""
    for name, value in seaweed.settings().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def through() -> Iterator[Callable[[int], Proxy]]:
    """Put a proxy before a port."""
    proxies: list[Proxy] = []

    def put(port: int) -> Proxy:
        proxies.append(Proxy(port))
        return proxies[-1]

    yield put
    for proxy in proxies:
        proxy.close()


@pytest.fixture(params=["folder", "postgres"])
def few(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new shared store of names, and one of rows."""
    return (
        Place(str(tmp_path / "shared"))
        if request.param == "folder"
        else _served_place(request, request.param)
    )


@pytest.fixture(params=["folder", "postgres", "seaweed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new shared store of each kind."""
    if request.param == "folder":
        return Place(str(tmp_path / "shared"))
    return _served_place(request, request.param)


@pytest.fixture(params=["postgres", "seaweed"])
def network(request: pytest.FixtureRequest, through: Callable[[int], Proxy]) -> tuple[Place, Place, Proxy]:
    """A new shared store on a server, the way there through a proxy, and the proxy."""
    direct = _served_place(request, request.param)
    proxy = through(request.getfixturevalue(request.param).port)
    return direct, _served_place(request, request.param, direct, proxy.port), proxy


def _served_place(
    request: pytest.FixtureRequest, kind: str, same: Place | None = None, port: int | None = None
) -> Place:
    server = request.getfixturevalue(kind)
    if kind == "postgres":
        return Place(server.url(port), request.getfixturevalue("schema"))
    url = same.url if same is not None else f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
    return Place(url, environment=server.settings(port))


@pytest.fixture
def connected(opened: Opened) -> Callable[..., Remote]:
    """Connect to a place, and close the remote when the test is over."""
    return lambda place, **options: opened(lambda: place.remote(**options))


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Start a program that uses a place; it has ended when the test is over."""
    clients: list[Client] = []

    def start(place: Place, **options: object) -> Client:
        clients.append(Client(place, **options))  # type: ignore[arg-type]
        assert clients[-1].answer() is not None, clients[-1].end()
        return clients[-1]

    yield start
    for each in clients:
        each.close()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    def set_all(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def pytest_configure() -> None:
    for name in list(os.environ):  # of whoever runs the tests
        if name.startswith(("AWS_", "AZURE_", "PG")):
            del os.environ[name]
