"""Tables with golden digests and explicit dtypes, since inferred ones depend on the version of pandas or polars."""

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl


def labels(*names):
    return pd.Index(names, dtype=object)


def categories(*, ordered):
    return pd.CategoricalDtype(labels("low", "high"), ordered=ordered)


def instants(dtype):
    return pd.Series(["2024-01-01 12:00", None, "1969-12-31 23:59:59"]).astype("datetime64[ns]").astype(dtype)


def in_zone(zone):
    return instants("datetime64[ns]").dt.tz_localize("UTC").dt.tz_convert(zone)


def with_attrs():
    frame = pd.DataFrame({1: [1.0]}).rename_axis(columns="feature")
    frame.attrs["unit"] = "m"
    return frame


def mixed():
    columns = {
        "number": np.array([1.0, np.nan]),
        "count": np.array([1, 2], dtype="int32"),
        "any": pd.Series(["a", None], dtype=object),
        "text": pd.array(["é", None], dtype="string[python]"),
        "kind": pd.Categorical.from_codes([1, -1], dtype=categories(ordered=False)),
    }
    return pd.DataFrame(dict(enumerate(columns.values()))).set_axis(labels(*columns), axis="columns")


PANDAS = {
    "series": lambda: pd.Series([1.0, np.nan, -0.0], index=[3, 1, 2], name="a"),
    "series of ints": lambda: pd.Series([1, 2], dtype="int16"),
    "series of objects": lambda: pd.Series(["a", None, "cé", 1, [2]], dtype=object),
    "series of texts": lambda: pd.Series(["a", None, "cé", ""], dtype="string[python]"),
    "series of texts in arrow": lambda: pd.Series(["a", None, "cé", "b"], dtype="string[pyarrow]"),
    "series of maybe ints": lambda: pd.Series([1, None, 3], dtype="Int64"),
    "series of maybe floats": lambda: pd.Series([1.5, None], dtype="Float32"),
    "series of maybe bools": lambda: pd.Series([True, None, False], dtype="boolean"),
    "series of categories": lambda: pd.Series(["low", None, "high"], dtype=categories(ordered=False)),
    "series of ordered categories": lambda: pd.Series(["low", None, "high"], dtype=categories(ordered=True)),
    "series of instants": lambda: instants("datetime64[ns]"),
    "series of seconds": lambda: instants("datetime64[s]"),
    "series of instants in UTC": lambda: in_zone("UTC"),
    "series of instants in Berlin": lambda: in_zone("Europe/Berlin"),
    "series of durations": lambda: pd.Series([1, 2], dtype="timedelta64[ns]"),
    "series of months": lambda: pd.Series(pd.period_range("2024-01", periods=2, freq="M")),
    "series of intervals": lambda: pd.Series(pd.interval_range(0, 2)),
    "series of few": lambda: pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    "frame of floats": lambda: pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=labels("a", "b")),
    "frame with attrs": with_attrs,
    "frame of columns": mixed,
    "empty frame": lambda: pd.DataFrame(index=pd.RangeIndex(0), columns=labels()),
    "index of ints": lambda: pd.Index([1, 2], name="n"),
    "index of objects": lambda: labels("a", "b"),
    "index of instants": lambda: pd.DatetimeIndex(instants("datetime64[ns]").to_numpy(), tz="UTC"),
    "index of days": lambda: pd.date_range("2024-01-01", periods=2, freq="D").as_unit("ns"),
    "index of levels": lambda: pd.MultiIndex.from_arrays([labels("a", "b"), [1, 2]], names=["x", None]),
    "timestamp": lambda: pd.Timestamp("2024-01-01", tz="Europe/Berlin").as_unit("ns"),
    "timedelta": lambda: pd.Timedelta(1, "s").as_unit("ns"),
    "period": lambda: pd.Period("2024-01", "M"),
    "interval": lambda: pd.Interval(0, 1),
    "nothing of pandas": lambda: [pd.NA, pd.NaT],
}

DAY = datetime.datetime(2024, 1, 1, 12)
LEVELS = ["low", "high"]

POLARS = {
    "floats": lambda: pl.Series("a", [1.0, None, float("nan")]),
    "ints": lambda: pl.Series("a", [1, None, 3], dtype=pl.Int32),
    "bools": lambda: pl.Series([True, None, False]),
    "texts": lambda: pl.Series("a", ["a", None, "cé", ""]),
    "bytes": lambda: pl.Series([b"a", None]),
    "categories": lambda: pl.Series(["low", None, "high"], dtype=pl.Categorical),
    "enum": lambda: pl.Series(["low", None, "high"], dtype=pl.Enum(LEVELS)),
    "instants": lambda: pl.Series([DAY, None], dtype=pl.Datetime("ms")),
    "instants in UTC": lambda: pl.Series([DAY, None], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC"),
    "instants in Berlin": lambda: pl.Series([DAY]).dt.replace_time_zone("Europe/Berlin"),
    "dates": lambda: pl.Series([DAY.date(), None]),
    "times": lambda: pl.Series([DAY.time(), None]),
    "durations": lambda: pl.Series([datetime.timedelta(seconds=1), None], dtype=pl.Duration("us")),
    "decimals": lambda: pl.Series([decimal.Decimal("1.10"), None], dtype=pl.Decimal(10, 2)),
    "lists": lambda: pl.Series([[1], [], None], dtype=pl.List(pl.Int64)),
    "arrays": lambda: pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64, 2)),
    "structures": lambda: pl.Series([{"a": 1, "b": ["x"]}, None]),
    "nested texts": lambda: pl.Series([[["a"], None], []], dtype=pl.List(pl.List(pl.String))),
    "nothing": lambda: pl.Series([None, None], dtype=pl.Null),
    "frame": lambda: pl.DataFrame({"b": [1, None], "a": ["x", "y"], "c": [[1.0], []]}),
    "empty frame": lambda: pl.DataFrame(),
}

VALUES = {f"pandas {name}": make for name, make in PANDAS.items()} | {
    f"polars {name}": make for name, make in POLARS.items()
}
