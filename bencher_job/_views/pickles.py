"""Describe the contents of a pickle without running any of it.

    stream ──> plain data, as it is
               a class or function, by its name           Global
               an object, by what would have made it      Made
               an object of a well-known class            its value, or Array

Python's own unpickler, in its plain Python form, reads the stream. Its steps that import or call anything are replaced,
so no code that the pickle names runs. This works for a cache whose code is gone, and is safe for untrusted bytes: no
step takes more time or memory than it is counted for.
"""

from __future__ import annotations

import datetime
import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MOST_STEPS: Final = 1_000_000
"""Maximum number of opcodes that are read; a value with more counts as too large."""

LARGEST_STREAM: Final = 1 << 25
"""Maximum size in bytes of a pickle, without its arrays, that is read. More would take too long."""

DEEPEST_KEY: Final = 20
"""Maximum depth of nesting of a dict's key."""

LONGEST_TEXT: Final = 1000
"""Maximum length of the text of a path or an exact number; a longer one is shown by its parts."""

Bytes = bytes | bytearray | memoryview

Cell = bool | int | float | str | None
"""The content of a table's cell."""


class Unreadable(Exception):
    """A stream is damaged or too large."""


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
    keywords: Mapping[object, object] = field(default_factory=dict)
    state: object = None
    items: list[object] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The maker's module and name; empty if it is neither a class nor a function."""
        return self.maker.path if isinstance(self.maker, Global) else ""

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        """Add an item, as to a list."""
        self.items.append(item)

    add = append

    def __setitem__(self, key: object, value: object) -> None:
        pass  # the items of a dict of another class are not shown


def read_pickle(stream: Bytes, buffers: Sequence[Bytes] = (), *, most_steps: int = MOST_STEPS) -> object:
    """Read a stream and its out-of-band buffers.

    Raises:
        Unreadable: when it is damaged, too large, or has more than `most_steps` opcodes.

    >>> read_pickle(pickle.dumps({"accuracy": 0.5, "epochs": [1, 2]}, protocol=5))
    {'accuracy': 0.5, 'epochs': [1, 2]}
    >>> read_pickle(pickle.dumps(slice(1, 2), protocol=5)).path
    'builtins.slice'
    """
    if len(stream) > LARGEST_STREAM:
        raise Unreadable(f"its objects take more than {LARGEST_STREAM >> 20} MB")
    try:
        return _Unpickler(io.BytesIO(stream), buffers, most_steps).load()
    except Unreadable:
        raise
    except Exception as error:  # what damage leads to is anyone's guess
        raise Unreadable(f"the stream is damaged: {error!r:.200}") from error


_KEYS: Final = {
    code[0]: keys
    for code, keys in {
        pickle.SETITEM: slice(-2, None, 2),
        pickle.SETITEMS: slice(None, None, 2),
        pickle.DICT: slice(None, None, 2),
        pickle.ADDITEMS: slice(None),
        pickle.FROZENSET: slice(None),
    }.items()
}
"""Where the stack has the keys that an opcode puts into a dict or set."""


