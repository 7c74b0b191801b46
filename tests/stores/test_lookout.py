"""Of all who wait for a key one looks, and the others sleep until it has seen something or is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bencher_job._stores import leases
from bencher_job._stores.leases import Lookout

DEADLINE = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has locks of open files")


@pytest.fixture
def wait_for(tmp_path: Path) -> Iterator[Callable[[str], tuple[Lookout, threading.Event]]]:
    """Each call is another one who waits for a key, as in another process, and the event that wakes it."""
    (tmp_path / "claims").touch()
    waiting: list[Lookout] = []

    def begin(key: str = "key") -> tuple[Lookout, threading.Event]:
        woken = threading.Event()
        waiting.append(Lookout(str(tmp_path / "claims"), key, woken.set))
        return waiting[-1], woken

    yield begin
    for one in waiting:
        one.close()


def test_one_looks_and_the_next_one_does_when_it_stops(wait_for) -> None:
    (first, _), (second, second_is_woken), (third, third_is_woken) = wait_for(), wait_for(), wait_for()
    assert (first.looks(), second.looks(), third.looks()) == (True, False, False)
    assert not second_is_woken.is_set()
    first.close()
    assert second_is_woken.wait(DEADLINE)
    assert third_is_woken.wait(DEADLINE)
    assert second.looks()
    assert not third.looks()


def test_who_waits_for_another_key_looks(wait_for) -> None:
    (first, _), (other, _) = wait_for("key"), wait_for("other")
    assert first.looks()
    assert other.looks()


PROGRAM = """
import sys
from bencher_job._stores.leases import Lookout
one = Lookout(sys.argv[1], "key", lambda: None)
print(one.looks(), flush=True)
sys.stdin.read()
"""


def test_when_the_one_that_looks_is_killed_another_one_looks(tmp_path: Path, wait_for) -> None:
    command = [sys.executable, "-c", PROGRAM, tmp_path / "claims"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"True\n"
        ours, is_woken = wait_for()
        assert not ours.looks()
        program.kill()
    assert is_woken.wait(DEADLINE)
    assert ours.looks()


def test_who_sleeps_no_more_is_not_woken(wait_for) -> None:
    (first, _), (second, second_is_woken), (_, third_is_woken) = wait_for(), wait_for(), wait_for()
    second.close()
    first.close()
    assert third_is_woken.wait(DEADLINE)
    assert not second_is_woken.is_set()


def test_only_so_many_keys_are_slept_for(wait_for, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_asleep", threading.BoundedSemaphore(2))
    first, _ = wait_for()
    others = [wait_for()[0] for _ in range(4)]
    assert [one.looks() for one in others] == [False, False, True, True]
    first.close()


def test_where_there_are_no_such_locks_each_one_looks(wait_for, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_TRY", None)
    assert [wait_for()[0].looks() for _ in range(3)] == [True] * 3


def test_where_the_file_is_gone_each_one_looks(wait_for, tmp_path: Path) -> None:
    (tmp_path / "claims").unlink()
    assert [wait_for()[0].looks() for _ in range(2)] == [True] * 2


def test_a_child_that_lives_on_keeps_nobody_asleep(wait_for) -> None:
    (first, _), (second, second_is_woken) = wait_for(), wait_for()
    to_read, to_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_write)
        os.read(to_read, 1)
        os._exit(0 if first.looks() and second.looks() else 1)
    os.close(to_read)
    first.close()
    assert second_is_woken.wait(DEADLINE)
    assert second.looks()
    os.close(to_write)
    assert os.waitpid(child, 0)[1] == 0
