"""A call that memory has answered before is answered in one step, and notices all that the long way would."""

from __future__ import annotations

import enum
import math
import os
import pickle
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bencher_job import CachedFunction, CacheWarning, cached_job
from bencher_job.testing import CallCounter, temporary_cache


def make_hot(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call until memory answers, and give what it answers."""
    for _ in range(4):
        value = function(*args, **kwargs)
    return value


def knows(function: CachedFunction[..., Any]) -> int:
    """How many calls of a function are known."""
    return len(function.cache.known.calls)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class Colour(enum.IntEnum):
    RED = 1


class Pair(NamedTuple):
    first: Any
    second: Any


LIKE_ONE = [1, 1.0, True, 1 + 0j, "1", b"1", (1,), (1.0,), (True,), Number(1), Real(1), Colour.RED, [1], None]
LIKE_ZERO = [
    0,
    0.0,
    -0.0,
    False,
    0j,
    complex(0.0, -0.0),
    complex(-0.0, 0.0),
    "",
    b"",
    (),
    None,
    (0.0,),
    (-0.0,),
]
LIKE_TEXT = [
    "a",
    Text("a"),
    b"a",
    bytearray(b"a"),
    ("a",),
    (Text("a"),),
    (b"a",),
    ["a"],
    Pair("a", "b"),
    ("a", "b"),
]


def told(value: Any) -> Any:
    """Say exactly what a value is."""
    if isinstance(value, tuple | list):
        return type(value).__name__, [told(member) for member in value]
    return type(value).__name__, repr(value)


@pytest.mark.parametrize("values", [LIKE_ONE, LIKE_ZERO, LIKE_TEXT])
def test_calls_that_look_alike_are_told_apart(values: list[Any], counter: CallCounter) -> None:
    @cached_job
    def tell(value: Any) -> Any:
        counter.tick()
        return told(value)

    for _ in range(5):
        assert [tell(value) for value in values] == [told(value) for value in values]
    for _ in range(5):
        assert [tell(value) for value in reversed(values)] == [told(value) for value in reversed(values)]
    assert counter.count == len(values)


def test_all_nans_are_one(counter: CallCounter) -> None:
    @cached_job
    def tell(value: float) -> bool:
        counter.tick()
        return math.isnan(value)

    odd = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000123))[0]
    for value in (math.nan, -math.nan, float("nan"), odd) * 4:
        assert tell(value)
    assert counter.count == 1


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers()
    | st.floats()
    | st.sampled_from([0.0, -0.0, 1.0, -1.0])
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.complex_numbers(max_magnitude=2)
)
ARGUMENT = (
    PLAIN | st.lists(PLAIN, max_size=2).map(tuple) | st.lists(PLAIN, max_size=1) | st.sampled_from(LIKE_ONE)
)


@given(st.lists(st.tuples(ARGUMENT, ARGUMENT), max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_known_says_what_the_key_says(calls: list[tuple[Any, Any]]) -> None:
    @cached_job(code="none")
    def pair(first: Any, second: Any = 0) -> Any:
        return told((first, second))

    with temporary_cache():
        for first, second in calls * 3:
            spelled = [
                pair(first, second),
                pair(first, second=second),
                pair(second=second, first=first),
                *([pair(first)] if told(second) == told(0) else []),
            ]
            assert spelled == [told((first, second))] * len(spelled)


def test_what_stands_by_keyword_is_not_what_stands_by_position() -> None:
    @cached_job
    def tell(*args: Any, **kwargs: Any) -> Any:
        return told([*args, *sorted(kwargs.items())])

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {"y": 2}),
        (((1,), {"y": 2}), {}),
        (((1,),), {"y": 2}),
        ((1, ("y", 2)), {}),
        ((1,), {"x": 2}),
        ((), {"y": 2}),
        ((), {"y": 2, "x": 3}),
        ((), {"x": 3, "y": 2}),
        ((), {"x": 2, "y": 3}),
        (((),), {}),
        ((), {}),
    ]
    for _ in range(5):
        for args, kwargs in calls:
            assert tell(*args, **kwargs) == told([*args, *sorted(kwargs.items())])


def test_a_call_may_be_spelled_in_any_way(counter: CallCounter) -> None:
    @cached_job
    def product(x: int, y: int = 3) -> int:
        counter.tick()
        return x * y

    for _ in range(5):
        assert [product(2), product(2, 3), product(2, y=3), product(x=2, y=3), product(y=3, x=2)] == [6] * 5
    assert counter.count == 1
    assert knows(product) == 5


def test_a_call_that_does_not_fit_raises_as_ever() -> None:
    @cached_job
    def product(x: int, y: int = 3) -> int:
        return x * y

    make_hot(product, 2)
    for _ in range(3):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
            product()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
            product(2, z=1)  # type: ignore[call-arg]


def test_an_argument_that_was_changed_in_place_is_another(counter: CallCounter) -> None:
    @cached_job
    def total(values: Any) -> float:
        counter.tick()
        return sum(map(sum, values))

    inner = [1, 2]
    for values in ([inner], (inner,)):
        assert make_hot(total, values) == sum(inner)
        inner.append(10)
        assert make_hot(total, values) == sum(inner)
    assert counter.count == 4


def test_a_default_that_was_changed_in_place_is_another() -> None:
    @cached_job
    def total(x: int, more: list[int] = [1], *, most: dict[str, int] = {"a": 1}) -> int:
        return x + sum(more) + sum(most.values())

    assert make_hot(total, 1) == 3
    total.__wrapped__.__defaults__[0].append(10)
    assert make_hot(total, 1) == 13
    total.__wrapped__.__kwdefaults__["most"]["b"] = 100
    assert make_hot(total, 1) == 113
    total.__wrapped__.__kwdefaults__["most"] = {}
    assert make_hot(total, 1) == 12
    total.__wrapped__.__defaults__ = ([],)
    assert make_hot(total, 1) == 1


class Settings:
    scale = 2


def scaled(x: int) -> int:
    return x * Settings.scale * OFFSET[0]


OFFSET = [1]


def test_what_the_function_reads_is_looked_at_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    factor = 1

    @cached_job
    def value(x: int) -> int:
        return scaled(x) * factor

    assert make_hot(value, 1) == 2
    factor = 10
    assert value(1) == 20
    make_hot(value, 1)
    OFFSET[0] = 3
    assert value(1) == 60
    OFFSET[0] = 1
    assert value(1) == 20
    make_hot(value, 1)
    monkeypatch.setattr(Settings, "scale", 5)
    assert value(1) == 50
    make_hot(value, 1)
    monkeypatch.setitem(globals(), "scaled", lambda x: x + 7)
    assert value(1) == 80
    make_hot(value, 1)
    monkeypatch.delitem(globals(), "scaled")
    with pytest.raises(NameError):
        value(1)
    with pytest.raises(NameError):
        value(1)
    monkeypatch.undo()
    assert value(1) == 20


def test_other_code_in_the_same_function_is_noticed() -> None:
    @cached_job
    def value(x: int) -> int:
        return x + 1

    assert make_hot(value, 1) == 2
    value.__wrapped__.__code__ = (lambda x: x + 2).__code__
    assert value(1) == 3


def test_files_that_count_are_looked_at_in_each_call(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("one")

    @cached_job(by_content=["name"])
    def by_name(name: str) -> str:
        return Path(name).read_text()

    @cached_job(depends_on=[path])
    def by_path() -> str:
        return path.read_text()

    assert make_hot(by_name, str(path)) == make_hot(by_path) == "one"
    path.write_text("other")
    assert by_name(str(path)) == by_path() == "other"


def test_an_ignored_argument_makes_no_other_call(counter: CallCounter) -> None:
    @cached_job(ignore=["verbose"])
    def value(x: int, verbose: object = None) -> int:
        counter.tick()
        return x

    for verbose in (None, 1, 1.0, "yes", [1], object()) * 3:
        assert value(1, verbose=verbose) == 1
    assert counter.count == 1


RESULTS: list[Any] = [
    {"a": 1.0, "b": "text"},
    {"a": [1, 2]},
    {"a": {"b": 1}},
    {("a", 1): 2},
    [1, 2.0, "three", None],
    [[1], [2]],
    {1, 2},
    frozenset({1, 2}),
    (1, 2),
    ([1], 2),
    bytearray(b"abc"),
    dict.fromkeys(range(1000), 0),
    list(range(1000)),
    "x" * 10_000,
    None,
    True,
    1.5,
    -0.0,
    b"abc",
    10**50,
    Text("a"),
    Colour.RED,
    Pair([1], 2),
    Exception("a", [1]),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_no_two_callers_share_what_can_change(result: Any) -> None:
    @cached_job(code="none")
    def make(x: int) -> Any:
        return pickle.loads(pickle.dumps(result))

    values = [make(1) for _ in range(6)]
    assert knows(make) == 1
    assert [told(value) for value in values] == [told(result)] * 6
    assert [pickle.dumps(value) for value in values] == [pickle.dumps(values[0])] * 6
    if not isinstance(result, str | int | float | bytes | None) and result not in ((1, 2), frozenset({1, 2})):
        assert len(set(map(id, values))) == 6
    for change in (
        lambda value: value.clear(),
        lambda value: value["a"].clear(),
        lambda value: value[0].clear(),
        lambda value: value.first.clear(),
        lambda value: value.args[1].clear(),
    ):
        try:
            change(make(1))
        except (TypeError, AttributeError, KeyError, IndexError):
            continue
        assert told(make(1)) == told(result)


def test_a_dict_keeps_its_order() -> None:
    @cached_job
    def make(x: int) -> dict[str, int]:
        return {"z": 1, "a": 2, "m": 3}

    assert [list(make(1)) for _ in range(5)] == [["z", "a", "m"]] * 5


def test_a_class_that_is_gone_is_told_of_and_the_job_runs_again(
    counter: CallCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    @cached_job(code="none")
    def make(x: int) -> Any:
        counter.tick()
        return [Text("a")]

    make_hot(make, 1)
    monkeypatch.delitem(globals(), "Text")
    with pytest.warns(CacheWarning, match="can't be unpickled"), pytest.raises(NameError):
        make(1)
    monkeypatch.undo()
    assert make(1) == ["a"]
    assert counter.count == 2


def test_hits_are_counted_with_the_time_that_they_saved() -> None:
    @cached_job(code="none")
    def slow(x: int) -> int:
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        return x

    for _ in range(1500):
        slow(1)
    info = slow.cache.info()
    assert (info.computed, info.hits, info.submitted) == (1, 1499, 1500)
    assert info.seconds_saved == pytest.approx(1499 * next(slow.cache.records()).seconds)
    assert info.total.hits == 1499
    assert info.total.seconds_saved == pytest.approx(info.seconds_saved)


def test_no_hit_of_any_thread_is_lost() -> None:
    @cached_job
    def square(x: int) -> int:
        return x * x

    make_hot(square, 3)
    square.cache.clear_call_counts()
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(lambda: [square(3) for _ in range(5000)]) for _ in range(4)]
            assert all(set(each.result()) == {9} for each in done)
    finally:
        sys.setswitchinterval(switch)
    assert square.cache.info().hits == 20_000


def test_what_is_called_again_and_again_is_evicted_last() -> None:
    @cached_job(size_limit=1_000_000, code="none")
    def make(x: int) -> bytes:
        return bytes(100_000) if x else b"small"

    make_hot(make, 0)
    for number in range(1, 40):
        make(number)
        make(0)
    assert make.cache.info().evicted > 0
    assert make.is_cached(0)


def test_when_a_call_was_answered_is_kept_for_eviction() -> None:
    @cached_job(code="none")
    def value(x: int) -> int:
        return x

    make_hot(value, 1)
    make_hot(value, 2)
    begun = time.time()
    value(2)
    value(1)
    value.cache.info()  # writes what was used
    with sqlite3.connect(value.cache.cache.directory / "cache.db") as database:
        rows = database.execute("SELECT key, access_time FROM Cache ORDER BY access_time DESC").fetchall()
    database.close()
    assert [key for key, _ in rows] == [value.key(1), value.key(2)]
    assert all(begun - 0.01 <= used <= time.time() for _, used in rows)


def test_a_temporary_cache_and_a_switch_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    box = [1]

    @cached_job(code="none")
    def value(x: int) -> int:
        return box[0]

    assert make_hot(value, 1) == 1
    box[0] = 2
    with temporary_cache():
        assert make_hot(value, 1) == 2
        monkeypatch.setenv("BENCHER_JOB", "off")
        with temporary_cache():
            for number in range(5):
                box[0] = number
                assert value(1) == number
        monkeypatch.delenv("BENCHER_JOB")
    assert make_hot(value, 1) == 1


def test_a_cache_that_overwrites_answers_nothing(counter: CallCounter) -> None:
    @cached_job
    def value(x: int) -> int:
        counter.tick()
        return x

    make_hot(value, 1)
    value.cache.overwrite = True
    make_hot(value, 1)
    assert counter.count == 5


def test_what_this_process_removes_or_replaces_is_noticed(counter: CallCounter) -> None:
    box = [1]

    @cached_job(code="none", tag="a")
    def value(x: int) -> int:
        counter.tick()
        return box[0]

    removals: list[Callable[[], object]] = [
        lambda: value.forget(1),
        lambda: value.refresh(1),
        lambda: value.cache.clear_tag("a"),
        lambda: value.cache.clear_cache(),
    ]
    for number, remove in enumerate(removals * 20):
        box[0] = number
        remove()
        assert value(1) == number
        assert make_hot(value, 1) == number
    assert counter.count == 80


def test_a_closed_cache_opens_again(counter: CallCounter) -> None:
    @cached_job
    def value(x: int) -> int:
        counter.tick()
        return x

    for _ in range(3):
        assert make_hot(value, 1) == 1
        value.cache.close()
    assert counter.count == 1


def test_an_entry_expires_for_those_who_know_it(counter: CallCounter) -> None:
    @cached_job(ttl=0.5)
    def value(x: int) -> int:
        counter.tick()
        return x

    begun = time.time()
    make_hot(value, 1)
    assert knows(value) == 1
    while counter.count == 1:
        value(1)
    assert time.time() - begun >= 0.5


CHANGES = """
    import sys
    from pathlib import Path
    from bencher_job import FutureCache, Job
    folder = Path(sys.argv[1])
    given = {"cache_dir": folder.parent, "cache_name": folder.name}
    cache, expiring = FutureCache(**given), FutureCache(ttl=1e-6, **given)
    for line in sys.stdin:
        what, key, value = line.split()
        if what == "clear":
            cache.clear_tag("a")
        elif what == "forget":
            cache.cache.remove([key])
        else:
            job = Job("f", lambda x: x, {"x": int(value)}, job_key=key, tag="a")
            (expiring if what == "expire" else cache).submit(job).result()
        print(what, flush=True)
"""


@pytest.mark.parametrize("what", ["clear", "forget", "replace", "expire"])
def test_what_another_process_does_is_noticed_at_the_very_next_call(what: str) -> None:
    """Other threads have entries of the same store without a pause, so that this process has always just looked."""
    box = [0]

    @cached_job(code="none", tag="a")
    def value(x: int) -> int:
        return box[0]

    @cached_job(code="none")
    def steady(x: int) -> int:
        return x

    make_hot(value, 1)
    make_hot(steady, 1)
    key, is_over = value.key(1), threading.Event()

    def look_all_the_time() -> None:
        while not is_over.is_set():
            steady(1)

    threads = [threading.Thread(target=look_all_the_time) for _ in range(2)]
    command = [sys.executable, "-c", textwrap.dedent(CHANGES), str(value.cache.cache.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        for thread in threads:
            thread.start()
        try:
            for number in range(1, 80):
                box[0] = number
                other.stdin.write(f"{what} {key} {number}\n")
                other.stdin.flush()
                assert other.stdout.readline() == f"{what}\n"
                assert value(1) == number
                assert make_hot(value, 1) == number
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
            other.stdin.close()


def test_a_forked_child_answers_and_counts_for_itself() -> None:
    @cached_job
    def square(x: int) -> int:
        return x * x

    make_hot(square, 3)
    before = square.cache.info().hits
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if make_hot(square, 3) == 9 and square.forget(3) and square(3) == 9:
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert square(3) == 9
    assert square.cache.info().hits == before + 1


class Model:
    def __init__(self, weight: int) -> None:
        self.weight = weight

    @cached_job
    def predict(self, x: int) -> int:
        return self.weight * x

    @cached_job
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @cached_job
    @classmethod
    def name(cls, x: int) -> str:
        return f"{cls.__name__} {x}"


class Special(Model):
    pass


def test_methods_know_whose_they_are() -> None:
    model, other = Model(2), Model(3)
    for _ in range(5):
        assert (model.predict(1), other.predict(1), Model.predict(model, 2)) == (2, 3, 4)
        assert (Model.double(4), model.double(4)) == (8, 8)
        assert (Model.name(1), Special.name(1), Special(1).name(1)) == ("Model 1", "Special 1", "Special 1")
    model.weight = 10
    assert model.predict(1) == 10


def test_long_calls_and_large_values_take_the_long_way(counter: CallCounter) -> None:
    @cached_job(code="none")
    def repeated(text: str, times: int) -> str:
        counter.tick()
        return text * times

    for _ in range(4):
        assert repeated("x" * 1000, 2) == "x" * 2000
        assert repeated("x", 100_000) == "x" * (100_000)
    assert counter.count == 2
    assert knows(repeated) == 0


def test_the_wrapper_is_called_as_any_object_is() -> None:
    @cached_job
    def square(x: int) -> int:
        return x * x

    assert square.__call__(3) == type(square).__call__.__get__(square)(3) == square(3) == 9
    assert callable(square)
    assert pickle.loads(pickle.dumps(square))(4) == 16
