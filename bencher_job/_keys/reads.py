"""Knows which names a code object reads from outside: globals, closure variables, modules that it imports."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from .bytecode import nested

__all__ = ["Import", "Reads", "reads_of"]

_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CELL = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_LOCAL = frozenset({"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST"})
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_SET_ATTRIBUTE = frozenset({"STORE_ATTR", "DELETE_ATTR"})
_REBINDS = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "SWAP"})


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """A module that is imported inside a function, and a chain of its attributes that is read."""

    level: int
    module: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reads:
    """What a code object reads: names with the attributes read off them, as `("np", "linalg", "norm")`."""

    globals: tuple[tuple[str, ...], ...]
    cells: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]
    rebound: frozenset[str] = frozenset()
    """Globals that it gives another value or deletes."""


def reads_of(code: CodeType) -> Reads:
    """Find what a code object and those nested in it read from outside."""
    codes = nested(code)
    bodies = [_instructions(inner) for inner in codes]
    aliases = {alias: imported for body in bodies for alias, imported in _imports(body)}
    globals_: set[tuple[str, ...]] = set()
    cells: set[tuple[str, ...]] = {
        (name,) for name in code.co_freevars if name == "__class__"
    }  # for `super()`
    imports: set[Import] = set()
    for inner, body in zip(codes, bodies, strict=True):
        class_names = {instruction.argval for instruction in body if instruction.opname == "STORE_NAME"}
        captured = inner.co_cellvars + inner.co_freevars
        for opname, chain in _loads(body):
            if opname in _LOCAL and chain[0] in captured:
                continue  # Python 3.13 hands a nested function its cell by this instruction
            if chain[0] in aliases:
                base = aliases[chain[0]]
                imports.add(Import(base.level, base.module, base.attributes + chain[1:]))
            elif opname in _GLOBAL and (opname == "LOAD_GLOBAL" or chain[0] not in class_names):
                globals_.add(chain)
            elif opname in _CELL and chain[0] in code.co_freevars:
                cells.add(chain)
    imports.update(base for base in aliases.values() if not any(_begins(base, used) for used in imports))
    rebound = frozenset(each.argval for body in bodies for each in body if each.opname in _REBINDS)
    return Reads(tuple(sorted(globals_)), tuple(sorted(cells)), tuple(sorted(imports)), rebound)


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [instruction for instruction in dis.get_instructions(code) if instruction.opname not in _SILENT]


def _loads(body: list[dis.Instruction]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each load of a name with the attributes that are read off it at once."""
    for position, instruction in enumerate(body):
        if instruction.opname not in _GLOBAL | _CELL | _LOCAL:
            continue
        names = instruction.argval
        if isinstance(names, tuple):  # one instruction for two variables
            if instruction.opname == "LOAD_FAST_LOAD_FAST":
                yield instruction.opname, (names[0],)
            names = names[1]
        following = position + 1
        while body[following].opname in _ATTRIBUTE:
            following += 1
        if body[following].opname in _SET_ATTRIBUTE and following == position + 1:
            continue
        yield instruction.opname, (names, *(attribute.argval for attribute in body[position + 1 : following]))


def _imports(body: list[dis.Instruction]) -> Iterator[tuple[str, Import]]:
    """Yield what each import statement binds: `import a.b` the package `a`, `import a.b as c` the module."""
    for position, instruction in enumerate(body):
        if instruction.opname != "IMPORT_NAME":
            continue
        module = instruction.argval
        level, names = body[position - 2].argval, body[position - 1].argval
        rest = body[position + 1 :]
        if names:
            for imported, stored in zip(rest[::2], rest[1::2], strict=False):
                if imported.opname != "IMPORT_FROM":
                    break
                yield _stored(stored), Import(level, module, (imported.argval,))
        elif rest[0].opname == "IMPORT_FROM":
            stored = next(later for later in rest if later.opname.startswith("STORE"))
            yield _stored(stored), Import(level, module)
        else:
            yield _stored(rest[0]), Import(level, module.partition(".")[0])


def _stored(instruction: dis.Instruction) -> str:
    name = instruction.argval
    return str(name[0] if isinstance(name, tuple) else name)


def _begins(base: Import, used: Import) -> bool:
    """Whether what is used was reached through this import."""
    return (used.level, used.module) == (base.level, base.module) and (
        used.attributes[: len(base.attributes)] == base.attributes
    )
