"""Knows the source text of loaded code, and believes it only where it compiles to that code."""

from __future__ import annotations

import ast
import linecache
import warnings
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from .bytecode import bytecode_digest, nested
from .syntax import Definition, syntax_digest, written

__all__ = ["Source", "source_of"]

_FILES_KEPT: Final = 64
_files: dict[str, tuple[list[str], _File]] = {}


@dataclass(frozen=True)
class Source:
    """The definition that a code object was compiled from."""

    code: CodeType
    definition: Definition
    lines: list[str]

    @property
    def digest(self) -> bytes:
        """What it does, the same on each supported Python."""
        return syntax_digest(self.definition)

    @property
    def written(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names whose values it changes, and those of them that it never looks at."""
        return written(self.definition)

    @property
    def text(self) -> str:
        """Its lines, decorators included."""
        return "".join(self.lines[_first_line(self.definition) - 1 : self.definition.end_lineno])


def source_of(code: CodeType, namespace: dict[str, Any]) -> Source | None:
    """Find the definition of a code object, or nothing where the source is missing or newer than the code."""
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, namespace)
    if not lines:
        return None
    known_lines, file = _files.get(code.co_filename, (None, None))
    if file is None or lines is not known_lines:
        if len(_files) >= _FILES_KEPT:
            _files.pop(next(iter(_files)), None)
        file = _File(lines, code.co_filename)
        _files[code.co_filename] = lines, file
    return file.find(code)


class _File:
    """A source file, parsed and compiled once for all of its functions."""

    def __init__(self, lines: list[str], filename: str) -> None:
        self._sources = _sources_in(lines, filename)

    def find(self, code: CodeType) -> Source | None:
        """Find the definition that compiles to this code.

        Where several do, as twin lambdas, the one at the same place is meant, or else all must do the same.
        """
        wanted = bytecode_digest(code)
        named = self._sources.get(code.co_qualname, ())
        twins = [source for source in named if bytecode_digest(source.code) == wanted]
        in_place = [source for source in twins if _places(source.code) == _places(code)]
        found = in_place or twins
        if len(found) > 1 and len({source.digest for source in found}) > 1:
            return None
        return found[0] if found else None


def _sources_in(lines: list[str], filename: str) -> dict[str, list[Source]]:
    """All functions and lambdas of a file by their qualified name; none where it doesn't compile."""
    try:
        tree = ast.parse("".join(lines))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = compile(tree, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    definitions: dict[tuple[str, int], list[Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
            definitions.setdefault((name, _first_line(node)), []).append(node)
    sources: dict[str, list[Source]] = {}
    for code in nested(module):
        definition = _closest(code, definitions.get((code.co_name, code.co_firstlineno), []))
        if definition is not None:
            sources.setdefault(code.co_qualname, []).append(Source(code, definition, lines))
    return sources


def _first_line(definition: Definition) -> int:
    decorators: list[ast.expr] = getattr(definition, "decorator_list", [])
    return min([definition.lineno, *(decorator.lineno for decorator in decorators)])


def _closest(code: CodeType, definitions: list[Definition]) -> Definition | None:
    """Choose among definitions that start on one line: the smallest that holds all of the code's places."""
    if len(definitions) <= 1:
        return definitions[0] if definitions else None
    places = [place for place in _places(code) if None not in place and place[:2] != (code.co_firstlineno, 0)]
    around = [
        definition
        for definition in definitions
        if all(_start(definition) <= place[:2] and place[2:] <= _end(definition) for place in places)
    ]
    return max(around, key=_start) if places and around else None


def _places(code: CodeType) -> list[tuple[int, int, int, int]]:
    """List where each instruction stands: line and column of its start, line and column of its end."""
    return [
        (line, column, end_line, end_column)  # type: ignore[misc]
        for line, end_line, column, end_column in code.co_positions()
    ]


def _start(definition: Definition) -> tuple[int, int]:
    return definition.lineno, definition.col_offset


def _end(definition: Definition) -> tuple[int, int]:
    return definition.end_lineno or 0, definition.end_col_offset or 0
