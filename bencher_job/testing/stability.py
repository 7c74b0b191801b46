"""Check that a value has the same key in every process."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO, Any, Final

from .._errors import UnkeyableArgument
from .._executors.pickling import dumps
from .._keys.canonical import Attributes, Refusal
from .._keys.key import JobKeys
from .._keys.names import adopt_main_name, is_own_class, main_name, qualified_name
from .._keys.objects import reduced

__all__ = ["assert_stable_key"]


_MOST_PARTS: Final = 2000

_LOOK_ELSEWHERE: Final = """
import os, pickle, sys
output = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # keep output of the user's modules out of the answer
sys.path[:] = pickle.load(sys.stdin.buffer)
from bencher_job.testing.stability import answer
answer(sys.stdin.buffer, output)
"""


def assert_stable_key(
    value: object, *, make: Callable[[], object] | None = None, timeout: float = 60.0
) -> None:
    """Check that a value has the same job key everywhere, as every argument of a cached function must.

    The key is made twice, of a deep copy, after a pickle round trip, and in a second interpreter with another hash
    seed, which unpickles the value. Give `make` to detect objects that depend on `id()` or the hash of a str when they
    are constructed: it makes the value again here, and in the second interpreter instead of unpickling.

    Args:
        value: an argument of a function of yours.
        make: returns a new, equal value.
        timeout: seconds within which the second interpreter must answer.

    Raises:
        AssertionError: when a key differs. It names where, the smallest part of the value that causes it if that
            can be found, and the remedy. Also when the second interpreter can't make or unpickle the value.
        UnkeyableArgument: when no key can be made of the value.
        TypeError: when the value can't be pickled and `make` isn't given.
        TimeoutError: when the second interpreter doesn't answer in time.

    >>> class Config:
    ...     def __init__(self, name):
    ...         self.name, self.token = name, id(self)
    >>> assert_stable_key(Config("small"), make=lambda: Config("small"))
    Traceback (most recent call last):
        ...
    AssertionError: The key of value, a ...Config, is another when it is made again and in another process...
    """
    key = _key_of(value)
    travels = _packed(value if make is None else make, made=make is not None)
    differs: dict[str, dict[str, str]] = {}
    for where, other in _others(value, make):
        if _key_of(other) != key:
            differs[where] = _keys_of_parts(other)
    if elsewhere := _keys_elsewhere(travels, key, timeout):
        differs["in another process"] = elsewhere
    if differs:
        raise AssertionError(_instability(value, differs))


def _argument(value: object) -> None:
    """A placeholder for any function that takes a value."""


_argument_keys: Final = JobKeys(_argument)


def _key_of(value: object) -> str:
    return _argument_keys.key((value,), {})


def _others(value: object, make: Callable[[], object] | None) -> Iterator[tuple[str, object]]:
    """Yield the variants of a value that must have the same key in this process."""
    yield "when it is asked for again", value
    for where, copied in (("in a deep copy", copy.deepcopy), ("after a pickle round trip", _round_trip)):
        try:
            other = copied(value)
        except Exception:  # noqa: BLE001, S112 - an argument needn't be fit for this
            continue
        yield where, other
    if make is not None:
        yield "when it is made again", make()


def _round_trip(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


def _packed(obj: object, *, made: bool) -> bytes:
    try:
        content = dumps(obj)
    except Exception as error:
        raise TypeError(
            f"{qualified_name(type(obj))} can't be pickled ({error}), so no other process can look at it. "
            f"Pass make=, a function that makes the same value there."
        ) from error
    return pickle.dumps((content, made, main_name()))


def _keys_elsewhere(packed: bytes, key: str, timeout: float) -> dict[str, str]:
    """Return the keys of a value's parts in a second interpreter; empty if the value's own key is the same there."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    try:
        run = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-c", _LOOK_ELSEWHERE],
            input=pickle.dumps(sys.path) + pickle.dumps(key) + packed,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"The second interpreter didn't answer within {timeout:g} seconds. Raise timeout=."
        ) from None
    if run.returncode != 0:
        told = run.stderr.decode("utf-8", "replace")
        raise AssertionError(f"No key could be made of the value in another process:\n{told}")
    keys: dict[str, str] = pickle.loads(run.stdout)
    return keys


