"""Knows what a packed job and its worker must agree on: the code of its function, and of its arguments' classes."""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import FunctionType
from typing import Any, Final

from .._forks import renew_after_fork
from .._keys.agreement import agreement_on, refuse_other_code
from .._keys.fingerprint import Fingerprint, code_digest
from .._keys.provenance import is_own_name
from .pickling import find_by_name, modules_by_value

__all__ = ["MetByName", "agreement_of", "check_arguments", "check_function"]

KEPT_AGREEMENTS: Final = 64
_Reference = tuple[str, str]


class _Agreements:
    """The agreements on the fingerprints that were sent last, as bytes."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, frozenset[str]], tuple[Fingerprint, bytes]] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, fingerprint: Fingerprint, function: object) -> bytes:
        by_value = modules_by_value()
        with self._lock:
            known = self._made.get((id(fingerprint), by_value))
            if known is None:
                is_named = _is_found_by_name(function)
                made = pickle.dumps(agreement_on(fingerprint, by_value, None if is_named else function))
                known = self._made[id(fingerprint), by_value] = fingerprint, made
                if len(self._made) > KEPT_AGREEMENTS:
                    self._made.popitem(last=False)
            return known[1]


def _is_found_by_name(function: Any) -> bool:
    """Whether pickle sends a function by its name; one that its module holds cached goes by value."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return name is not None and find_by_name(module, name) is function


agreement_of: Final = _Agreements()


def check_function(function: object, agreement: bytes) -> None:
    """Check that this process holds the code that a function's key was made of.

    Raises:
        CodeMismatch: naming what differs.
    """
    refuse_other_code(function, pickle.loads(agreement).differences())


class MetByName:
    """The user's own classes and functions that a pickler has met and referred to by name.

    It is pickled behind what they were met in, as their digests.
    """

    def __init__(self) -> None:
        self._met: dict[Any, None] = {}

    def note(self, obj: Any) -> None:
        """Note what is referred to, if the user wrote it."""
        if is_own_name(obj.__module__):
            self._met[obj] = None

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({(obj.__module__, obj.__qualname__): code_digest(obj) for obj in self._met},)


_agreed: Final[set[tuple[_Reference, bytes]]] = set()


def check_arguments(function: object, digests: Mapping[_Reference, bytes]) -> None:
    """Check the classes and functions that a job's arguments refer to, each once: jobs may change what classes hold.

    Raises:
        CodeMismatch: naming what differs.
    """
    new = [item for item in digests.items() if item not in _agreed]
    refuse_other_code(
        function, tuple(sorted(".".join(name) for name, digest in new if _digest_here(name) != digest))
    )
    _agreed.update(new)


def _digest_here(reference: _Reference) -> bytes | None:
    found = find_by_name(*reference)
    return code_digest(found) if isinstance(found, type | FunctionType) else None
