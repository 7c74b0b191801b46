"""Digest code by its syntax or bytecode, and find its free names."""

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
    """Digest a code object without docstrings, files and lines. The digest differs between Python versions.

    Constants count in the order in which instructions load them. No instruction loads a docstring, so adding one
    changes nothing.
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
    """List a code object and all code objects inside it, outer ones first."""
    codes = [code]
    for outer in codes:  # the list grows while it is read
        codes.extend(constant for constant in outer.co_consts if isinstance(constant, CodeType))
    return codes


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# Fields that change nothing at run time, or that the rest of the tree implies.
_UNCOUNTED_FIELDS = frozenset(
    {"annotation", "ctx", "is_lazy", "kind", "returns", "type_comment", "type_ignores", "type_params"}
)
# Evaluated outside the function: the resulting objects enter the fingerprint instead.
_OUTSIDE = frozenset({"decorator_list", "defaults", "kw_defaults", "name"})
_WRITERS = frozenset(
    {"add", "append", "appendleft", "extend", "extendleft", "insert", "setdefault", "update"}
)


def syntax_digest(definition: Definition | ast.Module) -> bytes:
    """Digest what a function or a module does. The digest is the same on each supported Python.

    A function's name, decorators and defaults are left out: the function object has them.
    """
    digest = sha256()
    for token in _tokens(definition):
        digest.update(b"%d:" % len(token))
        digest.update(token)
    return digest.digest()


def annotations_only(definition: Definition) -> frozenset[str]:
    """Find the names that occur only in annotations of functions inside a function."""
    body = definition.body if isinstance(definition.body, list) else [definition.body]
    everywhere = Counter(name for statement in body for name in _names_in(statement))
    annotating: Counter[str] = Counter()
    for node in itertools.chain.from_iterable(map(ast.walk, body)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.arg):
            annotating.update(_names_in(node.annotation if isinstance(node, ast.arg) else node.returns))
    return frozenset(name for name, count in annotating.items() if everywhere[name] == count)


def _names_in(node: ast.AST | None) -> Iterator[str]:
    if node is not None:
        yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))


class NameUses(NamedTuple):
    """What the source of a function does with names from outside and with attributes.

    Attributes:
        written_only: names whose values it changes and never reads: `calls` in `calls.append(x)`, `seen` in
            `seen[key] = x` and `count` in `count += 1`, if it mentions them nowhere else.
        attributes_written: attributes of its class that it changes: `cls.made += 1`, `type(self).known[key] = x`. An
            assignment through `self` sets an attribute of the object, unless it sets an item of a container.
        attributes_read: attributes of any object that it may read; string constants may name some, too.
    """

    written_only: frozenset[str]
    attributes_written: frozenset[str]
    attributes_read: frozenset[str]


def uses_of(definition: Definition, class_name: str = "") -> NameUses:
    """Find what a function, a method of the class of this name, reads and writes."""
    mentioned: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    assigned: set[str] = set()
    for node in ast.walk(definition):
        match node:
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                mentioned[_label(node)] += 1
            case ast.Attribute(value=owner, ctx=ast.Store()) if _is_class(owner, class_name):
                assigned.add(_label(node))
            case ast.Constant(value=str(name)) if name.isidentifier():
                mentioned[f".{name}"] += 1
            case ast.AugAssign(target=ast.Name() | ast.Attribute() as target):
                mentioned[_label(target)] += 1
                changed[_label(target)] += isinstance(target, ast.Name) or _is_class(target.value, class_name)
            case ast.Subscript(value=ast.Name() | ast.Attribute() as container, ctx=ast.Store()):
                changed[_label(container)] += 1
            case ast.Expr(
                value=ast.Call(func=ast.Attribute(value=ast.Name() | ast.Attribute() as container, attr=verb))
            ):
                changed[_label(container)] += verb in _WRITERS
    changed = +changed
    only = {label for label, count in changed.items() if mentioned[label] == count}
    return NameUses(
        frozenset(label for label in only if label[0] != "."),
        frozenset(label[1:] for label in {*changed, *assigned} if label[0] == "."),
        frozenset(label[1:] for label in +(mentioned - changed) if label[0] == "."),
    )


def _label(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else f".{node.attr}"


def _is_class(owner: ast.expr, class_name: str) -> bool:
    match owner:
        case ast.Name(id=name):
            return name in {"cls", class_name}
        case ast.Call(func=ast.Name(id="type")) | ast.Attribute(attr="__class__"):
            return True
    return False


def _tokens(root: Definition | ast.Module) -> Iterator[bytes]:
    """Walk a tree without recursion, so that a sum of a thousand terms does not exceed the recursion limit."""
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
    """A token that is yielded as it is; plain `bytes` are a constant of the code."""


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
    """Drop statements without effect: docstrings and other bare constants, `pass`, annotations of local variables."""
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
    """Join adjacent text of an f-string, which Python versions split differently."""
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
            raise TypeError(f"a constant in a syntax tree can't be a {type(value).__name__}")


_FILES_KEPT: Final = 64
CLOUDPICKLED: Final = "<dynamic-code>"
"""The file name that cloudpickle gives to all code. Of the globals it keeps `__file__`."""
_REWRITING: Final = "_pytest.assertion.rewrite"
_files: dict[tuple[str, bool], tuple[list[str], dict[str, list[Source]]]] = {}
"""The lines and definitions of source files, parsed and compiled once for all their functions."""


class Source(NamedTuple):
    """The definition that a code object was compiled from.

    `plain` is the code without pytest's rewriting of assertions.
    """

    code: CodeType
    plain: CodeType
    definition: Definition
    lines: list[str]

    @property
    def text(self) -> str:
        """Its source lines, with decorators."""
        return "".join(self.lines[_first_line(self.definition) - 1 : self.definition.end_lineno])


def source_of(code: CodeType, namespace: dict[str, Any]) -> Source | None:
    """Find the definition of a code object; None if the source is missing or differs from the code."""
    filename = code.co_filename
    if filename == CLOUDPICKLED:
        filename = str(namespace.get("__file__") or filename)
    linecache.checkcache(filename)
    lines = linecache.getlines(filename, namespace)
    if not lines:
        return None
    hook = _rewriting_hook(namespace)
    place = filename, hook is not None
    known_lines, sources = _files.get(place, (None, {}))
    if lines is not known_lines:
        if len(_files) >= _FILES_KEPT:
            _files.pop(next(iter(_files)), None)
        sources = _sources_in(lines, filename, hook)
        _files[place] = lines, sources
    return _matching(code, sources.get(code.co_qualname, ()))


def _matching(code: CodeType, named: Iterable[Source]) -> Source | None:
    """Find the definition that compiles to this code.

    If several do, such as equal lambdas, the one at the same position is taken, or any if all do the same.
    """
    wanted = bytecode_digest(code)
    twins = [source for source in named if bytecode_digest(source.code) == wanted]
    found = [source for source in twins if _places(source.code) == _places(code)] or twins
    if len(found) > 1 and len({syntax_digest(source.definition) for source in found}) > 1:
        return None
    return found[0] if found else None


def _rewriting_hook(namespace: dict[str, Any]) -> Any:
    """Return the loader of a module if pytest rewrites its assertions, else None."""
    pytest_rewriting = sys.modules.get(_REWRITING)
    hook = getattr(pytest_rewriting, "AssertionRewritingHook", None)
    loader = namespace.get("__loader__")
    return loader if isinstance(hook, type) and isinstance(loader, hook) else None


def _sources_in(lines: list[str], filename: str, hook: Any) -> dict[str, list[Source]]:
    """Return all functions and lambdas of a file by their qualified name; empty if it doesn't compile."""
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
    """Compile a module as pytest does; return `plain` if this version of pytest works differently."""
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
    """Choose among definitions that start on one line the smallest that contains all positions of the code."""
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
    """List the position of each instruction: line and column of its start, line and column of its end."""
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
_UNCOUNTED_OPCODES = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "SWAP"})


