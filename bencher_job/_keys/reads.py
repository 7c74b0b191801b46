"""Knows which names a code object reads from outside: globals, closure variables, modules that it imports."""

from __future__ import annotations

import dis
import itertools
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import NamedTuple

from .bytecode import nested

__all__ = ["Import", "Reads", "reads_of"]

_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CELL = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_LOCAL = frozenset(name for name in dis.opmap if "LOAD_FAST" in name) - {"LOAD_FAST_AND_CLEAR"}
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_SET_ATTRIBUTE = frozenset({"STORE_ATTR", "DELETE_ATTR"})
_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
_KINDS = {"STORE_DEREF": "cell", "STORE_GLOBAL": "global"}
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "SWAP"})


class Import(NamedTuple):
    """A module that is imported inside a function, and a chain of its attributes that is read."""

    level: int
    module: str
    attributes: tuple[str, ...] = ()


Aliases = dict[str, set[Import]]
"""By name all the imports that may have bound it: another in each branch of an `if` or a `try`."""


class Reads(NamedTuple):
    """What a code object reads: names with the attributes read off them, as `("np", "linalg", "norm")`."""

    globals: tuple[tuple[str, ...], ...]
    cells: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]

    def without(self, names: frozenset[str]) -> Reads:
        """Leave names of globals and closure variables out."""
        if not names:
            return self
        globals_, cells = ([chain for chain in chains if chain[0] not in names] for chains in self[:2])
        return Reads(tuple(globals_), tuple(cells), self.imports)


def reads_of(code: CodeType) -> Reads:
    """Find what a code object and those nested in it read from outside."""
    bodies = [_Body(inner) for inner in nested(code)]
    shared = _merged(body.aliases["cell"] for body in bodies)
    in_globals = _merged(body.aliases["global"] for body in bodies)
    globals_: set[tuple[str, ...]] = set()
    cells: set[tuple[str, ...]] = {
        (name,) for name in code.co_freevars if name == "__class__"
    }  # for `super()`
    imports: set[Import] = set()
    for body in bodies:
        for position, opname, chain in _loads(body.instructions):
            name = chain[0]
            if chain[-1] == "import_module":
                imports.update(_imported_by_call(body.instructions[position + len(chain)]))
            if opname in _LOCAL:
                if name in body.captured:
                    continue  # Python 3.13 hands a nested function its cell by this instruction
                meant = body.aliases["local"].get(name, set())
            elif opname in _CELL:
                meant = shared.get(name, set())
                if name in code.co_freevars:
                    cells.add(chain)
            else:
                meant = in_globals.get(name, set())
                if not meant and not body.has_bound(name, opname, position):
                    globals_.add(chain)
                if opname != "LOAD_GLOBAL":
                    meant = meant | body.aliases["local"].get(name, set())
            imports.update(Import(base.level, base.module, base.attributes + chain[1:]) for base in meant)
    bases = {base for body in bodies for aliases in body.aliases.values() for base in _all(aliases)}
    imports.update(base for base in bases if not any(_begins(base, used) for used in imports))
    return Reads(tuple(sorted(globals_)), tuple(sorted(cells)), tuple(sorted(imports)))


class _Body:
    """The instructions of one code object, and what the names mean that it binds itself."""

    def __init__(self, code: CodeType) -> None:
        self.instructions = _instructions(code)
        self.captured = code.co_cellvars + code.co_freevars
        self.aliases: dict[str, Aliases] = {"local": {}, "cell": {}, "global": {}}
        for stored, imported in _imports(self.instructions):
            kind = _KINDS.get(stored.opname, "local")
            self.aliases[kind].setdefault(_stored(stored), set()).add(imported)
        self._bound = {} if code.co_exceptiontable else dict(_surely_bound(self.instructions))

    def has_bound(self, name: str, opname: str, position: int) -> bool:
        """Whether the body of a class has surely given a name its own value before it is looked at."""
        return opname != "LOAD_GLOBAL" and self._bound.get(name, position) < position


def _surely_bound(body: list[dis.Instruction]) -> Iterator[tuple[str, int]]:
    """Yield the names that are bound before anything branches, last ones first, with their positions."""
    straight = list(itertools.takewhile(lambda each: each.opcode not in _JUMPS, body))
    deleted = {each.argval for each in body if each.opname == "DELETE_NAME"}
    for position, each in reversed(list(enumerate(straight))):
        if each.opname == "STORE_NAME" and each.argval not in deleted:
            yield each.argval, position


def _merged(every: Iterable[Aliases]) -> Aliases:
    merged: Aliases = {}
    for aliases in every:
        for name, imports in aliases.items():
            merged.setdefault(name, set()).update(imports)
    return merged


def _all(aliases: Aliases) -> set[Import]:
    return set().union(*aliases.values())


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [instruction for instruction in dis.get_instructions(code) if instruction.opname not in _SILENT]


def _loads(body: list[dis.Instruction]) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield each load of a name, with its position and the attributes that are read off it at once."""
    for position, instruction in enumerate(body):
        if instruction.opname not in _GLOBAL | _CELL | _LOCAL:
            continue
        names = instruction.argval
        if isinstance(names, tuple):  # one instruction for two variables
            if instruction.opname.startswith("LOAD"):
                yield position, instruction.opname, (names[0],)
            names = names[1]
        following = position + 1
        while body[following].opname in _ATTRIBUTE:
            following += 1
        if body[following].opname in _SET_ATTRIBUTE and following == position + 1:
            continue
        attributes = (attribute.argval for attribute in body[position + 1 : following])
        yield position, instruction.opname, (names, *attributes)


def _imports(body: list[dis.Instruction]) -> Iterator[tuple[dis.Instruction, Import]]:
    """Yield what each import statement binds, and where: `import a.b` the package `a`, `import a.b as c` the module."""
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
                yield stored, Import(level, module, (imported.argval,))
        elif rest[0].opname == "IMPORT_FROM":
            stored = next(later for later in rest if later.opname.startswith("STORE"))
            yield stored, Import(level, module)
        else:
            yield rest[0], Import(level, module.partition(".")[0])


def _imported_by_call(argument: dis.Instruction) -> Iterator[Import]:
    """Yield what a call of `importlib.import_module` imports, where that is a constant and not relative."""
    name = argument.argval
    if argument.opname == "LOAD_CONST" and isinstance(name, str) and name.strip(".") and name[0] != ".":
        yield Import(0, name)


def _stored(instruction: dis.Instruction) -> str:
    name = instruction.argval
    return str(name[0] if isinstance(name, tuple) else name)


def _begins(base: Import, used: Import) -> bool:
    """Whether what is used was reached through this import."""
    return (used.level, used.module) == (base.level, base.module) and (
        used.attributes[: len(base.attributes)] == base.attributes
    )
