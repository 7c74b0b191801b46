"""Convert entries to a pandas DataFrame, and sweeps to an xarray Dataset.

Record ──> arguments ──────────┐
value ───> fields of a result ─┼─> columns of equal length ──> pandas.DataFrame
Record ──> its other fields ───┘
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from .._errors import BencherJobError
from .._fields import flat, of_configs
from .._record import Record, short_form, shown_arguments
from .._stores import MISS

if TYPE_CHECKING:
    import pandas
    import xarray


VALUES_AT_ONCE: Final = 1000
"""Number of values that are looked up together."""

_RECORD_COLUMNS: Final = {
    "function": None,
    "tag": None,
    "created": "datetime64[us, UTC]",
    "seconds": "float64",
    "size": "int64",
    "executor": None,
    "host": None,
    "platform": None,
    "python": None,
    "commit": None,
    "dirty": "boolean",
    "version": None,
    "fingerprint": None,
    "key": None,
}
"""Fields of a record that become columns, with their dtypes; None stands for pandas' dtype for strings."""

_OF_NO_KIND: Final = frozenset({"bytes", "categorical", "empty", "mixed", "mixed-integer", "unknown-array"})
_WITH_GAPS: Final = {"integer": "Int64", "boolean": "boolean"}

_known_of: Final = attrgetter(*_RECORD_COLUMNS)

Values = Callable[[Sequence[str]], Mapping[str, object]]
"""Looks up values by the keys of their entries, and leaves out those that it doesn't find."""


def to_dataframe(records: Iterable[Record], values_of: Values | None = None) -> pandas.DataFrame:
    """Make a table of entries, with their values if `values_of` looks them up.

    The columns are, in this order: the arguments as records show them; the fields of the results, which are the items
    of a dict with str keys, the fields of a dataclass or a named tuple, or else `result`; fields of configs that are
    the same in all rows; and the fields of the record: function, tag, created, seconds, size, executor, host, platform,
    python, commit, dirty, version, fingerprint and key.

    A name that is taken gets a prefix: a result's field with the name of an argument is `result.x`, and a record's
    with either name is `job.x`. Integers stay integers, as `Int64` in a column with gaps. A cell that is neither a
    number, a str nor a time, such as an array, holds the object itself.

    Raises:
        BencherJobError: when pandas is not installed.

    >>> from datetime import UTC, datetime
    >>> record = Record(key="k1", function="study.score", created=datetime.now(UTC), arguments={"c": 0.1})
    >>> table = to_dataframe([record], lambda keys: {"k1": {"accuracy": 0.9, "size": 20}})
    >>> table[["c", "accuracy", "size", "function", "job.size"]]
         c  accuracy  size     function  job.size
    0  0.1       0.9    20  study.score         0
    """
    arguments, results = _Columns(), _Columns()
    known: list[tuple[Any, ...]] = []
    for record, value in _with_values(records, values_of):
        arguments.add(len(known), record.arguments)
        results.add(len(known), result_fields(value))
        known.append(_known_of(record))
    rows = len(known)
    columns = _named(rows, arguments, results)
    cells = zip(*known, strict=True) if known else ((),) * len(_RECORD_COLUMNS)
    for (name, kind), column in zip(_RECORD_COLUMNS.items(), cells, strict=True):
        columns[_free(name, "job.", columns)] = list(column), kind
    return _frame(columns, rows)


def rows_to_dataframe(rows: Iterable[tuple[Mapping[str, Any], object]]) -> pandas.DataFrame:
    """Make a table of arguments and results, by the rules of `to_dataframe`.

    Raises:
        BencherJobError: when pandas is not installed.

    >>> rows_to_dataframe([({"c": 1}, {"accuracy": 0.5}), ({"c": 2}, {"accuracy": 0.75})])
       c  accuracy
    0  1      0.50
    1  2      0.75
    """
    arguments, results = _Columns(), _Columns()
    count = 0
    for given, value in rows:
        arguments.add(count, flat(given))
        results.add(count, result_fields(value))
        count += 1
    return _frame(_named(count, arguments, results), count)


