from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from bencher_job._executors import connections
from bencher_job._executors.connections import Lines, WorkersLine
from tests.environment import unmeasured


@pytest.fixture
def lines():
    lines = Lines()
    yield lines
    lines.close()


@pytest.fixture
def worker(lines):
    """A process with a line, that reads what to do from its input."""
    code = (
        "import os, sys; from bencher_job._executors import lifelines;"
        "lifelines.LEAVE_SECONDS = 0.1;"
        f"line = lifelines.WorkersLine('127.0.0.1', {lines.port}, bytes.fromhex('{lines.token.hex()}'), b'me');"
        "[print(eval(command), flush=True) for command in sys.stdin]"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=unmeasured() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    yield process
    process.kill()
    process.communicate()


def ask(worker, command):
    worker.stdin.write(command + "\n")
    worker.stdin.flush()
    return eval(worker.stdout.readline())


def accept(lines, until):
    arrived = []

    def has_come():
        one = lines.accept()
        if one is not None:
            arrived.append(one)
        return bool(arrived)

    assert until(has_come)
    return arrived[0]


@pytest.fixture
def line(lines, worker, until):
    """The root's end of the worker's line."""
    name, line = accept(lines, until)
    assert name == b"me"
    assert ask(worker, "line.begin(0)") is True  # it has read the signature
    yield line
    line.close()


def is_cut(line):
    line.look()
    return line.is_cut


def test_the_root_reads_which_job_has_begun(worker, line, until):
    assert ask(worker, "[line.begin(number) for number in range(1, 1001)]") == [True] * 1000

    assert until(lambda: line.look() or line.begun == 1000)
    assert not line.is_cut


def test_what_a_worker_said_last_is_heard_though_it_is_killed_at_once(worker, line, until):
    worker.stdin.write("line.begin(7), os.kill(os.getpid(), 9)\n")
    worker.stdin.flush()

    assert until(lambda: is_cut(line))
    assert line.begun == 7


def test_a_worker_that_is_killed_is_noticed_though_it_has_forked_a_child_that_lives(worker, line, until):
    child = ask(worker, "os.fork() or __import__('time').sleep(600)")
    worker.kill()

    assert until(lambda: is_cut(line))
    os.kill(child, signal.SIGKILL)


def test_a_worker_leaves_when_its_root_is_gone(worker, line):
    line.close()

    assert worker.wait(20) == 1


def test_a_job_that_has_begun_is_not_given_back_and_what_follows_is(worker, line, until):
    ask(worker, "[line.begin(number) for number in (1, 2)]")
    line.ask_back(5)

    answers = []
    assert until(lambda: answers.append(line.look()) or answers[-1] is not None)
    assert answers[-1] == 2
    assert ask(worker, "[line.begin(number) for number in (3, 4, 5, 6, 7)]") == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_jobs_that_arrive_out_of_turn_are_run_all_the_same(worker, line, until):
    """What went by way of the broker may come later than what was sent straight after it."""
    ask(worker, "line.begin(10)")
    line.ask_back(15)
    assert until(lambda: line.look() == 10)

    assert ask(worker, "[line.begin(number) for number in (9, 12)]") == [True, False]


def test_who_does_not_know_the_token_is_not_let_in(lines, until):
    with socket.create_connection(("127.0.0.1", lines.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n")

        assert lines.accept() is None
        stranger.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""


def test_who_says_nothing_is_not_waited_for(lines):
    with socket.create_connection(("127.0.0.1", lines.port)):
        begun = time.monotonic()
        assert lines.accept() is None
        assert time.monotonic() - begun < connections._GREET_SECONDS * 3


def test_where_the_root_cannot_be_reached_jobs_begin_all_the_same():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    assert WorkersLine("127.0.0.1", port, bytes(16), b"me").begin(1) is True


def test_another_service_in_the_roots_place_is_no_root(monkeypatch):
    """A worker at the far end of a tunnel may reach something else, and must not end when that hangs up."""
    monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as service:
        line = WorkersLine("127.0.0.1", service.getsockname()[1], bytes(16), b"me")

        assert line.begin(1) is True
        assert line._end is None


def test_the_child_of_a_root_holds_no_line_open(lines, worker, until):
    _, line = accept(lines, until)
    child = os.fork()
    if child == 0:
        time.sleep(600)
    try:
        ask(worker, "1")
        line.close()
        assert worker.wait(20) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
