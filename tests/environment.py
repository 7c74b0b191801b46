"""The environment of programs that tests start, and what runs in it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import random
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

needs_scoop = pytest.mark.skipif(
    sys.version_info >= (3, 15), reason="SCOOP 0.7.2.0 calls load_module, which Python 3.15 has not"
)


def unmeasured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what lets coverage measure a program, and import modules into it before it begins."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}


def load_openmp() -> None:
    """Load the OpenMP that scikit-learn ships, and not scikit-learn, which takes a second."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    (library,) = (Path(str(spec.origin)).parents[1] / "scikit_learn.libs").glob("libgomp*")
    ctypes.CDLL(str(library))


def free_port(*behind: int) -> int:
    """A port that nothing listens at, together with those that are so far behind it.

    They are below those that the system gives to connections, so that none of these takes one before a server does.
    """
    while True:
        port = random.randrange(15_000, 22_000)
        with contextlib.ExitStack() as stack:
            try:
                for each in (0, *behind):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port + each))
            except OSError:
                continue
            return port