def _with_values(records: Iterable[Record], values_of: Values | None) -> Iterator[tuple[Record, object]]:
    """Pair records with their values, looked up in groups, since all of them may not fit in memory twice."""
    if values_of is None:
        yield from ((record, MISS) for record in records)
        return
    remaining = iter(records)
    while group := list(itertools.islice(remaining, VALUES_AT_ONCE)):
        values = values_of([record.key for record in group])
        yield from ((record, values.get(record.key, MISS)) for record in group)


def result_fields(value: object) -> Mapping[str, object]:
    """Return the parts of a result by name. A result without names is one part; a missing one has none.

    A tensor without dimensions becomes the number in it.
    """
    parts = _parts(value)
    numbers = {name: part.item() for name, part in parts.items() if _is_scalar_tensor(part)}  # type: ignore[attr-defined]
    return {**parts, **numbers} if numbers else parts


def _is_scalar_tensor(part: object) -> bool:
    """Whether a value is a tensor without dimensions, of torch or jax; numpy's scalars are numbers already."""
    return (
        getattr(part, "shape", None) == ()
        and hasattr(part, "item")
        and type(part).__module__.partition(".")[0] != "numpy"
    )


def _parts(value: object) -> Mapping[str, object]:
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in parts if hasattr(value, name)}
    if isinstance(value, tuple) and isinstance(names := getattr(value, "_fields", None), tuple):
        return dict(zip(names, value, strict=False))
    return {} if value is MISS else {"result": value}


class _Columns:
    """Cells by the names of their columns, in order of first occurrence. A gap is None."""

    def __init__(self) -> None:
        self.cells: dict[str, list[Any]] = {}

    def add(self, row: int, named: Mapping[str, Any]) -> None:
        """Add the cells of a row. Rows come in ascending order."""
        for name, cell in named.items():
            cells = self.cells.get(name)
            if cells is None:
                cells = self.cells[name] = []
            if len(cells) < row:
                cells.extend(itertools.repeat(None, row - len(cells)))
            cells.append(cell)

    def filled(self, rows: int) -> Iterator[tuple[str, list[Any]]]:
        """Yield all columns at their full length."""
        for name, cells in self.cells.items():
            cells.extend(itertools.repeat(None, rows - len(cells)))
            yield name, cells


_Named = dict[str, tuple[list[Any], str | None]]


def _named(rows: int, arguments: _Columns, results: _Columns) -> _Named:
    """Name the columns. Fields of configs that are the same in all rows come after the results."""
    given = dict(arguments.filled(rows))
    constants = [name for name in of_configs(given) if rows > 1 and len(set(map(repr, given[name]))) == 1]
    columns: _Named = {name: (cells, None) for name, cells in given.items() if name not in constants}
    for name, cells in results.filled(rows):
        columns[_free(name, "result.", given.keys() | columns.keys())] = cells, None
    return columns | {name: (given[name], None) for name in constants}


def _free(name: str, prefix: str, taken: Collection[str]) -> str:
    while name in taken:
        name = prefix + name
    return name


def _frame(columns: _Named, rows: int) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise BencherJobError(
            "A table needs pandas, which is not installed. Run: pip install 'bencher_job[table]'"
        ) from error
    index = pandas.RangeIndex(rows)
    made = {name: _series(cells, kind, index) for name, (cells, kind) in columns.items()}
    frame = pandas.DataFrame(dict(enumerate(made.values())), index=index)
    try:
        frame.columns = pandas.Index(list(made), dtype="str")
    except UnicodeEncodeError:  # a name with a lone surrogate, such as that of a file in another encoding
        frame.columns = pandas.Index(list(made), dtype=object)
    return frame


def _series(cells: list[Any], kind: str | None, index: pandas.Index) -> pandas.Series:
    """Make a column: numbers, strings and times with pandas' own dtype, anything else as objects."""
    import numpy
    import pandas
    from pandas.api.types import infer_dtype

    as_they_are = numpy.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):  # one by one, or numpy would unpack arrays and lists
        as_they_are[row] = cell
    if kind is None and cells:
        found = infer_dtype(as_they_are, skipna=True)
        if found in _OF_NO_KIND:
            return pandas.Series(as_they_are, index=index, dtype=object)
        kind = _WITH_GAPS.get(found) if any(cell is None for cell in cells) else None
    try:
        return pandas.Series(cells, index=index, dtype=kind or (None if cells else "str"))
    except (ValueError, TypeError, OverflowError):  # a number too large, a str with a lone surrogate
        return pandas.Series(as_they_are, index=index, dtype=object)


