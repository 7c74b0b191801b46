"""The command `bencher-job`. Only `explain` and `adopt` import a function; the others work without its code."""

from __future__ import annotations

import sys
from typing import Final

from .command import Command
from .functions import ADOPT, EXPLAIN
from .listing import DU, LS, STATS
from .maintenance import CLEAR, GC, VERIFY
from .moving import EXPORT, IMPORT
from .parser import COMPLETION, run
from .serving import SERVE
from .sharing import PULL, PUSH, SHARED
from .show import SHOW
from .versions import VERSIONS

__all__ = ["COMMANDS", "main"]


COMMANDS: Final[tuple[Command, ...]] = (
    LS, SHOW, VERSIONS, STATS, DU, SERVE, EXPLAIN, CLEAR, GC, VERIFY, EXPORT, IMPORT, SHARED, PUSH, PULL, ADOPT,
    COMPLETION,
)  # fmt: skip
"""The commands, in the order of the help."""


def main() -> None:
    """Run `bencher-job` as a program.

    Raises:
        SystemExit: always.
    """
    sys.exit(run(COMMANDS))
