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
from bencher_job._executors.connections import LivenessListener, WorkerConnection
from tests.environment import unmeasured


@pytest.fixture
def listener():
    listener = LivenessListener()
    yield listener
    listener.close()


@pytest.fixture
def worker(listener):
    """A process with a liveness connection, which evaluates expressions from its input."""
    code = (
        "import os, sys; from bencher_job._executors import connections;"
        "connections.LEAVE_SECONDS = 0.1;"
        f"port, token = {listener.port}, bytes.fromhex('{listener.token.hex()}');"
        "connection = connections.WorkerConnection('127.0.0.1', port, token, b'me');"
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


def accept(listener, until):
    arrived = []

    def has_come():
        one = listener.accept()
        if one is not None:
            arrived.append(one)
        return bool(arrived)

    assert until(has_come)
    return arrived[0]


@pytest.fixture
def connection(listener, worker, until):
    """The root's end of the worker's connection."""
    name, connection = accept(listener, until)
    assert name == b"me"
    assert ask(worker, "connection.begin(0)") is True  # it has read the signature
    yield connection
    connection.close()


def is_closed(connection):
    connection.poll()
    return connection.is_closed


def test_the_root_reads_which_job_has_begun(worker, connection, until):
    assert ask(worker, "[connection.begin(number) for number in range(1, 1001)]") == [True] * 1000

    assert until(lambda: connection.poll() or connection.begun == 1000)
    assert not connection.is_closed


def test_what_a_worker_said_last_is_heard_though_it_is_killed_at_once(worker, connection, until):
    worker.stdin.write("connection.begin(7), os.kill(os.getpid(), 9)\n")
    worker.stdin.flush()

    assert until(lambda: is_closed(connection))
    assert connection.begun == 7


def test_a_worker_that_is_killed_is_noticed_though_it_has_forked_a_child_that_lives(
    worker, connection, until
):
    child = ask(worker, "os.fork() or __import__('time').sleep(600)")
    worker.kill()

    assert until(lambda: is_closed(connection))
    os.kill(child, signal.SIGKILL)


def test_a_worker_leaves_when_its_root_is_gone(worker, connection):
    connection.close()

    assert worker.wait(60) == 1


def test_a_job_that_has_begun_is_not_given_back_and_what_follows_is(worker, connection, until):
    ask(worker, "[connection.begin(number) for number in (1, 2)]")
    connection.recall(5)

    answers = []
    assert until(lambda: answers.append(connection.poll()) or answers[-1] is not None)
    assert answers[-1] == 2
    assert ask(worker, "[connection.begin(number) for number in (3, 4, 5, 6, 7)]") == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_jobs_that_arrive_out_of_turn_are_run_all_the_same(worker, connection, until):
    """A job sent through the broker may arrive after a later one that was sent directly."""
    ask(worker, "connection.begin(10)")
    connection.recall(15)
    assert until(lambda: connection.poll() == 10)

    assert ask(worker, "[connection.begin(number) for number in (9, 12)]") == [True, False]


def test_who_does_not_know_the_token_is_not_let_in(listener, until):
    with socket.create_connection(("127.0.0.1", listener.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n")

        assert listener.accept() is None
        stranger.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""


def test_who_says_nothing_is_not_waited_for(listener):
    with socket.create_connection(("127.0.0.1", listener.port)):
        begun = time.monotonic()
        assert listener.accept() is None
        assert time.monotonic() - begun < connections._GREET_SECONDS * 3


def test_where_the_root_cannot_be_reached_jobs_begin_all_the_same():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    assert WorkerConnection("127.0.0.1", port, bytes(16), b"me").begin(1) is True


def test_another_service_in_the_roots_place_is_no_root(monkeypatch):
    """A worker behind a tunnel may reach another service, and must not end when that closes the connection."""
    monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as service:
        connection = WorkerConnection("127.0.0.1", service.getsockname()[1], bytes(16), b"me")

        assert connection.begin(1) is True
        assert connection._end is None


def test_the_child_of_a_root_holds_no_connection_open(listener, worker, until):
    _, connection = accept(listener, until)
    child = os.fork()
    if child == 0:
        time.sleep(600)
    try:
        ask(worker, "1")
        connection.close()
        assert worker.wait(60) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
