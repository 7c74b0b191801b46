"""A sweep shows a plan and a bar where somebody watches, and nothing elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bencher_job import BencherJobError, Plan
from bencher_job._views import progress
from bencher_job._views.progress import progress_bar
from tests.environment import unmeasured


def never() -> Plan:
    raise AssertionError("a plan that nobody sees was made")


def test_where_nobody_watches_nothing_is_shown_and_no_plan_is_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for show in (None, False):
        with progress_bar("study.f", 2, show=show, plan=never) as bar:
            bar.advance(hit=True, failed=False)
    assert capsys.readouterr() == ("", "")


def test_a_bar_tells_the_plan_what_is_done_what_were_hits_and_what_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_bar("study.f", 4, show=True, plan=lambda: Plan(1, 3, 60.0, 2)) as bar:
        for hit, failed in ((True, False), (False, True), (False, False), (False, False)):
            bar.advance(hit=hit, failed=failed)
    shown = capsys.readouterr()
    assert "1 hit, 3 to run, about 30 s on 2 workers" in shown.err
    for part in ("study.f", "4/4", "1 hit", "1 failed", " in "):
        assert part in shown.err
    assert shown.out == ""


def test_a_name_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("study.f.<locals>[red]x", 0, show=True):
        pass
    assert "study.f.<locals>[red]x" in capsys.readouterr().err


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float | None]]:
    """What a bar says is left, in seconds, after each of some jobs, which end a second apart."""

    def told(plan: Plan | None, hits: list[bool], total: int) -> list[float | None]:
        now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: now)
        bar = progress._Bar(progress._drawing(in_notebook=True), "f", total, plan)
        seconds = [bar._left()]
        for hit in hits:
            now += 1
            bar.advance(hit=hit, failed=False)
            seconds.append(bar._left())
        return seconds

    return told


def test_the_time_left_is_as_planned_until_jobs_have_run_and_then_as_they_took(
    left: Callable[..., list[float | None]],
) -> None:
    plan = Plan(hits=2, misses=4, seconds=100.0, workers=1)
    assert left(plan, [True, True, False, False, False, False], 6) == [100, 99, 98, 9, 4, 5 / 3, 0]


def test_without_a_plan_all_that_is_left_may_have_to_run(left: Callable[..., list[float | None]]) -> None:
    assert left(None, [True, False, False], 4) == [None, None, 4, 1.5]


def test_without_recorded_times_nothing_is_said_before_a_job_has_run(
    left: Callable[..., list[float | None]],
) -> None:
    assert left(Plan(hits=0, misses=2), [False, False], 2) == [None, 1, 0]


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # the terminal has no other end any more
        return b""


def test_on_a_terminal_it_is_shown_unasked(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "from bencher_job import cached_job\n"
        "f = cached_job(lambda x: x)\n"
        "f.sweep({'x': range(5)}).run()\n"
        "f.sweep({'x': range(5)}).run(progress=False)\n"
    )
    screen, terminal = pty.openpty()
    environment = unmeasured() | {
        "BENCHER_JOB_CACHE_DIR": str(tmp_path / "cache"),
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    shown = b""
    with subprocess.Popen([sys.executable, script], stdout=terminal, stderr=terminal, env=environment) as ran:
        os.close(terminal)
        while read := _read(screen):
            shown += read
    os.close(screen)
    assert ran.returncode == 0, shown
    assert b"5/5" in shown
    assert shown.count(b"0 hits, 5 to run") == 1
    assert b"5 hits, 0 to run" not in shown


def test_without_rich_a_bar_that_is_asked_for_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with (
        pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[progress\]'"),
        progress_bar("f", 1, show=True),
    ):
        pass
    monkeypatch.setattr(progress, "_is_in_notebook", lambda: True)
    with progress_bar("f", 1, show=None, plan=never) as bar:
        bar.advance(hit=False, failed=False)
