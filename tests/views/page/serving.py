"""A server of the page for tests, in a process of its own, and who asks it as a browser or somebody else would."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.environment import unmeasured
from tests.shell import PROGRAM

PATIENCE = 60


@dataclass
class Answered:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A server that runs.

    Attributes:
        url: what it has printed.
        told: all that it has printed.
    """

    process: subprocess.Popen[str]
    url: str
    told: str
    cookie: str = ""
    view: str = ""
    token: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def ask(
        self, path: str, *, method: str = "GET", body: object = None, headers: Mapping[str, str | None] = {}
    ) -> Answered:
        """Ask for a path on the server, with these headers and no others; those that are None are left out."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        known = {name: value for name, value in headers.items() if value is not None}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        for name, value in ({"host": self.host} | known).items():
            connection.putheader(name, value)
        if payload:
            connection.putheader("content-length", str(len(payload)))
        connection.endheaders(payload)
        response = connection.getresponse()
        answered = Answered(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
        connection.close()
        return answered

    def begin(self) -> None:
        """Begin a session, as a browser does that opens the URL."""
        parts = urlsplit(self.url)
        answered = self.ask(f"{parts.path}?{parts.query}")
        assert answered.status == 200, answered
        self.cookie = answered.headers["set-cookie"].partition(";")[0]
        self.view = re.search(rb"url=(/[^/]+)/", answered.body)[1].decode()  # type: ignore[index]
        self.token = self.get("session").json()["token"]

    def get(self, name: str, **asked: object) -> Answered:
        """Ask for data, with the session's cookie."""
        return self.ask(f"{self.view}/api/{name}?{urlencode(asked)}", headers={"cookie": self.cookie})

    def from_page(self) -> dict[str, str | None]:
        """The headers that a change from the page comes with."""
        return {
            "cookie": self.cookie,
            "origin": f"http://{self.host}",
            "content-type": "application/json",
            "x-bencher-job": self.token,
        }

    def post(self, name: str, **body: object) -> Answered:
        """Ask for a change as the page does."""
        return self.ask(f"{self.view}/api/{name}", method="POST", body=body, headers=self.from_page())

    def post_bytes(self, name: str, body: bytes) -> Answered:
        """Ask for a change with a body that no page sends."""
        return self.ask(f"{self.view}/api/{name}", method="POST", body=body, headers=self.from_page())

    def end(self) -> tuple[int, str]:
        """End it as Ctrl-C does; its exit code, and what it had to say on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, complaints = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, complaints


@contextmanager
def serving(directory: Path, *options: str, is_measured: bool = True) -> Iterator[Served]:
    """Serve a directory meanwhile; coverage measures it, unless it has so much to do that it would take too long."""
    inherited = os.environ if is_measured else unmeasured()
    known = {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [PROGRAM, "serve", "--no-browser", "--cache-dir", directory, *options]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known
    ) as process:
        try:
            told = ""
            assert process.stdout is not None
            while "Ctrl-C" not in told:
                line = process.stdout.readline()
                if not line:
                    raise AssertionError(process.communicate(timeout=PATIENCE)[1])
                told += line
            url = re.search(r"http://\S+", told)
            assert url is not None
            yield Served(process, url[0], told)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=PATIENCE)
