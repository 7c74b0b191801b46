from __future__ import annotations

import threading
import traceback

import pytest

from bencher_job import BencherJobError, JobTimeout
from bencher_job._executors.pickling import RemoteTraceback, dump_error, load_error


class Particular(Exception):
    def __init__(self, code, *, detail):
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail


class Prefixed(ValueError):
    def __init__(self, text):
        super().__init__("prefix: " + text)


class Missing(FileNotFoundError):
    def __init__(self, path):
        super().__init__(2, "is not there", path)
        self.asked = path


def trip(error):
    """Raise an exception, so that it has a traceback, and send it through pickle."""
    try:
        raise error
    except BaseException as raised:
        return load_error(dump_error(raised))


def last_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3),
        KeyError("k"),
        FileNotFoundError(2, "no such file", "/nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(4),
        StopIteration(5),
        ImportError("no", name="module", path="/p"),
        JobTimeout("too long", job="a", seconds=2.0),
        Particular(3, detail="d"),
        Prefixed("x"),
        Missing("/nowhere"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_type_arguments_and_attributes_are_kept(error):
    there = trip(error)

    assert type(there) is type(error)
    assert there.args == error.args
    assert str(there) == str(error)
    assert vars(there) == vars(error)
    for name in ("errno", "filename", "start", "reason", "code", "value", "name", "path"):
        assert getattr(there, name, None) == getattr(error, name, None)


def test_notes_are_kept():
    error = ValueError("x")
    error.add_note("see there")

    assert trip(error).__notes__ == ["see there"]


def test_causes_and_contexts_are_kept():
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                raise Particular(1, detail=2) from first
        except Particular:
            raise TypeError("last")
    except TypeError as error:
        there = trip(error)

    assert there.__context__.args == ("code 1",)
    assert there.__suppress_context__ is False
    assert there.__context__.__cause__.args == ("first",)
    assert there.__context__.__suppress_context__ is True


def test_a_hidden_context_stays_hidden():
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise TypeError("shown") from None
    except TypeError as error:
        there = trip(error)

    assert there.__suppress_context__ is True
    assert there.__context__.args == ("hidden",)


def test_the_remote_traceback_is_the_last_cause():
    cause = OSError("the reason")
    error = ValueError("wrong")
    error.__cause__ = cause

    there = trip(error)

    assert there.__cause__.args == ("the reason",)
    assert isinstance(there.__cause__.__cause__, RemoteTraceback)
    printed = "".join(traceback.format_exception(there))
    assert "in trip" in printed
    assert "raise error" in printed


def test_a_group_keeps_its_members_and_their_causes():
    member = Particular(1, detail=2)
    member.__cause__ = KeyError("why")

    there = trip(ExceptionGroup("several", [member, ValueError("v")]))

    assert [type(e) for e in there.exceptions] == [Particular, ValueError]
    assert there.exceptions[0].__cause__.args == ("why",)


def test_a_chain_that_bites_its_tail_arrives():
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one

    there = trip(one)

    assert there.__context__.args == ("two",)
    assert there.__context__.__context__ is there


def test_a_local_exception_keeps_its_class():
    class Local(Exception):
        pass

    assert type(trip(Local("x"))) is Local


def test_what_cannot_be_pickled_is_described():
    there = trip(ValueError("about", threading.Lock()))

    assert type(there) is BencherJobError
    assert "ValueError: ('about', <unlocked" in str(there)
    assert isinstance(last_cause(there), RemoteTraceback)


def test_only_the_part_of_a_chain_that_cannot_be_pickled_is_described():
    error = ValueError("fine")
    error.__cause__ = TypeError(threading.Lock())

    there = trip(error)

    assert type(there) is ValueError
    assert type(there.__cause__) is BencherJobError


def test_a_chain_too_deep_for_pickle_is_described():
    error = ValueError("deepest")
    for number in range(5000):
        above = ValueError(number)
        above.__context__ = error
        error = above

    assert "4999" in str(trip(error))
