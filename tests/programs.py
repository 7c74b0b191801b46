"""Programs that tests start, kill and stop: each tells what it does by files in a folder that all of a test share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from tests.environment import unmeasured

PATIENCE = 60.0

PREAMBLE = """
    import os, signal, sys, time
    from pathlib import Path
    from bencher_job import *

    HERE = Path(os.environ["TEST_FOLDER"])
    NAME = sys.argv[1]

    def tell(event):
        (HERE / f"{NAME}.{event}").touch()

    def wait_for(event, seconds=60):
        deadline = time.monotonic() + seconds
        while not (HERE / event).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(event)
            time.sleep(0.002)

    def count(what):
        with open(HERE / f"count.{what}", "ab", buffering=0) as file:
            file.write(b".")
"""


class Programs:
    """The programs of one test, which share a folder and a cache directory in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self, name: str, source: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a program that goes by a name; its source is indented as the test's."""
        # One file each: others may still be reading theirs. All have one name, which is in their keys.
        path = self.folder / f"program of {name}" / "program.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(PREAMBLE) + textwrap.dedent(source))
        program = subprocess.Popen(
            [sys.executable, path, name, *arguments],
            cwd=self.folder,
            env={
                **unmeasured(),
                "TEST_FOLDER": str(self.folder),
                "BENCHER_JOB_CACHE_DIR": str(self.folder / "cachedir"),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running.append(program)
        return program

    def wait_for(self, event: str) -> None:
        """Wait until a program has told of an event: `name.event`."""
        assert until((self.folder / event).exists), f"{event} never came\n{self.errors()}"

    def tell(self, event: str) -> None:
        """Tell the programs of an event."""
        (self.folder / event).touch()

    def count(self, what: str) -> int:
        """How many times the programs have counted something."""
        path = self.folder / f"count.{what}"
        return path.stat().st_size if path.exists() else 0

    def output(self, program: subprocess.Popen[str]) -> str:
        """Wait for a program to end well, and give what it printed."""
        out, errors = program.communicate(timeout=PATIENCE)
        assert program.returncode == 0, errors
        return out.strip()

    @staticmethod
    def opens(program: subprocess.Popen[str], name: str) -> bool:
        """Whether a program has a file of some name open."""
        try:
            return any(file.readlink().name == name for file in Path(f"/proc/{program.pid}/fd").iterdir())
        except OSError:
            return False

    def kill(self, program: subprocess.Popen[str]) -> None:
        """Kill a program."""
        program.send_signal(signal.SIGKILL)
        program.wait(PATIENCE)

    def errors(self) -> str:
        """What the programs that have ended had to complain of."""
        return "\n".join(
            program.stderr.read() for program in self.running if program.poll() is not None and program.stderr
        )

    def end(self) -> None:
        """End all programs with all that they have started."""
        for program in self.running:
            for act in (lambda: os.killpg(program.pid, signal.SIGKILL), program.kill):
                try:
                    act()
                except ProcessLookupError:
                    continue
            program.communicate()


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Wait until a condition holds, and say whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
