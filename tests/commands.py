"""Runs `bencher-job` in forks of one process, so that a test doesn't wait for an interpreter and its imports."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).parent / "bencher-job"


class Server:
    """A process that has imported the command, and runs it in a fork for each request."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.commands", str(other.fileno())],
                pass_fds=[other.fileno()],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def run(
        self, words: tuple[str, ...], folder: Path, environment: dict[str, str], timeout: float, user: int
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as `subprocess.run` does, with nothing to read and its output in files."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            request = pickle.dumps(([str(PROGRAM), *words], str(folder), environment, user))
            socket.send_fds(self._connection, [request], [out.fileno(), errors.fileno()])
            self._connection.settimeout(timeout)
            try:
                code = int(self._connection.recv(100))
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)  # the next command gets a server of its own
                server.cache_clear()
                raise subprocess.TimeoutExpired([PROGRAM, *words], timeout) from None
            texts = []
            for file in (out, errors):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess([PROGRAM, *words], code, *texts)


@functools.cache
def server(process: int, environment: frozenset[tuple[str, str]]) -> Server:
    """The server of this process; `environment` is what an interpreter reads when it starts."""
    return Server(dict(environment))


def run(
    words: tuple[str, ...], folder: Path, environment: dict[str, str], timeout: float, user: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command as `subprocess.run` would run the console script."""
    read_at_start = {
        name: value
        for name, value in environment.items()
        if name in {"PATH", "HOME", "LANG"} or name.startswith(("PYTHON", "LC_"))
    }
    return server(os.getpid(), frozenset(read_at_start.items())).run(
        words, folder, environment, timeout, user
    )


def _serve(connection: socket.socket) -> int:
    """Answer requests; return in each fork, with a pipe for the modules that the command imports."""
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 2)
        if not request:
            sys.exit()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            connection.close()
            os.close(reading)
            sys.argv, folder, environment, user = pickle.loads(request)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            for target, descriptor in enumerate(descriptors, start=1):
                os.dup2(descriptor, target)
                os.close(descriptor)
            if user:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            return writing
        for descriptor in (*descriptors, writing):
            os.close(descriptor)
        with open(reading) as imported:
            names = imported.read().split()
        connection.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        for name in names:
            importlib.import_module(name)  # so that the next fork has it


def _report(known: set[str], writing: int) -> None:
    """Tell the server which modules a command has imported that are not a user's."""
    new = {name: module for name, module in sys.modules.items() if name not in known}
    installed = (sys.prefix, sys.base_prefix, str(ROOT / "bencher_job"))
    told = [
        name for name, module in new.items() if str(getattr(module, "__file__", "")).startswith(installed)
    ]
    os.write(writing, " ".join(told).encode())
    os.close(writing)


if __name__ == "__main__":
    (script,) = entry_points(group="console_scripts", name="bencher-job")
    main = script.load()
    pipe = _serve(socket.socket(fileno=int(sys.argv[1])))
    before = set(sys.modules)
    try:
        sys.exit(main())
    finally:
        _report(before, pipe)
