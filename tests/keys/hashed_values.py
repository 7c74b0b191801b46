"""Values with golden digests; functions make them, so that each process has its own."""

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import random
import re
import types
import typing
import uuid
import zoneinfo

import numpy as np


class Color(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float = 0.0


class Pair(typing.NamedTuple):
    left: object
    right: object


class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Names(list):
    pass


def cycle():
    ring = [1]
    ring.append({"ring": ring})
    return ring


def moment():
    return datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))


VALUES = {
    "none": lambda: None,
    "true": lambda: True,
    "one": lambda: 1,
    "large int": lambda: -(2**200),
    "float": lambda: 0.1,
    "negative zero": lambda: -0.0,
    "nan": lambda: -math.nan,
    "complex": lambda: complex(1, -0.0),
    "text": lambda: "naïve \udc80 \U0001f600",
    "bytes": lambda: b"\x00\xff",
    "large bytes": lambda: bytes(3 << 20),
    "empty tuple": lambda: (),
    "list": lambda: [1, "a", None, 2.5],
    "nested": lambda: {"a": [1, (2, {"b": {3, 4}})], "c": {"d": None}},
    "mixed set": lambda: {1, "a", None, (2, 3), frozenset("xyz")},
    "mixed dict": lambda: {1: "a", "b": 2, (3, 4): [5]},
    "cycle": cycle,
    "long list": lambda: list(range(100_000)),
    "bytearray": lambda: bytearray(b"abc"),
    "memoryview": lambda: memoryview(b"abcdef")[::2],
    "array": lambda: array.array("d", [1.0, math.nan]),
    "range": lambda: range(0, 10, 3),
    "slice": lambda: slice(1, None),
    "ellipsis": lambda: ...,
    "ordered": lambda: collections.OrderedDict(b=1, a=2),
    "counter": lambda: collections.Counter("hello"),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "chain map": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
    "namespace": lambda: types.SimpleNamespace(a=1),
    "mapping proxy": lambda: types.MappingProxyType({"a": 1}),
    "decimal": lambda: decimal.Decimal("1.10"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "uuid": lambda: uuid.UUID(int=7),
    "pure path": lambda: pathlib.PurePosixPath("a/b.txt"),
    "address": lambda: ipaddress.ip_address("10.0.0.1"),
    "pattern": lambda: re.compile("a+", re.IGNORECASE),
    "moment": moment,
    "date": lambda: datetime.date(2024, 2, 29),
    "time": lambda: datetime.time(12, 30, tzinfo=datetime.UTC),
    "duration": lambda: datetime.timedelta(days=1, microseconds=1),
    "enum": lambda: Color.RED,
    "flag": lambda: Access.READ | Access.WRITE,
    "dataclass": lambda: Point(1.0),
    "named tuple": lambda: Pair(1, [2]),
    "object": lambda: Plain(a=1, b=[2]),
    "slots": lambda: Slotted(1),
    "list subclass": lambda: Names([1, 2]),
    "builtin function": lambda: math.sqrt,
    "builtin class": lambda: dict,
    "builtin partial": lambda: functools.partial(int, base=2),
    "bound builtin": lambda: "abc".upper,
    "module": lambda: math,
    "generic alias": lambda: dict[str, list[int]],
    "exception": lambda: ValueError("no", 3),
    "random": lambda: random.Random(3),
    "numpy int": lambda: np.int64(1),
    "numpy float array": lambda: np.array([[1.0, -np.nan], [-0.0, np.inf]]),
    "numpy int array": lambda: np.arange(12, dtype=">i4").reshape(3, 4).T,
    "numpy text": lambda: np.array(["a", "bcd"]),
    "numpy object": lambda: np.array([1, "a", None], dtype=object),
    "numpy structure": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "numpy instant": lambda: np.array(["2024-01-01"], dtype="datetime64[s]"),
    "numpy masked": lambda: np.ma.MaskedArray([1.0, 2.0], mask=[0, 1]),
    "numpy dtype": lambda: np.dtype("float32"),
}