def answer(question: IO[bytes], output: IO[bytes]) -> None:
    """Answer `_keys_elsewhere`, in the second interpreter."""
    key, (content, made, main) = pickle.load(question), pickle.load(question)
    adopt_main_name(main)
    value = pickle.loads(content)
    if made:
        value = value()
    with output:
        pickle.dump({} if _key_of(value) == key else _keys_of_parts(value), output)


def _keys_of_parts(value: object) -> dict[str, str]:
    """Make the keys of a value and of its parts, by path."""
    return {path: _key_of_part(part) for path, part, _ in _parts(value)}


def _parts(value: object) -> Iterator[tuple[str, object, type]]:
    """Return a value and its parts, the outer ones first: the path, the part, and the class that it belongs to."""
    pending: deque[tuple[str, object, type]] = deque([("value", value, type(value))])
    for _ in range(_MOST_PARTS):
        if not pending:
            return
        path, part, owner = pending.popleft()
        yield path, part, owner
        for step, member in islice(_members(part), _MOST_PARTS):
            cls = type(member)
            pending.append((path + step, member, cls if is_own_class(cls) else owner))


def _key_of_part(part: object) -> str:
    try:
        return _key_of(part)
    except UnkeyableArgument as error:
        return error.reason


def _members(value: Any) -> Iterator[tuple[str, object]]:
    """Return the parts of a value that are in its key, each with the text of its access."""
    cls = type(value)
    if hasattr(cls, "__job_key__"):
        yield ".__job_key__()", value.__job_key__()
    elif cls in {list, tuple}:
        yield from ((f"[{index}]", member) for index, member in enumerate(value))
    elif isinstance(value, Attributes):
        yield from ((f".{name}", value[name]) for name in sorted(value))
    elif cls is dict:
        yield from ((f"[{key!r}]", member) for key, member in value.items())
    elif is_own_class(cls):
        try:
            parts = reduced(value)
        except Refusal:
            return
        if isinstance(parts, Attributes):
            yield from _members(parts)
        elif isinstance(parts, dict):
            steps = {"arguments": ".__reduce_ex__(4)[1]"}
            yield from ((steps.get(name, ""), part) for name, part in parts.items())


def _smallest_difference(value: object, keys_there: dict[str, str]) -> tuple[str, object, type]:
    """Find the first part whose key differs and none of whose own parts does: its path, the part, and its class."""
    found = {}
    for path, part, owner in _parts(value):
        key = _key_of_part(part)
        if keys_there.get(path, key) != key:
            found[path] = path, part, owner
    inner = (path for path in found if not any(path != each and each.startswith(path) for each in found))
    return found[next(inner, "value")]


def _instability(value: object, differs: dict[str, dict[str, str]]) -> str:
    *all_but_last, last = differs
    places = f"{', '.join(all_but_last)} and {last}" if all_but_last else last
    path, part, owner = _smallest_difference(value, differs[last])
    name = qualified_name(type(value))
    fact = f"The key of value, a {name}, is another {places}"
    cause = "" if path == "value" else f", because of {path}, a {qualified_name(type(part))}"
    constant = "what is the same in every process: no id(), no hash() of a text, no order of a set"
    if "__job_key__" in path or hasattr(owner, "__job_key__"):
        return f"{fact}{cause}. Let {qualified_name(owner)}.__job_key__ return {constant}."
    if not is_own_class(owner):
        return f"{fact}{cause}. Make it of {constant}."
    return (
        f"{fact}{cause}. Give {qualified_name(owner)} a method __job_key__(self) that returns {constant}; "
        f"or call register_hasher({owner.__name__}, function) for a class that isn't yours."
    )
