"""A process is told from all others: those of other machines, and one that gets its number later."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

from bencher_job._processes import PROCESS_NAME, is_stopped, may_live, process_name, this_process

SLEEPER = """
import time
from bencher_job._processes import *
print(process_name(), this_process().started, flush=True)
time.sleep(60)
"""


def test_a_name_is_good_as_long_as_the_process_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True) as other:
        name = other.stdout.readline().split()[0]
        assert re.fullmatch(PROCESS_NAME, name)
        assert name != process_name()
        assert may_live(name)
        assert may_live(process_name())
        other.kill()
    assert not may_live(name)


def test_a_name_tells_a_process_from_one_that_had_its_number_before() -> None:
    machine, pid, start = process_name().split("-")
    assert pid == str(os.getpid())
    assert not may_live(f"{machine}-{pid}-{int(start) - 1}")


def test_nobody_knows_of_another_machine_s_processes() -> None:
    assert may_live("00000000-1-1")


def test_what_is_no_name_is_no_process() -> None:
    assert not may_live("mine")


def test_a_forked_child_has_a_name_of_its_own() -> None:
    received, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(said, process_name().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    name = os.read(received, 1000).decode()
    os.close(received)
    os.close(said)
    assert name.split("-")[1] == str(pid)
    assert name != process_name()


def test_a_stopped_process_is_seen_stopped_and_none_of_another_machine_or_time() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True) as other:
        started = int(other.stdout.readline().split()[1])
        there = this_process()._replace(pid=other.pid, started=started)
        assert not is_stopped(there)
        other.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while not is_stopped(there):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        for another in (
            there._replace(host="other"),
            there._replace(boot="other"),
            there._replace(namespace=7),
            there._replace(started=started + 1),
        ):
            assert not is_stopped(another)
        other.kill()
