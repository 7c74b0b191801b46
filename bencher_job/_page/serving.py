"""Serve the page on loopback, to browsers that have its token.

    /?token=...      starts a session: a cookie for the folder of this view only
    /<view>/...      needs the cookie; a change also needs the page's own header

A browser sends a cookie to all ports of a host, but only to its own path. So another server on this machine, which
doesn't know the name of the view, doesn't get it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterable
from functools import partial
from html import escape
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._errors import BencherJobError

COOKIE: Final = "bencher_job"
PAGE_HEADER: Final = "x-bencher-job"
"""A header that only the page's own scripts can send, since browsers forbid it across sites."""

_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})

HEADERS: Final = {
    "content-security-policy": (
        # The digest is that of the style sheet that Observable Plot puts into each plot.
        "default-src 'none'; script-src 'self'; img-src 'self'; media-src 'self'; "
        "style-src 'self' 'sha256-jSYQUrW7J0b3jPqhZP9C2Xh1PyJKHKXd4s0fpGGKrww='; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types default"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer, unless it sets its own."""

_LETTER: Final = (
    """<!doctype html><html lang="en"><meta charset="utf-8">{head}<title>bencher_job</title><p>{text}</p>"""
)


class Admission:
    """Admits authorised requests, and adds the headers to each answer.

    Attributes:
        token: the token in the printed URL.
        view: the path of the page, an unguessable name.
        page_token: the token that the page sends with each change, besides the cookie.
    """

    def __init__(
        self, make_app: Callable[[str], ASGIApp], hosts: Iterable[str], *, any_address: bool = False
    ) -> None:
        """Guard an application, which `make_app` makes for the page's token."""
        self._hosts = frozenset(hosts)
        self._any_address = any_address
        self.token = secrets.token_urlsafe(32)
        self.view = secrets.token_urlsafe(12)
        self.page_token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._app = make_app(self.page_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(scope)
        if answer is None:
            prefix = f"/{self.view}"
            scope = {**scope, "path": scope["path"].removeprefix(prefix), "root_path": "", "raw_path": b""}
            await self._app(scope, receive, send_with_headers)
        else:
            await answer(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return a refusal or the start of a session, or None to admit the request."""
        headers = Headers(scope=scope)
        if not self._is_own_name(headers.get("host", "")):
            return _refusal(
                "This page is not served under that name. Open the URL that bencher-job serve printed."
            )
        if scope["path"] == "/" and scope["method"] in {"GET", "HEAD"}:
            return self._beginning(scope)
        if not scope["path"].startswith(f"/{self.view}/") or not self._has_session(headers):
            return _refusal(
                "Open the URL that bencher-job serve printed: it brings the token that this page asks for."
            )
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return _refusal("This was asked by another site.")
        if scope["method"] in _CHANGING and not self._is_from_page(headers):
            return _refusal("Only the page itself may change anything.")
        return None

    def _beginning(self, scope: Scope) -> Response:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not _is_same(given, self.token):
            return _refusal(
                "Open the URL that bencher-job serve printed: it brings the token that this page asks for."
            )
        # Not a redirect: browsers leave strict cookies out of one that follows a link on another site.
        view = f"/{self.view}/"
        head = f'<meta http-equiv="refresh" content="0; url={view}"><link rel="icon" href="{view}static/mark.svg">'
        answer = HTMLResponse(_LETTER.format(head=head, text="One moment."))
        answer.set_cookie(COOKIE, self._session, path=view, httponly=True, samesite="strict")
        return answer

    def _is_own_name(self, host: str) -> bool:
        """Whether the Host header names this server. A foreign name means DNS rebinding."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _has_session(self, headers: Headers) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and _is_same(cookies[COOKIE].value, self._session)

    def _is_from_page(self, headers: Headers) -> bool:
        return (
            headers.get("origin", "") == f"http://{headers.get('host', '')}"
            and headers.get("content-type", "").partition(";")[0].strip() == "application/json"
            and _is_same(headers.get(PAGE_HEADER, ""), self.page_token)
        )


def _is_same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())


def _refusal(text: str) -> Response:
    return HTMLResponse(_LETTER.format(head="", text=escape(text)), status_code=403)


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
    read_only: bool = False,
    say: Callable[[str], object] = print,
    warn: Callable[[str], object] = lambda text: print(text, file=sys.stderr),
) -> None:
    """Serve the page of a cache directory until Ctrl-C, and print the URL first. Port 0 means a free one.

    The directory may not exist yet; entries stored later are shown then. With `trusted`, stores of other users are
    shown. With `unpickles`, values that can't be shown otherwise are unpickled. With `read_only`, nothing is cleared.

    Raises:
        BencherJobError: when the libraries of the extra `web` are not installed, or the address is not available.
    """
    try:
        import uvicorn

        from .app import Stores, make_app
    except ImportError as error:
        raise BencherJobError(
            f"The page needs {error.name}, which is not installed. Run: pip install 'bencher_job[web]'"
        ) from error
    is_local = _is_loopback(host)
    with _bound(host, port) as listening:
        names = {*LOOPBACK, host.lower()} | (set() if is_local else {socket.gethostname().lower()})
        stores = Stores(directory, trusted=trusted, unpickles=unpickles, read_only=read_only)
        admission = Admission(partial(make_app, stores), names, any_address=not is_local)
        url = f"{_base_url(host, listening.getsockname()[1])}/?token={admission.token}"
        if not is_local:
            warn(
                f"Warning: {host} is reached from other machines. Whoever has the URL can "
                f"{'see' if read_only else 'see and clear'} this cache, and what is sent is not encrypted."
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
    """Listen on an address at once, so that a browser that is faster than the server waits."""
    if not 0 <= port <= LARGEST_PORT:  # which the look-up of an address would take for another
        raise BencherJobError(
            f"--port {port} is not a port: they go from 1 to {LARGEST_PORT}, and 0 is a free one."
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
    """Whether a browser opens in a window of its own, rather than in the terminal."""
    windows = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in windows)


def _open_browser(url: str, folder: str) -> None:
    """Open a file that redirects to the URL, because all users of a machine can read a program's arguments."""
    path = Path(folder, "open.html")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_OPENING.format(url=escape(url)))
    webbrowser.open(path.as_uri())
