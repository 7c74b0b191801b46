"""Sweep over a grid: look up all combinations, and run the missing ones."""

from __future__ import annotations

import itertools
import os
import sys
from array import array
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing
from inspect import Parameter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from .. import _text
from .._errors import BencherJobError
from .._fields import flat, replaced
from .._function_cache import JobFunctionCache
from .._future import JobFuture
from .._keys import Known
from .._keys.arguments import signature_of
from .._loops import await_in_thread, caller, is_coroutine_function, run_to_end, running_loop
from .._record import Plan, short_form
from .._text import counted
from .._views.progress import Progress, is_shown, progress_bar
from .bulk import Bulk, Call, answers, answers_in_loop
from .grid import ABSENT, Durations, Failures, Grid, Rows, SweepFailure

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes

    from .._views.plot import Kind


OnError = Literal["keep", "raise"]
SweepOrder = Literal["points", "repeats"]

KEYS_AT_ONCE: Final = 5000
"""Number of keys whose durations are read from the store together."""

VALUES_SHOWN: Final = 8
"""Maximum number of values of an argument that a notebook shows."""

RECORDS_ASKED: Final = 1000
"""Maximum number of records of earlier code from which a duration is estimated."""


class Sweep:
    """All combinations of a grid's values, each `repeats` times. Stored results are looked up, the rest runs.

    Iterate to get each job's future as it completes, or call `run()`. After a kill the same sweep runs only what is
    missing. The first repeat of a combination is the same job as a plain call; combinations that are the same job run
    once. Neither jobs nor keys are kept in memory, so a large grid takes little of it.

    Attributes:
        points: the combinations, as keyword arguments.
        repeats: how many times each combination runs.

    Raises:
        TypeError: when the grid or the constants don't fit the function.
        ValueError: when a parameter of the grid has no values, or repeats is below 1.
    """

    def __init__(
        self,
        cache: JobFunctionCache,
        bound: Sequence[Any],
        grid: Mapping[str, Iterable[Any]] | None,
        repeats: int,
        order: SweepOrder,
        constants: Mapping[str, Any],
    ) -> None:
        if grid is None:
            raise TypeError(
                f"A sweep needs a grid: the values of each swept parameter. Write sweep({_written(constants)})."
            )
        _check(grid, repeats, order, constants)
        self.points = Grid(grid, cache.keys.ignored)
        if empty := [name for name, values in self.points.axes.items() if not values]:
            raise ValueError(
                f"The grid has no values for {', '.join(empty)}. Give at least one value, or leave it out."
            )
        self.repeats = repeats
        self._repeats_last = order == "repeats"
        self._cache = cache
        self._bound = tuple(bound)
        self._constants = dict(constants)
        self._fields = {name: name.split(".") for name in self.points.axes if "." in name}
        self._values: list[Any] | None = None
        self._errors: dict[int, BaseException] = {}
        self._check_fields()
        first = self._call(0)
        cache.keys.binder.spell(*first.args, **first.kwargs)  # raise a TypeError now, not in run()

    def __len__(self) -> int:
        return len(self.points) * self.repeats

    def __repr__(self) -> str:
        return f"<Sweep of {self._cache.name}: {counted(len(self.points), 'point')}, {counted(self.repeats, 'repeat')}>"

    def _call(self, cell: int) -> Call:
        number, repeat = divmod(cell, self.repeats)
        return Call(cell, self._bound, self._arguments(self.points[number]), repeat)

    def _check_fields(self) -> None:
        """Find the config of each swept field, the default of a parameter if it is not given, and try all values.

        Raises:
            TypeError: when there is no config.
            ValueError: when it has no such field, or refuses a value.
        """
        known = signature_of(self._cache.function).parameters if self._fields else {}
        for name, (root, *path) in self._fields.items():
            if root not in self._constants and root not in self.points.axes:
                default = known[root].default if root in known else Parameter.empty
                if default is Parameter.empty:
                    raise TypeError(
                        f"grid[{name!r}] sweeps a field, and {root} is not given. Pass what it is a field of: "
                        f"sweep(grid, {root}=...)."
                    )
                self._constants[root] = default
            for config in self.points.axes.get(root) or [self._constants[root]]:
                for value in self.points.axes[name]:
                    replaced(config, path, value, root)

    def _arguments(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of a combination: its swept fields are those of a config."""
        arguments = {**self._constants, **point}
        for name, (root, *path) in self._fields.items():
            arguments[root] = replaced(arguments[root], path, arguments.pop(name), root)
        return arguments

    def _calls(self) -> Iterator[Call]:
        """Yield each repeat of each combination with its number, except duplicates of an earlier job."""
        points, repeats, has_twins = self.points, self.repeats, self.points.has_twins
        rounds = (
            [range(each, each + 1) for each in range(repeats)] if self._repeats_last else [range(repeats)]
        )
        for some in rounds:
            for number, point in enumerate(points):
                if has_twins and points.original(number) != number:
                    continue
                for repeat in some:
                    yield Call(number * repeats + repeat, self._bound, self._arguments(point), repeat)

    def _twins(self, cell: int) -> Iterable[int]:
        if not self.points.has_twins:
            return (cell,)
        number, repeat = divmod(cell, self.repeats)
        return [twin * self.repeats + repeat for twin in self.points.twins(number)]

    @property
    def results(self) -> Rows:
        """Rows of the results, each with the swept arguments, `repeat`, and the value as `result`.

        Of a sweep that has not run, these are the remembered ones, which are looked up now.

        Raises:
            UnkeyableArgument: when the sweep has not run, and no key can be made of an argument.
        """
        has_run = self._values is not None
        return Rows(self.points, self.repeats, self._known_values(), has_run=has_run)

    def _known_values(self) -> list[Any]:
        if self._values is not None:
            return self._values
        values = [ABSENT] * len(self)
        for cells, keys in self._keys() if self._cache.is_there() else ():
            found = self._cache.prefetch(keys)
            for cell, key in zip(cells, keys, strict=True):
                for twin in self._twins(cell):
                    values[twin] = found.get(key, ABSENT)
        return values

    @property
    def failures(self) -> Failures:
        """The jobs that raised, in the order of the grid."""
        return Failures(self._failure(cell) for cell in sorted(self._errors))

    def _failure(self, cell: int) -> SweepFailure:
        number, repeat = divmod(cell, self.repeats)
        return SweepFailure(self._arguments(self.points[number]), repeat, self._errors[cell])

    def plan(self) -> Plan:
        """Return how many jobs are stored, how many would run, and how long that may take. Nothing runs.

        The time is estimated from recorded ones: of other repeats and combinations of this grid, or else of this
        function with other arguments or earlier code.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
        """
        cache, store = self._cache, self._cache.cache
        durations, missing, hits = Durations(self.points), array("q"), 0
        for cells, keys in self._keys():
            found = cache.durations(keys)
            if len(found) < len(keys):
                absent = [key for key in keys if key not in found]
                if store.fetch(cache.name, absent):
                    found |= cache.durations(absent)
            for cell, key in zip(cells, keys, strict=True):
                seconds = found.get(key)
                if seconds is not None:
                    durations.add(cell // self.repeats, seconds)
                if seconds is None or cache.overwrite:
                    missing.append(cell // self.repeats)
                else:
                    hits += 1
        return Plan(hits, len(missing), self._expected(durations, missing), cache.workers)

    def _keys(self) -> Iterator[tuple[Sequence[int], Sequence[str]]]:
        """Yield the numbers and the keys of the calls, some at a time."""
        keys, calls = self._cache.keys, self._calls()
        while group := list(itertools.islice(calls, KEYS_AT_ONCE)):
            known: Known = {}
            yield (
                [call.number for call in group],
                [keys.identity(call.args, call.kwargs, known, None, call.repeat)[0] for call in group],
            )

    def _expected(self, durations: Durations, missing: Sequence[int]) -> float | None:
        """Estimate the total duration of some combinations in seconds."""
        if durations:
            return durations.total(missing)
        history, name = self._cache.cache.history, self._cache.name
        for version in history.versions(name):  # the latest first
            latest = history.of_version(name, prefix=version.prefix, limit=RECORDS_ASKED)
            recorded = [keyed.record.seconds for keyed in latest]
            if recorded:
                return len(missing) * sum(recorded) / len(recorded)
        return None

    def run(self, *, progress: bool | None = None, on_error: OnError = "keep") -> Sweep:
        """Run what is missing, fill `results` and `failures` in the order of the grid, and return the sweep.

        Coroutines run concurrently in an event loop of their own. Inside an event loop, await the sweep instead.
        After Ctrl-C the message of the `KeyboardInterrupt` says how many results are kept.

        Args:
            progress: whether to show the plan and a bar; by default in a terminal or a notebook.
            on_error: "keep" lists a job that raises in `failures` and continues; "raise" cancels the rest and raises.

        Raises:
            BencherJobError: when `progress=True` and the library that draws the bar is not installed; for a coroutine
                function in an event loop, which this would block.
        """
        _check_on_error(on_error)
        if self._runs_in_loop:
            self._refuse_in_loop()
        try:
            return self._run(progress, on_error)
        except KeyboardInterrupt:
            _print_no_traceback()
        raise KeyboardInterrupt(_Kept(f"{self._kept():,} of {len(self):,} kept; run again to go on"))

    def _run(self, progress: bool | None, on_error: OnError) -> Sweep:
        if self._runs_in_loop:
            return run_to_end(self.run_async(progress=progress, on_error=on_error))
        with (
            progress_bar(self._cache.name, len(self), show=progress, plan=self.plan) as bar,
            closing(self._answers()) as given,
        ):
            self._forget()
            for call in given:
                self._note(call, bar, on_error)
        return self

    async def run_async(self, *, progress: bool | None = None, on_error: OnError = "keep") -> Sweep:
        """Do what `run` does without blocking the event loop. Awaiting the sweep is the same with the defaults.

        Cancelling it cancels jobs that nothing else waits for. Results of jobs that are done are kept.
        """
        _check_on_error(on_error)
        plan = await await_in_thread(self.plan) if is_shown(progress) else None
        with progress_bar(self._cache.name, len(self), show=progress, plan=lambda: plan) as bar:
            async with aclosing(self._answers_in_loop()) as given:
                self._forget()
                async for call in given:
                    self._note(call, bar, on_error)
        return self

    def __await__(self) -> Generator[Any, None, Sweep]:
        return self.run_async().__await__()

    def _forget(self) -> None:
        self._values, self._errors = [ABSENT] * len(self), {}

    def _kept(self) -> int:
        """Count the cells whose results are in the store."""
        kept = 0
        for cells, keys in self._keys():
            found = self._cache.durations(keys)
            kept += sum(
                len([*self._twins(cell)]) for cell, key in zip(cells, keys, strict=True) if key in found
            )
        return kept

    def _note(self, call: Call, bar: Progress, on_error: OnError) -> None:
        error = call.error()
        for cell in self._twins(call.number):
            bar.advance(hit=call.is_hit, failed=error is not None)
            if error is None:
                self._values[cell] = call.value()  # type: ignore[index]  # it runs
                continue
            self._errors[cell] = error
            if on_error == "raise":
                raise error

    def __iter__(self) -> Iterator[JobFuture[Any]]:
        """Yield the future of each job as it completes. `results` and `failures` stay as they are.

        Raises:
            BencherJobError: for a coroutine function in an event loop, which this would block: use `async for`.
        """
        if self._runs_in_loop:
            self._refuse_in_loop()
        return self._futures()

    def _futures(self) -> Iterator[JobFuture[Any]]:
        with closing(self._answers()) as given:
            for call in given:
                for cell in self._twins(call.number):
                    yield self._future(cell, call)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table of the results: the swept arguments, `repeat`, and the fields of each result (or `result`).

        A field with the name of an argument is called `result.x`.

        Raises:
            BencherJobError: when pandas, of the extra `table`, is not installed.
        """
        from .._views.table import rows_to_dataframe  # slow to import

        rows = self.results
        return rows_to_dataframe(
            ({name: cell for name, cell in row.items() if name != "result"}, row["result"]) for row in rows
        )

    def to_xarray(self) -> xarray.Dataset:
        """Return the results as arrays whose dimensions are the swept arguments and `repeat`.

        Each field of the results is a variable (or `result`); the constants are attributes. A failed job is NaN, or
        None among objects that are neither numbers nor strings.

        Raises:
            BencherJobError: when xarray, of the extra `table`, is not installed.
        """
        from .._views.table import to_dataset  # as above

        cells = (
            ((*self.points.place(cell // self.repeats), cell % self.repeats), value)
            for cell, value in enumerate(self._known_values())
            if value is not ABSENT
        )
        return to_dataset(self.points.axes, self.repeats, cells, self._constants)

    def plot(
        self,
        *,
        x: str | None = None,
        y: str | None = None,
        by: str | None = None,
        kind: Kind | None = None,
        labels: Mapping[str, str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the results and return the matplotlib axes.

        The defaults depend on the swept arguments: a heat map for two numeric ones, a line for one along x with a band
        over whatever else varies, bars otherwise.

        Args:
            x: the swept argument along x.
            y: the field of the results; by default the first that is a number.
            by: the swept argument shown by colour, or along y in a heat map.
            kind: "line", "bar", "heatmap" or "scatter".
            labels: labels of arguments and fields, as in `{"seconds": "time, s"}`.
            ax: axes to draw into; by default those of a new figure.

        Raises:
            BencherJobError: when matplotlib, of the extra `plot`, is not installed.
            ValueError: when there is nothing to draw, or a name or kind is unknown.
        """
        from .._views.plot import draw, new_figure, picture_of  # slow to import

        axes, rows = _by_fields(self.points.axes, self.results)
        picture = picture_of(axes, rows, x=x, y=y, by=by, kind=kind)
        return draw(
            picture, new_figure(shown=True).subplots() if ax is None else ax, self._title, labels or {}
        )

    def save(self, path: str | os.PathLike[str], *, dpi: float = 150, **chosen: Any) -> None:
        """Draw the results into a file, with the options of `plot`. The file's extension sets the format.

        Raises:
            BencherJobError: when matplotlib, of the extra `plot`, is not installed.
            ValueError: when there is nothing to draw, or a name or kind is unknown.
        """
        from .._views.plot import new_figure  # as above

        figure = new_figure(shown=False)
        self.plot(ax=figure.subplots(), **chosen)
        figure.savefig(path, dpi=dpi)

    @property
    def _title(self) -> str:
        return self._cache.name.rpartition(".")[2]

    def _repr_html_(self) -> str:
        axes = [
            (name, len(values), ", ".join(str(short_form(value)) for value in values[:VALUES_SHOWN]))
            for name, values in self.points.axes.items()
        ]
        size = f"{counted(len(self.points), 'point')}, {counted(self.repeats, 'repeat')}"
        parts: list[object] = [_text.bold(f"Sweep of {self._cache.name}: {size}")]
        if self._values is None:
            shown = [[name, size, text + (", …" if size > VALUES_SHOWN else "")] for name, size, text in axes]
            parts.append(_text.table(["argument", "values", ""], shown))
        else:
            parts.append(_text.Markup(self.results._repr_html_()))
            if self._errors:
                parts.append(_text.Markup(self.failures._repr_html_()))
        return _text.joined(*parts)

    async def __aiter__(self) -> AsyncIterator[JobFuture[Any]]:
        """Yield the future of each job as it completes, without blocking the event loop."""
        async with aclosing(self._answers_in_loop()) as given:
            async for call in given:
                for cell in self._twins(call.number):
                    yield self._future(cell, call)

    @property
    def _runs_in_loop(self) -> bool:
        """Whether the jobs are coroutines that run in the caller's event loop."""
        return is_coroutine_function(self._cache.function) and self._cache.runs_in_line

    def _refuse_in_loop(self) -> None:
        if running_loop() is not None:
            raise BencherJobError(
                f"{self!r} is of a coroutine function, and running it here would block the event loop. Write "
                f"`await sweep`, `await sweep.run_async(...)` or `async for future in sweep`."
            )

    def _future(self, cell: int, call: Call) -> JobFuture[Any]:
        if call.future is not None:
            return call.future
        value = call.value()
        own = self._call(cell)
        return JobFuture(self._cache.job(own.args, own.kwargs, call.identity, own.repeat), value)

    def _answers(self) -> Generator[Call, None, None]:
        return answers(Bulk(self._cache, ordered=False), self._calls())

    def _answers_in_loop(self) -> AsyncGenerator[Call, None]:
        return answers_in_loop(Bulk(self._cache, ordered=False, asker=caller()), self._calls())


class _Kept(str):
    """The message of an interrupt that says how much of a sweep is kept."""


def _print_no_traceback() -> None:
    """Print only the message, and no traceback, if an interrupted sweep ends the program."""
    before = sys.excepthook
    if before.__name__ == "print_message":
        return

    def print_message(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error.args and type(error.args[0]) is _Kept:
            print(error, file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = print_message


def _check_on_error(on_error: str) -> None:
    if on_error not in {"keep", "raise"}:
        raise ValueError(f"on_error={on_error!r} is unknown. Use 'keep' or 'raise'.")


def _by_fields(
    axes: Mapping[str, Sequence[Any]], rows: Iterable[dict[str, Any]]
) -> tuple[Mapping[str, Sequence[Any]], Iterable[dict[str, Any]]]:
    """Replace the configs among the values of a grid by their fields, in axes and rows."""
    found: dict[str, dict[str, Any]] = {}
    for name, values in axes.items():
        for value in values:
            for each, part in flat({name: value}).items():
                found.setdefault(each, {})[repr(part)] = part
    if found.keys() == axes.keys():
        return axes, rows
    rows = ({**flat({**row, "result": None}), "result": row["result"]} for row in rows)
    rows = ({**dict.fromkeys(found), **row} for row in rows)
    return {name: list(parts.values()) for name, parts in found.items()}, rows


def _written(arguments: Mapping[str, Any]) -> str:
    """Write a sweep over those of some arguments that are lists of values."""
    lists = {name: values for name, values in arguments.items() if isinstance(values, list | tuple | range)}
    swept = ", ".join(f"{name!r}: {short_form(values)}" for name, values in (lists or {"x": [1, 2]}).items())
    others = [f"{name}={short_form(arguments[name])!r}" for name in arguments if name not in lists]
    return ", ".join([f"{{{swept}}}", *others])


def _check(grid: Mapping[str, Iterable[Any]], repeats: int, order: str, constants: Mapping[str, Any]) -> None:
    if not (hasattr(grid, "keys") and hasattr(grid, "items")):
        raise TypeError(f"grid must be a mapping of parameters to values, not {type(grid).__name__}")
    if not isinstance(repeats, int):
        raise TypeError(f"repeats must be an int, not {type(repeats).__name__}")
    for name, values in grid.items():
        if not isinstance(name, str):
            raise TypeError(f"grid must have str keys, not {type(name).__name__}")
        if isinstance(values, str | bytes):
            raise TypeError(
                f"grid[{name!r}] must be a list of values, not {type(values).__name__}. "
                f"Write [{short_form(values)!r}], or pass it as a constant: sweep(grid, {name}=...)."
            )
        try:
            iter(values)
        except TypeError:
            raise TypeError(
                f"grid[{name!r}] must be an iterable, not {type(values).__name__}. Pass a single value as a constant: "
                f"sweep(grid, {name}=...)."
            ) from None
    if repeats < 1:
        raise ValueError(f"repeats={repeats} would run nothing. Give 1 or more.")
    if order not in {"points", "repeats"}:
        raise ValueError(f"order={order!r} is unknown. Use 'points' or 'repeats'.")
    if twice := sorted(grid.keys() & constants.keys()):
        raise TypeError(f"{', '.join(twice)} is both in the grid and among the constants. Give it once.")
    if taken := sorted(grid.keys() & {"repeat", "result"}):
        raise ValueError(
            f"A parameter called {taken[0]} can't be swept, because every sweep has a column of that name. Rename it."
        )


Sweep.__module__ = "bencher_job"  # the package imports it on first use
