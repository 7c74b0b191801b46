"""Canonical forms of the tables of pandas and polars, column by column."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from typing import Any, Final

from .arrays import array_parts, arrow_column, arrow_text, text_parts
from .canonical import Attributes, CanonicalForm, Parts, refuse, rooted_name, zone_name
from .names import words
from .objects import reduced

_PANDAS_INTERNAL: Final = words(
    "_mgr _item_cache _attrs _flags _name _typ _is_copy _data _cache _id _references"
    " _cacher _metadata"  # of older versions, after a column was read or pickled
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
    """Return a table's attrs and flags, and the attributes that a subclass declares in `_metadata`."""
    declared = {name: getattr(table, name, None) for name in table._metadata if name != "_name"}  # noqa: SLF001
    flags = table.flags.allows_duplicate_labels
    return Parts({"attrs": Attributes(attrs=table.attrs), "flags": flags, "declared": Attributes(declared)})


def _apart(index: Any) -> Any:
    """Return an equal index with a separate cache, so that reading it leaves the original unchanged."""
    apart = object.__new__(type(index))
    vars(apart).update(vars(index), _cache={})
    if "_levels" in vars(apart):
        vars(apart)["_levels"] = type(index._levels)(map(_apart, index._levels))  # noqa: SLF001
    return apart


def _index(index: Any) -> object:
    """Return the labels of an index, independent of whether it is a range."""
    index = _apart(index)
    parts = {"names": list(index.names), "content": _column(index.array)}
    return Parts({**parts, "frequency": getattr(index, "freq", None)})


def _multi_index(index: Any) -> object:
    index = _apart(index)
    return Parts({"levels": [index.get_level_values(level) for level in range(index.nlevels)]})


def _array(array: Any) -> object:
    return Parts({"content": _column(array), "frequency": getattr(array, "freq", None)})


def _column(array: Any) -> object:
    """Return dtype and values of a column; the memory behind missing values doesn't count."""
    import numpy as np

    dtype = array.dtype
    if _is_numpy(dtype):
        return array_parts(np.asarray(array))
    if (take_apart := _EXTENSIONS.get(rooted_name(type(dtype)))) is not None:
        content = take_apart(array)
    elif hasattr(dtype, "numpy_dtype") and _is_of_pandas(type(dtype)):
        content = _maybe_missing(array)
    else:
        return Parts({"array": reduced(array)})
    return Parts({"dtype": _dtype_of_column(dtype), "content": content})


def _maybe_missing(array: Any) -> object:
    numpy_dtype = array.dtype.numpy_dtype
    values = array.to_numpy(dtype=numpy_dtype, na_value=numpy_dtype.type(0))
    return Parts({"values": array_parts(values), "missing": array_parts(array.isna())})


def _intervals(array: Any) -> object:
    return Parts({"left": array.left, "right": array.right, "closed": array.closed})


def _sparse(array: Any) -> object:
    places = array.sp_index.to_int_index().indices
    return Parts(
        {"length": len(array), "places": array_parts(places), "values": array_parts(array.sp_values)}
    )


def _is_numpy(dtype: Any) -> bool:
    import numpy as np

    return isinstance(dtype, np.dtype)


