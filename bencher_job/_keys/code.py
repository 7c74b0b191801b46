"""Normal forms of code: bytecode, source text, syntax trees, and the names that code reads."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
import linecache
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from types import CodeType, EllipsisType
from typing import Any, Final, NamedTuple

from .hashing import digest

__all__ = [
    "Definition",
    "Facts",
    "Import",
    "Place",
    "Reads",
    "Source",
    "accept_facts",
    "annotations_only",
    "attributes_counted",
    "attributes_looked_at",
    "bytecode_digest",
    "facts_of",
    "nested",
    "place_of",
    "reads_of",
    "source_of",
    "syntax_digest",
    "written_only",
]


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


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# Fields that change nothing at run time, or that the rest of the tree implies.
_UNCOUNTED_FIELDS = frozenset(
    {"annotation", "ctx", "is_lazy", "kind", "returns", "type_comment", "type_ignores", "type_params"}
)
# What is evaluated outside of the function: the objects that came of it are part of the fingerprint instead.
_OUTSIDE = frozenset({"decorator_list", "defaults", "kw_defaults", "name"})
_WRITERS = frozenset(
    {"add", "append", "appendleft", "extend", "extendleft", "insert", "setdefault", "update"}
)


def syntax_digest(definition: Definition | ast.Module) -> bytes:
    """Digest what a function or a module does; the same on each supported Python.

    A function's name, decorators and defaults are left out: they are known better from the function itself.
    """
    digest = sha256()
    for token in _tokens(definition):
        digest.update(b"%d:" % len(token))
        digest.update(token)
    return digest.digest()


def written_only(definition: Definition) -> frozenset[str]:
    """Find the names whose values a function changes but never looks at.

    Such are `calls` in `calls.append(x)`, `seen` in `seen[key] = x` and `count` in `count += 1`, where the
    function doesn't mention them otherwise.
    """
    mentioned: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for node in ast.walk(definition):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                mentioned[name] += 1
            case ast.AugAssign(target=ast.Name(id=name)):
                mentioned[name] += 1
                changed[name] += 1
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                changed[name] += 1
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=verb))):
                changed[name] += verb in _WRITERS
    return frozenset(name for name, count in changed.items() if mentioned[name] == count)


def annotations_only(definition: Definition) -> frozenset[str]:
    """Find the names that nothing but the annotations of functions inside a function mentions."""
    body = definition.body if isinstance(definition.body, list) else [definition.body]
    everywhere = Counter(name for statement in body for name in _names_in(statement))
    annotating: Counter[str] = Counter()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                annotating.update(_names_in(node.returns))
            elif isinstance(node, ast.arg):
                annotating.update(_names_in(node.annotation))
    return frozenset(name for name, count in annotating.items() if everywhere[name] == count)


def _names_in(node: ast.AST | None) -> Iterator[str]:
    if node is not None:
        yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def attributes_counted(definition: Definition, class_name: str) -> frozenset[str]:
    """Find the attributes of its class that a method changes: `cls.made += 1`, `type(self).known[key] = x`.

    What it changes through `self` is an attribute of the object, unless it is a container's item.
    """
    found: set[str] = set()
    for node in ast.walk(definition):
        match node:
            case ast.AugAssign(target=ast.Attribute(value=owner, attr=name)):
                found.update([name] if _is_class(owner, class_name) else [])
            case ast.Attribute(value=owner, attr=name, ctx=ast.Store()):
                found.update([name] if _is_class(owner, class_name) else [])
            case ast.Subscript(value=ast.Attribute(attr=name), ctx=ast.Store()):
                found.add(name)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Attribute(attr=name), attr=verb))):
                found.update([name] if verb in _WRITERS else [])
    return frozenset(found)


def attributes_looked_at(definition: Definition, class_name: str) -> frozenset[str]:
    """Find the attributes, of whatever object, whose values count for what a function does; texts may name some."""
    mentioned: Counter[str] = Counter()
    for node in ast.walk(definition):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()):
                mentioned[name] += 1
            case ast.Constant(value=str(name)) if name.isidentifier():
                mentioned[name] += 1
            case ast.AugAssign(target=ast.Attribute(value=owner, attr=name)):
                mentioned[name] += not _is_class(owner, class_name)
    for node in ast.walk(definition):
        match node:
            case ast.Subscript(value=ast.Attribute(attr=name), ctx=ast.Store()):
                mentioned[name] -= 1
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Attribute(attr=name), attr=verb))):
                mentioned[name] -= verb in _WRITERS
    return frozenset(+mentioned)


def _is_class(owner: ast.expr, class_name: str) -> bool:
    match owner:
        case ast.Name(id=name):
            return name in {"cls", class_name}
        case ast.Call(func=ast.Name(id="type")) | ast.Attribute(attr="__class__"):
            return True
    return False


def _tokens(root: Definition | ast.Module) -> Iterator[bytes]:
    """Walk a tree without recursion, so that a sum of a thousand terms is no deeper than one of two."""
    stack: list[tuple[object, bool]] = [(root, False)]
    while stack:
        item, in_class = stack.pop()
        if isinstance(item, _Token):
            yield item
        elif isinstance(item, list):
            stack.append((_Token(b"]"), in_class))
            stack.extend((child, in_class) for child in reversed(_without_silent_statements(item, in_class)))
            yield b"["
        elif isinstance(item, ast.AST):
            yield b"(" + type(item).__name__.encode()
            stack.append((_Token(b")"), in_class))
            if isinstance(item, ast.ClassDef):
                in_class = True
            elif isinstance(item, Definition):
                in_class = False
            for name, value in reversed(list(_fields(item, is_root=item is root, in_class=in_class))):
                stack.append((value, in_class))
                stack.append((_Token(b"." + name.encode()), in_class))
        else:
            yield _constant(item)


class _Token(bytes):
    """What is yielded as it stands, where `bytes` are a constant of the code."""


def _fields(node: ast.AST, *, is_root: bool, in_class: bool) -> Iterator[tuple[str, object]]:
    if isinstance(node, ast.Constant):
        yield "value", node.value
        return
    if isinstance(node, ast.Name) and node.id == "__debug__":
        yield "value", __debug__
        return
    if isinstance(node, ast.JoinedStr):
        yield "values", list(_joined_texts(node.values))
        return
    if isinstance(node, ast.Assert):
        yield "runs", __debug__
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or (is_root and name in _OUTSIDE):
            continue
        if name == "args" and is_root:
            yield name, _without_defaults(value)
        elif name not in _UNCOUNTED_FIELDS or (
            name == "annotation" and in_class and isinstance(node, ast.AnnAssign)
        ):
            yield name, value


def _without_defaults(arguments: ast.arguments) -> ast.arguments:
    return ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=arguments.args,
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=[],
        kwarg=arguments.kwarg,
        defaults=[],
    )


def _without_silent_statements(items: list[object], in_class: bool) -> list[object]:
    """Drop what does nothing: docstrings and other bare constants, `pass`, annotations of local variables."""
    kept: list[object] = []
    for item in items:
        match item:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                continue
            case ast.AnnAssign() if not in_class:
                if item.value is not None:
                    kept.append(ast.Assign(targets=[item.target], value=item.value))
            case _:
                kept.append(item)
    return kept


def _joined_texts(values: list[ast.expr]) -> Iterator[object]:
    """Join neighbouring texts of an f-string, which Pythons split differently."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        if text:
            yield text
        text = ""
        yield value
    if text:
        yield text


