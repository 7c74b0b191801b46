"""Object stores: S3 and compatible ones, Google Cloud Storage, Azure Blob Storage. Only this module imports obstore.

Each lease number, like each entry, is created only if it doesn't exist. A forked child can't use the runtime of its
parent, which would hang it for ever, and leaves the store alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from .._errors import SharedStoreError
from .base import Name, Unreachable
from .requests import LIMIT

OBJECT_SCHEMES: Final = ("s3", "gs", "az")

_CONNECT: Final = 2.0
_PIECE: Final = 1 << 20
_PAGE: Final = 1000
_SLOWEST: Final = 250_000
"""Bytes per second at which a large object may be sent. Clients can't say how far they have come."""

_PATIENCE: Final = 300.0
"""Seconds after which a thread gives a large object up. Its caller has given up before."""

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_ALLOW_HTTP: Final = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP")


class ObjectBytes:
    """Bytes by name in a bucket or below a prefix, for `NamedRemote`."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        self.touch: Callable[[], None] = lambda: None
        self._pid = None if _was_used_by_parent else os.getpid()
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ImportError:
            raise SharedStoreError(
                self.place, "needs the package obstore", "Run: pip install 'bencher_job[objects]'."
            ) from None
        self._obstore: Any = obstore
        self._errors: Any = obstore.exceptions
        if self._pid is not None:
            _note_use()
            self._store = self._open(LIMIT)
            self._patient = self._open(_PATIENCE)

    def _open(self, seconds: float) -> Any:
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=_CONNECT),
            "read_timeout": timedelta(seconds=seconds),
            "timeout": timedelta(days=1),
        }
        is_local = any(_is_local(os.environ.get(each, "")) for each in _ENDPOINTS)
        if is_local or any(os.environ.get(each, "").lower() == "true" for each in _ALLOW_HTTP):
            options["allow_http"] = True
        retries = {
            "max_retries": 1,
            "retry_timeout": timedelta(seconds=LIMIT),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        }
        try:
            return self._obstore.store.from_url(self.place, client_options=options, retry_config=retries)
        except (ValueError, self._errors.BaseError) as error:
            raise SharedStoreError(
                self.place, f"can't be opened: {_first_line(error)}", "Correct the URL or the settings."
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return an object."""
        self._refuse_in_child()
        try:
            answer = self._obstore.get(self._store, name)
            if answer.meta["size"] <= _PIECE:
                return bytes(answer.bytes())
            pieces = []
            for piece in answer.stream(min_chunk_size=_PIECE):
                pieces.append(bytes(piece))
                self.touch()
            return b"".join(pieces)
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes, *, lasting: bool = True) -> bool:  # noqa: ARG002 - all objects do
        """Store an object if none exists."""
        try:
            self._put(name, content, "create")
        except self._errors.AlreadyExistsError:
            return False
        return True

    def write(self, name: str, content: bytes) -> None:
        """Store an object, and replace an existing one."""
        self._put(name, content, "overwrite")

    def _put(self, name: str, content: bytes, mode: str) -> None:
        self._refuse_in_child()
        # The client counts the time in which it sends as time in which nothing is read.
        store = self._store if len(content) <= _PIECE else self._patient
        self._obstore.put(store, name, content, mode=mode, use_multipart=False)

    def refresh(self, name: str, content: bytes) -> None:
        """Store an object."""
        self.write(name, content)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects."""
        self._refuse_in_child()
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._obstore.delete(self._store, name)
            self.touch()

    def listing(self, prefix: str) -> Iterator[list[Name]]:
        """List the objects below a prefix."""
        self._refuse_in_child()
        for page in self._obstore.list(self._store, prefix, chunk_size=_PAGE):
            yield [Name(each["path"], each["size"], each["last_modified"].timestamp()) for each in page]

    def tidy(self, before: float) -> int:  # noqa: ARG002 - as in other engines
        """An object appears whole or not at all, so there is nothing to remove."""
        return 0

    def failure(self, error: Exception) -> Unreachable | SharedStoreError | None:
        """Translate an error of obstore."""
        text = _first_line(error)
        if isinstance(error, FileNotFoundError):
            return SharedStoreError(self.place, "has no such bucket", "Make the bucket, or correct the URL.")
        if isinstance(error, (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError)):
            return SharedStoreError(
                self.place,
                f"refuses: {text}",
                "Correct the credentials in the environment, or the permissions of the bucket.",
            )
        if "builder error" in text:
            return SharedStoreError(
                self.place,
                "has an endpoint that is not an https:// URL",
                "Correct it, or set AWS_ALLOW_HTTP=true where nobody listens in.",
            )
        if isinstance(error, self._errors.BaseError):
            return Unreachable(f"{self.place}: {text}")
        return None

    def limit(self, size: int) -> float:
        """Return how many seconds a request may take: the client's own timeouts, and one more attempt."""
        return 2 * (_CONNECT + LIMIT) + 1 + 2 * size / _SLOWEST

    def _refuse_in_child(self) -> None:
        if os.getpid() != self._pid:
            raise Unreachable(_OF_THE_PARENT)


_OF_THE_PARENT: Final = (
    "an object store that was used before a fork can't be used in the child. "
    "Start processes by spawn or forkserver, or leave the shared store to the parent"
)

_is_in_use = False
_was_used_by_parent = False


def _note_use() -> None:
    global _is_in_use  # noqa: PLW0603 - obstore has one runtime for the whole process
    _is_in_use = True


def _after_fork() -> None:
    global _was_used_by_parent  # noqa: PLW0603 - as above
    _was_used_by_parent = _is_in_use


os.register_at_fork(after_in_child=_after_fork)


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
