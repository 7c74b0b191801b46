"""A value that can't be unpickled in time, or a worker that can't begin, keeps nobody from anything but its own job."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bencher_job import JobTimeout, cached_job
from bencher_job._executors import pool

PATIENCE = 60.0
LONG = 600.0

gate = threading.Event()
"""Keeps whoever unpickles here waiting."""


@pytest.fixture(autouse=True)
def _gate() -> Iterator[None]:
    gate.clear()
    yield
    gate.set()


class SlowToUnpickle:
    """Waits at the gate of one process when it is unpickled there."""

    def __init__(self, pid: int, content: object = None) -> None:
        self.pid, self.content = pid, content

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() == self.pid:
            gate.wait(LONG)


class StuckInWorker:
    """Is never unpickled anywhere but in one process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.pid:
            threading.Event().wait(LONG)


class SlowError(Exception):
    """Waits at the gate of one process when it is unpickled there."""

    __setstate__ = SlowToUnpickle.__setstate__

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid


def value_for(pid: int, kind: str, number: int) -> object:
    """Return a value that is slow to unpickle, or raise an error that is, or return the number."""
    if kind == "slow":
        return SlowToUnpickle(pid, number)
    if kind == "large":
        return SlowToUnpickle(pid, bytes(1 << 22))
    if kind == "error":
        raise SlowError(pid)
    return number


def value_once_told(pid: int, kind: str, folder: Path) -> object:
    """Say that it runs, and return a value when it is told to."""
    (folder / kind).touch()
    while not (folder / "go on").exists():
        time.sleep(0.01)
    return value_for(pid, kind, 1)


def never() -> None:
    """Be an initializer that does not end."""
    threading.Event().wait(LONG)


def ignoring(given: object) -> int:
    """Return something."""
    return 1


@pytest.mark.parametrize("kind", ["slow", "large", "error"])
def test_others_get_their_values_while_one_is_unpickled(tmp_path: Path, kind: str) -> None:
    function = cached_job(executor="multiprocessing", max_workers=1, cache_dir=tmp_path)(value_for)
    with function.cache:
        slow = function.submit(os.getpid(), kind, 0)
        others = [function.submit(os.getpid(), "plain", number) for number in range(5)]
        assert [other.result(PATIENCE) for other in others] == [*range(5)]
        assert function(os.getpid(), "plain", 7) == 7
        assert not slow.done()
        gate.set()
        if kind == "error":
            assert isinstance(slow.exception(PATIENCE), SlowError)
        else:
            assert isinstance(slow.result(PATIENCE), SlowToUnpickle)
    assert function.cache.info().entries == 7 - (kind == "error")


OTHER_PROCESS = """
import sys
from pathlib import Path
from bencher_job import cached_job
from tests.running.test_hanging import value_once_told

pid, cache_dir, folder = int(sys.argv[1]), *map(Path, sys.argv[2:4])
function = cached_job(executor="threads", max_workers=2, cache_dir=cache_dir)(value_once_told)
for future in [function.submit(pid, kind, folder) for kind in sys.argv[4:]]:
    future.exception()
function.cache.close()
"""


@pytest.mark.parametrize("kind", ["slow", "error"])
def test_others_get_what_another_process_computes_while_one_value_is_unpickled(
    tmp_path: Path, kind: str
) -> None:
    function = cached_job(executor="multiprocessing", max_workers=1)(value_once_told)
    cache_dir = function.cache.directory.parent
    command = [sys.executable, "-c", OTHER_PROCESS, str(os.getpid()), cache_dir, tmp_path, kind, "plain"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as other:

        def wait_until(holds: Callable[[], bool]) -> None:
            deadline = time.monotonic() + PATIENCE
            while not holds():
                assert other.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)

        def is_waited_for() -> bool:
            """Whether the other process knows that it is: then it keeps the exception for us."""
            with closing(sqlite3.connect(function.cache.directory / "cache.db")) as database:
                return database.execute("SELECT min(waited) FROM Lease").fetchone() == (1,)

        wait_until(lambda: (tmp_path / kind).exists() and (tmp_path / "plain").exists())
        slow = function.submit(os.getpid(), kind, tmp_path)
        plain = function.submit(os.getpid(), "plain", tmp_path)
        wait_until(is_waited_for)
        (tmp_path / "go on").touch()
        assert plain.result(PATIENCE) == 1
        assert not slow.done()
        gate.set()
        assert isinstance(slow.exception(PATIENCE), SlowError if kind == "error" else type(None))
        function.cache.close()
        assert function.cache.info().computed == 0