_PLAIN: Final = {int, float, complex}


def to_dataset(
    axes: Mapping[str, Sequence[Any]],
    repeats: int,
    cells: Iterable[tuple[tuple[int, ...], object]],
    attributes: Mapping[str, Any],
) -> xarray.Dataset:
    """Make a dataset of values by their indices in the axes, the number of the repeat last.

    Its dimensions are the axes and `repeat`; its variables are the fields of the values, or `result`. A missing value
    is NaN, or None among objects that are neither numbers nor strings. Arrays and tensors add dimensions of their own,
    `field_0` and so on, if all have the same shape.

    Raises:
        BencherJobError: when xarray is not installed.
    """
    try:
        import numpy
        import xarray
    except ImportError as error:
        raise BencherJobError(
            "An array with named dimensions needs xarray, which is not installed. "
            "Run: pip install 'bencher_job[table]'"
        ) from error
    dimensions = [*axes, "repeat"]
    shape = (*map(len, axes.values()), repeats)
    found: dict[str, dict[tuple[int, ...], Any]] = {}
    for place, value in cells:
        for name, part in result_fields(value).items():
            found.setdefault(name, {})[place] = part
    variables = {}
    for name, parts in found.items():
        array = _array(numpy, parts, shape)
        extra = [f"{name}_{number}" for number in range(array.ndim - len(shape))]
        variables[f"result.{name}" if name in dimensions else name] = ([*dimensions, *extra], array)
    coordinates = {name: _coordinate(numpy, values) for name, values in axes.items()}
    attrs = {name: value for name, value in shown_arguments(attributes).items() if name not in axes}
    return xarray.Dataset(variables, coords={**coordinates, "repeat": numpy.arange(repeats)}, attrs=attrs)


def _array(numpy: Any, parts: Mapping[tuple[int, ...], Any], shape: tuple[int, ...]) -> Any:
    """Arrange parts in an array: numeric if all are numbers, with extra dimensions if all are arrays of one shape."""
    parts = {place: _without_torch(value) for place, value in parts.items()}
    values = list(parts.values())
    shapes = {value.shape if isinstance(value, numpy.ndarray) else None for value in values}
    inner = shapes.pop() if len(shapes) == 1 else None
    dtype = (
        _type_of(numpy, values) if inner is None else numpy.result_type(*{value.dtype for value in values})
    )
    has_gaps = len(values) < math.prod(shape)
    if has_gaps and not dtype.hasobject:
        is_number = numpy.issubdtype(dtype, numpy.number)
        dtype = numpy.result_type(dtype, numpy.float64) if is_number else numpy.dtype(object)
    array = numpy.empty((*shape, *(inner or ())), dtype=dtype)
    if has_gaps:
        array.fill(None if dtype.hasobject else numpy.nan)
    for place, value in parts.items():
        array[place] = value
    return array


def _without_torch(value: Any) -> Any:
    """Convert a tensor of torch to an array; return anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # a type that numpy lacks, such as bfloat16
        return tensor.double().numpy()


def _type_of(numpy: Any, values: Sequence[Any]) -> Any:
    kinds = set(map(type, values))
    for allowed, dtype in (
        ({bool}, "bool"),
        ({int}, "int64"),
        ({int, float}, "float64"),
        (_PLAIN, "complex128"),
    ):
        if kinds <= allowed:
            fits = dtype != "int64" or all(-(2**63) <= value < 2**63 for value in values)
            return numpy.dtype(dtype if fits else object)
    if all(isinstance(value, numpy.generic) for value in values):
        return numpy.result_type(*{value.dtype for value in values})
    return numpy.dtype(object)


def _coordinate(numpy: Any, values: Sequence[Any]) -> Any:
    """Make the coordinate of an axis: numbers and strings as they are, anything else as records show it."""
    dtype = _type_of(numpy, values)
    if not dtype.hasobject:
        return numpy.array(values, dtype=dtype)
    labels = numpy.empty(len(values), dtype=object)
    labels[:] = [value if isinstance(value, str) else str(short_form(value)) for value in values]
    return labels
