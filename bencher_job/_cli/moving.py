"""The commands `export` and `import`."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import _options
from .._errors import UntrustedCache
from .._stores import export, import_, open_existing, open_store, store_exists, stores_in
from .._text import counted, size_text
from .choosing import Chosen, add_filters, add_targets, look_for
from .command import Command, Exit, Failed
from .places import FAILURES, add_place, failure_of, one_store_of, prompt_interrupts

if TYPE_CHECKING:
    from .._stores import Store

__all__ = ["EXPORT", "IMPORT"]


def _configure_export(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the archive to write, a tar file")
    add_targets(parser, what="of what the entries are written (default: of all)")
    add_filters(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_place(parser)


def _export(arguments: Namespace) -> int:
    if not arguments.overwrite and os.path.lexists(arguments.file):
        raise Failed(f"{arguments.file} is there already. Choose another name, or add --overwrite.")
    arguments.cache_dir, arguments.cache_name = one_store_of(arguments), None
    written: list[int] = []

    def write(chosen: Chosen) -> None:
        keys = None if chosen.is_everything else [record.key for record in chosen.records()]
        if keys or next(chosen.records(), None) is not None:
            written.append(
                export(
                    chosen.store, arguments.file, chosen.selection, keys=keys, overwrite=arguments.overwrite
                )
            )

    status = look_for(arguments, write)
    if not written:
        print("no entries")
        return max(status, Exit.FOUND)
    size = size_text(os.path.getsize(arguments.file))
    print(f"wrote {counted(written[0], 'entry', 'entries')} to {arguments.file}, {size}")
    return status


def _configure_import(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an archive that export has written")
    parser.add_argument(
        "--trust-file", action="store_true", help="read a file that another user owns or can write to"
    )
    add_place(parser)


def _import(arguments: Namespace) -> int:
    directory = _target(arguments)
    try:
        with prompt_interrupts():
            store = _opened(arguments, directory)
            try:
                imported = import_(store, arguments.file, trusted=arguments.trust_file)
            finally:
                store.close()
    except UntrustedCache as error:
        if error.path != arguments.file:
            raise
        raise Failed(
            f"{error.path} {error.reason}. Add --trust-file if you trust all who could have written to it: "
            "the next hit unpickles what it brings.",
            Exit.UNTRUSTED,
        ) from error
    except BrokenPipeError:
        raise
    except FAILURES as error:
        raise failure_of(error, directory) from error
    print(imported)
    return Exit.FOUND if imported.damaged or imported.refused else Exit.DONE


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
    ("bencher-job export nightly.tar --tag nightly", "bencher-job export all.tar --cache-name fcache"),
)

IMPORT: Final = Command(
    "import",
    "take in the entries of an exported file; those that are here already stay as they are",
    _configure_import,
    _import,
    ("bencher-job import nightly.tar",),
)
