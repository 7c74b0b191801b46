"""Knows the JSON documents of `--json`: one a command, of fields that docs/reference/cli.md names."""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..._info import FunctionInfo
from ..._record import Record

__all__ = ["DOCUMENT_VERSION", "add_json", "function_fields", "plain", "print_document", "record_fields"]

DOCUMENT_VERSION: Final = 1
"""Grows when a field goes or changes its meaning, and not when one is added."""


def add_json(parser: ArgumentParser) -> None:
    """Add the option that asks for a document."""
    parser.add_argument("--json", action="store_true", help="print one JSON document, for machines")


def print_document(command: str, **body: Any) -> None:
    """Print the document of a command."""
    document = {"command": command, "version": DOCUMENT_VERSION} | body
    # Python writes an indented document twenty times as slowly, and who pipes it on reads none.
    print(json.dumps(plain(document), allow_nan=False, indent=2 if sys.stdout.isatty() else None))


def plain(value: Any) -> Any:
    """Give what JSON can hold of a value: times in UTC as ISO 8601, numbers that are none as `"NaN"`, paths as text.

    >>> plain({"c": float("inf"), "path": Path("a")})
    {'c': 'Infinity', 'path': 'a'}
    """
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Path():
            return str(value)
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def function_fields(function: FunctionInfo, cache: Path) -> dict[str, Any]:
    """Give the fields of a function, and of the store that it is in."""
    return {"cache": cache.name} | {each.name: getattr(function, each.name) for each in fields(function)}


def record_fields(record: Record, cache: Path) -> dict[str, Any]:
    """Give the fields of a record, and of the store that it is in."""
    return {"cache": cache.name} | {each.name: getattr(record, each.name) for each in fields(record)}
