"""What people see has a form for notebooks, in which all that comes from elsewhere is escaped."""

from __future__ import annotations

import html
from html.parser import HTMLParser
from typing import Any

import pytest

from bencher_job import cached_job

EVIL = "<script>alert('x')</script>"


class Tags(HTMLParser):
    """Notes the tags of a text, and whether each that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.met: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.met.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@cached_job(tag=EVIL, code="none")
def risky(text: str, fail: bool = False) -> str:
    if fail:
        raise ValueError(text)
    return text


def shown() -> dict[str, Any]:
    risky(EVIL)
    ran = risky.sweep({"text": [EVIL, "<b>"], "fail": [False, True]}).run()
    return {
        "sweep": ran,
        "sweep before": risky.sweep({"text": [EVIL] * 20}),
        "plan": ran.plan(),
        "results": ran.results,
        "failures": ran.failures,
        "record": next(risky.cache.records()),
        "records": risky.cache.records(),
        "info": risky.cache.info(),
        "explanation": risky.explain(EVIL),
        "future": risky.submit(EVIL),
    }


NAMES = [
    "sweep",
    "sweep before",
    "plan",
    "results",
    "failures",
    "record",
    "records",
    "info",
    "explanation",
    "future",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_form_that_is_whole_and_escaped(name: str) -> None:
    text = shown()[name]._repr_html_()
    tags = Tags(text)
    assert not tags.open
    assert "script" not in tags.met
    assert EVIL not in text
    if name in {"sweep", "sweep before", "results", "failures", "record", "records", "explanation"}:
        assert "&lt;script&gt;" in text


def test_to_look_at_records_leaves_them_there() -> None:
    for number in range(30):
        risky(str(number))
    records = risky.cache.records()
    text = records._repr_html_()  # type: ignore[attr-defined]
    assert text.count("<tr>") == 21
    assert "the first 20; there are more" in text
    assert [record.arguments["text"] for record in records] == [str(number) for number in range(30)]


def test_the_figures_of_a_cache_are_told_in_words() -> None:
    risky("a")
    risky("a")
    text = html.unescape(risky.cache.info()._repr_html_())
    assert "entries" in text
    assert "of 10.0 GB" in text
