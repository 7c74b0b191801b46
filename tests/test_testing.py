"""A value of the user's own is checked for a key that is the same everywhere."""

import dataclasses
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from bencher_job import UnkeyableArgument, register_hasher
from bencher_job.testing import assert_stable_key

from .environment import unmeasured

TEXTS = [f"text {number}" for number in range(64)]


@dataclasses.dataclass
class Config:
    """Stable, with a part of any kind."""

    name: str
    inner: object = None

    def scale(self):
        return 2.0


class Hashed:
    """Keeps the hash of a text, which each process makes another."""

    def __init__(self, name):
        self.name = name
        self.code = hash(name)


class Listed:
    """Keeps a set's members in a list, in the set's order."""

    def __init__(self):
        self.texts = list(set(TEXTS))


class Identified:
    """Is told by where it lies in memory."""

    def __init__(self):
        self.token = id(self)


class PickledByHash:
    """Tells another state in each process."""

    def __getstate__(self):
        return {"name": "a", "code": hash("a")}


class KeyedByHash:
    def __init__(self, name):
        self.name = name

    def __job_key__(self):
        return {"name": self.name, "hash": hash(self.name)}


class KeyedByIdentity:
    def __job_key__(self):
        return id(self)


class KeyedByCount:
    count = itertools.count()

    def __job_key__(self):
        return next(self.count)


class Locked:
    """Can't be pickled, and says what makes two of them the same."""

    def __init__(self, name):
        self.name, self.lock = name, threading.Lock()

    def __job_key__(self):
        return self.name


class Foreign:
    def __init__(self, name):
        self.name = name


def told(value, **options):
    with pytest.raises(AssertionError) as caught:
        assert_stable_key(value, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.0, "b"], "c": set(TEXTS)},
        Config("a", Config("b", [1, {"c": 2}])),
        Config("a").scale,
        Config,
        len,
        lambda x: x + 1,
    ],
    ids=["none", "containers", "nested", "method", "class", "builtin", "lambda"],
)
def test_a_stable_value_passes(value):
    assert_stable_key(value)


def test_a_stable_value_passes_when_it_is_made_anew():
    assert_stable_key(Config("a", [1]), make=lambda: Config("a", [1]))


def test_a_class_of_a_function_passes():
    class Local:
        def __init__(self):
            self.a = 1

        def double(self):
            return 2 * self.a

    assert_stable_key([Local()])


@pytest.mark.parametrize(
    ("value", "make", "where", "path"),
    [
        (Hashed("a"), lambda: Hashed("a"), "in another process", "value.code, a int"),
        (Listed(), Listed, "in another process", "value.texts["),
        (Identified(), Identified, "when it is made again and in another process", "value.token, a int"),
        (PickledByHash(), None, "in another process", "value.code, a int"),
        (KeyedByHash("a"), None, "in another process", "value.__job_key__()['hash'], a int"),
        (
            KeyedByIdentity(),
            None,
            "in a deep copy, after a pickle round trip and in another process",
            "value.__job_key__(), a int",
        ),
    ],
    ids=["hash", "order of a set", "identity", "state", "key by hash", "key by identity"],
)
def test_the_smallest_part_that_differs_is_told(value, make, where, path):
    """The message names where the key is another, and the part that is behind it."""
    message = told(value, make=make)
    assert f", is another {where}, because of {path}" in message


def test_a_part_is_found_as_deep_as_it_lies():
    value = {"a": [1, (Config("x", {"b": Config("y", PickledByHash())}),)]}
    message = told(value)
    assert "because of value['a'][1][0].inner['b'].inner.code, a int" in message
    assert f"Give {__name__}.PickledByHash a method __job_key__(self)" in message
    assert "call register_hasher(PickledByHash, function)" in message


def test_a_part_is_found_in_a_value_that_holds_itself():
    ring = Config("ring", [PickledByHash()])
    ring.inner.append(ring)
    assert "value.inner[0].code, a int" in told(ring)


def test_a_job_key_that_differs_is_to_be_mended_where_it_is_written():
    message = told(Config("a", KeyedByHash("b")))
    assert f"Let {__name__}.KeyedByHash.__job_key__ return what is the same in every process" in message


def test_a_key_that_differs_each_time_is_told():
    assert "is another when it is asked for again" in told(KeyedByCount())


def test_a_value_without_a_class_of_its_own_is_to_be_made_of_something_else():
    message = told([hash("a")], make=lambda: [hash("a")])
    assert "because of value[0], a int. Make it of what is the same in every process" in message


def test_a_hasher_that_other_processes_do_not_register_is_told():
    """It belongs into the module that brings the class, and not into a test."""
    register_hasher(Foreign, lambda foreign: foreign.name)
    assert f"a {__name__}.Foreign, is another in another process" in told(Foreign("a"))


def test_what_has_no_key_is_told_as_ever():
    with pytest.raises(UnkeyableArgument) as caught:
        assert_stable_key(Config("a", threading.Lock()))
    assert caught.value.path == "value.inner"


def test_what_cannot_be_pickled_is_to_be_made_there():
    with pytest.raises(TypeError, match="Pass make="):
        assert_stable_key(Locked("a"))
    assert_stable_key(Locked("a"), make=lambda: Locked("a"))


def test_a_value_that_another_process_cannot_make_is_told():
    here = os.getpid()

    def make():
        if os.getpid() != here:
            raise LookupError("there is none here")
        return 3

    assert "LookupError: there is none here" in told(3, make=make)


def test_an_answer_is_waited_for_no_longer_than_said():
    with pytest.raises(TimeoutError, match=r"within 0.01 seconds. Raise timeout="):
        assert_stable_key(1, timeout=0.01)


SCRIPT = """
    import dataclasses, sys
    from bencher_job.testing import assert_stable_key

    print("the modules that are imported may print")

    @dataclasses.dataclass
    class Point:
        x: float

        def norm(self):
            return scale(self.x)

    def scale(x):
        return abs(x)

    class Outer:
        class Inner:
            def double(self):
                return 2

    @dataclasses.dataclass(slots=True)
    class Slotted:
        x: float

        def norm(self):
            return abs(self.x)

    class Unstable(Point):
        def __job_key__(self):
            return hash("a")

    assert_stable_key(Point(1.0))
    assert_stable_key([Point, scale, Point(1.0).norm])
    assert_stable_key([Outer.Inner(), Slotted(1.0), Slotted(1.0).norm])
    assert_stable_key(Point(1.0), make=lambda: Point(1.0))
    try:
        assert_stable_key(Unstable(1.0))
    except AssertionError as error:
        print(error)
"""


@pytest.mark.parametrize("seed", ["random", "0"])
def test_classes_of_a_script_are_checked(tmp_path, seed):
    """They travel by value, and go by the script's own name."""
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(SCRIPT))
    run = subprocess.run(
        [sys.executable, script],
        env=unmeasured() | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "The key of value, a study.Unstable, is another in another process" in run.stdout
    assert "Let study.Unstable.__job_key__ return" in run.stdout
