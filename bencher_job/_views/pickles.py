"""Knows what a pickle stream says, without running any of it: nothing is imported, called or built.

    stream ──> plain data, as it is
               a class or function, by its name           Named
               an object, by what would have made it      Made

Each opcode of protocol 5 is read as what it says. The result is a description, which nobody's code had a part in, so
it serves for a cache whose code is gone and for bytes that nobody trusts.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Made", "Named", "Unreadable", "read_pickle"]

MOST_STEPS: Final = 1_000_000
"""How many opcodes are read before a value counts as too large to be told of."""

DEEPEST_KEY: Final = 20
"""How many levels a key of a dict may have."""

Bytes = bytes | bytearray | memoryview


class Unreadable(Exception):
    """A stream is damaged, too large, or of another protocol than entries are written in."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or a function, which is not looked for."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Give module and name."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Made:
    """An object that is not made: what would make it, of what, and what it would be given then."""

    maker: object
    arguments: tuple[object, ...] = ()
    keywords: dict[object, object] = field(default_factory=dict)
    state: object = None
    items: list[object] = field(default_factory=list)
    pairs: list[tuple[object, object]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Give the maker's module and name; empty where it is no class and no function."""
        return self.maker.path if isinstance(self.maker, Named) else ""


def read_pickle(stream: Bytes, buffers: Sequence[Bytes] = (), *, most_steps: int = MOST_STEPS) -> object:
    """Read a stream, and the buffers that stand outside it.

    Raises:
        Unreadable: when it is damaged, longer than so many opcodes, or holds what no entry does.

    >>> read_pickle(pickle.dumps({"accuracy": 0.5, "epochs": [1, 2]}, protocol=5))
    {'accuracy': 0.5, 'epochs': [1, 2]}
    >>> read_pickle(pickle.dumps(Unreadable("oops"), protocol=5)).path
    'bencher_job._views.pickles.Unreadable'
    """
    machine = _Machine(bytes(stream), buffers)
    try:
        return machine.run(most_steps)
    except Unreadable:
        raise
    except (LookupError, struct.error, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise Unreadable(f"the stream is damaged at byte {machine.at}: {error!r}") from error


class _Machine:
    """Reads opcodes one by one onto a stack.

    Attributes:
        at: the place of the next byte.
    """

    def __init__(self, stream: bytes, buffers: Sequence[Bytes]) -> None:
        self.stream = stream
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, object] = {}
        self.buffers = iter(buffers)

    def run(self, most_steps: int) -> object:
        stream, steps = self.stream, _STEPS
        for _ in range(most_steps):
            code = stream[self.at]
            self.at += 1
            if code == _STOP:
                return self.stack.pop()
            step = steps.get(code)
            if step is None:
                raise Unreadable(f"it has the opcode {code:#x}, which no entry is written with")
            step(self)
        raise Unreadable(f"it has more than {most_steps} steps")

    def take(self, size: int) -> bytes:
        """Give the next bytes."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.stream):
            raise Unreadable(f"it ends at byte {len(self.stream)}, before its value does")
        return self.stream[start : self.at]

    def number(self, size: int) -> int:
        """Give the next unsigned number."""
        return int.from_bytes(self.take(size), "little")

    def since_mark(self) -> list[Any]:
        """Give what is on the stack since the last mark, and drop the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items


_Step = Callable[[_Machine], None]


def _constant(value: object) -> _Step:
    return lambda machine: machine.stack.append(value)


def _empty(kind: type) -> _Step:
    return lambda machine: machine.stack.append(kind())


def _unsigned(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.number(size))


def _signed(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _long(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.stack.append(int.from_bytes(machine.take(machine.number(size)), "little", signed=True))

    return step


def _float(machine: _Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _text(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.stack.append(machine.take(machine.number(size)).decode("utf-8", "surrogatepass"))

    return step


def _bytes(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)))


def _buffer(machine: _Machine) -> None:
    machine.stack.append(next(machine.buffers, None))
    if machine.stack[-1] is None:
        raise Unreadable("a buffer is missing")


def _skip(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.take(size)

    return step


def _mark(machine: _Machine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _tuple(count: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def _tuple_since_mark(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(tuple(items))


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    _extend(machine.stack[-1], [item])


def _appends(machine: _Machine) -> None:
    items = machine.since_mark()
    _extend(machine.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Made):
        target.items += items
    elif isinstance(target, set):
        target.update(map(_key, items))
    else:
        target.extend(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _put(machine.stack[-1], [key, value])


def _set_items(machine: _Machine) -> None:
    items = machine.since_mark()
    _put(machine.stack[-1], items)


def _put(target: Any, items: list[Any]) -> None:
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(target, Made):
        target.pairs += pairs
    else:
        target.update((_key(key), value) for key, value in pairs)


def _key(key: object, levels: int = DEEPEST_KEY) -> object:
    """Give what a dict or a set is to hold, if it is not so deep that its hash would end the process."""
    if isinstance(key, tuple | frozenset):
        if not levels:
            raise Unreadable(f"it has a key of more than {DEEPEST_KEY} levels")
        for part in key:
            _key(part, levels - 1)
    return key


def _frozen(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(frozenset(map(_key, items)))


def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _store(size: int) -> _Step:
    def step(machine: _Machine) -> None:
        machine.memo[machine.number(size)] = machine.stack[-1]

    return step


def _recall(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.memo[machine.number(size)])


def _name(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise Unreadable("a class is named by what is no text")
    machine.stack.append(Named(module, name))


def _make(machine: _Machine) -> None:
    arguments, maker = machine.stack.pop(), machine.stack.pop()
    is_located = maker == _LOCATE and len(arguments) == 2 and all(isinstance(each, str) for each in arguments)
    machine.stack.append(Named(*arguments) if is_located else Made(maker, tuple(arguments)))


def _make_with_keywords(machine: _Machine) -> None:
    keywords, arguments, maker = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Made(maker, tuple(arguments), dict(keywords)))


def _give_state(machine: _Machine) -> None:
    state = machine.stack.pop()
    if not isinstance(target := machine.stack[-1], Made):
        raise Unreadable("plain data is given a state")
    target.state = state


def _extension(size: int) -> _Step:
    return lambda machine: machine.stack.append(Named("copyreg", f"extension {machine.number(size)}"))


def _persistent(machine: _Machine) -> None:
    machine.stack.append(Made(Named("", "persistent"), (machine.stack.pop(),)))


_LOCATE: Final = Named("bencher_job._keys.names", "locate")
"""The function that looks up by name what a script defines."""

_STOP: Final = pickle.STOP[0]
_STEPS: Final[dict[int, _Step]] = {
    code[0]: step
    for code, step in {
        pickle.MARK: _mark,
        pickle.PROTO: _skip(1),
        pickle.FRAME: _skip(8),
        pickle.NONE: _constant(None),
        pickle.NEWTRUE: _constant(True),
        pickle.NEWFALSE: _constant(False),
        pickle.BININT: _signed,
        pickle.BININT1: _unsigned(1),
        pickle.BININT2: _unsigned(2),
        pickle.LONG1: _long(1),
        pickle.LONG4: _long(4),
        pickle.BINFLOAT: _float,
        pickle.SHORT_BINUNICODE: _text(1),
        pickle.BINUNICODE: _text(4),
        pickle.BINUNICODE8: _text(8),
        pickle.SHORT_BINBYTES: _bytes(1),
        pickle.BINBYTES: _bytes(4),
        pickle.BINBYTES8: _bytes(8),
        pickle.BYTEARRAY8: _bytes(8),
        pickle.NEXT_BUFFER: _buffer,
        pickle.READONLY_BUFFER: _skip(0),
        pickle.EMPTY_LIST: _empty(list),
        pickle.EMPTY_TUPLE: _constant(()),
        pickle.EMPTY_DICT: _empty(dict),
        pickle.EMPTY_SET: _empty(set),
        pickle.APPEND: _append,
        pickle.APPENDS: _appends,
        pickle.ADDITEMS: _appends,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.TUPLE: _tuple_since_mark,
        pickle.FROZENSET: _frozen,
        pickle.POP: lambda machine: machine.stack.pop(),
        pickle.POP_MARK: lambda machine: machine.since_mark().clear(),
        pickle.DUP: lambda machine: machine.stack.append(machine.stack[-1]),
        pickle.MEMOIZE: _memoize,
        pickle.BINPUT: _store(1),
        pickle.LONG_BINPUT: _store(4),
        pickle.BINGET: _recall(1),
        pickle.LONG_BINGET: _recall(4),
        pickle.STACK_GLOBAL: _name,
        pickle.REDUCE: _make,
        pickle.NEWOBJ: _make,
        pickle.NEWOBJ_EX: _make_with_keywords,
        pickle.BUILD: _give_state,
        pickle.EXT1: _extension(1),
        pickle.EXT2: _extension(2),
        pickle.EXT4: _extension(4),
        pickle.BINPERSID: _persistent,
    }.items()
}
