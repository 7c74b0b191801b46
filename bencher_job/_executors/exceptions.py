"""Send exceptions from a worker to its submitter.

Pickle drops the chain, and rebuilds an exception by calling its class with `args`. That fails or changes the exception
if the class has its own constructor. This module restores the chain, and rebuilds such exceptions without calling it.
"""

from __future__ import annotations

import pickle
import traceback
from types import FunctionType
from typing import Any

from .._errors import BencherJobError
from .engine import error_text
from .pickling import ResultPickler, dumps

__all__ = ["RemoteTraceback", "dump_error", "load_error"]


class RemoteTraceback(Exception):
    """The worker's traceback, as the last cause in an exception's chain."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def dump_error(error: BaseException, *, for_same_program: bool = False) -> bytes:
    """Pickle an exception with its chain and traceback. An exception that cannot be pickled is described instead.

    With `for_same_program`, classes of `__main__` go by name, since another run of the program has them.
    """
    text = "".join(traceback.format_exception(error))
    try:
        return dumps((error, text), pickler=_SameProgramPickler if for_same_program else _ErrorPickler)
    except BaseException as problem:  # noqa: BLE001 - a long chain can exceed pickle's recursion limit
        return dumps((_description_of(error, problem), text), pickler=ResultPickler)


def load_error(stream: Any) -> BaseException:
    """Unpickle an exception, with the worker's traceback at the end of its chain of causes.

    Raises:
        Exception: whatever unpickling raises in this process.
    """
    error: BaseException
    error, text = pickle.loads(stream)
    last, seen = error, {id(error)}
    while last.__cause__ is not None and id(last.__cause__) not in seen:
        last = last.__cause__
        seen.add(id(last))
    hides_context = last.__suppress_context__
    last.__cause__ = RemoteTraceback(text)
    last.__suppress_context__ = hides_context
    return error


class _ErrorPickler(ResultPickler):
    """Pickle exceptions with their chain."""

    alone: Any = None
    """The exception that is pickled without its chain, to see whether it can be."""

    def reducer_override(self, obj: Any) -> Any:
        if not issubclass(type(obj), BaseException):
            return super().reducer_override(obj)
        if obj is self.alone:
            return _reduce(obj)
        try:
            pickle.loads(dumps(obj, pickler=type("_Alone", (type(self),), {"alone": obj})))
            reduced = _reduce(obj)
        except BaseException as problem:  # noqa: BLE001 - a class's pickling can raise anything
            reduced = _reduce(_description_of(obj, problem))
        if isinstance(reduced, str):
            return reduced
        make, args, state, items, pairs, setter = list(reduced) + [None] * (6 - len(reduced))
        chain = (state, setter, obj.__cause__, obj.__context__, obj.__suppress_context__)
        return make, args, chain, items, pairs, _set_state


class _SameProgramPickler(_ErrorPickler):
    is_for_same_program = True


def _reduce(error: BaseException) -> Any:
    reduced = error.__reduce_ex__(5)
    own_type = type(error)
    constructors = own_type.__init__, own_type.__new__
    has_own_constructor = any(isinstance(constructor, FunctionType) for constructor in constructors)
    if isinstance(reduced, tuple) and reduced[0] is own_type and has_own_constructor:
        return (_rebuild, (own_type, reduced[1]), *reduced[2:])
    return reduced


def _rebuild(error_type: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    builtin: Any = next(base for base in error_type.__mro__ if base.__module__ == "builtins")
    error: BaseException = builtin.__new__(error_type, *args)
    builtin.__init__(error, *args)
    return error


def _set_state(error: BaseException, chain: tuple[Any, ...]) -> None:
    state, setter, cause, context, hides_context = chain
    if setter is not None:
        setter(error, state)
    elif state is not None:
        error.__setstate__(state)
    error.__cause__ = cause
    error.__context__ = context
    error.__suppress_context__ = hides_context


def _description_of(error: BaseException, problem: BaseException) -> BencherJobError:
    text = "".join(traceback.format_exception_only(error)).strip()
    return BencherJobError(
        f"{text} (The exception itself stayed in the worker: it can't be pickled, "
        f"{error_text(problem)}. Give its class plain attributes, or a __reduce__.)"
    )