def _is_of_pandas(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "pandas"


def _strings(array: Any) -> object:
    """Return the UTF-8 bytes and lengths of texts, the same for Arrow and for Python strings."""
    import numpy as np

    missing = array.isna()
    if array.dtype.storage == "pyarrow":
        chunked = array.__arrow_array__().cast(sys.modules["pyarrow"].large_string())
        text = arrow_text(chunked.chunks if hasattr(chunked, "chunks") else [chunked])
    else:
        encoded = [str(value).encode("utf-8", "surrogatepass") for value in array[~missing]]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        text = text_parts(lengths, [b"".join(encoded)])
    return Parts({"missing": array_parts(missing), "text": text})


def _arrow(array: Any) -> object:
    column = array.__arrow_array__()
    return arrow_column(column.chunks if hasattr(column, "chunks") else [column], column.type)


_EXTENSIONS: Final[dict[str, Callable[[Any], object]]] = {
    "pandas.NumpyEADtype": lambda array: array_parts(array.to_numpy()),
    "pandas.StringDtype": _strings,
    "pandas.CategoricalDtype": lambda array: array_parts(array.codes),
    "pandas.DatetimeTZDtype": lambda array: array_parts(array.asi8),
    "pandas.PeriodDtype": lambda array: array_parts(array.asi8),
    "pandas.IntervalDtype": _intervals,
    "pandas.SparseDtype": _sparse,
    "pandas.ArrowDtype": _arrow,
}
"""The content of a column, by the `rooted_name` of its extension dtype."""


def _dtype_of_column(dtype: Any) -> object:
    """Return the form of a column's dtype; the storage of text doesn't count in a column."""
    if rooted_name(type(dtype)) == "pandas.StringDtype":
        return Parts({"class": "pandas.StringDtype", "na_value": dtype.na_value})
    return _dtype(dtype)


def _dtype(dtype: Any) -> object:
    """Return the parameters of a pandas dtype; pandas moves the classes of some between modules."""
    name = rooted_name(type(dtype))
    parts = {part: getattr(dtype, part) for part in _PARTS_OF_DTYPES.get(name, dtype._metadata)}  # noqa: SLF001
    if name == "pandas.DatetimeTZDtype":
        parts["tz"] = _zone(dtype.tz)
    return Parts({**parts, "class": name})


_PARTS_OF_DTYPES: Final = {
    "pandas.StringDtype": ("na_value", "storage"),
    "pandas.CategoricalDtype": ("categories", "ordered"),
    "pandas.DatetimeTZDtype": ("unit", "tz"),
    "pandas.PeriodDtype": ("freq",),
    "pandas.IntervalDtype": ("subtype", "closed"),
    "pandas.SparseDtype": ("subtype", "fill_value"),
    "pandas.ArrowDtype": ("pyarrow_dtype",),
    "pandas.NumpyEADtype": ("numpy_dtype",),
}
"""Attributes that identify a dtype of a class; other classes list them in `_metadata`."""


def _offset(offset: Any) -> object:
    """Return class and parameters of a frequency; its text omits some of them."""
    kind = {"class": rooted_name(type(offset)), "n": offset.n, "normalize": offset.normalize}
    return Parts({**kind, "parameters": Attributes(offset.kwds)})


def _timestamp(timestamp: Any) -> object:
    parts = {"instant": timestamp.asm8, "zone": _zone(timestamp.tz), "fold": timestamp.fold}
    return Parts(parts)


def _zone(zone: Any) -> object:
    """Return the IANA name of a time zone, since the library that pandas uses for zones varies."""
    match rooted_name(type(zone)).partition("."):
        case ("zoneinfo", _, "ZoneInfo"):
            name = zone_name(zone)
        case ("datetime", _, "timezone") if zone == datetime.UTC:
            name = zone.tzname(None)
        case ("pytz", _, _):
            name = zone.zone
        case _:
            name = None
    return Attributes(tz=zone) if name is None else Parts({"name": name})


def _polars_frame(frame: Any) -> object:
    columns = {name: _polars_series(frame.get_column(name)) for name in frame.columns}
    return Parts({"columns": frame.columns, "height": frame.height, "content": columns})


def _polars_series(series: Any) -> object:
    return Parts(
        {"name": series.name, "dtype": _polars_dtype(series.dtype), "content": _polars_content(series)}
    )


def _polars_content(series: Any) -> object:
    """Return the values of a column, which ones are missing, and the content of nested columns."""
    dtype = series.dtype.base_type().__name__
    if dtype in _POLARS_BY_BYTES:
        missing = _polars_missing(series)
        values = series.to_physical() if dtype in _POLARS_TIMES else series
        if missing is not None:
            values = values.fill_null(value=False if dtype == "Boolean" else 0)
        return Parts({"missing": missing, "values": array_parts(values.to_numpy())})
    if dtype in _POLARS_BY_PARTS:
        return _POLARS_BY_PARTS[dtype](series)
    raise refuse(type(series), f"columns of the dtype {dtype} are not supported; cast it")


def _polars_dtype(dtype: Any) -> object:
    """Return class and parameters of a dtype; different dtypes may have the same text."""
    name = dtype.base_type().__name__
    parts: dict[str, Any] = {part: getattr(dtype, part) for part in _PARTS_OF_POLARS if hasattr(dtype, part)}
    if name == "Categorical":
        parts = _of_categories(dtype)
    elif name == "Enum":
        parts = {"categories": list(dtype.categories)}
    elif name == "Struct":
        parts = {"fields": [(field.name, _polars_dtype(field.dtype)) for field in dtype.fields]}
    elif hasattr(dtype, "ext_name"):
        parts = {"extension": (dtype.ext_name(), dtype.ext_metadata()), "inner": dtype.ext_storage()}
    inner: dict[str, Any] = {
        part: _polars_dtype(parts[part]) for part in ("inner", "key", "value") if part in parts
    }
    return Parts({**parts, **inner, "class": name})


def _of_categories(dtype: Any) -> dict[str, object]:
    """Return what distinguishes categories from the global ones; older versions have global ones only."""
    parts: dict[str, object] = {}
    if getattr(dtype, "ordering", None) == "lexical":
        parts["ordering"] = "lexical"
    categories = getattr(dtype, "categories", None)
    if categories is not None and not categories.is_global():
        parts["categories"] = categories
    return parts


_PARTS_OF_POLARS: Final = words("time_unit time_zone precision scale size inner key value")


def _polars_missing(series: Any) -> object:
    return array_parts(series.is_null().to_numpy()) if series.null_count() else None


def _polars_text(series: Any) -> object:
    if len(series) < _MANY:  # making few Python objects is faster than a call of polars
        return series.to_list()
    lengths = series.str.len_bytes()
    return Parts({"lengths": _polars_content(lengths), "text": series.str.join("").item()})


def _polars_lists(series: Any) -> object:
    lengths = series.list.len()
    items = series.filter(lengths > 0).explode()
    return Parts({"lengths": _polars_content(lengths), "items": _polars_content(items)})


def _polars_structures(series: Any) -> object:
    fields = {name: _polars_content(series.struct.field(name)) for name in series.struct.fields}
    return Parts({"missing": _polars_missing(series), "length": len(series), "fields": fields})


_POLARS_BY_PARTS: Final[dict[str, Callable[[Any], object]]] = {
    "Array": lambda series: _polars_lists(series.arr.to_list()),
    "Binary": lambda series: series.to_list(),
    "Categorical": lambda series: _polars_text(series.cast(sys.modules["polars"].String)),
    "Decimal": lambda series: series.to_physical().to_list(),
    "Enum": lambda series: _polars_content(series.to_physical().cast(sys.modules["polars"].UInt32)),
    "Extension": lambda series: _polars_content(series.ext.storage()),
    "Int128": lambda series: series.to_list(),
    "List": _polars_lists,
    "Map": lambda series: _polars_lists(series.map.entries()),
    "Null": len,
    "Object": lambda series: series.to_list(),
    "String": _polars_text,
    "Struct": _polars_structures,
    "UInt128": lambda series: series.to_list(),
}
_POLARS_TIMES: Final = frozenset({"Date", "Datetime", "Duration", "Time"})
_POLARS_BY_BYTES: Final = _POLARS_TIMES | {
    *(f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)),
    *("Float16", "Float32", "Float64", "Boolean"),
}
_MANY: Final = 1000


