"""A lock that another thread held during a fork does not block the child."""

from __future__ import annotations

import os
import signal

import pytest

from bencher_job._keys import hashing
from bencher_job._keys.fingerprint import CodeTracker

from .keys import key_of

NUMBER = 1


def f(x: int) -> int:
    return x + NUMBER


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_new_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = CodeTracker(f)
    tracker.current()
    key_of(f)
    in_arguments = hashing._code_hashers[0]
    with tracker._reentrant, in_arguments._reentrant:  # type: ignore[attr-defined]
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a lock that is never freed ends the child by a signal
            monkeypatch.setitem(globals(), "NUMBER", 2)
            key_of(f)
            tracker.current()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