def _constant(value: object) -> bytes:
    """Encode a constant by its type and its exact value."""
    tag = type(value).__name__.encode() + b"="
    match value:
        case bool() | None | EllipsisType():
            return tag + str(value).encode()
        case str():
            return tag + value.encode("utf-8", "surrogatepass")
        case bytes():
            return tag + value
        case int():
            return tag + hex(value).encode()
        case float():
            return tag + value.hex().encode()
        case complex():
            return tag + value.real.hex().encode() + b"," + value.imag.hex().encode()
        case _:
            raise TypeError(f"a syntax tree holds a {type(value).__name__}, which no source text can spell")


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


_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CELL = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_LOCAL = frozenset(name for name in dis.opmap if "LOAD_FAST" in name) - {"LOAD_FAST_AND_CLEAR"}
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_SET_ATTRIBUTE = frozenset({"STORE_ATTR", "DELETE_ATTR"})
_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
_KINDS = {"STORE_DEREF": "cell", "STORE_GLOBAL": "global"}
_UNCOUNTED_OPCODES = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "SWAP"})


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
    shared = _merged_aliases(body.aliases["cell"] for body in bodies)
    in_globals = _merged_aliases(body.aliases["global"] for body in bodies)
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


def _merged_aliases(every: Iterable[Aliases]) -> Aliases:
    merged: Aliases = {}
    for aliases in every:
        for name, imports in aliases.items():
            merged.setdefault(name, set()).update(imports)
    return merged


