"""Knows how the page is served: on which address, told of by which URL, and ended by Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from functools import partial
from html import escape
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from ..._errors import BencherJobError

__all__ = ["serve"]

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

LARGEST_PORT: Final = 65_535

_OPENING: Final = (
    """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={url}">"""
)


def serve(
    directory: Path,
    *,
    host: str = LOOPBACK[0],
    port: int = 0,
    opens_browser: bool = True,
    trusted: bool = False,
    unpickles: bool = False,
    say: Callable[[str], object] = print,
    warn: Callable[[str], object] = lambda text: print(text, file=sys.stderr),
) -> None:
    """Serve the page over a cache directory until Ctrl-C; the URL is told first. Port 0 is a free one.

    The directory may not be there yet: what is stored in it later is shown then. A `trusted` store may be another
    user's. Where it `unpickles`, values are that can't be shown otherwise.

    Raises:
        BencherJobError: when the libraries of the extra `web` are not installed, or the address can't be had.
    """
    try:
        import uvicorn

        from .admission import Admission
        from .app import make_app
        from .shelf import Shelf
    except ImportError as error:
        raise BencherJobError(
            f"The page needs {error.name}, which is not installed. Run: pip install 'bencher_job[web]'"
        ) from error
    is_local = _is_loopback(host)
    with _bound(host, port) as listening:
        names = {*LOOPBACK, host.lower()} | (set() if is_local else {socket.gethostname().lower()})
        shelf = Shelf(directory, trusted=trusted, unpickles=unpickles)
        admission = Admission(partial(make_app, shelf), names, any_address=not is_local)
        url = f"{_base_url(host, listening.getsockname()[1])}/?token={admission.token}"
        if not is_local:
            warn(
                f"Warning: {host} is reached from other machines. Whoever has the URL can see and clear this cache, "
                "and what is sent is not encrypted."
            )
        if unpickles:
            warn(f"Warning: values of {directory} are unpickled, which runs the code of whoever wrote them.")
        say(f"{directory} is shown at\n\n    {url}\n\nCtrl-C ends it.")
        config = uvicorn.Config(
            admission,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        with tempfile.TemporaryDirectory(prefix="bencher_job-") as folder:
            if opens_browser and _has_window():
                threading.Thread(target=_open_browser, args=(url, folder), daemon=True).start()
            try:
                uvicorn.Server(config).run(sockets=[listening])
            except KeyboardInterrupt:
                pass


def _bound(host: str, port: int) -> socket.socket:
    """Listen on an address, so that a browser that is quicker than the server waits."""
    if not 0 <= port <= LARGEST_PORT:  # which the look-up of an address would take for another
        raise BencherJobError(
            f"--port {port} is none: ports go from 1 to {LARGEST_PORT}, and 0 is a free one."
        )
    try:
        (family, *_, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise BencherJobError(
            f"{host}:{port} can't be listened on: {error}. Choose another --port, or leave it out for a free one."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _base_url(host: str, port: int) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104 - compared
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def _has_window() -> bool:
    """Whether a browser would show itself in a window, and not take over the terminal."""
    windows = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in windows)


def _open_browser(url: str, folder: str) -> None:
    """Open a file that leads to the URL: a program's arguments can be read by all users of a machine."""
    path = Path(folder, "open.html")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_OPENING.format(url=escape(url)))
    webbrowser.open(path.as_uri())
