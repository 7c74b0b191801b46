import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bencher_job import UnkeyableArgument

from .keys import key_of


def table():
    return pd.DataFrame(
        {
            "number": [1.0, np.nan, 3.0],
            "count": [1, 2, 3],
            "name": ["a", None, "cé"],
            "kind": pd.Categorical(["x", "y", "x"]),
            "when": pd.to_datetime(["2024-01-01", "2024-01-02", None]).tz_localize("Europe/Berlin"),
            "maybe": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "span": pd.interval_range(0, 3),
            "month": pd.period_range("2024-01", periods=3, freq="M"),
            "late": pd.to_timedelta([1, 2, 3], unit="s"),
            "any": [1, "a", [2]],
            "few": pd.arrays.SparseArray([0, 0, 1]),
            "arrow": pd.array(["a", None, "b"], dtype=pd.ArrowDtype(pa.string())),
        }
    )


CHANGES = {
    "a value": lambda frame: frame.assign(count=[1, 2, 4]),
    "text": lambda frame: frame.assign(name=["a", None, "d"]),
    "missing text": lambda frame: frame.assign(name=["a", "", "cé"]),
    "where text is missing": lambda frame: frame.assign(name=[None, "a", "cé"]),
    "missing number": lambda frame: frame.assign(maybe=pd.array([1, 0, 3], dtype="Int64")),
    "dtype": lambda frame: frame.astype({"count": "int32"}),
    "text as objects": lambda frame: frame.astype({"name": object}),
    "category": lambda frame: frame.assign(kind=frame["kind"].cat.rename_categories(["x", "z"])),
    "unused category": lambda frame: frame.assign(kind=frame["kind"].cat.add_categories(["z"])),
    "ordered categories": lambda frame: frame.assign(kind=frame["kind"].cat.as_ordered()),
    "time zone": lambda frame: frame.assign(when=frame["when"].dt.tz_convert("UTC")),
    "interval": lambda frame: frame.assign(span=pd.interval_range(0, 3, closed="left")),
    "period": lambda frame: frame.assign(month=pd.period_range("2024-01", periods=3, freq="D")),
    "object": lambda frame: frame.assign(any=[1, "a", [3]]),
    "sparse": lambda frame: frame.assign(few=pd.arrays.SparseArray([0, 1, 0])),
    "arrow": lambda frame: frame.astype({"arrow": pd.ArrowDtype(pa.large_string())}),
    "column name": lambda frame: frame.rename(columns={"count": "counts"}),
    "column order": lambda frame: frame[["count", *frame.columns.drop("count")]],
    "name of the columns": lambda frame: frame.rename_axis(columns="features"),
    "index": lambda frame: frame.set_axis([1, 2, 3]),
    "index dtype": lambda frame: frame.set_axis([0.0, 1.0, 2.0]),
    "index name": lambda frame: frame.rename_axis(index="row"),
    "flags": lambda frame: frame.set_flags(allows_duplicate_labels=False),
    "rows": lambda frame: frame[:2],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_part_of_a_frame_counts(change):
    assert key_of(change(table())) != key_of(table())


def test_the_attrs_of_a_frame_count():
    frame = table()
    frame.attrs["unit"] = "m"
    assert key_of(frame) != key_of(table())


def test_a_frame_is_the_same_after_a_copy_and_a_pickle_round_trip():
    frame = table()
    assert (
        key_of(frame)
        == key_of(table())
        == key_of(copy.deepcopy(frame))
        == key_of(pickle.loads(pickle.dumps(frame)))
    )


def test_the_blocks_of_a_frame_do_not_matter():
    whole = pd.DataFrame(np.arange(6.0).reshape(3, 2), columns=["a", "b"])
    grown = pd.DataFrame({"a": whole["a"].to_numpy()})
    grown["b"] = whole["b"].to_numpy()[::-1][::-1]
    assert key_of(grown) == key_of(whole)
    assert key_of(whole.astype({"b": "int64"})) != key_of(whole)


def test_the_storage_of_text_does_not_matter():
    python = pd.Series(["a", None, "é"], dtype=pd.StringDtype("python", na_value=np.nan))
    arrow = pd.Series(["a", None, "é"], dtype=pd.StringDtype("pyarrow", na_value=np.nan))
    assert key_of(python) == key_of(arrow)
    assert key_of(arrow.iloc[1:]) == key_of(python.iloc[1:])
    assert key_of(pd.concat([arrow.iloc[:1], arrow.iloc[1:]])) == key_of(python)
    assert key_of(arrow.iloc[:0]) == key_of(python.iloc[:0])
    assert key_of(arrow.astype(pd.StringDtype("pyarrow", na_value=pd.NA))) != key_of(arrow)


def test_the_ends_of_texts_count():
    assert key_of(pd.Series(["ab", "c"])) != key_of(pd.Series(["a", "bc"]))


def test_a_range_index_equals_an_index_of_its_numbers():
    frame = pd.DataFrame({"a": [1, 2]})
    assert key_of(frame) == key_of(frame.set_axis([0, 1]))


def test_unused_levels_do_not_count():
    whole = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", "y"])
    part = whole[:2]
    assert key_of(part) == key_of(part.remove_unused_levels())
    assert key_of(whole) != key_of(whole.rename(["x", "z"]))
    assert key_of(whole) != key_of(whole[::-1])


def test_kinds_of_pandas_objects_differ():
    values = [
        pd.Series([1, 2]),
        pd.Series([1, 2], name="a"),
        pd.Index([1, 2]),
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({0: [1, 2]}),
        pd.array([1, 2], dtype="Int64"),
        np.array([1, 2]),
        pd.DatetimeIndex(["2024-01-01", "2024-01-02"]),
        pd.date_range("2024-01-01", periods=2, freq="D"),
        pd.Timestamp("2024-01-01"),
        pd.Timestamp("2024-01-01", tz="UTC"),
        pd.Timestamp("2024-01-01").as_unit("s"),
        pd.Timestamp("2024-01-01").to_pydatetime(),
        pd.Timedelta("1s"),
        pd.Period("2024-01", "M"),
        pd.Interval(0, 1),
        pd.NaT,
        pd.NA,
        np.nan,
        None,
        pd.offsets.Day(1),
        pd.offsets.MonthEnd(1),
    ]
    assert len(set(map(key_of, values))) == len(values)
    assert list(map(key_of, pickle.loads(pickle.dumps(values)))) == list(map(key_of, values))


def test_the_kind_of_a_missing_object_counts():
    """A function can distinguish them."""
    columns = [pd.Series([missing, "a"], dtype=object) for missing in (None, np.nan, pd.NaT, pd.NA, 0)]
    assert len({key_of(column) for column in columns}) == 5
    assert len({key_of(pd.DataFrame({"a": column})) for column in columns}) == 5
    assert len({key_of(pd.Index(column)) for column in columns}) == 5


class Annotated(pd.DataFrame):
    _metadata = ["unit"]

    @property
    def _constructor(self):
        return Annotated


def test_a_subclass_of_a_frame_counts_with_its_metadata():
    metres, feet = Annotated({"a": [1]}), Annotated({"a": [1]})
    metres.unit, feet.unit = "m", "ft"
    assert key_of(metres) != key_of(feet)
    assert key_of(metres) != key_of(pd.DataFrame({"a": [1]}))
    assert key_of(pickle.loads(pickle.dumps(metres))) == key_of(metres)


def test_the_error_has_the_path_of_an_object_in_a_frame():
    with pytest.raises(UnkeyableArgument) as caught:
        key_of(pd.DataFrame({"b": [1, 2], "a": [1, object()]}))
    assert caught.value.path == "value['a'][1]"


def polars_table():
    return pl.DataFrame(
        {"a": [1.0, None, float("nan")], "b": [1, 2, None], "c": ["x", None, "z"], "d": [[1], [], None]},
    ).with_columns(
        pl.Series("e", ["p", "q", "p"], dtype=pl.Categorical),
        pl.datetime(2024, 1, pl.Series([1, 2, 3])).alias("f"),
        pl.Series("g", [True, None, False]),
        pl.struct("a", "c").alias("h"),
    )


def test_the_chunks_of_a_polars_frame_do_not_count():
    frame = polars_table()
    chunked = pl.concat([frame[:1], frame[1:]], rechunk=False)
    assert (
        key_of(frame)
        == key_of(chunked)
        == key_of(pickle.loads(pickle.dumps(frame)))
        == key_of(polars_table())
    )


def test_each_part_of_a_polars_frame_counts():
    frame = polars_table()
    values = [
        frame,
        frame.with_columns(pl.col("a").fill_null(0.0)),
        frame.with_columns(pl.col("b").fill_null(0)),
        frame.with_columns(pl.col("b").cast(pl.Int32)),
        frame.with_columns(pl.col("c").fill_null("")),
        frame.with_columns(pl.col("d").fill_null([])),
        frame.with_columns(pl.col("e").cast(pl.String)),
        frame.with_columns(pl.col("f").dt.cast_time_unit("ms")),
        frame.with_columns(pl.col("f").dt.replace_time_zone("UTC")),
        frame.rename({"a": "A"}),
        frame.select(reversed(frame.columns)),
        frame[:2],
        frame["a"],
        frame["a"].alias("b"),
        frame.to_dicts(),
    ]
    assert len(set(map(key_of, values))) == len(values)


def test_a_polars_plan_is_refused():
    with pytest.raises(UnkeyableArgument, match="collect"):
        key_of(polars_table().lazy())


def test_the_slices_of_arrow_arrays_do_not_count():
    array = pa.array(["a", None, "c"])
    assert key_of(array[1:]) == key_of(pa.array([None, "c"]))
    assert key_of(array) != key_of(pa.array(["a", None, "c"], pa.large_string()))
    assert key_of(pa.table({"a": array})) == key_of(pa.table({"a": array}))
    assert key_of(pa.table({"a": array})) != key_of(pa.table({"b": array}))


def test_chunks_with_dictionaries_of_their_own_count_by_their_values():
    def chunked(*chunks):
        return pa.chunked_array([pa.array(chunk).dictionary_encode() for chunk in chunks])

    assert key_of(chunked(["a", "b"], ["c"])) == key_of(chunked(["a", "b"], ["c"]))
    assert len({key_of(chunked(["a", "b"], [last])) for last in "cda"}) == 3