def _all(aliases: Aliases) -> set[Import]:
    return set().union(*aliases.values())


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [
        instruction
        for instruction in dis.get_instructions(code)
        if instruction.opname not in _UNCOUNTED_OPCODES
    ]


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


Place = tuple[str, int, str]
"""File, first line and qualified name of a code object."""

_FACTS_ACCEPTED: Final = 4096

_facts: dict[int, tuple[weakref.ref[CodeType], Facts]] = {}
_accepted: dict[Place, Facts] = {}


class Facts(NamedTuple):
    """What holds of one code object.

    Attributes:
        digest: what it does: of its syntax where its source is at hand, otherwise of its bytecode.
        reads: the names that it reads from outside.
        source: the text of its definition, where it is at hand.
        written_only: names whose values it changes and never looks at, where the source is at hand.
        counted: attributes of its class that it changes, where the source is at hand.
        looked_at: attributes, of whatever object, whose values may count.
        bytecode: digest of what it was compiled to.
    """

    digest: bytes
    reads: Reads
    source: str | None
    written_only: frozenset[str]
    counted: frozenset[str]
    looked_at: frozenset[str]
    bytecode: bytes


def facts_of(code: CodeType, namespace: dict[str, Any]) -> Facts:
    """Read a code object, once: its file may be edited later, while it stays as it is."""
    known = _facts.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    bytecode = bytecode_digest(code)
    accepted = _accepted.get(place_of(code))
    if accepted is not None and accepted.bytecode == bytecode:
        facts = accepted
    elif (source := source_of(code, namespace)) is None:
        nothing: frozenset[str] = frozenset()
        names = frozenset(name for inner in nested(code) for name in inner.co_names)
        facts = Facts(bytecode, reads_of(code), None, nothing, nothing, names, bytecode)
    else:
        facts = Facts(
            source.digest,
            reads_of(source.plain).without(source.annotations_only),
            source.text,
            source.written_only,
            *source.attributes,
            bytecode,
        )
    key = id(code)
    _facts[key] = weakref.ref(code, lambda _gone: _facts.pop(key, None)), facts
    return facts


def place_of(code: CodeType) -> Place:
    """Say where a code object was written, as it says itself."""
    return code.co_filename, code.co_firstlineno, code.co_qualname


def accept_facts(facts: Iterable[tuple[Place, Facts]]) -> None:
    """Believe what the process that sends code knows of it, and this one may not: its source."""
    for place, known in facts:
        _accepted.pop(place, None)
        _accepted[place] = known
    while len(_accepted) > _FACTS_ACCEPTED:
        del _accepted[next(iter(_accepted))]
