"""Knows what came of a sweep: a row for each value, in the order of the grid, and a table of what failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, overload

from .. import _html
from .._record import short_form
from .._words import counted
from .grid import Grid

if TYPE_CHECKING:
    import pandas

__all__ = ["ABSENT", "Failures", "Rows", "SweepFailure"]

ROWS_SHOWN: Final = 10
"""How many rows of a table a notebook shows."""

ABSENT: Final = object()
"""Stands where there is no value (yet)."""


class Rows(Sequence[dict[str, Any]]):
    """The values of a sweep: each with the swept arguments, the number of the repeat, and the value under `result`.

    A row is made when it is asked for.
    """

    def __init__(self, grid: Grid, repeats: int, values: Sequence[Any]) -> None:
        self._grid = grid
        self._repeats = repeats
        self._values = values
        is_complete = not any(value is ABSENT for value in values)
        self._cells: Sequence[int] = (
            range(len(values))
            if is_complete
            else [cell for cell, value in enumerate(values) if value is not ABSENT]
        )

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._row(cell) for cell in self._cells[index]]
        return self._row(self._cells[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._row, self._cells)

    def _row(self, cell: int) -> dict[str, Any]:
        number, repeat = divmod(cell, self._repeats)
        return {**self._grid[number], "repeat": repeat, "result": self._values[cell]}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as that of a list

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'row')} of {', '.join([*self._grid.axes, 'repeat', 'result'])}>"

    def _repr_html_(self) -> str:
        shown = [[short_form(cell) for cell in row.values()] for row in self[:ROWS_SHOWN]]
        parts: list[object] = [_html.table([*self._grid.axes, "repeat", "result"], shown)]
        if len(self) > ROWS_SHOWN:
            parts.append(f"the first {ROWS_SHOWN} of {counted(len(self), 'row')}")
        return _html.joined(*parts)


@dataclass(frozen=True, slots=True)
class SweepFailure:
    """A job of a sweep that raised."""

    arguments: Mapping[str, Any]
    """Swept arguments and constants, by name."""
    repeat: int
    """Which of the repeats it was, from 0."""
    error: BaseException
    """What the function raised, or what befell its worker."""

    @property
    def exception(self) -> str:
        """What was raised, in a line."""
        return "".join(traceback.format_exception_only(self.error)).strip()

    @property
    def traceback(self) -> str:
        """Where it was raised, with the worker's part."""
        return "".join(traceback.format_exception(self.error))

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={short_form(value)!r}" for name, value in self.arguments.items())
        return f"{arguments}, repeat {self.repeat}: {self.exception}"


class Failures(list[SweepFailure]):
    """The jobs of a sweep that raised; `print` it for a line each, or show it in a notebook for a table."""

    def to_dataframe(self) -> pandas.DataFrame:
        """Give a table with the arguments, `repeat`, `exception` and `traceback` as columns.

        Raises:
            BencherJobError: when pandas, of the extra `table`, is not installed.
        """
        from .._views.table import rows_to_dataframe  # who asks has pandas, which takes long to import anyway

        return rows_to_dataframe(
            (
                {**failure.arguments, "repeat": failure.repeat},
                {"exception": failure.exception, "traceback": failure.traceback},
            )
            for failure in self
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no failures"

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'failure')}>"

    def _repr_html_(self) -> str:
        if not self:
            return _html.joined("no failures")
        names = list(dict.fromkeys(name for failure in self for name in failure.arguments))
        rows = [
            [
                *(short_form(failure.arguments.get(name)) for name in names),
                failure.repeat,
                _html.folded(failure.exception, failure.traceback),
            ]
            for failure in self[:ROWS_SHOWN]
        ]
        parts: list[object] = [_html.table([*names, "repeat", "exception"], rows)]
        if len(self) > ROWS_SHOWN:
            parts.append(f"the first {ROWS_SHOWN} of {counted(len(self), 'failure')}")
        return _html.joined(*parts)


SweepFailure.__module__ = "bencher_job"  # the package imports it when it is asked for
