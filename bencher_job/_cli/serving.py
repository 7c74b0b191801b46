"""The command `serve`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from .. import _options
from .command import Command, Exit
from .places import add_place, warn


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=0, help="the port to listen on (default: a free one)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on (default: 127.0.0.1, which only this machine reaches)",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the URL and open no browser")
    parser.add_argument(
        "--read-only", action="store_true", help="let nobody clear entries, so that the URL can be shared"
    )
    add_place(parser)


def _serve(arguments: Namespace) -> int:
    from .._page.serving import serve  # needs the extra `web`

    directory: Path = (
        _options.cache_directory(arguments.cache_dir)
        if arguments.cache_name is None
        else _options.store_directory(arguments.cache_name, arguments.cache_dir)
    )
    serve(
        directory,
        host=arguments.host,
        port=arguments.port,
        opens_browser=not arguments.no_browser,
        trusted=arguments.trusted,
        unpickles=arguments.trusted,
        read_only=arguments.read_only,
        say=lambda text: print(text, flush=True),
        warn=warn,
    )
    return Exit.DONE


SERVE: Final = Command(
    "serve",
    "show the cache in a browser, on this machine only, until Ctrl-C",
    _configure,
    _serve,
    ("bencher-job serve", "bencher-job serve --cache-dir results --port 8000 --no-browser"),
)
