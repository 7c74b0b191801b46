"""Each printed remedy works as it is written, and different calls keep different keys."""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import dataclasses
import enum
import importlib
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bencher_job import UnkeyableArgument, cached_job, register_hasher

from .keys import in_a_fork
from .test_refusals import WITHOUT_VALUE


class Holder:
    def __init__(self, other, x):
        self.other, self.x = other, x


@dataclasses.dataclass
class Config:
    other: int
    x: Any


class Named(dict):
    pass


class Thread(threading.Thread):
    def __init__(self, other):
        super().__init__()
        self.other = other


class Unreadable:
    def __init__(self, other):
        self.other = other

    def __reduce_ex__(self, protocol):
        raise RuntimeError("not today")


def plain(other, x):
    pass


def by_keyword(other, *, x=None):
    pass


def spread(*args):
    pass


def options(other=0, **kw):
    pass


def one(x):
    pass


def apart(rest, own=None):
    """A function that takes the refused value as an argument of its own."""


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
PLACES: dict[str, Callable[[Any, int], Call]] = {
    "a parameter": lambda x, other: (plain, (other, x), {}),
    "a keyword": lambda x, other: (by_keyword, (other,), {"x": x}),
    "*args": lambda x, other: (spread, (other, x), {}),
    "**kw": lambda x, other: (options, (), {"a": other, "x": x}),
    "**kw with a parameter": lambda x, other: (options, (other,), {"x": x}),
    "a list in **kw": lambda x, other: (options, (), {"x": [other, x]}),
    "a list": lambda x, other: (one, ([other, x],), {}),
    "a dict": lambda x, other: (one, ({"other": other, "x": x},), {}),
    "an object": lambda x, other: (one, (Holder(other, x),), {}),
    "an object in a list": lambda x, other: (one, ([Holder(other, x)],), {}),
    "a dataclass in **kw": lambda x, other: (options, (), {"c": Config(other, {"x": x})}),
    "a dataclass in another's object": lambda x, other: (
        one,
        (argparse.Namespace(a=Config(other, x)),),
        {},
    ),
    "another's object": lambda x, other: (one, (argparse.Namespace(other=other, x=x),), {}),
    "a list in another's object": lambda x, other: (one, ([argparse.Namespace(other=other, x=[x])],), {}),
}
OWN = {cls.__name__: cls for cls in (Config, Holder, Named, Thread, Unreadable)}


def refusal_of(call: Call, **given: Any) -> UnkeyableArgument:
    function, args, kwargs = call
    with pytest.raises(UnkeyableArgument) as caught:
        cached_job(**given)(function).key(*args, **kwargs)
    return caught.value


def key_of(call: Call, **given: Any) -> str:
    function, args, kwargs = call
    return cached_job(**given)(function).key(*args, **kwargs)


def hasher(name: str, function: Callable[[Any], object]) -> None:
    """Register a hasher for the class with this dotted name, for good."""
    module, _, attribute = name.rpartition(".")
    register_hasher(getattr(importlib.import_module(module), attribute), function)


def follow(remedy: str, calls: list[Call], rest: list[Any]) -> list[str]:
    """Follow a remedy, and then make the keys of some calls."""
    if found := re.fullmatch(r"leave it out of the key with ignore=\('(\w+)',\) if results don't .*", remedy):
        return [key_of(call, ignore=(found[1],)) for call in calls]
    if remedy.startswith("pass it as a keyword argument of its own, and leave that out"):
        return [key_of((apart, (each,), {"own": object()}), ignore=("own",)) for each in rest]
    if found := re.fullmatch(r"give the class (\w+) a method __job_key__\(self\) that returns .*", remedy):
        OWN[found[1]].__job_key__ = lambda self: self.other  # type: ignore[attr-defined]
        return [key_of(call) for call in calls]
    if found := re.fullmatch(r"call register_hasher\(([\w.]+), function\), where .*", remedy):
        hasher(found[1], lambda value: getattr(value, "other", None))
        return [key_of(call) for call in calls]
    raise AssertionError(f"unknown remedy: {remedy}")


def remedies_of(error: UnkeyableArgument) -> list[str]:
    assert str(error).endswith(error.remedy)
    assert error.remedy.endswith(".")
    text = error.remedy[0].lower() + error.remedy[1:-1]
    return text.split(", or ")


@pytest.mark.parametrize("make", WITHOUT_VALUE.values(), ids=WITHOUT_VALUE)
def test_each_remedy_for_a_value_without_a_key_works(make: Callable[[], Any]) -> None:
    values = make(), make(), make()
    calls = {
        place: [call_of(value, other) for value, other in zip(values, (1, 2, 1), strict=True)]
        for place, call_of in PLACES.items()
    }
    remedies = [(place, remedy) for place in calls for remedy in remedies_of(refusal_of(calls[place][0]))]
    remedies.sort(key=lambda found: found[1].startswith(("give", "call")))  # what changes classes comes last

    def follow_each() -> None:
        for place, remedy in remedies:
            one, two, again = follow(remedy, calls[place], [("rest", 1), ("rest", 2), ("rest", 1)])
            assert one != two, (place, remedy)
            assert one == again, (place, remedy)

    in_a_fork(follow_each)


