"""Describe the contents of a pickle without running any of it.

    stream ──> plain data, as it is
               a class or function, by its name           Global
               an object, by what would have made it      Made

The opcodes of protocol 5 are interpreted here, and no code that the pickle names is imported or called. So this works
for a cache whose code is gone, and is safe for untrusted bytes. `decoded` then turns objects of well-known classes into
values:

    Made(numpy...scalar, dtype, bytes)  ──> 0.5
    Made(datetime.datetime, bytes)      ──> a datetime
    Made(numpy..._frombuffer, ...)      ──> Array
"""

from __future__ import annotations

import datetime
import math
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Array", "Cell", "Global", "Made", "Unreadable", "decoded", "read_pickle"]


MOST_STEPS: Final = 1_000_000
"""Maximum number of opcodes that are read; a value with more counts as too large."""

DEEPEST_KEY: Final = 20
"""Maximum depth of nesting of a dict's key."""

Bytes = bytes | bytearray | memoryview


class Unreadable(Exception):
    """A stream is damaged, too large, or of a protocol that entries don't use."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or a function, which is not imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The module and name."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Made:
    """An object that is not constructed: its constructor with the arguments, and the state and items set afterwards."""

    maker: object
    arguments: tuple[object, ...] = ()
    keywords: dict[object, object] = field(default_factory=dict)
    state: object = None
    items: list[object] = field(default_factory=list)
    pairs: list[tuple[object, object]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The maker's module and name; empty if it is neither a class nor a function."""
        return self.maker.path if isinstance(self.maker, Global) else ""


