"""Engines behind a proxy or not, for tests that are the same for all, and programs that use them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bencher_job._shared import Remote

from .client import remote_at

ROOT = Path(__file__).parents[2]


@dataclass
class Place:
    """A shared store: what `remote_at` takes, and the environment that leads there."""

    url: str
    schema: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def remote(self, lease_seconds: float = 1.0) -> Remote:
        """Connect, here. The environment is read as the remote is made."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            return remote_at(self.url, self.schema, lease_seconds)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class Client:
    """A program that uses a place."""

    def __init__(self, place: Place, lease_seconds: float = 1.0) -> None:
        settings = {"LEASE_SECONDS": str(lease_seconds), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'shared'}"}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                str(ROOT / "tests/shared/client.py"),
                place.url,
                *filter(None, [place.schema]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | place.environment | settings,
        )

    def send(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def do(self, *command: Any) -> Any:
        self.send(*command)
        return self.answer()

    def end(self) -> tuple[int, str]:
        """Let it end by itself; its exit code, and what it said of errors."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def close(self) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
        self.process.wait()
