"""Knows the commands of `bencher-job`, and begins each.

Those that look after a cache are of `_views.cli` and know no function. Those that import a function know how it is
decorated, which no view may.
"""

from __future__ import annotations

import sys
from typing import Final

from .._views.cli.checking import VERIFY
from .._views.cli.clearing import CLEAR, GC
from .._views.cli.command import Command
from .._views.cli.completion import COMPLETION
from .._views.cli.listing import DU, LS, STATS
from .._views.cli.moving import EXPORT, IMPORT
from .._views.cli.running import run
from .._views.cli.serving import SERVE
from .._views.cli.showing import SHOW
from .functions import ADOPT, EXPLAIN

__all__ = ["COMMANDS", "main"]

COMMANDS: Final[tuple[Command, ...]] = (
    LS, SHOW, STATS, DU, SERVE, EXPLAIN, CLEAR, GC, VERIFY, EXPORT, IMPORT, ADOPT, COMPLETION,
)  # fmt: skip
"""In the order in which the help lists them."""


def main() -> None:
    """Run `bencher-job` as a program.

    Raises:
        SystemExit: always.
    """
    sys.exit(run(COMMANDS))
