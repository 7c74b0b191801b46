"""Knows what stands for the tables of pandas, polars and pyarrow, column by column."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from .arrays import array_parts
from .reduction import reduced
from .stand_ins import Attributes, Content, Parts, StandIn

__all__ = ["FRAMES"]

_PANDAS_INTERNAL: Final = frozenset(
    {
        "_mgr",
        "_item_cache",
        "_attrs",
        "_flags",
        "_name",
        "_typ",
        "_is_copy",
        "_data",
        "_cache",
        "_id",
        "_references",
    }
)
_POLARS_BY_BYTES: Final = frozenset(
    {f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
    | {"Float32", "Float64", "Boolean", "Date", "Datetime", "Duration", "Time"}
)


def _frame(frame: Any) -> object:
    dtypes = set(frame.dtypes)
    if len(dtypes) == 1 and getattr(dtypes.pop(), "kind", "") in "biufc" and _is_numpy(frame.dtypes.iloc[0]):
        content = array_parts(frame.to_numpy())
    else:
        labels = frame.columns if frame.columns.is_unique else range(frame.shape[1])
        arrays = (frame.iloc[:, position].array for position in range(frame.shape[1]))
        content = dict(zip(labels, map(_column, arrays), strict=True))
    parts = {"columns": frame.columns, "index": frame.index, "content": content}
    return Parts({**parts, "metadata": _metadata(frame)})


def _series(series: Any) -> object:
    parts = {"name": series.name, "index": series.index, "content": _column(series.array)}
    return Parts({**parts, "metadata": _metadata(series)})


def _metadata(table: Any) -> object:
    """What a table carries beside its content: attrs, flags, and what a subclass declares in `_metadata`."""
    declared = {name: getattr(table, name, None) for name in table._metadata if name != "_name"}  # noqa: SLF001
    flags = table.flags.allows_duplicate_labels
    return Parts({"attrs": Attributes(attrs=table.attrs), "flags": flags, "declared": Attributes(declared)})


def _apart(index: Any) -> Any:
    """An index of the same labels, which keeps what is read from it for itself."""
    apart = object.__new__(type(index))
    vars(apart).update(vars(index), _cache={})
    if "_levels" in vars(apart):
        vars(apart)["_levels"] = type(index._levels)(map(_apart, index._levels))  # noqa: SLF001
    return apart


def _index(index: Any) -> object:
    """An index by its labels; that a range or a cache holds them says nothing more."""
    index = _apart(index)
    frequency = getattr(index, "freq", None)
    content = {"names": list(index.names), "content": _column(index.array)}
    return Parts({**content, "frequency": None if frequency is None else frequency.freqstr})


def _multi_index(index: Any) -> object:
    index = _apart(index)
    return Parts({"levels": [index.get_level_values(level) for level in range(index.nlevels)]})


def _column(array: Any) -> object:
    """A column by its dtype and values; what lies where a value is missing doesn't count."""
    import numpy as np

    dtype = array.dtype
    if _is_numpy(dtype):
        return array_parts(np.asarray(array))
    if (take_apart := _EXTENSIONS.get(type(dtype).__name__)) is not None:
        return take_apart(array)
    if hasattr(dtype, "numpy_dtype") and dtype.kind == "O":
        return array_parts(np.asarray(array))  # what is missing is there as None, NaN, NaT or NA
    if hasattr(dtype, "numpy_dtype"):
        missing = array.isna()
        values = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        return Parts({"values": array_parts(values), "missing": array_parts(missing)})
    return Parts({"array": reduced(array)})


def _categorical(array: Any) -> object:
    return Parts({"codes": array.codes, "categories": array.categories, "ordered": array.ordered})


def _instants(array: Any) -> object:
    return Parts({"dtype": str(array.dtype), "instants": array_parts(array.asi8)})


def _intervals(array: Any) -> object:
    return Parts({"left": array.left, "right": array.right, "closed": array.closed})


def _sparse(array: Any) -> object:
    import numpy as np

    return Parts({"sparse": array_parts(np.asarray(array)), "fill": array.dtype.fill_value})


def _is_numpy(dtype: Any) -> bool:
    import numpy as np

    return isinstance(dtype, np.dtype)


def _strings(array: Any) -> object:
    """Text by its UTF-8 bytes and their lengths, which Arrow has at hand and Python strings can give."""
    import numpy as np

    missing = array.isna()
    if array.dtype.storage == "pyarrow":
        lengths, text = _arrow_text(array.__arrow_array__())
    else:
        encoded = [str(value).encode("utf-8", "surrogatepass") for value in array[~missing]]
        lengths, text = np.fromiter(map(len, encoded), np.int64, len(encoded)), b"".join(encoded)
    parts: dict[str, object] = {"missing": array_parts(missing), "lengths": array_parts(lengths)}
    nan = array.dtype.na_value != array.dtype.na_value
    return Parts({**parts, "text": Content(len(text), (text,)), "missing is NaN": nan is True})


