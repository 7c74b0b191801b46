"""The commands that import a function: `explain` and `adopt`."""

from __future__ import annotations

import ast
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import _options
from .._fields import replaced
from .._function_cache import JobFunctionCache
from .._keys import signature_of
from .._stores import NullStore, Store, store_exists
from .._text import counted, did_you_mean
from .choosing import cache_of
from .command import Command, Exit, Failed, Misused
from .output import add_json, changes_fields, print_document, record_fields, show_text
from .places import FAILURES, add_place, failure_of, opened

if TYPE_CHECKING:
    from .._explain import Explanation


def _add_function(parser: ArgumentParser) -> None:
    parser.add_argument(
        "function",
        metavar="MODULE:FUNCTION",
        help="a function that cached_job decorates; its module is imported, from the current folder first",
    )


def _configure_explain(parser: ArgumentParser) -> None:
    _add_function(parser)
    parser.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the call: a Python literal, or else a text; cfg.lr=0.1 sets a field of a default",
    )
    add_json(parser)
    add_place(parser)


def _explain(arguments: Namespace) -> int:
    cache = cache_of(arguments.function)
    args, kwargs = _call(cache, arguments.arg)
    with _elsewhere(arguments):
        directory = cache.directory
        looking = opened(arguments, directory) if store_exists(directory) else nullcontext(NullStore())
        with looking as store:
            explanation = _explained(cache, args, kwargs, store)
    if arguments.json:
        print_document("explain", **_fields(explanation, directory))
    else:
        show_text(explanation)
    return Exit.DONE if explanation.is_hit else Exit.FOUND


def _explained(
    cache: JobFunctionCache, args: tuple[Any, ...], kwargs: dict[str, Any], store: Store
) -> Explanation:
    try:
        with redirect_stdout(sys.stderr):  # for output of the modules that the function imports
            return cache.explain(args, kwargs, store)
    except TypeError as error:  # the arguments don't fit the function, or no key can be made of one
        raise Misused(str(error)) from error


def _fields(explanation: Explanation, directory: Path) -> dict[str, Any]:
    record = explanation.record
    known = {each.name: getattr(explanation, each.name) for each in fields(explanation)}
    return known | {
        "cache": directory.name,
        "directory": directory,
        "cause": explanation.cause.name.lower(),
        "hit": explanation.is_hit,
        "says": explanation.headline,
        "record": None if record is None else record_fields(record, directory),
        "arguments_changed": [
            {"name": change.name, "before": change.before, "now": change.now}
            for change in explanation.arguments_changed
        ],
        **changes_fields(explanation),
    }


@contextmanager
def _elsewhere(arguments: Namespace) -> Iterator[None]:
    """Override the function's cache directory with the option."""
    if arguments.cache_name is not None:
        raise Misused("the decorator says which cache a function has. Leave out --cache-name.")
    if arguments.cache_dir is None:
        yield
        return
    with _options.override_cache_directory(Path(arguments.cache_dir).expanduser()):
        yield


def _call(cache: JobFunctionCache, texts: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Parse `NAME=VALUE` texts into the arguments of a call, positional-only ones by position."""
    given: dict[str, Any] = {}
    in_configs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.partition(".")[0].isidentifier():
            raise Misused(f"--arg {text} is not an argument. Write NAME=VALUE, as in c=3.")
        if name in given or name in in_configs:
            raise Misused(f"--arg {name} is given twice. Give it once.")
        (in_configs if "." in name else given)[name] = _value(value)
    parameters = signature_of(cache.function).parameters
    for field, value in in_configs.items():
        name, *path = field.split(".")
        if name not in given and name in parameters:
            given[name] = parameters[name].default
        if given.get(name, Parameter.empty) is Parameter.empty:
            raise Misused(f"--arg {field} sets a field, and {name} has no default in {cache.name}")
        try:
            given[name] = replaced(given[name], path, value, name)
        except ValueError as error:
            raise Misused(str(error)) from None
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and (unknown := next((name for name in given if name not in parameters), None)):
        raise Misused(f"{cache.name} has no parameter {unknown}{did_you_mean(unknown, parameters)}")
    positional = [
        parameter.name
        for parameter in parameters.values()
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.name in given
    ]
    return tuple(given.pop(name) for name in positional), given


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _configure_adopt(parser: ArgumentParser) -> None:
    _add_function(parser)
    parser.add_argument(
        "--fingerprint",
        metavar="DIGITS",
        help="of which earlier code, as records show it (default: of the latest)",
    )
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be adopted, and do nothing"
    )
    add_place(parser)


def _adopt(arguments: Namespace) -> int:
    from .._explain import adopt  # slow to import

    cache = cache_of(arguments.function)
    with _elsewhere(arguments):
        directory = cache.directory
        if not store_exists(directory):
            raise Failed(f"{directory} holds no cache, so there is nothing to adopt.", Exit.MISSING)
        if arguments.dry_run:
            with opened(arguments, directory) as store:
                adopted = adopt(store, cache.keys.function_version, arguments.fingerprint, dry_run=True)
            print(f"would adopt {counted(adopted, 'entry')} of {cache.name}")
            return Exit.DONE if adopted else Exit.FOUND
        try:
            with closing(cache):
                adopted = cache.adopt(arguments.fingerprint)
        except FAILURES as error:
            raise failure_of(error, directory) from error
    print(f"adopted {counted(adopted, 'entry')} of {cache.name}")
    return Exit.DONE if adopted else Exit.FOUND


EXPLAIN: Final = Command(
    "explain",
    "say whether a call is remembered, or why it would run; it imports the function and runs nothing",
    _configure_explain,
    _explain,
    ("bencher-job explain study:score --arg model=svm --arg c=3",),
)

ADOPT: Final = Command(
    "adopt",
    "accept the results of a function's earlier code for its present code; it imports the function",
    _configure_adopt,
    _adopt,
    ("bencher-job adopt study:score --dry-run", "bencher-job adopt study:score"),
)
