"""The environment of programs that tests start."""

from __future__ import annotations

import os
from collections.abc import Mapping


def unmeasured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what lets coverage measure a program, and import modules into it before it begins."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
