"""The fields of a config are arguments by names of their own, wherever arguments are shown, compared and chosen."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bencher_job import cached_job
from tests.configs import Config, Optimizer, each_config
from tests.conftest import WriteModule
from tests.environment import unmeasured
from tests.shell import Shell

FIELDS = {"cfg.layers": 2, "cfg.optimizer.lr": 0.1, "cfg.optimizer.name": "sgd"}


@cached_job
def train(cfg: Any, seed: int = 0) -> float:
    return 0.5


def shown() -> dict[str, Any]:
    (record,) = train.cache.records()
    return dict(record.arguments)


@each_config
def test_a_record_shows_the_fields_of_a_config(make: Any) -> None:
    train(make())
    arguments = shown()
    assert {name: arguments[name] for name in FIELDS} == FIELDS
    assert arguments["seed"] == 0
    assert arguments.get("cfg", type(make()).__name__) == type(make()).__name__
    assert not any("token" in name or value == "secret" for name, value in arguments.items())


@each_config
def test_a_table_has_a_column_for_each_field(make: Any) -> None:
    train(make())
    table = train.cache.to_dataframe()
    assert table[[*FIELDS]].to_dict("records") == [FIELDS]
    assert pd.api.types.is_float_dtype(table["cfg.optimizer.lr"])
    swept = train.sweep({"cfg": [make()]}).run().to_dataframe()
    assert swept[[*FIELDS]].to_dict("records") == [FIELDS]


@each_config
def test_entries_are_chosen_by_a_field_or_by_a_whole_config(make: Any) -> None:
    train.sweep({"cfg.optimizer.lr": [0.1, 0.2], "seed": [0, 1]}, cfg=make()).run()

    def seeds(**where: Any) -> list[int]:
        return [record.arguments["seed"] for record in train.cache.records(where=where)]

    assert seeds(**{"cfg.optimizer.lr": 0.1}) == [0, 1]
    assert seeds(**{"cfg.optimizer.lr": lambda lr: lr > 0.1, "seed": 1}) == [1]
    assert seeds(cfg=make()) == [0, 1]
    assert seeds(**{"cfg.optimizer.lr": 0.3}) == seeds(**{"cfg.optimizer.nothing": None}) == []


@each_config
def test_explain_names_the_field_that_differs(make: Any) -> None:
    @cached_job
    def other(cfg: Any) -> None:
        return None

    train(make())
    (future,) = other.sweep({"cfg.optimizer.lr": [0.2]}, cfg=make())
    explanation = train.explain(future.job.arguments["cfg"])
    assert "cfg.optimizer.lr: 0.1 -> 0.2" in [str(change) for change in explanation.arguments_changed]
    assert explanation.arguments["cfg.optimizer.lr"] == 0.2
    assert [change.name for change in explanation.arguments_changed] == ["cfg.optimizer.lr"]


@each_config
def test_to_be_shown_changes_no_key(make: Any) -> None:
    config = make()
    before = train.key(config)
    train(config)
    train.cache.to_dataframe()
    train.explain(config, 1)
    assert train.key(config) == before == train.key(make())


def test_a_field_that_is_not_shown_is_named_all_the_same() -> None:
    train(Config())
    (change,) = train.explain(Config(token="other")).arguments_changed
    assert str(change) == "cfg: it looks the same, Config; cfg.token differs"


def test_the_classes_of_parts_are_shown() -> None:
    train(Config())
    assert (shown()["cfg"], shown()["cfg.optimizer"]) == ("Config", "Optimizer")


def test_another_class_with_the_same_fields_is_the_difference() -> None:
    @dataclasses.dataclass(frozen=True)
    class Adam(Optimizer):
        pass

    train(Config())
    (change,) = train.explain(Config(optimizer=Adam())).arguments_changed
    assert str(change) == "cfg.optimizer: 'Optimizer' -> 'Adam'"


class Lazy:
    def __init__(self) -> None:
        self.rate = 0.1

    @cached_property
    def computed(self) -> float:
        return 2 * self.rate


def test_what_an_object_computes_from_its_attributes_is_not_shown() -> None:
    lazy = Lazy()
    assert lazy.computed == 0.2
    train(lazy)
    assert shown() == {"cfg": "Lazy", "cfg.rate": 0.1, "seed": 0}


class Knot:
    def __init__(self) -> None:
        self.me, self.rate = self, 0.1


@pytest.mark.parametrize(
    "given",
    [
        {f"x{number}": "y" * 1000 for number in range(10_000)},
        Knot(),
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
    ],
    ids=["many", "knot", "deep"],
)
def test_however_large_a_config_is_little_of_it_is_kept(given: Any, cache_folder: Path) -> None:
    train(given)
    assert 0 < len(json.dumps(shown())) < 30_000
    assert shown()["seed"] == 0


@pytest.mark.parametrize("given", [{}, {"a b": 1}, {1: 2}, {"a.b": 1}, [Config()], Config, {"": 1}])
def test_what_has_no_fields_by_name_is_shown_as_a_text(given: Any) -> None:
    train(given)
    assert [*shown()] == ["cfg", "seed"]


def test_an_ignored_config_is_no_difference() -> None:
    @cached_job(ignore=("cfg",))
    def fit(cfg: Any, x: int) -> int:
        return x

    fit(Config(), 1)
    assert [str(change) for change in fit.explain(Config(layers=3), 2).arguments_changed] == ["x: 1 -> 2"]


def test_the_object_of_a_method_is_a_config(write_module: WriteModule) -> None:
    module = write_module(
        "scaling",
        """
        from bencher_job import cached_job

        class Scale:
            def __init__(self, rate):
                self.rate = rate

            @cached_job
            def scaled(self, x):
                return self.rate * x
        """,
    )
    module.Scale(2).scaled(1)
    assert [str(change) for change in module.Scale(3).scaled.explain(1).arguments_changed] == [
        "self.rate: 2 -> 3"
    ]


STUDY = """
    from dataclasses import dataclass, field
    from bencher_job import cached_job

    @dataclass(frozen=True)
    class Optimizer:
        lr: float = 0.1

    @dataclass(frozen=True)
    class Config:
        optimizer: Optimizer = Optimizer()
        layers: int = 2

    @cached_job
    def train(cfg, seed=0):
        return {"loss": cfg.optimizer.lr * seed}

    train.sweep({"cfg.optimizer.lr": [0.1, 0.2], "seed": [1, 2]}, cfg=Config()).run(progress=False)
