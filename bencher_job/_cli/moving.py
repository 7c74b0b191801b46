"""The commands `export` and `import`."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Final, TextIO

from .. import _options
from .._stores import export, import_, open_existing, open_store, store_exists, stores_in
from .._text import counted, size_text
from .choosing import Chosen, add_filters, add_targets, look_for, report_none
from .command import Command, Exit, Failed, Misused
from .places import FAILURES, add_place, failure_of, one_store_of, prompt_interrupts

if TYPE_CHECKING:
    from .._stores import Store
    from .._stores.importing import Imported


PIPE: Final = "-"
"""The name of a file that means stdin or stdout."""


def _configure_export(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the archive to write, a tar file; - for stdout")
    add_targets(parser, what="of what the entries are written (default: of all)")
    add_filters(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_place(parser)


def _export(arguments: Namespace) -> int:
    if arguments.file == PIPE:
        if sys.stdout.isatty():
            raise Misused("a terminal can't show an archive. Give a file, or a pipe: export - | ssh HOST ...")
        with TemporaryDirectory() as folder:
            path = Path(folder, "archive.tar")
            status = _write(arguments, path, sys.stderr)
            if path.exists():
                with path.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
        return status
    if not arguments.overwrite and os.path.lexists(arguments.file):
        raise Failed(f"{arguments.file} is there already. Choose another name, or add --overwrite.")
    return _write(arguments, Path(arguments.file), sys.stdout)


def _write(arguments: Namespace, path: Path, told: TextIO) -> int:
    """Write the chosen entries to a file, and print to `told` what was written."""
    arguments.cache_dir, arguments.cache_name = one_store_of(arguments), None
    written: list[int] = []

    def write(chosen: Chosen) -> None:
        keys = None if chosen.is_everything else [record.key for record in chosen.records()]
        if keys or next(chosen.records(), None) is not None:
            written.append(
                export(chosen.store, path, chosen.selection, keys=keys, overwrite=arguments.overwrite)
            )

    status = look_for(arguments, write)
    if not written:
        report_none(arguments, told)
        return max(status, Exit.FOUND)
    to = "" if arguments.file == PIPE else f" to {arguments.file}"
    print(f"wrote {counted(written[0], 'entry')}{to}, {size_text(path.stat().st_size)}", file=told)
    return status


def _configure_import(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an archive that export has written; - for stdin")
    add_place(parser)


def _import(arguments: Namespace) -> int:
    if arguments.file == PIPE:
        if sys.stdin.isatty():
            raise Misused(
                "nothing comes through a pipe. Give a file, or a pipe: ssh HOST ... export - | ... import -"
            )
        with NamedTemporaryFile(suffix=".tar") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            try:
                imported = _read(arguments, file.name)
            except Failed as failure:
                raise Failed(
                    str(failure).replace(file.name, "what came through the pipe"), failure.code
                ) from failure
    else:
        imported = _read(arguments, arguments.file)
    print(imported)
    return Exit.FOUND if imported.damaged or imported.refused else Exit.DONE


def _read(arguments: Namespace, path: str) -> Imported:
    """Import an archive into the store that the options name."""
    directory = _target(arguments)
    try:
        with prompt_interrupts(), closing(_opened(arguments, directory)) as store:
            return import_(store, path, trusted=arguments.trusted)
    except BrokenPipeError:
        raise
    except FAILURES as error:
        raise failure_of(error, directory) from error


def _target(arguments: Namespace) -> Path:
    """Return the folder of the store to import into, which may not exist yet."""
    directory = _options.cache_directory(arguments.cache_dir)
    if arguments.cache_name is not None:
        return _options.store_directory(arguments.cache_name, arguments.cache_dir)
    if directory.is_dir() and stores_in(directory):
        return one_store_of(arguments)
    return directory / _options.StoreOptions.cache_name


def _opened(arguments: Namespace, directory: Path) -> Store:
    """Open the store, or make it. A new store has no size limit, so the import evicts nothing."""
    if store_exists(directory):
        return open_existing(directory, trusted=arguments.trusted, patience=arguments.wait)
    return open_store(directory, size_limit=sys.maxsize, trusted=arguments.trusted)


EXPORT: Final = Command(
    "export",
    "write entries to one file, with their media",
    _configure_export,
    _export,
    (
        "bencher-job export nightly.tar --tag nightly",
        "bencher-job export all.tar --cache-name fcache",
        "bencher-job export - | ssh cluster bencher-job import - --cache-dir study/cachedir",
    ),
)

IMPORT: Final = Command(
    "import",
    "take in the entries of an exported file; those that are here already stay as they are",
    _configure_import,
    _import,
    ("bencher-job import nightly.tar",),
)
