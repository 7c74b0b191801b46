"""Knows how a cell goes to the browser: numbers that JavaScript can hold as they are, all else as text."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from starlette.responses import Response

__all__ = ["Answer", "to_browser"]

LARGEST_EXACT: Final = 2**53


def to_browser(cell: object) -> Any:
    """Give a cell as JSON can hold it: what is no exact number there becomes a text under the name `t`.

    >>> to_browser(0.5), to_browser(2**60), to_browser(float("nan"))
    (0.5, {'t': '1152921504606846976'}, {'t': 'nan'})
    """
    if isinstance(cell, bool | str) or cell is None:
        return cell
    if isinstance(cell, int):
        return cell if abs(cell) <= LARGEST_EXACT else {"t": str(cell)}
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else {"t": str(cell)}
    return {"t": str(cell)}


class Answer(Response):
    """JSON in ASCII, so that texts which are no Unicode pass as well."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write it."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