_PLAIN: Final[Mapping[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch  # noqa: SLF001 - as below


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - the C form calls what it has loaded
    """An unpickler that neither imports nor calls anything. The steps of its superclass only build plain data."""

    read: Callable[[int], bytes]

    def __init__(self, file: io.BytesIO, buffers: Sequence[Bytes], most_steps: int) -> None:
        super().__init__(file, buffers=buffers)
        self.dispatch = _Steps(self, most_steps)  # type: ignore[assignment,misc]
        self.stack: list[Any] = []

    def find_class(self, module: str, name: str) -> Global:
        return Global(module, name)

    def get_extension(self, code: int) -> None:
        self.stack.append(Global("copyreg", f"extension {code}"))

    def persistent_load(self, pid: object) -> Made:
        return Made(Global("", "persistent"), (pid,))

    def make(self) -> None:
        """Take an object's class or function and its arguments from the stack, and put a description there."""
        arguments = self._popped(tuple)
        self.stack.append(_made(self.stack.pop(), arguments))

    def make_with_keywords(self) -> None:
        keywords, arguments = self._popped(dict), self._popped(tuple)
        self.stack.append(Made(self.stack.pop(), arguments, keywords))

    def give_state(self) -> None:
        state = self.stack.pop()
        if not isinstance(made := self.stack[-1], Made | Array):
            raise TypeError("plain data gets a state")
        made.__setstate__(state)

    def take_bytearray(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.stack.append(bytearray(self.read(size)))

    def _popped(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:  # a copy of something else would not be counted
            raise TypeError(f"arguments are not a {kind.__name__}")
        return self.stack.pop()


class _Steps:
    """What each opcode does. Counts opcodes, and the parts of keys of dicts and sets, which each hash visits."""

    _ALL: Final[Mapping[int, Callable[[Any], None]]] = {
        **{code: step for code, step in _PLAIN.items() if code not in {pickle.INST[0], pickle.OBJ[0]}},
        pickle.REDUCE[0]: _Unpickler.make,
        pickle.NEWOBJ[0]: _Unpickler.make,
        pickle.NEWOBJ_EX[0]: _Unpickler.make_with_keywords,
        pickle.BUILD[0]: _Unpickler.give_state,
        pickle.BYTEARRAY8[0]: _Unpickler.take_bytearray,
    }

    def __init__(self, reader: _Unpickler, most: int) -> None:
        self._reader = reader
        self._most = self._left = most

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._count(1)
        if (keys := _KEYS.get(code)) is not None:
            for key in self._reader.stack[keys]:
                self._count_key(key)
        return self._ALL[code]

    def _count(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise Unreadable(f"it has more than {self._most} steps")

    def _count_key(self, key: object, levels: int = DEEPEST_KEY) -> None:
        """Count what hashing a key takes, and refuse one so deep that it would overflow the C stack."""
        if isinstance(key, tuple | frozenset):
            if not levels:
                raise Unreadable(f"it has a key of more than {DEEPEST_KEY} levels")
            self._count(len(key))
            for part in key:
                self._count_key(part, levels - 1)
        elif isinstance(key, int):
            self._count(key.bit_length() >> 10)
        elif isinstance(key, str | bytes | memoryview):
            self._count(len(key) >> 10)


def _made(maker: object, arguments: tuple[Any, ...]) -> object:
    """Return the value of an object of a well-known class, and a description of any other."""
    known = _KNOWN.get(maker.path) if isinstance(maker, Global) else None
    if known is not None:
        try:
            return known(*arguments)
        except (struct.error, LookupError, TypeError, ValueError, OverflowError):  # not made in the usual way
            pass
    return Made(maker, arguments)


MOST_NUMBERS: Final = 100
"""Maximum number of an array's numbers that are shown."""

MOST_DIMENSIONS: Final = 64
"""Maximum number of dimensions of an array, as numpy has it."""

_FORMATS: Final = {
    "f2": "e", "f4": "f", "f8": "d", "b1": "?",
    "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip
"""Numpy dtypes that `struct` can read, with its format characters."""

_KINDS: Final = {"f": "float", "i": "int", "u": "uint", "c": "complex"}


@dataclass(slots=True)
class Array:
    """A numpy array: its shape, dtype, and first numbers if `struct` can read them."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    first: tuple[Cell, ...] = ()

    @classmethod
    def of(cls, raw: object, dtype: object, shape: object, *_: object) -> Array:
        """Describe an array by its bytes.

        Raises:
            ValueError: when it has a shape that no array has.
        """
        sizes = shape if isinstance(shape, tuple) else ()
        if len(sizes) > MOST_DIMENSIONS or not all(
            isinstance(size, int) and size >> 63 == 0 for size in sizes
        ):
            raise ValueError("no array has this shape")
        name = _dtype_name(dtype)
        first: tuple[Cell, ...] = ()
        if isinstance(raw, bytes | bytearray | memoryview) and name in _FORMATS:
            order, code = _format(dtype)
            count = min(
                math.prod(sizes), MOST_NUMBERS, memoryview(raw).nbytes // struct.calcsize(order + code)
            )
            first = struct.unpack_from(f"{order}{count}{code}", raw)
        text = {"O": "object", "b1": "bool"}.get(name if name == "b1" else name[:1], name)
        if name[:1] in _KINDS and name[1:].isdecimal():
            text = f"{_KINDS[name[0]]}{8 * int(name[1:])}"
        return cls(sizes, text, first)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, dtype, _, raw = state
        found = Array.of(raw, dtype, shape)
        self.shape, self.dtype, self.first = found.shape, found.dtype, found.first

    def __str__(self) -> str:
        return f"ndarray {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}".rstrip()


def _dtype_name(dtype: object) -> str:
    if isinstance(dtype, Made) and dtype.path == "numpy.dtype" and isinstance(dtype.arguments[0], str):
        return dtype.arguments[0]
    return ""


def _format(dtype: object) -> tuple[str, str]:
    """Return the byte order and the `struct` format of a numpy dtype.

    Raises:
        KeyError: when `struct` has none.
    """
    order = dtype.state[1] if isinstance(dtype, Made) and isinstance(dtype.state, tuple) else "="
    return (order if order in {"<", ">"} else "="), _FORMATS[_dtype_name(dtype)]


def _scalar(dtype: object, raw: bytes) -> object:
    return struct.unpack("".join(_format(dtype)), raw)[0]


def _datetime(raw: bytes, zone: object = None) -> datetime.datetime:
    return datetime.datetime(raw, zone if isinstance(zone, datetime.timezone) else None)  # type: ignore[arg-type,call-arg]


def _pairs(*given: object) -> object:
    return next((each for each in given if isinstance(each, dict)), {})


def _text(*parts: object) -> str:
    """Join the parts of a path or of an exact number."""
    texts = [
        str(part)
        for part in parts[: LONGEST_TEXT + 1]
        if isinstance(part, str) or (isinstance(part, int) and part.bit_length() < LONGEST_TEXT)
    ]
    if len(texts) < len(parts) or sum(map(len, texts)) + len(texts) > LONGEST_TEXT:
        raise ValueError("it is not made in the usual way, or long")
    return "/".join(texts)


def _located(*names: object) -> Global:
    module, name = names
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError("a name is not a str")
    return Global(module, name)


def _timedelta(*parts: int) -> datetime.timedelta:
    if not all(isinstance(part, int) and part.bit_length() < 64 for part in parts):
        raise TypeError("it is not made in the usual way")
    return datetime.timedelta(*parts)


_KNOWN: Final[dict[str, Callable[..., object]]] = {
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("_core", "core")},
    **{f"numpy.{core}.numeric._frombuffer": Array.of for core in ("_core", "core")},
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: Array() for core in ("_core", "core")},
    "bencher_job._keys.names.locate": _located,  # looks up by name what a script defines
    "datetime.datetime": _datetime,
    "datetime.date": datetime.date,
    "datetime.timedelta": _timedelta,
    "datetime.timezone": datetime.timezone,
    "decimal.Decimal": _text,
    "fractions.Fraction": _text,
    "builtins.complex": lambda real, imaginary: f"{real:g}{imaginary:+g}j",
    "builtins.bytearray": lambda given=b"": given,
    "collections.OrderedDict": _pairs,
    "collections.defaultdict": _pairs,
    "collections.Counter": _pairs,
    "collections.deque": lambda *_: [],  # its items follow
    **{
        f"pathlib{room}.{kind}Path": lambda *parts: _text(*parts).replace("//", "/", 1)
        for room in ("", "._local")
        for kind in ("Posix", "PurePosix")
    },
}
"""What makes the values of well-known classes, by the paths of their makers."""
