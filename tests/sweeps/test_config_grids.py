"""A grid may have the fields of a config."""

from __future__ import annotations

from typing import Any

import pytest

from bencher_job import cached_job
from bencher_job.testing import CallCounter
from tests.configs import Config, Model, Optimizer, each_config


@cached_job(code="none")
def lr_of(cfg: Any, seed: int = 0) -> Any:
    return read(cfg, "optimizer", "lr")


def read(cfg: Any, *path: str) -> Any:
    for name in path:
        cfg = cfg[name] if isinstance(cfg, dict) or hasattr(cfg, "items") else getattr(cfg, name)
    return cfg


@each_config
def test_each_value_stands_in_a_config_of_its_own(make: Any) -> None:
    base = make()
    sweep = lr_of.sweep({"cfg.optimizer.lr": [0.3, 0.4], "cfg.layers": [1]}, cfg=base, repeats=2).run()
    assert [
        (row["cfg.optimizer.lr"], row["cfg.layers"], row["repeat"], row["result"]) for row in sweep.results
    ] == [
        (0.3, 1, 0, 0.3),
        (0.3, 1, 1, 0.3),
        (0.4, 1, 0, 0.4),
        (0.4, 1, 1, 0.4),
    ]
    assert (read(base, "optimizer", "lr"), read(base, "layers")) == (0.1, 2)
    assert {record.arguments["cfg.layers"] for record in lr_of.cache.records()} == {1}


def test_a_point_is_the_same_job_as_the_call_with_such_a_config() -> None:
    lr_of.sweep({"cfg.optimizer.lr": [0.3], "cfg.layers": ["4"]}, cfg=Model()).run()
    assert lr_of.is_cached(Model(depth=4, optimizer=Optimizer(lr=0.3)))


def test_the_config_may_be_swept_too_or_be_a_default(counter: CallCounter) -> None:
    @cached_job
    def fit(counter: CallCounter, cfg: Config = Config(layers=7)) -> tuple[int, float]:
        counter.tick()
        return cfg.layers, cfg.optimizer.lr

    swept = fit.sweep({"cfg.optimizer.lr": [0.3, 0.4]}, counter=counter).run()
    assert [row["result"] for row in swept.results] == [(7, 0.3), (7, 0.4)]
    grid = {"cfg.optimizer.lr": [0.3, 0.4], "cfg": [Config(layers=8), Config(layers=9)]}
    both = fit.sweep(grid, counter=counter).run()
    assert [row["result"] for row in both.results] == [(8, 0.3), (9, 0.3), (8, 0.4), (9, 0.4)]
    assert both.to_dataframe()["cfg.optimizer.lr"].tolist() == [0.3, 0.3, 0.4, 0.4]
    assert both.to_dataframe()["cfg.layers"].tolist() == [8, 9, 8, 9]
    assert fit.sweep(grid, counter=counter).plan().misses == 0


def test_fields_of_an_ignored_config_run_once(counter: CallCounter) -> None:
    @cached_job(ignore=("cfg",))
    def fit(counter: CallCounter, cfg: Config) -> None:
        counter.tick()

    assert len(fit.sweep({"cfg.layers": [1, 2, 3]}, counter=counter, cfg=Config()).run().results) == 3
    assert counter.count == 1


def test_fields_that_are_the_same_in_all_rows_come_after_the_result() -> None:
    @cached_job
    def fit(cfg: Config) -> int:
        return cfg.layers

    swept = fit.sweep({"cfg": [Config(layers=8), Config(layers=9)]}).run()
    assert [*swept.to_dataframe()][:3] == ["cfg.layers", "repeat", "result"]
    assert [*fit.cache.to_dataframe()][:2] == ["cfg.layers", "result"]
    assert {"cfg", "cfg.optimizer.lr"} < {*swept.to_dataframe()}


@pytest.mark.parametrize(
    ("grid", "constants", "fact"),
    [
        (
            {"cfg.lr": [1]},
            {"cfg": Config()},
            r"cfg has no field lr\. Its fields are layers, optimizer, token\.",
        ),
        (
            {"cfg.optimizer.rate": [1]},
            {"cfg": Config()},
            r"cfg\.optimizer has no field rate\. Its fields are lr, name\.",
        ),
        ({"cfg.layers.x": [1]}, {"cfg": Config()}, r"cfg\.layers has no field x\. A int has no fields\."),
        ({"cfg.lr": [1]}, {"cfg": 5}, r"cfg has no field lr\."),
        ({"cfg.layers": [1, "many"]}, {"cfg": Model()}, "valid integer"),
    ],
)
def test_a_field_or_a_value_that_can_not_be_is_refused_before_anything_runs(
    grid: Any, constants: Any, fact: str
) -> None:
    with pytest.raises(ValueError, match=fact):
        lr_of.sweep(grid, **constants)


def test_a_field_of_nothing_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        TypeError, match=r"cfg is not given\. Pass what it is a field of: sweep\(grid, cfg=\.\.\.\)"
    ):
        lr_of.sweep({"cfg.layers": [1]})


def test_a_failure_names_the_config_that_ran() -> None:
    @cached_job
    def fails(cfg: Config) -> None:
        raise LookupError

    (failure,) = fails.sweep({"cfg.layers": [5]}, cfg=Config()).run().failures
    assert failure.arguments["cfg"].layers == 5
    assert "cfg.layers=5" in str(failure)
    frame = fails.sweep({"cfg.layers": [5]}, cfg=Config()).run().failures.to_dataframe()
    assert frame["cfg.layers"].tolist() == [5]


def test_arrays_and_pictures_have_fields_as_axes() -> None:
    pytest.importorskip("matplotlib")
    sweep = lr_of.sweep({"cfg.optimizer.lr": [0.3, 0.4, 0.5]}, cfg=Config()).run()
    data = sweep.to_xarray()
    assert data["result"].sel({"cfg.optimizer.lr": 0.4}).item() == 0.4
    assert data.attrs["cfg.layers"] == 2
    assert sweep.plot().get_xlabel() == "cfg.optimizer.lr"
    whole = lr_of.sweep({"cfg": [Config(optimizer=Optimizer(lr)) for lr in (0.3, 0.4, 0.5)]}).run()
    assert whole.plot().get_xlabel() == "cfg.optimizer.lr"
    assert whole.plot(x="cfg.layers").get_xlabel() == "cfg.layers"
