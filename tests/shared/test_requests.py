"""Callers wait in Python: Ctrl-C works at once, and nothing that hangs stops a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bencher_job._shared import Remote, RemoteLease, Unreachable, entry_address
from bencher_job._shared.requests import Requests

from .machines import Client, Place
from .proxy import Proxy
from .servers import until

ADDRESS = entry_address("f", "1")


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What hangs until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_stalled_request_is_given_up(hanging: threading.Event) -> None:
    """While its thread hangs, the next requests fail at once; when it returns, they work again."""
    requests = Requests()
    with pytest.raises(Unreachable, match=r"no answer for 0\.2 s"):
        requests.call(hanging.wait, limit=0.2)
    started = time.monotonic()
    with pytest.raises(Unreachable, match="has not returned yet"):
        requests.call(lambda: 1, limit=60)
    assert time.monotonic() - started < 5
    hanging.set()

    def works() -> bool:
        try:
            return requests.call(lambda: True)
        except Unreachable:
            return False

    until(works, "the thread doesn't return")
    requests.end()


def test_a_request_that_moves_may_take_long() -> None:
    requests = Requests()

    def move() -> str:
        for _ in range(15):
            time.sleep(0.1)
            requests.touch()
        return "done"

    assert requests.call(move, limit=1.2) == "done"
    requests.end()


def test_requests_wait_for_those_before_them() -> None:
    """A long queue is no stall."""
    requests = Requests(threads=2)
    assert requests.map(lambda number: (time.sleep(0.1), number)[1], range(30), limit=1.2) == [*range(30)]
    requests.end()


def test_errors_reach_the_caller() -> None:
    requests = Requests(threads=2)

    def divide(number: int) -> float:
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        requests.map(divide, [1, 0, 2])
    assert requests.map(divide, [1, 2]) == [1, 0.5]
    requests.end()


def test_what_an_abandoned_request_has_taken_is_given_back(hanging: threading.Event) -> None:
    """Whether it ended before or after its caller gave up."""
    requests, undone = Requests(threads=2), list[object]()

    def work(number: int) -> int:
        if number == 2:
            hanging.wait()
        return number

    with pytest.raises(Unreachable):
        requests.map(work, [1, 2], limit=0.2, undo=undone.append)
    until(lambda: undone == [1], "the first is not undone")
    hanging.set()
    until(lambda: undone == [1, 2], "the second is not undone")
    requests.end()


def test_threads_end_with_their_requests() -> None:
    before = set(threading.enumerate())
    requests = Requests(threads=4)
    requests.map(lambda _: time.sleep(0.05), range(8))
    ours = set(threading.enumerate()) - before
    assert len(ours) == 4
    requests.end()
    until(lambda: not any(thread.is_alive() for thread in ours), "threads stay")
    assert requests.call(lambda: 1) == 1
    requests.end()


def test_a_closed_remote_leaves_no_thread(place: Place) -> None:
    before = set(threading.enumerate())
    remote = place.remote(lease_seconds=60)
    remote.ask([ADDRESS])
    ours = [
        each for each in threading.enumerate() if each not in before and each.name.startswith("bencher_job")
    ]
    assert len(ours) > 1
    remote.close()
    until(lambda: not any(thread.is_alive() for thread in ours), "threads stay")


def test_an_interrupt_ends_the_wait_at_once(
    network: tuple[Place, Place, Proxy], client: Callable[..., Client]
) -> None:
    """And the program ends, although the server never answers."""
    _, behind, proxy = network
    waiting = client(behind)
    proxy.is_cut = True
    waiting.send("ask", "1")
    until(lambda: proxy.held, "nothing was sent")
    waiting.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    code, errors = waiting.end()
    assert "KeyboardInterrupt" in errors
    assert (code, "FATAL" in errors) == (-signal.SIGINT, False), errors
    assert time.monotonic() - started < 30
    proxy.is_cut = False


def test_an_interrupted_question_keeps_no_lease(
    network: tuple[Place, Place, Proxy], connected: Callable[..., Remote]
) -> None:
    direct, behind, proxy = network
    remote, other = connected(behind, lease_seconds=60), connected(direct, lease_seconds=60)
    remote.get_many([ADDRESS])
    proxy.delay = 0.1
    for after in (0.05, 0.15, 0.25, 0.35):
        interrupting = threading.Timer(after, os.kill, [os.getpid(), signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            ask_and_wait(remote, interrupting)

        def is_free() -> bool:
            leases = other.ask([ADDRESS]).leases
            other.release(leases.values())
            return bool(leases)

        until(is_free, "the lease is kept")


def ask_and_wait(remote: Remote, interrupting: threading.Timer) -> None:
    leases: dict[str, RemoteLease] = {}
    try:
        interrupting.start()
        leases = remote.ask([ADDRESS]).leases
        interrupting.join()
        time.sleep(60)
    except Exception:
        interrupting.cancel()
        raise
    finally:
        remote.release(leases.values())


def test_a_program_may_end_while_a_request_hangs(
    network: tuple[Place, Place, Proxy], client: Callable[..., Client]
) -> None:
    _, behind, proxy = network
    waiting = client(behind)
    assert waiting.do("ask", "1") == [None, True]
    proxy.is_cut = True
    code, errors = waiting.end()
    assert (code, errors) == (0, "")
    proxy.is_cut = False


def test_importing_the_package_imports_no_driver() -> None:
    script = """
import sys, bencher_job, bencher_job._shared
assert not {"psycopg", "obstore"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
