"""Carry exceptions from a worker to its submitter.

Pickle drops the chain and builds an exception by calling its class with `args`, which fails or changes the
exception where the class has a constructor of its own. Here such an exception is put together as it was.
"""

from __future__ import annotations

import pickle
import traceback
from types import FunctionType
from typing import Any, Final

from .._errors import BencherJobError
from .base import told
from .pickling import HomewardPickler, dumps

__all__ = ["RemoteTraceback", "dump_error", "load_error"]


class RemoteTraceback(Exception):
    """The traceback of an exception where it was raised, as the last cause of the exception's chain."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


LONGEST_CHAIN: Final = 50
"""How many exceptions one exception's causes and contexts may be to travel as they are."""


def dump_error(error: BaseException, *, for_same_program: bool = False) -> bytes:
    """Pickle an exception with its chain and traceback; what can't be pickled of it is described instead.

    Another run of the same program has its classes, and gets them by name.
    """
    text = "".join(traceback.format_exception(error))
    try:
        _refuse_long_chain(error)
        return dumps((error, text), pickler=_SameProgramPickler if for_same_program else _ErrorPickler)
    except BaseException as problem:  # noqa: BLE001 - a chain of exceptions can defeat pickle as a whole, by its depth
        return dumps((_description_of(error, problem), text), pickler=HomewardPickler)


def _refuse_long_chain(error: BaseException) -> None:
    """Refuse a chain that pickle would follow so deep that the interpreter's own stack could overflow."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            pending += [link.__cause__, link.__context__]
        if len(seen) > LONGEST_CHAIN:
            raise RecursionError(f"its chain has more than {LONGEST_CHAIN} exceptions")


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


class _ErrorPickler(HomewardPickler):
    """Pickles exceptions with their chain."""

    alone: Any = None
    """The one exception that is tried without its chain."""

    def reducer_override(self, obj: Any) -> Any:
        if not issubclass(type(obj), BaseException):
            return super().reducer_override(obj)
        if obj is self.alone:
            return _reduce(obj)
        try:
            pickle.loads(dumps(obj, pickler=type("_Alone", (type(self),), {"alone": obj})))
            reduced = _reduce(obj)
        except BaseException as problem:  # noqa: BLE001 - anything can be wrong with a class's own pickling
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
        f"{told(problem)}. Give its class plain attributes, or a __reduce__.)"
    )
