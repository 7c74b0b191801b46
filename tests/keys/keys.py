"""Keys as users see them: of a value that is an argument, and of a function with the code that it reaches."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from bencher_job import Explanation, cached_job


@cached_job
def argument(value: Any) -> Any:
    return value


@cached_job
def arguments(other: Any, cfg: Any) -> Any:
    return other, cfg


def key_of(value: object) -> str:
    """Return the key of a call with this value as its argument `value`."""
    return argument.key(value)


def tracked(function: Callable[..., Any], **options: Any) -> Callable[[], str]:
    """Return a function that makes the key of a call of `function`, as its code is then."""
    cached = cached_job(**options)(function)
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    return lambda: cached.key(*[[]] * len(required))


def code_key(function: Callable[..., Any], **options: Any) -> str:
    """Return the key of a call of `function`, whose required arguments are always the same."""
    return tracked(function, **options)()


def study() -> int:
    return 1


def explained(function: Any, earlier: Any = None, **options: Any) -> Explanation:
    """Explain how the code that a job reaches through `function` differs from an earlier one, if any."""
    cached_job(**options, depends_on=[earlier] if earlier else [])(study)()
    return cached_job(**options, depends_on=[function])(study).explain()


def parts_of(function: Any, **options: Any) -> set[str]:
    """Return the names of the functions, classes, globals and libraries that count with `function`."""
    explanation = explained(function, **options)
    changed = {change.name for change in explanation.code_changed}
    return changed | {name for name, _, _ in explanation.distributions_changed}


def calls_of(function: Callable[[], object]) -> int:
    """Count the Python functions that a call runs through."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def in_a_fork(check: Callable[[], object]) -> None:
    """Run a check in a forked child, which may change classes and register hashers for good."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "see the traceback in the captured output"
