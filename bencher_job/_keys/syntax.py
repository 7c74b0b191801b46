"""Knows what a syntax tree does, whatever its comments, docstrings, annotations and layout."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from types import EllipsisType

__all__ = [
    "Definition",
    "annotations_only",
    "attributes_counted",
    "attributes_looked_at",
    "syntax_digest",
    "written_only",
]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# Fields that change nothing at run time, or that the rest of the tree implies.
_SILENT = frozenset(
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
        yield "values", list(_merged(node.values))
        return
    if isinstance(node, ast.Assert):
        yield "runs", __debug__
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or (is_root and name in _OUTSIDE):
            continue
        if name == "args" and is_root:
            yield name, _without_defaults(value)
        elif name not in _SILENT or (name == "annotation" and in_class and isinstance(node, ast.AnnAssign)):
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


def _merged(values: list[ast.expr]) -> Iterator[object]:
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
