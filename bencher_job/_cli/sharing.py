"""The commands `shared`, `push` and `pull`."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .. import _options
from .._errors import BencherJobError
from .._record import FunctionInfo
from .._text import counted, moment_text, seconds_text, size_text, visible
from .choosing import age, bytes_in
from .command import Command, Exit, Failed, Misused
from .output import Column, add_json, print_document, show_facts, show_table
from .places import FAILURES, add_place, cache_directory, failure_of, prompt_interrupts

if TYPE_CHECKING:
    from .._shared import Name, Remote
    from .._shared.tier import SharedStore


def _add_shared(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--shared",
        metavar="PLACE",
        help="the shared store: a folder or a URL (default: $BENCHER_JOB_SHARED, or the cache's folder on a network "
        "file system)",
    )


def _place(arguments: Namespace) -> str:
    name = arguments.cache_name or _options.StoreOptions.cache_name
    given = arguments.shared or getattr(arguments, "place", None)
    place = _options.shared_place(name, arguments.cache_dir, given)
    if place is None:
        raise Misused("there is no shared store. Name one with --shared, or set BENCHER_JOB_SHARED.")
    return place


@contextmanager
def _remote(arguments: Namespace) -> Iterator[Remote]:
    """Connect to the shared store alone."""
    from .._shared import open_remote, shared_signature

    place = _place(arguments)
    try:
        with (
            prompt_interrupts(),
            closing(open_remote(place, mark=shared_signature(place).shared_mark)) as remote,
        ):
            yield remote
    except BrokenPipeError:
        raise
    except BencherJobError as error:
        raise Failed(str(error)) from error


@contextmanager
def _opened(arguments: Namespace) -> Iterator[SharedStore]:
    """Open the local store, made if it isn't there, with the shared store behind it."""
    from .._shared import open_shared

    place = _place(arguments)
    name = arguments.cache_name or _options.StoreOptions.cache_name
    directory = _options.store_directory(name, arguments.cache_dir)
    try:
        with (
            prompt_interrupts(),
            closing(
                open_shared(
                    place, directory, size_limit=_options.StoreOptions.size_limit, trusted=arguments.trusted
                )
            ) as store,
        ):
            yield store.behind  # type: ignore[misc]
    except BrokenPipeError:
        raise
    except FAILURES as error:
        raise failure_of(error, directory) from error


def _configure_shared(parser: ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "init", "gc"),
        default="show",
        help="show how it is (the default); init: make the tables of a database, or the first file of a folder or "
        "bucket; gc: remove old entries",
    )
    parser.add_argument("place", nargs="?", metavar="PLACE", help="the shared store, as after --shared")
    parser.add_argument(
        "--older-than", type=age, metavar="AGE", help="gc: entries stored before that, as in 90d"
    )
    parser.add_argument(
        "--max-size", type=bytes_in, metavar="SIZE", help="gc: the oldest beyond that, as in 100GB"
    )
    parser.add_argument("--dry-run", action="store_true", help="gc: only say what would be removed")
    _add_shared(parser)
    add_json(parser)
    add_place(parser)


def _shared(arguments: Namespace) -> int:
    if arguments.action == "init":
        return _init(arguments)
    return _remove_old(arguments) if arguments.action == "gc" else _show(arguments)


def _init(arguments: Namespace) -> int:
    from .._shared import init_remote, shared_signature

    place = _place(arguments)
    try:
        with prompt_interrupts():
            init_remote(place, mark=shared_signature(place).shared_mark)
    except BencherJobError as error:
        raise Failed(str(error)) from error
    print(f"{place} is ready")
    return Exit.DONE


def _show(arguments: Namespace) -> int:
    with _remote(arguments) as remote:
        begin = time.monotonic()
        remote.changes()
        latency = time.monotonic() - begin
        functions = _functions_of(remote)
        running = _jobs_of(remote)
        place = remote.place
    if arguments.json:
        told = [{"function": name, **figures._asdict()} for name, figures in functions.items()]
        print_document("shared", place=place, latency=latency, functions=told, running=running)
        return Exit.DONE
    facts = [
        ("answers in", seconds_text(latency)),
        ("holds", _total(functions)),
        ("running jobs", f"{len(running):,}"),
    ]
    show_facts(place, facts)
    _show_functions(functions)
    return Exit.DONE


class _FunctionTotals(NamedTuple):
    """What is known of a function in a shared store."""

    entries: int
    size: int
    stored: datetime


def _functions_of(remote: Remote) -> dict[str, _FunctionTotals]:
    """Return the figures of all functions, sorted by name."""
    from .._shared import function_of

    found: dict[str, list[Name]] = {}
    for name in remote.names("e/"):
        found.setdefault(function_of(name.address.split("/")[1]), []).append(name)
    return {
        function: _FunctionTotals(
            len(names),
            sum(name.size for name in names),
            datetime.fromtimestamp(max(name.stored for name in names), UTC),
        )
        for function, names in sorted(found.items())
    }


def _jobs_of(remote: Remote) -> list[dict[str, Any]]:
    return [
        {"key": key, "host": owner.host, "pid": owner.pid} for key, owner in sorted(remote.running().items())
    ]


