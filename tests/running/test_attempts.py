from __future__ import annotations

from concurrent.futures import CancelledError
from datetime import timedelta

import pytest

from bencher_job import BencherJobError, CodeMismatch, JobTimeout, UnkeyableArgument, WorkerLost
from bencher_job._options import LONGEST_PAUSE, RunOptions


def pauses(attempts, error, number):
    return [attempts.pause(error, attempt) for attempt in range(1, number + 1)]


def test_a_job_runs_again_as_often_as_it_may():
    made = pauses(RunOptions(retries=2), ValueError(), 4)

    assert [pause is not None for pause in made] == [True, True, False, False]
    assert RunOptions().pause(ValueError(), 1) is None


def test_each_pause_is_twice_as_long_up_to_a_limit():
    made = pauses(RunOptions(retries=2000), ValueError(), 2000)

    for number, pause in enumerate(made[:7]):
        assert 0.05 * 2**number <= pause <= 0.1 * 2**number
    assert all(LONGEST_PAUSE / 2 <= pause <= LONGEST_PAUSE for pause in made[7:])


def test_jobs_that_fail_together_come_back_at_different_times():
    attempts = RunOptions(retries=1)

    assert len({attempts.pause(ValueError(), 1) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("retry_on", "error", "again"),
    [
        (Exception, ValueError(), True),
        (ValueError, UnicodeError(), True),
        (ValueError, KeyError(), False),
        ((ValueError, KeyError), KeyError(), True),
        ((), KeyError(), False),
        (lambda error: "busy" in str(error), OSError("busy"), True),
        (lambda error: "busy" in str(error), OSError("gone"), False),
        (Exception, JobTimeout("late"), True),
        (ValueError, JobTimeout("late"), False),
        (TimeoutError, JobTimeout("late"), True),
        ((), WorkerLost("gone"), True),
        (lambda _: False, WorkerLost("gone"), True),
        (Exception, CodeMismatch("other"), False),
        (Exception, BencherJobError("can't be sent"), False),
        (Exception, UnkeyableArgument("x", "generator", "no"), False),
        (Exception, CancelledError(), False),
        (Exception, KeyboardInterrupt(), False),
        (Exception, SystemExit(), False),
        (Exception, None, False),
    ],
)
def test_what_is_tried_again(retry_on, error, again):
    assert (RunOptions(retries=1, retry_on=retry_on).pause(error, 1) is not None) is again


def test_a_choice_that_fails_is_logged_and_final(caplog):
    assert RunOptions(retries=1, retry_on=lambda error: error.missing).pause(ValueError("x"), 1) is None
    assert "retry_on=" in caplog.text
    assert "ValueError('x')" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"retries": -1}, ValueError, "retries=-1"),
        ({"retries": 1.5}, TypeError, "retries must be an int, not float"),
        ({"retries": True}, TypeError, "retries must be an int, not bool"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on must be an exception type, .*, not str"),
        ({"retry_on": KeyboardInterrupt}, TypeError, "retry_on must be .*, not the class KeyboardInterrupt"),
        ({"retry_on": (ValueError, 3)}, TypeError, "retry_on must be .*, not int"),
        ({"retry_on": int}, TypeError, "retry_on must be .*, not the class int"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, told):
    with pytest.raises(error, match=told):
        RunOptions(**options)


def test_a_time_is_given_in_seconds_or_as_a_timedelta():
    assert RunOptions(timeout=2).timeout == 2.0
    assert RunOptions(timeout=timedelta(minutes=1)).timeout == 60.0
    assert RunOptions(timeout=None).timeout is None
    assert RunOptions(timeout=float("inf")).timeout is None


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (0, ValueError, r"timeout=0 is not above 0\. .* or None to let jobs run on\."),
        (float("nan"), ValueError, r"timeout=nan is not above 0\."),
        ("1", TypeError, "timeout must be a number of seconds, a timedelta or None, not str"),
        (True, TypeError, "timeout must be .*, not bool"),
    ],
)
def test_what_is_not_a_time_is_refused(value, error, told):
    with pytest.raises(error, match=told):
        RunOptions(timeout=value)
