"""A connection to PostgreSQL. Only this module imports psycopg.

Its thread alone uses it: psycopg takes long to notice Ctrl-C. It is made again when it breaks, and has no state that a
pooler could lose: no prepared statements, no settings, no notifications.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from .._errors import SharedStoreError
from .base import Unreachable
from .requests import LIMIT, Requests

_CONNECT: Final = 2


class Connection(Requests):
    """One connection, and the thread that uses it."""

    def __init__(self, url: str) -> None:
        self.psycopg = _psycopg(url)
        self._conninfo = url
        self._options, self._address = settings(url, self.psycopg)
        self._connection: Any = None
        self._socket: socket.socket | None = None
        super().__init__()

    def renew(self) -> None:
        """Start without a connection. In a forked child that of the parent stays open for the parent."""
        super().renew()
        self._socket_lock = threading.Lock()
        self._bytes = 0
        if self._connection is not None:
            self._leave_to_parent()

    def get(self) -> tuple[Any, bool]:
        """Return the connection, and whether it is new."""
        if self._connection is not None and not self._connection.closed:
            return self._connection, False
        self.hang_up()
        self.touch()
        connection = self.psycopg.connect(self._conninfo, **self._options)
        with self._socket_lock:
            self._connection = connection
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self.touch()
        return connection, True

    def hang_up(self) -> None:
        """Close the connection."""
        with self._socket_lock:
            connection, self._connection = self._connection, None
            guard, self._socket = self._socket, None
        if guard is not None:
            guard.close()
        if connection is not None:
            connection.close()

    def _leave_to_parent(self) -> None:
        """Close our copy of the connection, after its descriptor leads nowhere: the server hears nothing of it."""
        with contextlib.suppress(OSError, self.psycopg.Error):
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(nowhere, self._connection.fileno(), inheritable=False)
            finally:
                os.close(nowhere)
        self.hang_up()

    def _has_moved(self) -> bool:
        """Whether the connection has sent or received bytes since this was last asked."""
        with self._socket_lock:
            before, self._bytes = self._bytes, _bytes_passed(self._socket)
        if self._bytes == before:
            return False
        self._moved = time.monotonic()
        return True

    def _on_stall(self) -> None:
        with self._socket_lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def why(self, error: Exception, place: str) -> Unreachable | SharedStoreError:
        """Distinguish a server that is down or full from one that refuses."""
        if _refuses(self._address):
            return SharedStoreError(
                place,
                f"refuses: {first_line(error)}",
                "Correct the URL, or the password in ~/.pgpass or the service file.",
            )
        return Unreachable(f"{place}: {first_line(error)}")


def _psycopg(url: str) -> Any:
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        reason = "needs the package psycopg" if error.name == "psycopg" else f"needs libpq ({error})"
        raise SharedStoreError(url, reason, "Run: pip install 'bencher_job[postgresql]'.") from None
    return psycopg


def settings(url: str, psycopg: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what `psycopg.connect` takes, with verified TLS unless the server is on this machine; and the address."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        raise SharedStoreError(
            url, f"has a URL that libpq doesn't understand: {first_line(error)}", "Correct it."
        ) from error
    defaults = {
        each.keyword.decode(): (each.val or b"").decode() for each in psycopg.pq.Conninfo.get_defaults()
    }
    address = defaults | {name: str(value) for name, value in given.items()}
    host = address.get("host") or address.get("hostaddr") or ""
    options: dict[str, Any] = {
        "autocommit": True,
        "prepare_threshold": None,  # prepared statements would bind us to one connection of a pooler
        "connect_timeout": _CONNECT,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": int(1000 * LIMIT),
        "application_name": "bencher_job",
    }
    if not (_is_local(host) or "service" in given or "sslmode" in given or "PGSSLMODE" in os.environ):
        options["sslmode"] = "verify-full"
        if not ("sslrootcert" in given or "PGSSLROOTCERT" in os.environ or _has_root_certificate()):
            options["sslrootcert"] = "system"
    return {name: value for name, value in options.items() if name not in given}, address


def _refuses(address: Mapping[str, str]) -> bool:
    """Whether a server answers and refuses this program permanently.

    libpq doesn't tell the code of an error that ends an attempt to connect, its messages are translated, and its own
    function for this question stops the whole interpreter. So the first message of the protocol is sent here.
    """
    host = address.get("hostaddr") or address.get("host") or "localhost"
    port = int(address.get("port") or 5432)
    user = address.get("user") or "nobody"
    names = {"user": user, "database": address.get("dbname") or user}
    body = (
        struct.pack("!I", 3 << 16)
        + b"".join(f"{name}\0{value}\0".encode() for name, value in names.items())
        + b"\0"
    )
    try:
        if host.startswith(("/", "@")):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(_CONNECT)
            connection.connect(f"{host}/.s.PGSQL.{port}".replace("@", "\0", 1))
        else:
            connection = socket.create_connection((host.split(",")[0], port), _CONNECT)
        with connection, connection.makefile("rb") as answer:
            connection.sendall(struct.pack("!I", len(body) + 4) + body)
            kind, size = answer.read(1), struct.unpack("!I", answer.read(4))[0]
            fields = answer.read(min(size, 10_000) - 4).split(b"\0") if kind == b"E" else []
    except (OSError, struct.error, ValueError):
        return False
    code = next((each[1:] for each in fields if each.startswith(b"C")), b"")
    return kind == b"R" or (kind == b"E" and not code.startswith(_TEMPORARY))


def _is_local(hosts: str) -> bool:
    def is_here(host: str) -> bool:
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host in {"", "localhost"} or host.startswith(("/", "@"))

    return all(is_here(host) for host in hosts.split(","))


def _has_root_certificate() -> bool:
    return os.path.exists(os.path.expanduser("~/.postgresql/root.crt"))


_TEMPORARY: Final = (b"53", b"57", b"58", b"XX")
"""Classes of errors: too little of something, an operator's intervention, the system, the server itself."""

_COUNTERS: Final = slice(120, 136)
"""Where `struct tcp_info` of Linux counts the bytes that were acknowledged, and those received."""


def _bytes_passed(connection: socket.socket | None) -> int:
    """Return a number that grows with each byte; 0 where the system doesn't count them."""
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTERS.stop)[_COUNTERS]
    except OSError:
        return 0
    return int.from_bytes(info[:8], "little") + int.from_bytes(info[8:], "little")


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
