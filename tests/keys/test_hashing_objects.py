import array
import collections
import copy
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import operator
import os
import pathlib
import pickle
import random
import re
import struct
import sys
import threading
import time
import types
import typing
import uuid
import zoneinfo

import attrs
import pydantic
import pytest

from bencher_job import cached_job

from .keys import key_of


class Color(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796
    GREEN = 2


class Shade(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Config:
    name: str
    sizes: list = dataclasses.field(default_factory=list)
    scale: float = dataclasses.field(default=2.0, init=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    y: object = None


@attrs.define
class Attrs:
    x: int
    y: object = None


@attrs.frozen(slots=False, cache_hash=True)
class AttrsHashed:
    x: int


class Model(pydantic.BaseModel):
    x: int
    y: list[int] = []
    _secret: int = pydantic.PrivateAttr(default=0)

    @functools.cached_property
    def doubled(self):
        return self.x * 2


class OtherModel(pydantic.BaseModel):
    x: int
    y: list[int] = []


class Loose(pydantic.BaseModel, extra="allow"):
    x: int


class Base:
    __slots__ = ("a",)


class Slots(Base):
    __slots__ = ("__private", "b")

    def __init__(self, a, b, private=0):
        self.a, self.b, self.__private = a, b, private


class Stateful:
    def __init__(self, value):
        self.value = value
        self.cache = object()

    def __getstate__(self):
        return {"value": self.value}


class Reducing:
    def __init__(self, items):
        self.items = items

    def __reduce__(self):
        return Reducing, (self.items,)


class Made:
    """Is made by one of two class methods."""

    def __init__(self, way):
        self.way = way

    @classmethod
    def straight(cls):
        return cls("straight")

    @classmethod
    def around(cls):
        return cls("around")

    def __reduce__(self):
        return getattr(Made, self.way), ()


class ReducingWithState:
    """Is made without arguments, and then gets its state and its members."""

    def __init__(self, state=None, items=(), pairs=()):
        self.reduction = ReducingWithState, (), state, iter(items), iter(pairs)

    def __reduce__(self):
        return self.reduction


class Threading(threading.Thread):
    """Is of a class whose objects have no key."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __job_key__(self):
        return self.number


class Misnamed(tuple):
    __slots__ = ()
    _fields = ("left",)


class Unnamed(tuple):
    __slots__ = ()
    _fields = 3


class Registered:
    def __init__(self, text):
        self.text = text


class Hiding(dict):
    def __iter__(self):
        return iter(())

    def keys(self):
        return []


class HidingOrdered(collections.OrderedDict):
    __iter__, keys = Hiding.__iter__, Hiding.keys


class Computing:
    def __init__(self, x):
        self.x = x

    @functools.cached_property
    def squared(self):
        return self.x**2

    def method(self, y=0):
        return self.x + y


class Text(str):
    __slots__ = ("__hidden", "note")

    def hide(self, content):
        self.__hidden = content
        return self


class Number(float):
    pass


class Items(list):
    pass


class Table(dict):
    pass


class Unique(set):
    pass


class Pair(typing.NamedTuple):
    left: object
    right: object


class Swapped(typing.NamedTuple):
    right: object
    left: object


class Moment(datetime.datetime):
    pass


def noted(cls, *args, note):
    value = cls(*args)
    value.note = note
    return value


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

ALIKE = {
    "enum aliases": (Color.RED, Color.CRIMSON),
    "dataclass": (Config("a", [1]), Config("a", [1])),
    "frozen slots": (Frozen(1, [2]), Frozen(1, [2])),
    "attrs": (Attrs(1, [2]), Attrs(1, [2])),
    "pydantic default given": (Model(x=1), Model(x=1, y=[])),
    "ordered dicts": (collections.OrderedDict(a=1, b=2), collections.OrderedDict([("a", 1), ("b", 2)])),
    "counters": (collections.Counter("aab"), collections.Counter("baa")),
    "default dicts": (collections.defaultdict(list, a=1), collections.defaultdict(list, a=1)),
    "utc": (datetime.UTC, datetime.timezone(datetime.timedelta(0))),
    "zones": (BERLIN, zoneinfo.ZoneInfo.no_cache("Europe/Berlin")),
    "paths": (pathlib.Path("a/b"), pathlib.Path("a") / "b"),
    "decimals": (decimal.Decimal("1.10"), decimal.Decimal((0, (1, 1, 0), -2))),
    "fractions": (fractions.Fraction(2, 4), fractions.Fraction(1, 2)),
    "patterns": (re.compile("a"), re.compile("a", re.UNICODE)),
    "bound methods": (Computing(1).method, Computing(1).method),
    "partials": (functools.partial(int, base=2), functools.partial(int, base=2)),
    "sets": (Unique("abcdefgh"), Unique("hgfedcba")),
    "memory views": (memoryview(b"abcdef")[::2], memoryview(b"ace")),
    "modules": (math, sys.modules["math"]),
    "bare state": (Stateful(1), Stateful(1)),
    "exceptions": (ValueError("a", 1), ValueError("a", 1)),
    "typing": (typing.Optional[int], typing.Union[int, None]),  # noqa: UP007, UP045
}

DIFFERENT = {
    "enum members": (Color.RED, Color.GREEN),
    "enum classes": (Color.RED, Shade.RED),
    "int enum": (Level.LOW, 1),
    "dataclass fields": (Config("a", [1]), Config("a", [2])),
    "frozen fields": (Frozen(1), Frozen(2)),
    "dataclasses": (Frozen(1, None), Attrs(1, None)),
    "extra attribute of a dataclass": (Config("a"), noted(Config, "a", note=0)),
    "pydantic fields": (Model(x=1), Model(x=2)),
    "pydantic classes": (Model(x=1), OtherModel(x=1)),
    "pydantic extra": (Loose(x=1), Loose(x=1, z=2)),
    "slots": (Slots(1, 2), Slots(1, 3)),
    "inherited slots": (Slots(1, 2), Slots(2, 2)),
    "private slots": (Slots(1, 2, 3), Slots(1, 2, 4)),
    "state": (Stateful(1), Stateful(2)),
    "reduced": (Reducing([1]), Reducing([2])),
    "reduced to a class method": (Made.straight(), Made.around()),
    "job key of a thread": (Threading(1), Threading(2)),
    "tuple whose names are not its own": (Misnamed((1, 2)), Misnamed((1, 3))),
    "tuple with a number for its names": (Unnamed((1, 2)), Unnamed((1, 3))),
    "text subclass": (Text("a"), "a"),
    "number subclass": (Number(1.0), 1.0),
    "list subclass": (Items([1]), [1]),
    "attribute of a list": (Items([1]), noted(Items, [1], note=1)),
    "private slot of a text": (Text("a").hide(1), Text("a").hide(2)),
    "slot of a text": (noted(Text, "a", note=1), noted(Text, "a", note=2)),
    "dict subclass": (Table(a=1), {"a": 1}),
    "set subclass": (Unique("a"), {"a"}),
    "named tuple": (Pair(1, 2), (1, 2)),
    "named tuple order": (Pair(left=1, right=2), Pair(left=2, right=1)),
    "named tuple class": (Pair(1, 2), Swapped(1, 2)),
    "ordered dict order": (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    "ordered dict and dict": (collections.OrderedDict(a=1), {"a": 1}),
    "counter and dict": (collections.Counter(a=1), {"a": 1}),
    "counter zero": (collections.Counter(a=0), collections.Counter()),
    "default factories": (collections.defaultdict(list), collections.defaultdict(dict)),
    "deque lengths": (collections.deque([1]), collections.deque([1], maxlen=3)),
    "chain maps": (collections.ChainMap({"a": 1}), collections.ChainMap({}, {"a": 1})),
    "list and deque": ([1], collections.deque([1])),
    "bytes and bytearray": (b"a", bytearray(b"a")),
    "memory view and bytes": (b"a", memoryview(b"a")),
    "memory view formats": (memoryview(b"abcd"), memoryview(b"abcd").cast("H")),
    "array types": (array.array("i", [1]), array.array("l", [1])),
    "folds": (datetime.datetime(2024, 10, 27, 2, 30), datetime.datetime(2024, 10, 27, 2, 30, fold=1)),
    "naive and aware": (datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)),
    "time zones": (datetime.time(1, tzinfo=datetime.UTC), datetime.time(1, tzinfo=BERLIN)),
    "zone kinds": (datetime.UTC, zoneinfo.ZoneInfo("UTC")),
    "date and datetime": (datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1)),
    "datetime subclass": (datetime.datetime(2024, 1, 1), Moment(2024, 1, 1)),
    "decimal exponents": (decimal.Decimal("1.0"), decimal.Decimal(1)),
    "decimal nans": (decimal.Decimal("NaN"), decimal.Decimal("sNaN")),
    "decimal zeros": (decimal.Decimal(0), decimal.Decimal("-0")),
    "uuid and int": (uuid.UUID(int=1), 1),
    "path kinds": (pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a")),
    "path and text": (pathlib.Path("a"), "a"),
    "path separators": (pathlib.PurePosixPath("a/b"), pathlib.PurePosixPath("a\\b")),
    "ranges": (range(0, 3, 2), range(0, 4, 2)),
    "slices": (slice(1), slice(0, 1)),
    "pattern flags": (re.compile("a"), re.compile("a", re.IGNORECASE)),
    "binary formats": (struct.Struct("<I"), struct.Struct("<Q")),
    "dicts that show nothing": (Hiding(a=1), Hiding(a=2)),
    "ordered dicts that show nothing": (HidingOrdered(a=1), HidingOrdered(a=2)),
    "pattern kinds": (re.compile("a"), re.compile(b"a")),
    "ellipsis and none": (..., None),
    "random states": (random.Random(1), random.Random(2)),
    "builtin functions": (math.sin, math.cos),
    "owners of bound builtins": ("a".upper, "b".upper),
    "owners of operators": ((1).__add__, (2).__add__),
    "properties": (property(str.upper), property(str.lower)),
    "setters of properties": (property(str.upper), property(str.upper, str.lower)),
    "owners of bound methods": (Computing(1).method, Computing(2).method),
    "methods": (str.upper, str.lower),
    "builtin classes": (int, float),
    "partial arguments": (functools.partial(int, base=2), functools.partial(int, base=3)),
    "partial positions": (functools.partial(max, 1), functools.partial(max, key=1)),
    "operators": (operator.itemgetter(1), operator.itemgetter(2)),
    "modules": (math, os),
    "namespaces": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    "namespace and dict": (types.SimpleNamespace(a=1), {"a": 1}),
    "exceptions": (ValueError("a"), ValueError("b")),
    "exception classes": (ValueError("a"), TypeError("a")),
    "struct time": (time.gmtime(0), time.gmtime(1)),
    "aliases": (list[int], list[str]),
    "functions": (noted, copy.copy),
    "classes": (Frozen, Attrs),
    "class and its name": (int, "int"),
}


@pytest.mark.parametrize(("one", "other"), ALIKE.values(), ids=ALIKE)
def test_equal_objects_are_equal(one, other):
    assert key_of(one) == key_of(other)
    assert key_of([one, {"a": one}]) == key_of([other, {"a": other}])


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_objects_differ(one, other):
    assert key_of(one) != key_of(other)


def _survives(copying, value):
    try:
        copied = copying(value)
    except TypeError:
        return
    assert key_of(copied) == key_of(value)


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT)
def test_a_copy_has_the_same_digest(values):
    for value in values:
        _survives(copy.deepcopy, value)
        _survives(lambda value: pickle.loads(pickle.dumps(value)), value)


def test_a_cached_property_does_not_count():
    asked, unasked = Computing(3), Computing(3)
    assert asked.squared == 9
    assert key_of(asked) == key_of(unasked)
    model = Model(x=1)
    assert model.doubled == 2
    assert key_of(model) == key_of(Model(x=1))


def test_a_cached_hash_does_not_count():
    asked = AttrsHashed(1)
    hash(asked)
    assert key_of(asked) == key_of(AttrsHashed(1))


def test_a_private_attribute_of_a_model_counts():
    model = Model(x=1)
    model._secret = 5
    assert key_of(model) != key_of(Model(x=1))


def test_a_field_whose_value_is_on_the_class_counts():
    changed = Config("a")
    changed.scale = 3.0
    unchanged = Config("a")
    unchanged.scale = 2.0
    assert key_of(changed) != key_of(Config("a"))
    assert key_of(unchanged) == key_of(Config("a"))


def test_the_order_of_attributes_does_not_matter():
    one, other = Computing(1), Computing(1)
    one.a, one.b = 1, 2
    other.b, other.a = 2, 1
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ({"state": {"a": 1}}, {"state": {"a": 2}}),
        ({"items": [1]}, {"items": [1, 1]}),
        ({"pairs": [("a", 1)]}, {"pairs": [("a", 2)]}),
    ],
    ids=["state", "items", "pairs"],
)
def test_each_part_of_a_reduction_counts(part, changed):
    assert key_of(ReducingWithState(**part)) == key_of(ReducingWithState(**part))
    assert len({key_of(ReducingWithState(**given)) for given in ({}, part, changed)}) == 3


def test_state_that_pickle_omits_does_not_count():
    one, other = Stateful(1), Stateful(1)
    one.cache = "something else"
    assert key_of(one) == key_of(other)


def test_a_reducer_in_copyreg_is_used(monkeypatch):
    monkeypatch.setitem(
        __import__("copyreg").dispatch_table, Registered, lambda value: (Registered, (value.text,))
    )
    value = Registered("a")
    value.lock = __import__("threading").Lock()
    assert key_of(value) == key_of(Registered("a"))


def test_a_python_generator_counts_by_its_state():
    one, other = random.Random(1), random.Random(1)
    assert key_of(one) == key_of(other)
    one.random()
    assert key_of(one) != key_of(other)


def test_an_object_that_refers_to_itself_through_its_reduction_is_hashed():
    value = Computing(1)
    value.self = value
    value.method_of_self = value.method
    assert key_of(copy.deepcopy(value)) == key_of(value)


VERSIONED = """
class Model:
    def fit(self, x):
        return x + {}
def scaled(x):
    return x * {}
"""


@pytest.mark.parametrize(
    "value",
    [
        lambda module: module.Model,
        lambda module: [module.Model()],
        lambda module: module.Model().fit,
        lambda module: {"a": module.scaled},
        lambda module: functools.partial(module.scaled, 1),
    ],
    ids=["class", "object", "bound method", "function", "partial"],
)
def test_the_code_of_functions_and_classes_counts(load, value):
    one, same, other = (key_of(value(load(VERSIONED.format(n, n)))) for n in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("code", ["own", "none"])
def test_in_a_smaller_scope_an_object_counts_with_the_name_of_its_class(load, code):
    @cached_job(code=code)
    def fit(model):
        pass

    one, other = (load(VERSIONED.format(n, n)) for n in (1, 2))
    assert fit.key(one.Model()) == fit.key(other.Model()) != fit.key(Frozen(1))
    assert fit.key(one.scaled) != fit.key(other.scaled)


def test_a_reducer_for_tracebacks_does_not_change_the_key_of_an_exception(monkeypatch):
    error = ValueError("no", 3)
    before = key_of(error)

    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda error: (list, ([id(error)],)))

    assert key_of(error) == before
