"""Knows the source text of loaded code, and believes it only where it compiles to that code."""

from __future__ import annotations

import ast
import linecache
import sys
import warnings
from types import CodeType
from typing import Any, Final, NamedTuple

from .bytecode import bytecode_digest, nested
from .syntax import (
    Definition,
    annotations_only,
    attributes_counted,
    attributes_looked_at,
    syntax_digest,
    written_only,
)

__all__ = ["Source", "source_of"]

_FILES_KEPT: Final = 64
_REWRITING: Final = "_pytest.assertion.rewrite"
_files: dict[tuple[str, bool], tuple[list[str], _File]] = {}


class Source(NamedTuple):
    """The definition that a code object was compiled from.

    `plain` is what it compiles to by itself, which is another code where pytest has rewritten its assertions.
    """

    code: CodeType
    plain: CodeType
    definition: Definition
    lines: list[str]

    @property
    def digest(self) -> bytes:
        """What it does, the same on each supported Python."""
        return syntax_digest(self.definition)

    @property
    def written_only(self) -> frozenset[str]:
        """Names whose values it changes but never looks at."""
        return written_only(self.definition)

    @property
    def annotations_only(self) -> frozenset[str]:
        """Names that it mentions in annotations of functions inside it only."""
        return annotations_only(self.definition)

    @property
    def attributes(self) -> tuple[frozenset[str], frozenset[str]]:
        """Attributes of its class that it changes, and those of anything that it looks at."""
        class_name = self.code.co_qualname.rpartition(".")[0].rpartition(".")[2]
        return attributes_counted(self.definition, class_name), attributes_looked_at(
            self.definition, class_name
        )

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
    hook = _rewriting_hook(namespace)
    place = code.co_filename, hook is not None
    known_lines, file = _files.get(place, (None, None))
    if file is None or lines is not known_lines:
        if len(_files) >= _FILES_KEPT:
            _files.pop(next(iter(_files)), None)
        file = _File(lines, code.co_filename, hook)
        _files[place] = lines, file
    return file.find(code)


def _rewriting_hook(namespace: dict[str, Any]) -> Any:
    """The loader of a module whose assertions pytest rewrites; none of another."""
    pytest_rewriting = sys.modules.get(_REWRITING)
    hook = getattr(pytest_rewriting, "AssertionRewritingHook", None)
    loader = namespace.get("__loader__")
    return loader if isinstance(hook, type) and isinstance(loader, hook) else None


class _File:
    """A source file, parsed and compiled once for all of its functions."""

    def __init__(self, lines: list[str], filename: str, hook: Any) -> None:
        self._sources = _sources_in(lines, filename, hook)

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


def _sources_in(lines: list[str], filename: str, hook: Any) -> dict[str, list[Source]]:
    """All functions and lambdas of a file by their qualified name; none where it doesn't compile."""
    text = "".join(lines)
    try:
        tree = ast.parse(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = nested(compile(tree, filename, "exec", dont_inherit=True))
            loaded = plain if hook is None else _rewritten(text, filename, hook, plain)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    definitions: dict[tuple[str, int], list[Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
            definitions.setdefault((name, _first_line(node)), []).append(node)
    sources: dict[str, list[Source]] = {}
    for code, by_itself in zip(loaded, plain, strict=True):
        named = definitions.get((by_itself.co_name, by_itself.co_firstlineno), [])
        definition = _closest(by_itself, named)
        if definition is not None:
            source = Source(code, by_itself, definition, lines)
            sources.setdefault(code.co_qualname, []).append(source)
    return sources


def _rewritten(text: str, filename: str, hook: Any, plain: list[CodeType]) -> list[CodeType]:
    """Compile a module as pytest does; as it stands where this pytest does it in another way."""
    tree = ast.parse(text)
    try:
        sys.modules[_REWRITING].rewrite_asserts(tree, text.encode(), filename, hook.config)
        codes = nested(compile(tree, filename, "exec", dont_inherit=True))
    except (AttributeError, TypeError, SyntaxError, ValueError):
        return plain
    same = [code.co_qualname for code in codes] == [code.co_qualname for code in plain]
    return codes if same else plain


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
