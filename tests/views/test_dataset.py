"""A sweep is given as arrays whose dimensions are the swept arguments and the repeats."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy
import pandas
import pytest

from bencher_job import BencherJobError, Sweep, cached_job


@dataclass
class Score:
    loss: float
    rounds: int


@cached_job
def measured(model: str, c: float, kind: str = "dict") -> Any:
    if model == "bad" and c == 10:
        raise ValueError(c)
    value = {
        "dict": {"loss": len(model) * c, "rounds": 3, "c": c},
        "data": Score(c, 2),
        "array": numpy.full(4, c),
        "text": model,
        "flag": c > 1,
    }
    return value[kind]


def swept(kind: str, models: list[str] | None = None) -> Sweep:
    return measured.sweep({"model": models or ["svm", "ridge"], "c": [1.0, 10.0]}, repeats=2, kind=kind).run()


def test_dimensions_are_the_swept_arguments_and_the_repeats() -> None:
    dataset = swept("dict").to_xarray()
    assert dict(dataset.sizes) == {"model": 2, "c": 2, "repeat": 2}
    assert list(dataset.coords["model"].values) == ["svm", "ridge"]
    assert list(dataset.coords["c"].values) == [1.0, 10.0]
    assert dataset.attrs == {"kind": "dict"}
    assert float(dataset["loss"].sel(model="ridge", c=10.0, repeat=1)) == 50.0
    assert dataset["rounds"].dtype == numpy.int64
    assert set(dataset.data_vars) == {"loss", "rounds", "result.c"}


def test_what_failed_is_nan_and_whole_numbers_then_are_fractions() -> None:
    dataset = swept("dict", ["svm", "bad"]).to_xarray()
    assert numpy.isnan(dataset["loss"].sel(model="bad", c=10.0)).all()
    assert numpy.isfinite(dataset["loss"].sel(model="bad", c=1.0)).all()
    assert dataset["rounds"].dtype == numpy.float64


def test_fields_of_dataclasses_are_variables() -> None:
    assert set(swept("data").to_xarray().data_vars) == {"loss", "rounds"}


def test_arrays_of_one_shape_add_a_dimension() -> None:
    dataset = swept("array", ["svm", "bad"]).to_xarray()
    assert dataset["result"].dims == ("model", "c", "repeat", "result_0")
    assert dataset["result"].shape == (2, 2, 2, 4)
    assert numpy.isnan(dataset["result"].sel(model="bad", c=10.0)).all()


def test_texts_and_truth_values_stay_what_they_are() -> None:
    texts = swept("text", ["svm", "bad"]).to_xarray()["result"]
    assert texts.sel(model="svm", c=1.0, repeat=0).item() == "svm"
    assert pandas.isna(texts.sel(model="bad", c=10.0, repeat=0).item())
    assert swept("flag").to_xarray()["result"].dtype == bool


def test_values_that_are_no_labels_stand_as_records_show_them() -> None:
    function = cached_job(lambda shape: sum(shape))
    dataset = function.sweep({"shape": [[1, 2], [3]]}).run().to_xarray()
    assert list(dataset.coords["shape"].values) == ["[1, 2]", "[3]"]


def test_a_table_has_a_row_for_each_result() -> None:
    frame = swept("dict", ["svm", "bad"]).to_dataframe()
    assert list(frame) == ["model", "c", "repeat", "loss", "rounds", "result.c"]
    assert len(frame) == 6


def test_without_xarray_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = swept("dict")
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[table\]'"):
        sweep.to_xarray()