@pytest.mark.parametrize("cls", [Thread, Unreadable])
def test_the_remedy_for_an_own_class_names_the_class(cls: type) -> None:
    calls: list[Call] = [(one, (cls(other),), {}) for other in (1, 2, 1)]
    ignore, job_key_method = remedies_of(refusal_of(calls[0]))
    assert ignore.startswith("leave it out of the key with ignore=('x',)")

    def follow_it() -> None:
        first, second, again = follow(job_key_method, calls, [])
        assert first == again != second

    in_a_fork(follow_it)


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        ((plain, (1, LOCK), {}), "leave it out of the key with ignore=('x',)"),
        ((options, (), {"lock": LOCK}), "leave it out of the key with ignore=('lock',)"),
        ((options, (), {"kw": LOCK}), "pass it as a keyword argument of its own"),
        ((spread, (1, LOCK), {}), "pass it as a keyword argument of its own"),
        ((one, ([LOCK],), {}), "pass it as a keyword argument of its own"),
        ((one, (Holder(1, [LOCK]),), {}), "give the class Holder a method __job_key__(self)"),
        ((one, (Named(a=Holder(1, LOCK)),), {}), "give the class Holder a method __job_key__(self)"),
        ((one, (Named(a=LOCK),), {}), "give the class Named a method __job_key__(self)"),
        ((one, (argparse.Namespace(a=[LOCK]),), {}), "call register_hasher(argparse.Namespace, function)"),
    ],
)
def test_the_remedy_names_the_holder_of_the_value(call: Call, remedy: str) -> None:
    remedies = remedies_of(refusal_of(call))
    assert any(each.startswith(remedy) for each in remedies), remedies


def test_the_remedy_names_a_class_only_if_a_program_can_change_it() -> None:
    class Local(Holder):
        pass

    made = type("Made", (Holder,), {})
    remedies = [remedies_of(refusal_of((one, (cls(1, LOCK),), {}))) for cls in (Local, made)]
    assert remedies[0][-1].startswith("give the class Local a method __job_key__(self)")
    assert not any("Made" in remedy for remedy in remedies[1])


class Partly:
    def __init__(self, other):
        self.other = other

    def __job_key__(self):
        return {"lock": LOCK}


def test_the_remedy_names_a_job_key_without_a_key() -> None:
    refused = [refusal_of((one, (value,), {})) for value in (Partly(1), [Partly(1)], Holder(1, Partly(1)))]
    assert {remedies_of(each)[-1] for each in refused} == {
        "let Partly.__job_key__ return a value that has a key"
    }


def test_the_remedy_names_a_hasher_whose_value_has_no_key() -> None:
    class Registered:
        pass

    register_hasher(Registered, lambda value: LOCK)
    remedy = remedies_of(refusal_of((one, (Registered(),), {})))[-1]
    assert remedy.startswith("let the hasher registered for ")
    assert remedy.endswith("Registered return a value that has a key")


class Kind(enum.Enum):
    ONE = 1


def double(x):
    return 2 * x


def made_by_numpy(instead):
    numpy = pytest.importorskip("numpy")
    return numpy.frompyfunc(double, 1, 1), instead(numpy)


def lazy_frame():
    frame = pytest.importorskip("polars").DataFrame({"a": [1]})
    return frame.lazy(), frame.lazy().collect()


def sparse_tensor():
    tensor = pytest.importorskip("torch").eye(2)
    return tensor.to_sparse(), tensor


SAID = {
    "pass a list": lambda: (iter([1]), [1]),
    "pass the content or the path": lambda: (open(__file__, "rb"), Path(__file__)),  # noqa: SIM115
    "pass the value": lambda: (contextvars.ContextVar("v", default=1), 1),
    "use a member of an Enum": lambda: (object(), Kind.ONE),
    "pass random.Random(seed)": lambda: (random.SystemRandom(), random.Random(1)),
    "pass that": lambda: made_by_numpy(lambda numpy: double),
    "or use numpy.vectorize": lambda: made_by_numpy(lambda numpy: numpy.vectorize(double)),
    "pass the result of its collect()": lazy_frame,
    "pass a dense one": sparse_tensor,
}


@pytest.mark.parametrize("words", SAID)
def test_the_replacement_in_the_reason_has_a_key(words: str) -> None:
    refused, instead = SAID[words]()
    with contextlib.closing(refused) if hasattr(refused, "close") else contextlib.nullcontext():
        assert words in refusal_of((one, (refused,), {})).reason
    assert key_of((one, (instead,), {}))


def test_a_value_that_is_nested_too_deeply_can_be_left_out() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    call: Call = (plain, (1, deep), {})
    (remedy,) = remedies_of(refusal_of(call))
    first, second = follow(remedy, [call, (plain, (2, deep), {})], [])
    assert first != second
    while deep:  # else it is freed by recursion
        deep = deep.pop()


@pytest.mark.parametrize("value", ["no such file", 1])
def test_the_remedies_for_by_content_work(value: object, tmp_path: Path) -> None:
    error = refusal_of((one, (value,), {}), by_content=("x",))
    assert error.remedy == (
        "Pass the path of a file or a folder that can be read, or take 'x' out of by_content."
    )
    assert key_of((one, (tmp_path,), {}), by_content=("x",))
    assert key_of((one, (value,), {})) != key_of((one, ("another",), {}))
