"""Knows how code reaches processes that may lack the user's modules, or even this package's."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from .._keys.provenance import is_own_module
from .pickling import by_value, dumps
from .shipping import Parcel

__all__ = ["ByValue", "with_own_modules"]


class ByValue:
    """A function that is pickled with its code."""

    def __init__(self, function: Callable[..., Any]) -> None:
        with by_value(sys.modules[function.__module__]):
            self._blob = dumps(function)
        self.__name__ = function.__name__

    def __call__(self, *_args: Any) -> Any:
        raise TypeError(f"{self.__name__} runs where it has been sent to, not here.")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._blob,)


def with_own_modules(function: Any, pack: Callable[[], Parcel]) -> Parcel:
    """Pack a call of a function with the code of the user's own modules, which need not be there where it goes.

    Raises:
        Exception: whatever the pickling of the function or of an argument raises.
    """
    try:
        with by_value(*_own_modules()):
            return pack()
    except Exception:  # noqa: BLE001 - one of them holds what can't be pickled, and may be there after all
        with by_value(sys.modules.get(getattr(function, "__module__", None) or "")):
            return pack()


class _OwnModules:
    """The user's own modules that are loaded, found anew when there are more or fewer modules than before."""

    def __init__(self) -> None:
        self._number = -1
        self._found: tuple[ModuleType, ...] = ()

    def __call__(self) -> tuple[ModuleType, ...]:
        if len(sys.modules) != self._number:
            modules = list(sys.modules.values())
            self._found = tuple(filter(_is_own, modules))
            self._number = len(modules)
        return self._found


def _is_own(module: Any) -> bool:
    if not isinstance(module, ModuleType) or module.__name__ == "__main__":
        return False
    return getattr(module, "__file__", None) is not None and is_own_module(module)


_own_modules: Final = _OwnModules()
