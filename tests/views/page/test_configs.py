"""The page has a column for each field of a config, which it filters and sorts by without unpickling anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.configs import Config, Optimizer
from tests.views.page.caches import entry, fill
from tests.views.page.serving import Served, serving

TRAIN = {"store": "fcache", "function": "study.train"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("configs") / "cachedir"
    wide = {f"x{number}": 0 for number in range(90)}
    fill(
        directory / "fcache",
        *(
            entry(
                n, "study.train", {"cfg": Config(optimizer=Optimizer(lr=n / 10)), "seed": n % 2}, {"loss": n}
            )
            for n in range(6)
        ),
        *(entry(f"w{n}", "study.wide", {"cfg": wide, "seed": n}, n) for n in range(3)),
    )
    with serving(directory) as server:
        server.begin()
        yield server


def test_fields_are_columns(served: Served) -> None:
    columns = served.get("columns", **TRAIN).json()["columns"]
    assert {(each["label"], each["kind"]) for each in columns if each["group"] == "argument"} == {
        ("cfg.optimizer.lr", "number"),
        ("seed", "number"),
    }


def test_fields_that_are_the_same_everywhere_come_last(served: Served) -> None:
    columns = served.get("columns", **TRAIN).json()["columns"]
    assert [(each["group"], each["label"], each["kind"]) for each in columns][-4:] == [
        ("constant", "cfg", "text"),
        ("constant", "cfg.layers", "number"),
        ("constant", "cfg.optimizer", "text"),
        ("constant", "cfg.optimizer.name", "text"),
    ]


def test_rows_are_filtered_and_sorted_by_fields(served: Served) -> None:
    filters = json.dumps({"arguments.cfg.optimizer.lr": ">=0.3", "arguments.seed": "1"})
    answer = served.get("rows", **TRAIN, filters=filters, sort="-arguments.cfg.optimizer.lr").json()
    at = [each["id"] for each in answer["columns"]].index("arguments.cfg.optimizer.lr")
    assert [row["cells"][at] for row in answer["rows"]] == [0.5, 0.3]
    points = served.get("points", **TRAIN, x="arguments.cfg.optimizer.lr", y="results.loss").json()
    assert points["total"] == 6


def test_an_argument_that_varies_is_not_crowded_out_by_fields(served: Served) -> None:
    columns = served.get("columns", store="fcache", function="study.wide").json()["columns"]
    assert "seed" in [each["label"] for each in columns]
