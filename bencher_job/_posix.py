"""Refuse to be imported on Windows, with the remedy, before a module that Windows lacks is imported."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError(
        "bencher_job needs the locks and processes of a POSIX system, which Windows lacks: run it in WSL, the Linux "
        "inside Windows (https://learn.microsoft.com/windows/wsl/install)."
    )