class Import(NamedTuple):
    """A module that is imported inside a function, and a chain of attributes that is read from it."""

    level: int
    module: str
    attributes: tuple[str, ...] = ()


class FreeNames(NamedTuple):
    """Names that a code object reads from outside, with their attributes: `("np", "linalg", "norm")`."""

    globals: tuple[tuple[str, ...], ...]
    cells: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]

    def without(self, names: frozenset[str]) -> FreeNames:
        """Leave out some names of globals and closure variables."""
        if not names:
            return self
        globals_, cells = ([chain for chain in chains if chain[0] not in names] for chains in self[:2])
        return FreeNames(tuple(globals_), tuple(cells), self.imports)


def free_names_of(code: CodeType) -> FreeNames:
    """Find the free names of a code object and of those nested in it."""
    bodies = [(inner, _instructions(inner)) for inner in nested(code)]
    aliases: dict[
        str, set[Import]
    ] = {}  # all imports that may have bound a name, as in the branches of a `try`
    in_globals: set[str] = set()
    for _, body in bodies:
        for stored, imported in _imports(body):
            name = stored.argval[0] if isinstance(stored.argval, tuple) else stored.argval
            aliases.setdefault(name, set()).add(imported)
            in_globals.update([name] if stored.opname == "STORE_GLOBAL" else [])
    globals_: set[tuple[str, ...]] = set()
    cells: set[tuple[str, ...]] = {
        (name,) for name in code.co_freevars if name == "__class__"
    }  # for `super()`
    imports: set[Import] = set()
    for inner, body in bodies:
        for position, opname, chain in _loads(body):
            name = chain[0]
            if chain[-1] == "import_module":
                imports.update(_imported_by_call(body[position + len(chain)]))
            if opname in _LOCAL and name in inner.co_cellvars + inner.co_freevars:
                continue  # Python 3.13 passes the cell to a nested function by this instruction
            if opname in _CELL and name in code.co_freevars:
                cells.add(chain)
            elif opname in _GLOBAL and name not in in_globals:
                globals_.add(chain)
            bases = aliases.get(name, ())
            imports.update(Import(base.level, base.module, base.attributes + chain[1:]) for base in bases)
    unread = {base for bases in aliases.values() for base in bases}
    imports.update(base for base in unread if not any(_begins(base, used) for used in imports))
    return FreeNames(tuple(sorted(globals_)), tuple(sorted(cells)), tuple(sorted(imports)))


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [
        instruction
        for instruction in dis.get_instructions(code)
        if instruction.opname not in _UNCOUNTED_OPCODES
    ]


