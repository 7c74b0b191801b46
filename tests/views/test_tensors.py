"""Tensors of torch in tables, plots and arrays with named dimensions."""

from __future__ import annotations

import numpy
import pytest

from bencher_job import cached_job

torch = pytest.importorskip("torch")


@cached_job
def train(c: float) -> dict[str, object]:
    return {
        "loss": torch.tensor(c, requires_grad=True) / 2,
        "epochs": torch.tensor(int(c)),
        "curve": torch.full((3,), c, requires_grad=True),
        "half": torch.full((2,), c, dtype=torch.bfloat16),
    }


def test_tensors_without_dimensions_are_numbers_in_tables() -> None:
    sweep = train.sweep({"c": [1.0, 2.0]}).run(progress=False)
    for frame in (sweep.to_dataframe(), train.cache.to_dataframe()):
        assert frame["loss"].dtype == numpy.float64
        assert sorted(frame["loss"]) == [0.5, 1.0]
        assert frame["epochs"].dtype == numpy.int64
    only = cached_job(lambda x: torch.tensor(x)).sweep({"x": [1.5, 2.5]}).run(progress=False)
    assert list(only.to_dataframe()["result"]) == [1.5, 2.5]


def test_tensors_without_dimensions_can_be_plotted(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    sweep = train.sweep({"c": [1.0, 2.0]}).run(progress=False)
    sweep.save(tmp_path / "loss.png", y="loss")
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_tensors_are_variables_of_a_dataset() -> None:
    dataset = train.sweep({"c": [1.0, 2.0]}).run(progress=False).to_xarray()
    assert dataset["loss"].dtype == numpy.float64
    assert dataset["curve"].dims == ("c", "repeat", "curve_0")
    assert dataset["curve"].sel(c=2.0).values.tolist() == [[2.0, 2.0, 2.0]]
    assert dataset["half"].shape == (2, 1, 2)
