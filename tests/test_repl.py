"""What a REPL shows of results of the library, and what Python says of a missing `await`."""

from __future__ import annotations

import warnings

import pytest

from bencher_job import cached_job


@cached_job(tag="nightly")
def score(model: str, c: float = 1.0) -> float:
    return len(model) * c


@cached_job
async def later(x: int) -> int:
    return x


def test_an_explanation_shows_what_print_shows() -> None:
    explanation = score.explain("svm")
    assert repr(explanation) == str(explanation)
    assert "a miss" in repr(explanation)
    assert "mappingproxy" not in repr(explanation)


def test_records_show_a_table_and_lose_no_record() -> None:
    assert repr(score.cache.records()) == "<no more records>"
    for c in range(25):
        score("svm", c)
    records = score.cache.records()
    titles, first, *_, last = repr(records).splitlines()
    assert titles.split() == ["function", "arguments", "tag", "created,", "UTC", "time", "size"]
    assert first.split()[:3] == [f"{score.__module__}.score", "model='svm',", "c=0"]
    assert last == "the first 20; there are more"
    assert len(repr(records).splitlines()) == 22
    assert [record.arguments["c"] for record in records] == [*range(25)]


def test_figures_show_a_line_each() -> None:
    score.cache.clear_call_counts()
    score("svm")
    score("svm")
    lines = dict(
        line.split(maxsplit=1) for line in repr(score.cache.info()).splitlines() if "in all" not in line
    )
    assert lines["entries"] == "1"
    assert lines["hits"].startswith("1, ")
    assert lines["computed"] == "1"
    assert "1 entry; 1 hit, 1 computed" in score.cache.stats()


@pytest.mark.parametrize("forgotten", [lambda: later(1), lambda: later.refresh(1)])
def test_a_missing_await_is_told_with_the_function_s_name(forgotten) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert f"<coroutine object {__name__}.later " in repr(forgotten())
    assert [str(each.message) for each in told] == [f"coroutine '{__name__}.later' was never awaited"]
