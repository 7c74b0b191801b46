"""A Dask cluster of real processes on this machine, on the loopback interface only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.environment import unmeasured

PATIENCE = 60.0
QUIET = {
    "DASK_DISTRIBUTED__ADMIN__LOG_FORMAT": "%(message)s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
}


class DaskCluster:
    """A scheduler and workers, in a folder from which the tests' modules cannot be imported."""

    def __init__(self, folder: Path, workers: int = 2, *, nanny: bool = True, failures: int = 0) -> None:
        self._folder = folder
        self._variables = {**QUIET, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(failures)}
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self.scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), "--no-show"
        )
        deadline = time.monotonic() + PATIENCE
        while not (file.exists() and file.read_text()):
            assert self.scheduler.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.address: str = json.loads(file.read_text())["address"]
        for _ in range(workers):
            self.add_worker(nanny=nanny)

    def add_worker(self, *, nanny: bool = False) -> subprocess.Popen[bytes]:
        """Start another worker."""
        kind = "--nanny" if nanny else "--no-nanny"
        return self._start("dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", kind)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *arguments],
                cwd=self._folder,
                env={**unmeasured(), **self._variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def client(self) -> Any:
        """Make a client when all workers have registered."""
        from distributed import Client

        client = Client(self.address, set_as_default=False)
        if workers := len(self._processes) - 1:
            client.wait_for_workers(workers, timeout=PATIENCE)
        return client

    def end(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