def _loads(body: list[dis.Instruction]) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield each load of a name, with its position and the chain of attributes that follows."""
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
    """Yield each import with the instruction that binds it.

    `import a.b` binds the package `a`, `import a.b as c` the module.
    """
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
    """Yield what `importlib.import_module` imports, if its argument is a constant absolute name."""
    name = argument.argval
    if argument.opname == "LOAD_CONST" and isinstance(name, str) and name.strip(".") and name[0] != ".":
        yield Import(0, name)


def _begins(base: Import, used: Import) -> bool:
    """Whether `used` starts with the import `base`."""
    return (used.level, used.module) == (base.level, base.module) and (
        used.attributes[: len(base.attributes)] == base.attributes
    )


Place = tuple[str, int, str]
"""File, first line and qualified name of a code object."""

_INFOS_ACCEPTED: Final = 4096

_infos: dict[int, tuple[weakref.ref[CodeType], CodeInfo]] = {}
_accepted: dict[Place, CodeInfo] = {}


class CodeInfo(NamedTuple):
    """What is known about one code object.

    Attributes:
        digest: the digest of its syntax if its source is available, else of its bytecode.
        free_names: the names that it reads from outside.
        source: the text of its definition, if available.
        uses: what it reads and writes; without source it writes nothing, and may read every name in it.
        bytecode: the digest of its bytecode.
    """

    digest: bytes
    free_names: FreeNames
    source: str | None
    uses: NameUses
    bytecode: bytes


def code_info_of(code: CodeType, namespace: dict[str, Any]) -> CodeInfo:
    """Return the info of a code object. It is made once, since the source file may be edited later."""
    known = _infos.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    bytecode = bytecode_digest(code)
    accepted = _accepted.get(place_of(code))
    if accepted is not None and accepted.bytecode == bytecode:
        info = accepted
    elif (source := source_of(code, namespace)) is None:
        nothing: frozenset[str] = frozenset()
        names = frozenset(name for inner in nested(code) for name in inner.co_names)
        info = CodeInfo(bytecode, free_names_of(code), None, NameUses(nothing, nothing, names), bytecode)
    else:
        definition = source.definition
        info = CodeInfo(
            syntax_digest(definition),
            free_names_of(source.plain).without(annotations_only(definition)),
            source.text,
            uses_of(definition, code.co_qualname.rpartition(".")[0].rpartition(".")[2]),
            bytecode,
        )
    key = id(code)
    _infos[key] = weakref.ref(code, lambda _gone: _infos.pop(key, None)), info
    return info


def place_of(code: CodeType) -> Place:
    """Return where a code object says that it was defined."""
    return code.co_filename, code.co_firstlineno, code.co_qualname


def accept_code_info(infos: Iterable[tuple[Place, CodeInfo]]) -> None:
    """Accept the info that the sender of code has, since this process may lack the source."""
    for place, known in infos:
        _accepted.pop(place, None)
        _accepted[place] = known
    while len(_accepted) > _INFOS_ACCEPTED:
        del _accepted[next(iter(_accepted))]
