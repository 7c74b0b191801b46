"""Groups, CSV and the first repeat are the same whichever way many rows are asked for."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.views.page.caches import entry, fill, key_of
from tests.views.page.serving import Served, serving

TRAIN = {"store": "fcache", "function": "study.train"}
F = {"store": "fcache", "function": "f"}


def groups(server: Served, *by: str, value: str, **asked: Any) -> list[dict[str, Any]]:
    answered = server.get("groups", by=json.dumps(by), value=value, **asked)
    assert answered.status == 200, answered
    found: list[dict[str, Any]] = answered.json()["groups"]
    return found


def test_groups_have_count_mean_and_spread(shared: Served) -> None:
    found = groups(shared, "arguments.model", value="results.accuracy", **TRAIN)
    assert {group["cells"][0] for group in found} == {"svm", "forest", "boosting"}
    (svm,) = (group for group in found if group["cells"] == ["svm"])
    values = [number / 60 for number in range(0, 60, 3)]
    assert svm["count"] == 20
    assert svm["mean"] == pytest.approx(statistics.fmean(values))
    assert svm["sd"] == pytest.approx(statistics.stdev(values))
    assert (svm["low"], svm["high"]) == (0, 57 / 60)


def test_groups_are_of_what_passes_the_filters(shared: Served) -> None:
    filters = '{"arguments.seed": "<6"}'
    found = groups(shared, "arguments.model", "tag", value="seconds", **TRAIN, filters=filters)
    assert sum(group["count"] for group in found) == 6
    assert len(found) == 6


@pytest.fixture
def mixed(tmp_path: Path) -> Any:
    arguments: list[dict[str, Any]] = [
        {"x": 1},
        {"x": 1.0},
        {"x": True},
        {"x": "1"},
        {"repeat": 1, "x": 1},
        {},
    ]
    values = [1.5, "text", None, float("nan"), 10**400, 2.5]
    fill(
        tmp_path / "c" / "fcache",
        *(
            entry(n, "f", given, {"y": value, "seconds": n})
            for n, (given, value) in enumerate(zip(arguments, values, strict=True))
        ),
    )
    with serving(tmp_path / "c") as server:
        server.begin()
        yield server


def test_equal_numbers_of_different_types_are_different_groups(mixed: Served) -> None:
    found = groups(mixed, "arguments.x", value="results.y", **F)
    texts = [json.dumps(group["cells"][0]) for group in found]
    assert sorted(texts) == sorted(["1", '{"t": "1.0", "n": 1.0}', "true", '"1"', "null"])


def test_what_is_no_finite_number_has_no_part_in_a_mean(mixed: Served) -> None:
    (group,) = groups(mixed, value="results.y", **F)
    assert (group["count"], group["mean"], group["low"], group["high"]) == (6, 2.0, 1.5, 2.5)
    assert groups(mixed, "arguments.x", value="tag", **F)[0]["mean"] is None


def test_the_first_repeat_is_0_in_rows_filters_order_groups_and_csv(mixed: Served) -> None:
    rows = mixed.get("rows", **F, sort="arguments.repeat").json()
    at = [column["id"] for column in rows["columns"]].index("arguments.repeat")
    assert [row["cells"][at] for row in rows["rows"]] == [0, 0, 0, 0, 0, 1]
    for text, count in (("0", 5), ("1", 1), ("none", 0), ("<1", 5)):
        filters = json.dumps({"arguments.repeat": text})
        assert mixed.get("rows", **F, filters=filters).json()["total"] == count
    found = groups(mixed, "arguments.repeat", value="seconds", **F)
    assert sorted((group["cells"][0], group["count"]) for group in found) == [(0, 5), (1, 1)]
    lines = csv.DictReader(mixed.get("csv", **F).body.decode().splitlines())
    assert sorted(line["repeat"] for line in lines) == ["0"] * 5 + ["1"]


def test_csv_has_a_row_for_each_entry_and_tells_equal_names_apart(mixed: Served) -> None:
    answered = mixed.get("csv", **F, sort="results.seconds")
    assert answered.headers["content-disposition"] == 'attachment; filename="f.csv"'
    rows = list(csv.DictReader(answered.body.decode().splitlines()))
    assert [row["key"] for row in rows] == [key_of(n) for n in range(6)]
    assert [row["x"] for row in rows] == ["1", "1.0", "True", "1", "1", ""]
    assert [row["results.seconds"] for row in rows] == [str(n) for n in range(6)]
    assert {row["seconds"] for row in rows} == {"0.0"}


@pytest.mark.parametrize("by", ["{broken", "1", "[" * 20_000])
def test_groups_that_are_not_understood_say_so(shared: Served, by: str) -> None:
    assert shared.get("groups", **TRAIN, by=by, value="seconds").status == 400


def test_changes_of_entries_without_code_say_so(shared: Served) -> None:
    answered = shared.get("changes", store="fcache", key=key_of(1), other=key_of(2))
    assert answered.status == 404
    assert "is not known" in answered.json()["error"]
