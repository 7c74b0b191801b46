"""The version of this library, for packaging and records."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