def _total(functions: Mapping[str, _FunctionTotals]) -> str:
    entries = sum(each.entries for each in functions.values())
    size = sum(each.size for each in functions.values())
    return f"{counted(entries, 'entry')}, {size_text(size)}"


def _show_functions(functions: Mapping[str, _FunctionTotals]) -> None:
    columns = [
        Column("function", style="cyan", shrinks=True),
        Column("entries", "right"),
        Column("size", "right"),
        Column("last stored"),
    ]
    if functions:
        rows = [
            [visible(name), f"{each.entries:,}", size_text(each.size), moment_text(each.stored)]
            for name, each in functions.items()
        ]
        show_table(columns, rows)


_ORDERS: Final[dict[str, Callable[[_FunctionTotals], float]]] = {
    "name": lambda _: 0,
    "entries": lambda each: -each.entries,
    "size": lambda each: -each.size,
    "used": lambda each: -each.stored.timestamp(),
}


def list_shared(arguments: Namespace) -> int:
    """List the functions of a shared store, for `ls --shared`. It counts no hits, and its entries are not read."""
    if arguments.sort not in _ORDERS:
        raise Misused(f"a shared store doesn't count {arguments.sort}. Sort by one of {', '.join(_ORDERS)}.")
    with _remote(arguments) as remote:
        found, place, running = _functions_of(remote), remote.place, _jobs_of(remote)
    functions = dict(sorted(found.items(), key=lambda pair: _ORDERS[arguments.sort](pair[1])))
    if arguments.json:
        told = [
            dict.fromkeys(field.name for field in fields(FunctionInfo))
            | {
                "cache": place,
                "name": name,
                "entries": each.entries,
                "size": each.size,
                "last_used": each.stored,
            }
            for name, each in functions.items()
        ]
        print_document("ls", cache_dir=cache_directory(arguments), functions=told, running=running)
        return Exit.DONE
    _show_functions(functions)
    print(f"{counted(len(functions), 'function')}, {_total(functions)}" if functions else "no entries")
    return Exit.DONE


def _remove_old(arguments: Namespace) -> int:
    if arguments.older_than is None and arguments.max_size is None:
        raise Misused("shared gc needs to know what to remove: --older-than, --max-size, or both")
    with _remote(arguments) as remote:
        names = sorted(remote.names("e/"), key=lambda name: name.stored)
        size = sum(name.size for name in names)
        first = 0.0 if arguments.older_than is None else time.time() - arguments.older_than.total_seconds()
        chosen = []
        for name in names:
            if name.stored < first or (arguments.max_size is not None and size > arguments.max_size):
                chosen.append(name)
                size -= name.size
        total = f"{counted(len(chosen), 'entry')} of {size_text(sum(name.size for name in chosen))}"
        if arguments.dry_run:
            print(f"would remove {total}")
            return Exit.DONE
        remote.remove([name.address for name in chosen])
        remote.tidy(7 * 86_400)
    print(f"removed {total}")
    return Exit.DONE


def _configure_push(parser: ArgumentParser) -> None:
    _add_shared(parser)
    add_place(parser)


def _push(arguments: Namespace) -> int:
    with _opened(arguments) as store:
        pushed = store.push_all()
        left, problem = store.shared.outbox, store.shared.problem
    if left:
        raise Failed(f"{counted(left, 'entry')} could not be pushed: {problem}")
    print(f"pushed {counted(pushed, 'entry')}")
    return Exit.DONE


def _configure_pull(parser: ArgumentParser) -> None:
    parser.add_argument(
        "functions",
        nargs="*",
        metavar="FUNCTION",
        help="of which functions, by name as `shared` shows it (default: all)",
    )
    parser.add_argument("--tag", help="only entries with this tag")
    _add_shared(parser)
    add_place(parser)


def _pull(arguments: Namespace) -> int:
    from .._shared import function_folder

    folders = [f"e/{function_folder(name)}/" for name in arguments.functions] or ["e/"]
    with _opened(arguments) as store:
        pulled = sum(store.pull(folder, tag=arguments.tag) for folder in folders)
        problem = store.shared.problem
    if problem:
        raise Failed(f"the shared store can't be reached: {problem}")
    print(f"pulled {counted(pulled, 'entry')}")
    return Exit.DONE


def _command(name: str, summary: str, configure: Any, run: Any, *examples: str) -> Command:
    return Command(name, summary, configure, run, examples)


SHARED: Final = _command(
    "shared",
    "show the shared store, prepare it, or remove old entries from it",
    _configure_shared,
    _shared,
    "bencher-job shared show /mnt/team/cache",
    "bencher-job shared init postgresql://cache.lan/results",
    "bencher-job shared gc --older-than 90d --max-size 100GB",
)

PUSH: Final = _command(
    "push",
    "push all results of this machine that the shared store hasn't got",
    _configure_push,
    _push,
    "bencher-job push --shared s3://bucket/results",
)

PULL: Final = _command(
    "pull",
    "fetch entries of the shared store, so that commands, tables and the page show them",
    _configure_pull,
    _pull,
    "bencher-job pull study.score --shared /mnt/team/cache",
)
