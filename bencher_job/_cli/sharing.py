"""The commands `shared`, `push` and `pull`."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from .. import _options
from .._errors import BencherJobError
from .._text import counted, moment_text, seconds_text, size_text, visible
from .choosing import age, bytes_in
from .command import Command, Exit, Failed, Misused
from .output import Column, add_json, print_document, show_facts, show_table
from .places import FAILURES, add_place, failure_of, prompt_interrupts

if TYPE_CHECKING:
    from .._shared import Remote
    from .._shared.tier import SharedStore

__all__ = ["PULL", "PUSH", "SHARED"]

FETCHED_AT_ONCE: Final = 256


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
        entries: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        latest: dict[str, float] = {}
        for name in remote.names("e/"):
            function = name.address.split("/")[1]
            entries[function] += 1
            sizes[function] += name.size
            latest[function] = max(latest.get(function, 0.0), name.stored)
        running = remote.running()
        place = remote.place
    if arguments.json:
        functions = [
            {
                "function": name,
                "entries": entries[name],
                "size": sizes[name],
                "stored": _moment(latest[name]).isoformat(),
            }
            for name in sorted(entries)
        ]
        jobs = [{"key": key, "host": owner.host, "pid": owner.pid} for key, owner in sorted(running.items())]
        print_document("shared", place=place, latency=latency, functions=functions, running=jobs)
        return Exit.DONE
    facts = [
        ("answers in", seconds_text(latency)),
        ("entries", f"{entries.total():,}, {size_text(sizes.total())}"),
        ("running jobs", f"{len(running):,}"),
    ]
    show_facts(place, facts)
    if entries:
        columns = [
            Column("function", style="cyan", shrinks=True),
            Column("entries", "right"),
            Column("size", "right"),
            Column("last stored"),
        ]
        rows = [
            [visible(name), f"{entries[name]:,}", size_text(sizes[name]), moment_text(_moment(latest[name]))]
            for name in sorted(entries)
        ]
        show_table(columns, rows)
    return Exit.DONE


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


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
