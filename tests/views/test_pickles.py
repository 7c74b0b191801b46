"""A pickle stream is read without running any of it: plain data comes out as it went in, all else as a description."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._keys.names import locate
from bencher_job._stores import dump, dump_result
from bencher_job._views.pickles import Global, Made, Unreadable, read_pickle
from bencher_job._views.summaries import short_text

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashables = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashables, inner) | st.sets(hashables)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_data_comes_out_as_it_went_in(value: Any) -> None:
    payload = dump(value)
    assert read_pickle(payload.stream, payload.buffers) == value


def test_large_and_odd_data_come_out_as_they_went_in() -> None:
    shared = ["x"] * 1000
    for value in (
        "é" * 70_000,
        b"b" * 70_000,
        bytearray(b"abc"),
        {"a": shared, "b": shared},
        2**5000,
        "\ud800",
    ):
        assert read_pickle(pickle.dumps(value, protocol=5)) == value


def test_a_list_that_holds_itself_is_read() -> None:
    value: list[object] = []
    value.append(value)
    read = read_pickle(pickle.dumps(value, protocol=5))
    assert isinstance(read, list)
    assert read[0] is read


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def test_nothing_that_a_stream_says_is_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    stream = pickle.dumps({"value": Runs(str(target))}, protocol=5)
    read = read_pickle(stream)
    assert isinstance(read, dict)
    assert isinstance(read["value"], Made)
    assert (read["value"].path, read["value"].arguments) == ("posix.mkdir", (str(target),))
    assert not target.exists()
    pickle.loads(stream)
    assert target.exists()  # the stream does what it says, for whoever unpickles it


def test_a_class_that_is_gone_is_named() -> None:
    stream = pickle.dumps(Runs, protocol=5).replace(b"Runs", b"Gone")
    assert read_pickle(stream) == Global(__name__, "Gone")


def test_reading_imports_nothing() -> None:
    program = (
        "import sys, pickle\n"
        "from bencher_job._views.pickles import read_pickle\n"
        "stream = b'\\x80\\x05\\x8c\\x08colorsys\\x8c\\x08rgb_to_h\\x93.'\n"
        "print(read_pickle(stream).path, 'colorsys' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["colorsys.rgb_to_h", "False"]


@given(st.data())
def test_a_damaged_stream_is_told_of_and_never_raises_anything_else(data: st.DataObject) -> None:
    stream = bytearray(pickle.dumps(data.draw(plain), protocol=5))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    del stream[data.draw(st.integers(1, len(stream))) :]
    try:
        read_pickle(bytes(stream), most_steps=10_000)
    except Unreadable:
        pass


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\x80\x05\x8c\xffab.",  # a text that ends early
        b"\x80\x05\x97.",  # a buffer that is missing
        b"\x80\x05]K\x01b.",  # a list with a state
        b"\x80\x05(cposix\ngetpid\no.",  # an instance of protocol 0
        b"\x80\x05(iposix\ngetpid\n.",
    ],
)
def test_what_is_no_stream_of_an_entry_is_refused(stream: bytes) -> None:
    with pytest.raises(Unreadable, match="damaged"):
        read_pickle(stream)


def test_a_stream_of_too_many_steps_is_left_alone() -> None:
    with pytest.raises(Unreadable, match="more than 100 steps"):
        read_pickle(pickle.dumps(list(range(200)), protocol=5), most_steps=100)


def test_a_key_so_deep_that_its_hash_would_end_the_process_is_refused() -> None:
    deep = b"\x80\x05})" + b"\x85" * 500_000 + b"K\x01s."
    with pytest.raises(Unreadable, match="levels"):
        read_pickle(deep)


def test_a_value_that_is_deep_is_read() -> None:
    assert isinstance(read_pickle(b"\x80\x05)" + b"\x85" * 500_000 + b"."), tuple)


class Own:
    class Inner:
        pass

    def run(self) -> None:
        pass


@pytest.mark.parametrize("value", [Own, Own.Inner, Own.run])
def test_what_is_looked_up_by_name_is_told_of_by_that_name(value: type) -> None:
    payload = dump_result([value, value], test_what_is_looked_up_by_name_is_told_of_by_that_name)
    assert payload.load() == [value, value]
    assert read_pickle(payload.stream) == [Global(__name__, value.__qualname__)] * 2


def test_a_name_that_is_gone_is_an_error() -> None:
    with pytest.raises(AttributeError):
        locate(__name__, "Own.Outer")


_LIST = b"](" + b"N" * 1000 + b"e\x94"  # a list of a thousand items, remembered as number 0
_TREE = b"K\x01\x85\x94" + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(100))  # number 100 ends nowhere
_WIDE = b"K\x01\x94" + b"".join(b"(" + b"h%c" % n * 10 + b"t\x94" for n in range(12))
_DECIMAL, _FRACTION = b"cdecimal\nDecimal\n", b"cfractions\nFraction\n"
_ARRAY = b"cnumpy._core.numeric\n_frombuffer\n"
_LOCATE = b"cbencher_job._keys.names\nlocate\n"

_HOSTILE = {
    "a text of a tree": _TREE + _DECIMAL + b"hd\x85R",
    "a text that doubles": _DECIMAL
    + b"X\x01\x00\x00\x00a\x85R\x94"
    + b"".join(_FRACTION + b"h%ch%c\x86R\x94" % (n, n) for n in range(28)),
    "a name of a tree": _TREE + _LOCATE + b"hdhd\x86RK\x01\x85R",
    "a renamed class": _TREE + b"cx\ny\nhdhd\x86bK\x01\x85R",
    "a wide key": _WIDE + b"}h\x0cK\x01s",
    "a key that is a name of a tree": _TREE + b"}" + _LOCATE + b"hdhd\x86RK\x01s",
    "copies of a list": _LIST + b"(" + b"ccollections\ndeque\nh\x00\x85Rcx\ny\nh\x00R" * 200 + b"l",
    "a bytearray of a gigabyte": b"\x96" + (1 << 30).to_bytes(8, "little"),
    "an array of a long number": _ARRAY
    + b"(C\x01aN\x8b"
    + (2500).to_bytes(4, "little")
    + b"\x7f" * 2500
    + b"\x85tR",
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_short_stream_does_not_take_long_or_much_memory(name: str) -> None:
    stream = b"\x80\x05" + _HOSTILE[name] + b"."
    tracemalloc.start()
    started = time.process_time()
    try:
        short_text(read_pickle(stream, most_steps=10_000))
    except Unreadable:
        pass
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken < 1 << 20
    assert time.process_time() - started < 5
