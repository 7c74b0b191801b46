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
from .._keys.fingerprint import Fingerprint, code_fingerprint
from .._keys.provenance import is_own_name
from .pickling import find_by_name, modules_by_value

__all__ = ["Met", "agreement_of", "check_arguments", "check_function"]

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


def check_function(function: object, agreement: bytes) -> Mapping[str, str]:
    """Check that this process holds the code that a function's key was made of; give the versions of its libraries.

    Raises:
        CodeMismatch: naming what differs.
    """
    agreed = pickle.loads(agreement)
    refuse_other_code(function, agreed.differences())
    return agreed.libraries  # type: ignore[no-any-return]


class Met:
    """The user's own classes and functions that a pickler has met.

    It is pickled behind what they were met in, as the digests of those that are referred to by name, and the versions
    of the libraries that the code of all of them names, if these count.
    """

    def __init__(self, *, with_libraries: bool) -> None:
        self._with_libraries = with_libraries
        self._met: dict[Any, bool] = {}

    def note(self, obj: Any, *, by_value: bool) -> None:
        """Note what is met, if the user wrote it."""
        if is_own_name(obj.__module__):
            self._met[obj] = by_value

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({(obj.__module__, obj.__qualname__): self._agreed_of(obj) for obj in self._met},)

    def _agreed_of(self, obj: Any) -> _Agreed:
        made = code_fingerprint(obj)
        libraries = tuple(made.libraries.items()) if self._with_libraries else ()
        return b"" if self._met[obj] else made.code, libraries


_Agreed = tuple[bytes, tuple[tuple[str, str], ...]]
"""The digest of a class's or a function's code, empty where it goes by value, and the versions of its libraries."""

_agreed: Final[set[tuple[_Reference, _Agreed]]] = set()


def check_arguments(function: object, agreed: Mapping[_Reference, _Agreed]) -> dict[str, str]:
    """Check the classes and functions that a job's arguments refer to, each once: jobs may change what classes hold.

    Gives the versions of the libraries that their code names.

    Raises:
        CodeMismatch: naming what differs.
    """
    new = [item for item in agreed.items() if item not in _agreed]
    refuse_other_code(
        function,
        tuple(sorted(".".join(name) for name, (code, _) in new if code and _code_here(name) != code)),
    )
    _agreed.update(new)
    return {name: version for _, libraries in agreed.values() for name, version in libraries}


def _code_here(reference: _Reference) -> bytes | None:
    found = find_by_name(*reference)
    return code_fingerprint(found).code if isinstance(found, type | FunctionType) else None
