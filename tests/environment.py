"""The environment of programs that tests start."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """The environment without what lets coverage measure a program, and import modules into it before it begins."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
