from __future__ import annotations

import os
import queue
import sys
import time

import pytest

from bencher_job._timer import Timer


def test_what_is_due_first_is_done_first():
    done = queue.SimpleQueue()
    timer = Timer()
    timer.start()
    begun = time.monotonic()

    timer.add(0.3, lambda: done.put("last"))
    timer.add(0.2, lambda: done.put("second"))
    timer.add(0.0, lambda: done.put("first"))

    assert [done.get(timeout=60) for _ in range(3)] == ["first", "second", "last"]
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(("fail", "error"), [(lambda: 1 / 0, "ZeroDivisionError"), (sys.exit, "SystemExit")])
def test_one_that_fails_is_logged_and_keeps_no_other_back(fail, error, caplog):
    done = queue.SimpleQueue()
    timer = Timer()
    timer.start()

    timer.add(0, fail)
    timer.add(0, lambda: done.put("next"))

    assert done.get(timeout=60) == "next"
    assert error in caplog.text


def test_a_forked_child_begins_anew(tmp_path):
    timer = Timer()
    timer.start()
    timer.add(0.2, lambda: (tmp_path / str(os.getpid())).touch())

    child = os.fork()
    if child == 0:
        timer.start()
        timer.add(0.4, lambda: os._exit(0 if not (tmp_path / str(os.getpid())).exists() else 3))
        time.sleep(10)
        os._exit(4)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / str(os.getpid())).exists()
