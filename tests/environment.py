"""The environment of programs that tests start, and what runs in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import pytest

needs_scoop = pytest.mark.skipif(
    sys.version_info >= (3, 15), reason="SCOOP 0.7.2.0 calls load_module, which Python 3.15 has not"
)


def unmeasured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what lets coverage measure a program, and import modules into it before it begins."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
