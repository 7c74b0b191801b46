"""`cached_job`, `JobFunctionCache` and `FutureCache` take the options of one table."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from bencher_job import FutureCache, JobFunctionCache, cached_job
from bencher_job._options import OPTIONS, KeyOptions

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "options.md"

ENTRY_POINTS: dict[str, Callable[..., Any]] = {
    "cached_job": lambda **options: cached_job(**options)(given),
    "JobFunctionCache": lambda **options: JobFunctionCache(given, **options),
    "FutureCache": FutureCache,
}
PUBLIC: dict[str, Callable[..., Any]] = {
    "cached_job": cached_job,
    "JobFunctionCache": JobFunctionCache,
    "FutureCache": FutureCache,
}
NOT_TAKEN = {
    "cached_job": {"tag_index", "cache_samples"},
    "JobFunctionCache": set(),
    "FutureCache": {"tag", *KeyOptions.__dataclass_fields__},
}
OTHER_DEFAULTS = {("FutureCache", "overwrite"): True, ("FutureCache", "size_limit"): int(20e9)}


def given(x: int) -> int:
    return x


def endless() -> Iterator[int]:
    yield 1


WRONG = {name: object() for name in OPTIONS} | {"version": endless()}
"""For each option a value that has the wrong type."""

EACH = [(entry, name) for entry in PUBLIC for name in OPTIONS if name not in NOT_TAKEN[entry]]


def parameters(entry: str) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(PUBLIC[entry]).parameters)
    found.pop("function", None)
    return found


@pytest.mark.parametrize("entry", PUBLIC)
def test_the_options_of_an_entry_point_are_those_of_the_table(entry: str) -> None:
    assert {*parameters(entry)} == {*OPTIONS} - NOT_TAKEN[entry]


@pytest.mark.parametrize(("entry", "name"), EACH)
def test_the_default_is_that_of_the_table(entry: str, name: str) -> None:
    default = OTHER_DEFAULTS.get((entry, name), OPTIONS[name].default)
    assert default is not MISSING
    assert parameters(entry)[name].default == default
    assert type(parameters(entry)[name].default) is type(default)


@pytest.mark.parametrize(("entry", "name"), EACH)
def test_the_default_may_be_given(entry: str, name: str) -> None:
    ENTRY_POINTS[entry](**{name: parameters(entry)[name].default})


@pytest.mark.parametrize(("entry", "name"), EACH)
def test_a_value_of_a_wrong_type_is_refused_in_one_form(entry: str, name: str) -> None:
    wrong = WRONG[name]
    with pytest.raises(TypeError, match=rf"^{name} must be \w.*, not {type(wrong).__name__}\b"):
        ENTRY_POINTS[entry](**{name: wrong})


@pytest.mark.parametrize("entry", PUBLIC)
@pytest.mark.parametrize("name", ["retires", "cache_nam", "sizelimit", "overwrites", "max_worker"])
def test_an_option_that_is_misspelled_is_refused_with_the_right_name(entry: str, name: str) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^{entry}(\.__init__)?\(\) got an unexpected keyword argument '{name}'\. Did you mean '(\w+)'\?$",
    ) as caught:
        ENTRY_POINTS[entry](**{name: 1})
    meant = re.findall(r"'(\w+)'", str(caught.value))[1]
    assert meant in parameters(entry)


@pytest.mark.parametrize("entry", PUBLIC)
def test_an_option_that_is_like_none_is_refused(entry: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^{entry}(\.__init__)?\(\) got an unexpected keyword argument 'xyz'$"
    ):
        ENTRY_POINTS[entry](xyz=1)


@pytest.mark.parametrize(("entry", "name"), [(e, n) for e, names in NOT_TAKEN.items() for n in sorted(names)])
def test_an_option_of_another_entry_point_is_refused(entry: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"\(\) got an unexpected keyword argument '{name}'(?!.*'{name}')"):
        ENTRY_POINTS[entry](**{name: OPTIONS[name].default})


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("FutureCache", "executor overwrite cache_name tag_index size_limit cache_samples"),
        ("JobFunctionCache", "overwrite executor cache_name tag_index size_limit"),
        ("cached_job", ""),
    ],
)
def test_the_options_that_are_taken_by_position_keep_their_order(entry: str, names: str) -> None:
    by_position = [
        each.name for each in parameters(entry).values() if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    assert by_position == names.split()


@pytest.mark.parametrize(("entry", "name"), EACH)
def test_the_type_of_each_option_is_found_by_tools(entry: str, name: str) -> None:
    function = PUBLIC[entry]
    assert name in get_type_hints(function.__init__ if inspect.isclass(function) else function)
    assert parameters(entry)[name].annotation not in {Any, inspect.Parameter.empty}


def test_the_help_of_the_decorator_describes_each_option() -> None:
    described = re.search(
        r"^Args:\n(.*?)^Raises:", inspect.getdoc(cached_job) or "", re.DOTALL | re.MULTILINE
    )
    assert described is not None
    names = re.findall(r"^(\w+): ", textwrap.dedent(described[1]), re.MULTILINE)
    assert sorted(names) == sorted(["function", *parameters("cached_job")])


def test_the_reference_has_each_option_once_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| ", REFERENCE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows if name in OPTIONS] == [name for name, _ in rows]
    assert sorted(rows) == sorted((name, shown(row.default)) for name, row in OPTIONS.items())


@pytest.mark.parametrize(("option", "default"), OTHER_DEFAULTS.items())
def test_the_reference_has_each_default_that_differs(option: tuple[str, str], default: object) -> None:
    entry, name = option
    _, _, text = REFERENCE.read_text().partition("Two of its defaults differ:")
    assert entry == "FutureCache"
    assert f"`{name}={default!r}`" in text.partition("\n\n")[0]


def shown(default: object) -> str:
    """A default as the reference writes it."""
    match default:
        case Enum():
            return f"{type(default).__name__}.{default.name}"
        case type():
            return default.__name__
    return repr(default)


def test_the_members_of_an_iterator_are_kept_for_each_function() -> None:
    decorate = cached_job(ignore=iter(["x"]))
    assert decorate(given).key(1) == decorate(given).key(2)