FRAMES: Final = {
    "pandas.DataFrame": CanonicalForm(_frame, internal=_PANDAS_INTERNAL, is_open=True),
    "pandas.Series": CanonicalForm(_series, internal=_PANDAS_INTERNAL, is_open=True),
    "pandas.Index": CanonicalForm(_index, sealed=True, internal=_PANDAS_INTERNAL),
    "pandas.MultiIndex": CanonicalForm(_multi_index, internal=_PANDAS_INTERNAL),
    "pandas.ExtensionArray": CanonicalForm(_array, sealed=True),
    "pandas.Timestamp": CanonicalForm(_timestamp),
    "pandas.Timedelta": CanonicalForm(lambda delta: delta.asm8, leaf=True),
    "pandas.Period": CanonicalForm(lambda period: (period.ordinal, period.freq)),
    "pandas.Interval": CanonicalForm(_intervals),
    "pandas.NaTType": CanonicalForm(lambda missing: (), leaf=True),  # noqa: ARG005
    "pandas.NAType": CanonicalForm(lambda missing: (), leaf=True),  # noqa: ARG005
    "pandas.ExtensionDtype": CanonicalForm(_dtype, sealed=True),
    "pandas.BaseOffset": CanonicalForm(_offset, sealed=True),
    "polars.DataFrame": CanonicalForm(_polars_frame, internal=frozenset({"_df", "_accessors"}), is_open=True),
    "polars.Series": CanonicalForm(_polars_series, internal=frozenset({"_s", "_accessors"}), is_open=True),
    "polars.DataType": CanonicalForm(_polars_dtype, sealed=True),
}
"""Canonical forms by the `rooted_name` of a class."""
