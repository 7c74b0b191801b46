"""Knows what objects of well-known classes stand for, of which a pickle only says how they would be made.

Made(numpy...scalar, dtype, bytes)  ──> 0.5
Made(datetime.datetime, bytes)      ──> a datetime
Made(numpy..._frombuffer, ...)      ──> Array
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .pickles import Made

__all__ = ["Array", "Cell", "told"]

Cell = bool | int | float | str | None
"""What stands in a cell of a table."""

MOST_NUMBERS: Final = 100
"""How many numbers of an array are told."""

_NUMBERS: Final = {
    **{f"f{size}": code for size, code in ((2, "e"), (4, "f"), (8, "d"))},
    **{f"i{size}": code for size, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{size}": code for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    "b1": "?",
}
"""Types of numpy that `struct` reads as well."""

_KINDS: Final = {"f": "float", "i": "int", "u": "uint", "b": "bool", "c": "complex"}


@dataclass(frozen=True, slots=True)
class Array:
    """An array of numpy: its shape, type, and first numbers where they are plain."""

    shape: tuple[int, ...]
    dtype: str
    first: tuple[Cell, ...] = ()

    def __str__(self) -> str:
        return f"ndarray {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}".rstrip()


def _scalar(made: Made) -> object:
    code, raw = _code(made.arguments[0]), bytes(made.arguments[1])  # type: ignore[call-overload]
    return struct.unpack(code, raw)[0]


def _code(dtype: object) -> str:
    """Give what `struct` calls a numpy type.

    Raises:
        KeyError: when it is none that it knows.
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
    offset = told(zone[0].arguments[0]) if zone and isinstance(zone[0], Made) else None
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


_TOLD: Final[dict[str, Callable[[Made], object]]] = {
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
"""How objects of well-known classes are told of, by what makes them."""


def told(value: object) -> object:
    """Give what an object stands for, if it is of a well-known class; anything else as it is."""
    if isinstance(value, Made) and (tell := _TOLD.get(value.path)) is not None:
        try:
            return tell(value)
        except (struct.error, LookupError, TypeError, ValueError, OverflowError):  # not made as it usually is
            return value
    return value
