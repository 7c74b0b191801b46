"""Runs the examples of the documentation, the README and the docstrings as tests.

The examples of one file run one behind the other, in a cache and a working directory of the file's own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from doctest import ELLIPSIS
from importlib.util import find_spec
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

from bencher_job.testing import temporary_cache


def keep_files_in_memory(folder: str = "/dev/shm") -> None:  # noqa: S108 - the system's own, as /tmp is
    """Have all processes make their temporary files in memory if it has room: a new cache waits for a disk 20 times."""
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        has_room = found.f_bavail * found.f_frsize > 4 << 30 and not found.f_flag & os.ST_NOEXEC
        if has_room and "TMPDIR" not in os.environ:
            os.environ["TMPDIR"] = tempfile.tempdir = folder


keep_files_in_memory()


def begin(namespace: dict[str, Any]) -> None:
    """Let a file's examples find an empty cache and an empty folder, as a script named study.py would."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))
    stack.enter_context(temporary_cache())
    namespace.update(__name__="study", remove_what_it_wrote=stack.close, lacks=lacks)


def lacks(library: str) -> bool:
    """Whether a library that a page is about is not installed, so that the page is skipped."""
    return find_spec(library) is None


def end(namespace: dict[str, Any]) -> None:
    """Remove what a file's examples have written."""
    namespace["remove_what_it_wrote"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the soak, which is known wherever pytest is started."""
    parser.addoption(
        "--soak",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how long tests/test_soak.py kills programs; from a minute on, other tests do harm at more points too",
    )


pages = PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)
docstrings = DocTestParser(ELLIPSIS)
pytest_collect_file = SybilCollection(
    [
        Sybil([pages, SkipParser()], path="docs", pattern="*.md", setup=begin, teardown=end),
        Sybil([pages], filenames=["README.md"], setup=begin, teardown=end),
        Sybil([docstrings], path="bencher_job", pattern="*.py", setup=begin, teardown=end),
    ]
).pytest()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one process: its tests share servers, and its examples go on from the one before."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the order of tests/conftest.py
    return LoadFileScheduling(config, log)