def _arrow_text(chunked: Any) -> tuple[Any, memoryview | bytes]:
    import numpy as np

    pa: Any = sys.modules["pyarrow"]
    whole = pa.chunked_array(chunked.cast(pa.large_string()).drop_null()).combine_chunks()
    _, offsets, text = whole.buffers()
    if not len(whole):
        return np.empty(0, np.int64), b""
    bounds = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    return np.diff(bounds), memoryview(text)[bounds[0] : bounds[-1]] if text is not None else b""


_EXTENSIONS: Final[dict[str, Callable[[Any], object]]] = {
    "StringDtype": _strings,
    "CategoricalDtype": _categorical,
    "DatetimeTZDtype": _instants,
    "PeriodDtype": _instants,
    "IntervalDtype": _intervals,
    "SparseDtype": _sparse,
    "ArrowDtype": lambda array: _arrow(array.__arrow_array__()),
}
"""By the name of a pandas dtype that isn't numpy's."""


def _timestamp(timestamp: Any) -> object:
    parts = {"instant": timestamp.asm8, "zone": _zone(timestamp.tz), "fold": timestamp.fold}
    return Parts(parts)


def _zone(zone: Any) -> object:
    """A time zone by its name in the IANA database, from which pandas takes now this library's and now that one's."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    return name or Attributes(tz=zone)


def _dtype(dtype: Any) -> object:
    """A dtype of pandas by its name; pandas moves the classes of these from module to module."""
    categories = {"categories": dtype.categories} if type(dtype).__name__ == "CategoricalDtype" else {}
    return Parts({"class": type(dtype).__name__, "name": str(dtype), **categories, **_orders(dtype)})


def _orders(dtype: Any) -> dict[str, object]:
    return {name: getattr(dtype, name) for name in ("ordered", "storage") if hasattr(dtype, name)}


def _polars_frame(frame: Any) -> object:
    columns = {name: _polars_series(frame.get_column(name)) for name in frame.columns}
    return Parts({"columns": frame.columns, "height": frame.height, "content": columns})


def _polars_series(series: Any) -> object:
    dtype = str(series.dtype).replace(
        "(ordering='physical')", ""
    )  # the default, which later versions don't name
    parts: dict[str, object] = {"name": series.name, "dtype": dtype}
    if series.dtype.base_type().__name__ not in _POLARS_BY_BYTES:
        return Parts({**parts, "content": series.to_list()})
    missing = series.is_null()
    physical = series.to_physical()
    values = physical.fill_null(value=False if str(physical.dtype) == "Boolean" else 0)
    parts["missing"] = array_parts(missing.to_numpy())
    return Parts({**parts, "content": array_parts(values.to_numpy())})


def _arrow(array: Any) -> object:
    return Parts({"type": str(array.type), "content": array.to_pylist()})


def _arrow_table(table: Any) -> object:
    return Parts(
        {
            "names": table.schema.names,
            "columns": [_arrow(column) for column in table.columns],
            "rows": table.num_rows,
        }
    )


FRAMES: Final = {
    "pandas.DataFrame": StandIn(_frame, internal=_PANDAS_INTERNAL),
    "pandas.Series": StandIn(_series, internal=_PANDAS_INTERNAL),
    "pandas.Index": StandIn(_index, sealed=True, internal=_PANDAS_INTERNAL),
    "pandas.MultiIndex": StandIn(_multi_index, internal=_PANDAS_INTERNAL),
    "pandas.ExtensionArray": StandIn(_column, sealed=True),
    "pandas.Timestamp": StandIn(_timestamp),
    "pandas.Timedelta": StandIn(lambda delta: delta.asm8, leaf=True),
    "pandas.Period": StandIn(lambda period: (period.ordinal, period.freqstr), leaf=True),
    "pandas.Interval": StandIn(_intervals),
    "pandas.NaTType": StandIn(lambda missing: (), leaf=True),  # noqa: ARG005
    "pandas.NAType": StandIn(lambda missing: (), leaf=True),  # noqa: ARG005
    "pandas.ExtensionDtype": StandIn(_dtype, sealed=True),
    "polars.DataFrame": StandIn(_polars_frame, internal=frozenset({"_df", "_accessors"})),
    "polars.Series": StandIn(_polars_series, internal=frozenset({"_s", "_accessors"})),
    "pyarrow.Array": StandIn(_arrow, sealed=True),
    "pyarrow.ChunkedArray": StandIn(_arrow),
    "pyarrow.Table": StandIn(_arrow_table),
    "pyarrow.RecordBatch": StandIn(_arrow_table),
}
"""By the name that `rooted_name` gives to a class."""