"""


def test_the_shell_shows_and_chooses_by_fields_where_the_code_is_gone(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.program(STUDY)
    records = shell.document("show", "train", "--where", "cfg.optimizer.lr=0.1")["records"]
    fields = {"cfg": "Config", "cfg.optimizer": "Optimizer", "cfg.optimizer.lr": 0.1, "cfg.layers": 2}
    assert [record["arguments"] for record in records] == [{**fields, "seed": 1}, {**fields, "seed": 2}]
    assert "cfg.optimizer.lr=0.1" in shell.out("show", "train", "--where", "seed=1")
    assert "2 entries" in shell.out("clear", "train", "--where", "cfg.optimizer.lr=0.1", "--yes")
    assert len(shell.document("show", "train")["records"]) == 2
    _, error = shell.failure("show", "--where", "cfg.=1")
    assert "Write name=value" in error


def test_no_library_of_configs_is_imported(tmp_path: Path) -> None:
    program = tmp_path / "study.py"
    program.write_text(
        "import sys\n"
        + "\n".join(line[4:] for line in STUDY.splitlines())
        + "\ntrain.explain(Config(layers=3), 1)\n"
        + "sys.exit(not {'attr', 'attrs', 'pydantic', 'omegaconf'}.isdisjoint(sys.modules))\n"
    )
    environment = {**unmeasured(), "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, program], cwd=tmp_path, env=environment, check=True)
