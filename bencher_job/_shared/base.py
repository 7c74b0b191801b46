"""The Remote protocol: bytes by address in a store that several machines share, and leases on what is computed.

    e/<function>/<ab>/<key>     an entry
    f/<digest>                  a function's sources
    m/<ab>/<digest>             a file too large to stand in its entry

A remote neither verifies nor unpickles what it carries. Its operations may be repeated, and raise `Unreachable` only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple, Protocol, TypeVar

from .._errors import BencherJobError, SharedStoreError

T = TypeVar("T")

STORE_FORMAT: Final = "bencher_job shared store"
STORE_VERSION: Final = 1

LEASE_SECONDS: Final = 60.0
"""How long a lease outlives the last heartbeat of its session."""

_ADDRESS: Final = re.compile(
    r"(?:e/[\w~-][\w.~-]{0,119}/[0-9a-f]{2}|f|m/[0-9a-f]{2})/[0-9a-f]{32,128}", re.ASCII
)
_HEX_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LONGEST_FOLDER: Final = 100


class Unreachable(BencherJobError):
    """A shared store didn't answer, or can't do what it was asked at present. Its message says why."""


@dataclass(frozen=True, slots=True)
class RemoteLease:
    """The right of a session to compute an entry.

    Attributes:
        number: higher than that of each earlier lease of the address.
    """

    address: str
    number: int
    session: str


@dataclass(frozen=True, slots=True)
class RemoteOwner:
    """Who computes an entry. Host and process are unknown once the session has ended."""

    session: str
    host: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Name:
    """An address in a listing, the size of its bytes, and when they were stored in seconds since 1970."""

    address: str
    size: int
    stored: float


class Asked(NamedTuple):
    """The answer to `Remote.ask`: bytes of what exists, and leases on what the caller is to compute."""

    found: dict[str, bytes]
    leases: dict[str, RemoteLease]


class Changes(NamedTuple):
    """Addresses that were removed or replaced, and the cursor from which to ask next time."""

    addresses: frozenset[str]
    cursor: str


class Remote(Protocol):
    """A store that machines share. All methods may be called from any thread, and repeated.

    Raises:
        Unreachable: from each method, and nothing else, if the store doesn't answer or refuses.
    """

    @property
    def place(self) -> str:
        """The URL or path, as messages show it."""

    @property
    def session(self) -> str:
        """The name under which this process has leases."""

    def get_many(self, addresses: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those addresses that exist."""

    def ask(self, addresses: Iterable[str]) -> Asked:
        """Return what exists, and take leases on the rest, except where another living session has one."""

    def put_many(self, entries: Mapping[str, bytes]) -> dict[str, bytes]:
        """Store what doesn't exist yet, and release this session's leases on all of it.

        Return the bytes that are stored where these are other than the given ones: they were first.
        """

    def replace(self, address: str, content: bytes) -> None:
        """Store bytes, whatever is there, and let others know."""

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove what exists, and let others know."""

    def changes(self, cursor: str = "") -> Changes:
        """Return what was removed or replaced since a cursor; from the beginning of the record without one.

        An address may be reported again.
        """

    def release(self, leases: Iterable[RemoteLease]) -> None:
        """Release leases without a result."""

    def running(self, addresses: Iterable[str] | None = None) -> dict[str, RemoteOwner]:
        """Return who has the leases of some addresses, or of all, by the last part of the address."""

    def names(self, prefix: str) -> Iterator[Name]:
        """List the addresses in a folder: `e/`, `e/<function>/`, `f/` or `m/`."""

    def tidy(self, seconds: float) -> int:
        """Remove what nobody needs any more after so long: change records, dead sessions, parts of killed puts."""

    def close(self) -> None:
        """Release this session's leases and connections. The next use opens it again."""


def entry_address(function: str, key: str) -> str:
    """Return where the entry of a job lies."""
    digest = key if _HEX_KEY.fullmatch(key) else sha256(key.encode()).hexdigest()
    return f"e/{function_folder(function)}/{digest[:2]}/{digest}"


@lru_cache(1000)
def function_folder(function: str) -> str:
    """Return the name of the folder with a function's entries: the function's own, as far as file names allow."""
    text = "".join(each if re.match(r"[\w.-]", each, re.ASCII) else f"~{ord(each):x}~" for each in function)
    if text.startswith("."):
        text = f"~{text}"
    if len(text) <= _LONGEST_FOLDER and text:
        return text
    return f"{text[: _LONGEST_FOLDER - 17]}~{sha256(function.encode()).hexdigest()[:16]}"


def function_of(folder: str) -> str:
    """Return the name of a function whose entries lie in a folder; its beginning, if the name is long."""
    return re.sub(r"~([0-9a-f]{1,6})~", lambda found: chr(int(found[1], 16)), folder)


def source_address(digest: str) -> str:
    """Return where the sources of a function lie."""
    return checked(f"f/{digest}")


def media_address(digest: str) -> str:
    """Return where a large file of an entry lies."""
    return checked(f"m/{digest[:2]}/{digest}")


def checked(address: str) -> str:
    """Return an address that is one.

    Raises:
        ValueError: when it isn't, and could lead anywhere.
    """
    if not isinstance(address, str) or _ADDRESS.fullmatch(address) is None:
        raise ValueError(f"{address!a:.200} is not an address in a shared store")
    return address


def key_of(address: str) -> str:
    """Return the last part of an address, by which it is leased."""
    return address.rpartition("/")[2]


def unique(addresses: Iterable[str]) -> list[str]:
    """Return each address once; raises as `checked` does."""
    return [checked(address) for address in dict.fromkeys(addresses)]


def chunks(
    items: Iterable[T], number: int, *, size: int = sys.maxsize, size_of: Callable[[T], int] = lambda _: 0
) -> Iterator[list[T]]:
    """Yield items in lists, of at most so many items and so many bytes each."""
    some: list[T] = []
    total = 0
    for item in items:
        total += (its := size_of(item))
        if some and (len(some) == number or total > size):
            yield some
            some, total = [], its
        some.append(item)
    if some:
        yield some


MARKER: Final = "bencher_job.json"


def make_marker(mark: bytes) -> bytes:
    """Write what a new store of names says; it has refused to create something twice."""
    body = {"format": STORE_FORMAT, "version": STORE_VERSION, "secret": mark.hex(), "creates": True}
    return json.dumps(body).encode()


def read_marker(place: str, text: bytes) -> dict[str, object]:
    """Read what a shared store says of itself.

    Raises:
        SharedStoreError: when it is none.
    """
    try:
        marker = json.loads(text)
        if isinstance(marker, dict) and marker.get("format") == STORE_FORMAT:
            return marker
    except ValueError:
        pass
    raise SharedStoreError(
        place, f"is not a shared store: its {MARKER} is something else", "Choose another folder or prefix."
    )


def check_store(place: str, marker: Mapping[str, object], mark: bytes) -> None:
    """Refuse a store of another version or secret.

    Raises:
        SharedStoreError: naming the remedy.
    """
    version = marker.get("version")
    if version != STORE_VERSION:
        raise SharedStoreError(
            place,
            f"is a shared store of version {version}, and this library knows version {STORE_VERSION}",
            "Upgrade bencher_job, or use another place.",
        )
    if marker.get("secret") != mark.hex():
        fact = (
            "was made with another BENCHER_JOB_SECRET"
            if marker.get("secret")
            else "was made without a secret"
        )
        fact = fact if mark else "was made with a BENCHER_JOB_SECRET, and there is none here"
        raise SharedStoreError(place, fact, "Set the secret that its other users have, or use another place.")
