"""Knows what the cells of a column must be, and by which column rows are sorted: for SQL and for values alike."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["Condition", "Operator", "Order", "escaped"]

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "has"]

_COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What the cells of a column must be. A number is compared with numbers, a text with texts; `has` finds a part."""

    operator: Operator
    value: str | float | None

    def sql(self, column: str) -> tuple[str, tuple[object, ...]]:
        """Give an expression on a column, and its values."""
        if self.value is None:
            return f"{column} IS {'NOT ' if self.operator == '!=' else ''}NULL", ()
        if self.operator == "has":
            return f"CAST({column} AS TEXT) LIKE ? ESCAPE '\\'", (f"%{escaped(str(self.value))}%",)
        if self.operator == "!=":
            return f"({column} IS NULL OR {column} != ?)", (self.value,)
        kind = (
            f"typeof({column}) = 'text'"
            if isinstance(self.value, str)
            else f"typeof({column}) IN ('integer', 'real')"
        )
        return f"({kind} AND {column} {self.operator} ?)", (self.value,)

    def holds(self, cell: object) -> bool:
        """Whether a cell is so, by the rules of `sql`."""
        is_not = self.operator == "!="
        if self.value is None or cell is None:
            return (self.value is cell) != is_not if self.value is None else is_not
        if self.operator == "has":
            return str(self.value).lower() in str(cell).lower()
        if isinstance(cell, str) != isinstance(self.value, str):
            return is_not
        return bool(_COMPARISONS[self.operator](cell, self.value))


@dataclass(frozen=True, slots=True)
class Order:
    """By which column rows are sorted; rows without the cell come last."""

    column: str = "created"
    is_descending: bool = True


def escaped(text: str) -> str:
    """Write a text so that LIKE takes each character of it for itself."""
    return text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
