"""Knows what a code object does, whatever file and line it came from."""

from __future__ import annotations

import dis
import inspect
import sys
from types import CodeType

from .hashing import digest

__all__ = ["bytecode_digest", "nested"]

_BEHAVIOUR = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
_LOADS_CONSTANT = frozenset(dis.hasconst)
_PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def bytecode_digest(code: CodeType) -> bytes:
    """Digest a code object without docstrings, files and lines; another Python has another digest.

    Constants count in the order in which instructions load them, so that a docstring, which none loads, moves nothing.
    """
    order: dict[int, int] = {}
    instructions = tuple(
        (
            each.opcode,
            order.setdefault(each.arg or 0, len(order)) if each.opcode in _LOADS_CONSTANT else each.arg,
        )
        for each in dis.get_instructions(code)
        if each.opcode != dis.EXTENDED_ARG
    )
    loaded = (code.co_consts[index] for index in order)
    constants = tuple(
        ("code", bytecode_digest(constant)) if isinstance(constant, CodeType) else ("value", constant)
        for constant in loaded
    )
    parts = (
        _PYTHON,
        code.co_name,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags & _BEHAVIOUR,
        instructions,
        code.co_exceptiontable,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        constants,
    )
    return digest(parts, "code")


def nested(code: CodeType) -> list[CodeType]:
    """List a code object and all that are defined inside it, outer ones first."""
    codes = [code]
    for outer in codes:  # the list grows while it is read
        codes.extend(constant for constant in outer.co_consts if isinstance(constant, CodeType))
    return codes