def read_pickle(stream: Bytes, buffers: Sequence[Bytes] = (), *, most_steps: int = MOST_STEPS) -> object:
    """Read a stream and its out-of-band buffers.

    Raises:
        Unreadable: when it is damaged, has more than `most_steps` opcodes, or an opcode that entries don't use.

    >>> read_pickle(pickle.dumps({"accuracy": 0.5, "epochs": [1, 2]}, protocol=5))
    {'accuracy': 0.5, 'epochs': [1, 2]}
    >>> read_pickle(pickle.dumps(slice(1, 2), protocol=5)).path
    'builtins.slice'
    """
    machine = _Machine(bytes(stream), buffers)
    try:
        return machine.run(most_steps)
    except Unreadable:
        raise
    except (LookupError, struct.error, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise Unreadable(f"the stream is damaged at byte {machine.at}: {error!r}") from error


class _Machine:
    """Interprets opcodes one by one on a stack.

    Attributes:
        at: the position of the next byte.
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
                raise Unreadable(f"it has the opcode {code:#x}, which entries don't use")
            step(self)
        raise Unreadable(f"it has more than {most_steps} steps")

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.stream):
            raise Unreadable(f"it ends at byte {len(self.stream)}, before its value does")
        return self.stream[start : self.at]

    def number(self, size: int) -> int:
        """Return the next unsigned number."""
        return int.from_bytes(self.take(size), "little")

    def since_mark(self) -> list[Any]:
        """Pop everything since the last mark, and the mark."""
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
    """Return a key of a dict or set, unless it is so deep that hashing it would overflow the C stack."""
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
        raise Unreadable("the name of a class is not a str")
    machine.stack.append(Global(module, name))


def _make(machine: _Machine) -> None:
    arguments, maker = machine.stack.pop(), machine.stack.pop()
    is_located = maker == _LOCATE and len(arguments) == 2 and all(isinstance(each, str) for each in arguments)
    machine.stack.append(Global(*arguments) if is_located else Made(maker, tuple(arguments)))


def _make_with_keywords(machine: _Machine) -> None:
    keywords, arguments, maker = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Made(maker, tuple(arguments), dict(keywords)))


def _give_state(machine: _Machine) -> None:
    state = machine.stack.pop()
    if not isinstance(target := machine.stack[-1], Made):
        raise Unreadable("plain data gets a state")
    target.state = state


def _extension(size: int) -> _Step:
    return lambda machine: machine.stack.append(Global("copyreg", f"extension {machine.number(size)}"))


def _persistent(machine: _Machine) -> None:
    machine.stack.append(Made(Global("", "persistent"), (machine.stack.pop(),)))


_LOCATE: Final = Global("bencher_job._keys.names", "locate")
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

Cell = bool | int | float | str | None
"""The content of a table's cell."""

MOST_NUMBERS: Final = 100
"""Maximum number of an array's numbers that are shown."""

_NUMBERS: Final = {
    **{f"f{size}": code for size, code in ((2, "e"), (4, "f"), (8, "d"))},
    **{f"i{size}": code for size, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{size}": code for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    "b1": "?",
}
"""Numpy dtypes that `struct` can read, with its format characters."""

_KINDS: Final = {"f": "float", "i": "int", "u": "uint", "b": "bool", "c": "complex"}


@dataclass(frozen=True, slots=True)
class Array:
    """A numpy array: its shape, dtype, and first numbers if `struct` can read them."""

    shape: tuple[int, ...]
    dtype: str
    first: tuple[Cell, ...] = ()

    def __str__(self) -> str:
        return f"ndarray {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}".rstrip()


def _scalar(made: Made) -> object:
    code, raw = _code(made.arguments[0]), bytes(made.arguments[1])  # type: ignore[call-overload]
    return struct.unpack(code, raw)[0]


def _code(dtype: object) -> str:
    """Return the `struct` format of a numpy dtype.

    Raises:
        KeyError: when `struct` has none.
    """
    name = _dtype_name(dtype)
    order = dtype.state[1] if isinstance(dtype, Made) and isinstance(dtype.state, tuple) else "="
    return f"{order if order in {'<', '>'} else '='}{_NUMBERS[name]}"


def _dtype_name(dtype: object) -> str:
    if isinstance(dtype, Made) and dtype.path == "numpy.dtype" and isinstance(dtype.arguments[0], str):
        return dtype.arguments[0]
    return ""


def _dtype_text(dtype: object) -> str:
    name = _dtype_name(dtype)
    if name[:1] in _KINDS and name[1:].isdecimal():
        return "bool" if name == "b1" else f"{_KINDS[name[0]]}{8 * int(name[1:])}"
    return {"O": "object"}.get(name[:1], name)


def _array(raw: object, dtype: object, shape: object) -> Array:
    sizes = tuple(size for size in shape if isinstance(size, int)) if isinstance(shape, tuple) else ()
    first: tuple[Cell, ...] = ()
    if isinstance(raw, bytes | bytearray | memoryview) and _dtype_name(dtype) in _NUMBERS:
        code = _code(dtype)
        count = min(math.prod(sizes), MOST_NUMBERS, memoryview(raw).nbytes // struct.calcsize(code))
        first = struct.unpack_from(f"{code[0]}{count}{code[1]}", raw)
    return Array(sizes, _dtype_text(dtype), first)


def _array_of_buffer(made: Made) -> Array:
    raw, dtype, shape, *_ = made.arguments
    return _array(raw, dtype, shape)


def _array_of_state(made: Made) -> Array:
    if not isinstance(made.state, tuple):
        raise TypeError("an array without a state")
    _, shape, dtype, _, raw = made.state
    return _array(raw, dtype, shape)


def _datetime(made: Made) -> object:
    raw, *zone = made.arguments
    year, month, day, hour, minute, second, high, low = struct.unpack(">HBBBBBBH", raw)  # type: ignore[arg-type]
    given = datetime.datetime(year, month & 0x7F, day, hour, minute, second, high << 16 | low)
    offset = decoded(zone[0].arguments[0]) if zone and isinstance(zone[0], Made) else None
    if isinstance(offset, datetime.timedelta):
        given = given.replace(tzinfo=datetime.timezone(offset))
    return given


def _date(made: Made) -> object:
    return datetime.date(*struct.unpack(">HBB", made.arguments[0]))  # type: ignore[arg-type]


def _timedelta(made: Made) -> object:
    return datetime.timedelta(*made.arguments)  # type: ignore[arg-type]


def _joined(made: Made) -> object:
    return "/".join(str(part) for part in made.arguments).replace("//", "/", 1)


def _first(made: Made) -> object:
    return str(made.arguments[0])


def _complex(made: Made) -> object:
    real, imaginary = made.arguments
    return f"{real:g}{imaginary:+g}j"


def _pairs(made: Made) -> object:
    given = [each for each in made.arguments if isinstance(each, dict)]
    return {key: value for pairs in (*map(dict.items, given), made.pairs) for key, value in pairs}


def _items(made: Made) -> object:
    return [
        *(made.arguments[0] if made.arguments and isinstance(made.arguments[0], list) else ()),
        *made.items,
    ]


_DECODERS: Final[dict[str, Callable[[Made], object]]] = {
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("_core", "core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_of_buffer for core in ("_core", "core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array_of_state for core in ("_core", "core")},
    "datetime.datetime": _datetime,
    "datetime.date": _date,
    "datetime.timedelta": _timedelta,
    "decimal.Decimal": _first,
    "fractions.Fraction": lambda made: "/".join(map(str, made.arguments)),
    "builtins.complex": _complex,
    "builtins.bytearray": lambda made: made.arguments[0] if made.arguments else b"",
    "collections.OrderedDict": _pairs,
    "collections.defaultdict": _pairs,
    "collections.Counter": _pairs,
    "collections.deque": _items,
    **{f"pathlib{room}.{kind}Path": _joined for room in ("", "._local") for kind in ("Posix", "PurePosix")},
}  # fmt: skip
"""Decoders of well-known classes, by the paths of their makers."""


def decoded(value: object) -> object:
    """Return the value of an object of a well-known class, and anything else as it is."""
    if isinstance(value, Made) and (decode := _DECODERS.get(value.path)) is not None:
        try:
            return decode(value)
        except (struct.error, LookupError, TypeError, ValueError, OverflowError):  # not made in the usual way
            return value
    return value