@pytest.mark.parametrize("kind", ["slow", "large", "error"])
def test_the_timeout_covers_the_unpickling_of_the_result(tmp_path: Path, kind: str) -> None:
    function = cached_job(executor="multiprocessing", max_workers=1, cache_dir=tmp_path, timeout=1.0)(
        value_for
    )
    with function.cache as cache:
        with pytest.raises(JobTimeout, match="could not be unpickled") as raised:
            function.submit(os.getpid(), kind, 0).result(PATIENCE)
        assert raised.value.seconds == 1.0
        assert function(os.getpid(), "plain", 1) == 1
        cache.wait()
        assert cache.cache.leases.owner_of(function.key(os.getpid(), kind, 0)) is None
    gate.set()
    assert not [*tmp_path.rglob("*.val")]
    assert function.cache.info().entries == 1


def test_the_timeout_covers_an_initializer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LOADING_SECONDS", 1.0)  # no worker of this test is ever ready
    function = cached_job(
        executor="multiprocessing", max_workers=2, cache_dir=tmp_path, timeout=0.5, initializer=never
    )(ignoring)
    with function.cache:
        for future in [function.submit(number) for number in range(4)]:
            with pytest.raises(JobTimeout, match="initializer"):
                future.result(PATIENCE)


def test_the_timeout_covers_the_unpickling_of_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = cached_job(executor="multiprocessing", max_workers=1, cache_dir=tmp_path, timeout=0.5)(
        ignoring
    )
    with function.cache:
        assert function(1) == 1  # so that a worker is ready
        monkeypatch.setattr(pool, "LOADING_SECONDS", 1.0)
        stuck = function.submit(StuckInWorker(os.getpid()))
        behind = function.submit(2)
        with pytest.raises(JobTimeout):
            stuck.result(PATIENCE)
        monkeypatch.undo()  # a new worker may take its time
        assert behind.result(PATIENCE) == 1


def test_the_timeout_covers_the_unpickling_of_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = StuckInWorker(os.getpid())
    options: dict[str, Any] = {"executor": "multiprocessing", "max_workers": 1, "cache_dir": tmp_path}
    ready = cached_job(**options)(ignoring)
    function = cached_job(timeout=0.5, code="none", **options)(lambda x: (x, held))
    with ready.cache, function.cache:
        assert ready(1) == 1  # so that their worker is
        monkeypatch.setattr(pool, "LOADING_SECONDS", 1.0)
        with pytest.raises(JobTimeout):
            function.submit(1).result(PATIENCE)


def test_a_job_that_comes_late_waits_for_a_worker_that_starts_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time to begin counts from when it was submitted, not from when the worker was started for another job."""
    monkeypatch.setattr(pool, "LOADING_SECONDS", 4.0)
    monkeypatch.setattr(pool, "CHECK_SECONDS", 0.5)
    go = tmp_path / "go"

    def initialize() -> None:
        while not go.exists():
            time.sleep(0.01)

    patient = cached_job(executor="multiprocessing", max_workers=1, initializer=initialize)(abs)
    hurried = patient.with_options(timeout=1.0)
    first = patient.submit(-1)
    time.sleep(pool.LOADING_SECONDS + 2 * pool.CHECK_SECONDS)
    late = hurried.submit(-2)
    time.sleep(2 * pool.CHECK_SECONDS)
    go.touch()
    assert (first.result(LONG), late.result(LONG)) == (1, 2)
