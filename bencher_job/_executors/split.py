"""Knows how a job travels in two parts to workers that keep functions: its function, once, and the rest.

Parcel -> split -> function, one copy for all jobs of it | rest ~~> join -> Parcel
"""

from __future__ import annotations

import pickle
import threading
import weakref
from dataclasses import dataclass
from typing import Final

from .._forks import renew_after_fork
from .._stores.entries.codec import Payload
from .shipping import Parcel, SentFunction

__all__ = ["FunctionBytes", "SplitParcel", "join", "split"]

_NOTHING: Final = Payload(b"")


class FunctionBytes:
    """The bytes of one function, by its digest."""

    __slots__ = ("__weakref__", "blob", "digest")

    def __init__(self, digest: bytes, blob: bytes) -> None:
        self.digest = digest
        self.blob = blob


@dataclass(frozen=True, slots=True)
class SplitParcel:
    """A packed job whose function may be there already where it goes."""

    function: FunctionBytes
    rest: bytes


class _OnTheWay:
    """The functions of all jobs that have not come back yet, one copy of each."""

    def __init__(self) -> None:
        self._functions: weakref.WeakValueDictionary[bytes, FunctionBytes] = weakref.WeakValueDictionary()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def bytes_of(self, parcel: Parcel) -> FunctionBytes:
        with self._lock:
            sent = parcel.function
            known = self._functions.get(sent.digest)
            if known is None:
                blob = pickle.dumps(sent.payload.in_band(), protocol=5)
                known = self._functions[sent.digest] = FunctionBytes(sent.digest, blob)
            return known


_on_the_way: Final = _OnTheWay()


def split(parcel: Parcel) -> SplitParcel:
    """Take a parcel apart; what it holds is copied, so that nobody can change it any more."""
    return SplitParcel(_on_the_way.bytes_of(parcel), _with_function(parcel, _NOTHING).to_bytes())


def join(rest: bytes, function: bytes | None) -> Parcel:
    """Put a parcel together again; without the function's bytes its worker must have loaded it before."""
    parcel = Parcel.of_bytes(rest)
    return parcel if function is None else _with_function(parcel, Payload(*pickle.loads(function)))


def _with_function(parcel: Parcel, payload: Payload) -> Parcel:
    return parcel._replace(function=SentFunction(parcel.function.digest, payload))
