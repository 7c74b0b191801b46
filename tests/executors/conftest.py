from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bencher_job._executors.pool import SlotPool

PATIENCE = 60.0


@pytest.fixture
def pool() -> Iterator[SlotPool]:
    """A pool of two workers."""
    with SlotPool(2) as made:
        yield made


@pytest.fixture(scope="module")
def running_pool() -> Iterator[SlotPool]:
    """A pool of two workers that the tests of a file share, where it doesn't matter what ran in them before."""
    with SlotPool(2) as made:
        yield made


@pytest.fixture
def until() -> Callable[..., bool]:
    """Wait for a condition. Return whether it became true."""
    return _until


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    """Whether a process has ended, reaped or not."""
    return _is_gone


def _until(holds: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass
class Script:
    """A program in its own folder, which reports through files there."""

    folder: Path
    process: subprocess.Popen[str] | None = None

    def start(
        self, source: str, *launcher: str, before: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[str]:
        """Start it in a new session with `python`, `python -m scoop ...` or `mpiexec ...`, and extra variables."""
        path = self.folder / "script.py"
        path.write_text(textwrap.dedent(source))
        self.process = subprocess.Popen(
            [*before, sys.executable, *launcher, str(path)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.process

    def run(
        self,
        source: str,
        *launcher: str,
        before: Sequence[str] = (),
        seconds: float = 60.0,
        **environment: str,
    ) -> Any:
        """Run it to its end, and return what it wrote to out.json."""
        process = self.start(source, *launcher, before=before, **environment)
        _, errors = process.communicate(timeout=seconds)
        out = self.folder / "out.json"
        assert out.exists(), errors
        return json.loads(out.read_text())

    def reported(self, name: str) -> str:
        """Wait for a file that the program writes, and return its content."""
        path = self.folder / name
        assert _until(lambda: path.exists() and path.read_text() != "")
        return path.read_text()

    def tell(self, name: str) -> None:
        """Create a file that the program waits for."""
        (self.folder / name).touch()

    def processes(self) -> list[psutil.Process]:
        """Processes of its session that still run, even if they were reparented."""
        session = self.process.pid
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    def end(self) -> None:
        """Kill it and all that it started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """A program to write and run."""
    made = Script(tmp_path)
    yield made
    made.end()
    if made.process is not None:
        for pipe in (made.process.stdout, made.process.stderr):
            pipe.close()
