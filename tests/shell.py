"""A shell for tests of the command line: a folder with caches that other programs made, and what is typed in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import commands
from tests.commands import PROGRAM
from tests.environment import unmeasured

__all__ = ["PATIENCE", "PROGRAM", "STUDY", "Shell"]

PATIENCE = 60.0

STUDY = """
    from bencher_job import cached_job

    @cached_job(tag="nightly")
    def score(model, c=1.0):
        return {"accuracy": len(model) * c}

    @cached_job(tag="weekly")
    def loss(x):
        return x

    score.sweep({"model": ["svm", "forest"], "c": [0.1, 1.0]}).run(progress=False)
    score("svm", c=0.1)
    loss(float("nan"))
"""


class Shell:
    """A folder with caches, and what is typed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "COLUMNS": "80",
        }
        self.environment.pop("BENCHER_JOB_CACHE_DIR", None)

    def start(self, source: str, name: str = "study") -> subprocess.Popen[str]:
        """Start a program of a user's."""
        path = self.folder / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return subprocess.Popen(
            [sys.executable, "-B", path],
            cwd=self.folder,
            env=unmeasured(self.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def program(self, source: str, name: str = "study", *, expected: int = 0) -> None:
        """Let a program fill the cache; its code is gone afterwards."""
        program = self.start(source, name)
        program.communicate(timeout=PATIENCE)
        assert program.returncode == expected
        (self.folder / f"{name}.py").unlink()

    @staticmethod
    def has_open(program: subprocess.Popen[str], name: str) -> bool:
        """Whether a program has a file of some name open."""
        try:
            return any(file.readlink().name == name for file in Path(f"/proc/{program.pid}/fd").iterdir())
        except OSError:
            return False

    @staticmethod
    def wait_until(holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, "it never held"
            time.sleep(0.01)

    def run(self, *words: str, user: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the console script, as another user if we are root."""
        return commands.run(words, self.folder, self.environment | environment, PATIENCE, user)

    def out(self, *words: str) -> str:
        """Run the console script, which ends well and complains of nothing; give what it prints."""
        ended = self.run(*words)
        assert (ended.returncode, ended.stderr) == (0, ""), ended
        return ended.stdout

    def document(self, *words: str) -> Any:
        """Give the document that a command prints."""
        return json.loads(self.out(*words, "--json"), parse_constant=_refuse)

    def files(self) -> dict[str, tuple[int, int]]:
        """All files, with sizes and times of change."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def failure(self, *words: str, **environment: str) -> tuple[int, str]:
        """Run the console script, which fails; give its exit code and its one sentence."""
        ended = self.run(*words, **environment)
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert ended.stderr.startswith("bencher-job: ")
        return ended.returncode, ended.stderr.removeprefix("bencher-job: ").strip()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
