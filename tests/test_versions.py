"""Versions of a function's code in Python: which records are shown, what is stale, and which failed jobs are kept."""

from __future__ import annotations

from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from bencher_job import CacheWarning, FutureCache, Job, JobFunctionCache, JobTimeout, cached_job
from bencher_job._record import FailedJob
from tests.conftest import WriteModule

SCORE = """
    from bencher_job import cached_job

    @cached_job
    def score(c):
        return c * FACTOR

    @cached_job
    def other(x):
        return x
"""


def edited(write_module: WriteModule, *factors: int) -> JobFunctionCache:
    """The cache of a function that ran twice with each of some versions of its code; the last one is the present."""
    for factor in factors:
        module = write_module("study", SCORE.replace("FACTOR", str(factor)))
        for c in (1, 2):
            module.score(c)
        module.other(1)
    cache: JobFunctionCache = module.score.cache
    return cache


def shown(cache: FutureCache, **chosen: object) -> set[object]:
    return {cache.cache[record.key] for record in cache.records(**chosen)}  # type: ignore[arg-type]


def test_records_and_tables_are_of_the_present_code(write_module: WriteModule) -> None:
    cache = edited(write_module, 1, 10, 100)
    assert shown(cache) == {100, 200}
    assert shown(cache, where={"c": 1}) == {100}
    assert set(cache.to_dataframe()["result"]) == {100, 200}
    assert shown(cache, versions="all") == {1, 2, 10, 20, 100, 200}
    assert repr(cache.records()).endswith(
        '\n4 entries of 2 other versions of the code are not shown; versions="all" shows them'
    )
    assert "4 entries of 2 other versions" in cache.records()._repr_html_()  # type: ignore[attr-defined]
    assert "not shown" not in repr(cache.records(versions="all"))
    assert len(cache.to_dataframe(versions="all")) == 6
    (info,) = [each for each in cache.functions() if each.name == "study.score"]
    seen = [each.first_seen for each in info.versions]  # which the table has used together
    assert seen == sorted(seen, reverse=True)
    write_module("study", SCORE.replace("FACTOR", "1"))
    assert shown(edited(write_module, 1)) == {1, 2}


def test_a_version_is_named_by_the_first_digits_of_its_fingerprint(write_module: WriteModule) -> None:
    cache = edited(write_module, 1, 10, 100)
    (info,) = [each for each in cache.functions() if each.name == "study.score"]
    latest, middle, oldest = info.versions
    assert [each.entries for each in info.versions] == [2, 2, 2]
    assert shown(cache, versions=oldest.fingerprint[:8]) == {1, 2}
    assert shown(cache, versions=[middle.label, latest.fingerprint]) == {10, 20, 100, 200}
    assert shown(FutureCache(), versions=middle.label) == {10, 20}
    with pytest.raises(ValueError, match=rf"versions='zz' means no version .* Use one of: .*{latest.label}"):
        cache.records(versions="zz")
    with pytest.raises(TypeError, match="versions must be a str, or several, not int"):
        cache.records(versions=[1])
    with pytest.raises(TypeError, match="versions must be a str, or several, not int"):
        cache.records(versions=1)  # type: ignore[arg-type]


def test_a_table_without_rows_says_that_others_are_hidden(write_module: WriteModule) -> None:
    edited(write_module, 1)
    module = write_module("study", SCORE.replace("FACTOR", "2"))
    with pytest.warns(CacheWarning, match=r"as it is now has no results\. 2 entries of another version"):
        assert module.score.cache.to_dataframe().empty


def test_entries_whose_key_was_given_are_of_no_version(write_module: WriteModule) -> None:
    cache = edited(write_module, 1, 10)
    with FutureCache() as plain:
        plain.submit(Job("given", cache.function, {"c": 3}, job_key="given")).result()
    assert shown(cache) == {10, 20, 30}
    assert cache.clear_stale() == 2
    assert shown(cache, versions="all") == {10, 20, 30}


def test_stale_results_of_one_function_or_of_all_are_removed(write_module: WriteModule) -> None:
    cache = edited(write_module, 1, 10)
    write_module("study", SCORE.replace("FACTOR", "1")).score(1)  # the code before is used last
    assert FutureCache().clear_stale() == 2
    assert shown(FutureCache(), function="study.score") == {1, 2}
    cache = edited(write_module, 5)
    assert cache.clear_stale() == 2
    assert cache.clear_stale() == 0
    assert shown(FutureCache()) == {5, 10, 1}


def test_an_archive_has_all_versions_unless_some_are_chosen(
    write_module: WriteModule, tmp_path: Path
) -> None:
    cache = edited(write_module, 1, 10)
    assert cache.export(tmp_path / "all.tar") == 4
    assert cache.export(tmp_path / "some.tar", versions="current") == 2


def failures(cache: FutureCache) -> list[FailedJob]:
    return cache.cache.history.failures()


FAILING = """
    from bencher_job import cached_job

    @cached_job(executor=EXECUTOR, retries=RETRIES)
    def ratio(x, y):
        return x / y
"""


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
def test_a_failed_job_is_kept_with_its_traceback_until_it_succeeds(
    write_module: WriteModule, executor: str
) -> None:
    code = FAILING.replace("EXECUTOR", repr(executor)).replace("RETRIES", "1")
    module = write_module("ratios", code)
    for y in (0, 0, 1):
        with pytest.raises(ZeroDivisionError) if not y else pytest.MonkeyPatch.context():
            module.ratio(1, y)
    (failed,) = failures(module.ratio.cache)
    record = failed.record
    assert (record.function, dict(record.arguments)) == ("ratios.ratio", {"x": 1, "y": 0})
    assert (record.host != "", record.pid > 0) == (True, True)
    assert failed.error.startswith("ZeroDivisionError: ")
    assert "return x / y" in failed.traceback
    assert record.fingerprint == module.ratio.cache.keys.function_version.fingerprint.digest.hex()
    if executor == "serial":
        assert "_executors" not in failed.traceback
    module.ratio.cache.clear_cache()
    assert failures(module.ratio.cache) == []


def test_a_job_with_an_entry_does_not_count_as_failed(tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    @cached_job(ignore=["flag"])
    def fragile(flag: Path) -> int:
        return 1 // flag.exists()

    flag.touch()
    fragile(flag)
    flag.unlink()
    with pytest.raises(ZeroDivisionError):
        fragile.refresh(flag)
    assert failures(fragile.cache) == []
    fragile.forget(flag)
    with pytest.raises(ZeroDivisionError):
        fragile(flag)
    assert [each.error.partition(":")[0] for each in failures(fragile.cache)] == ["ZeroDivisionError"]
    flag.touch()
    fragile(flag)
    assert failures(fragile.cache) == []


def test_a_timeout_is_a_failure_and_a_cancelled_job_is_none(write_module: WriteModule) -> None:
    module = write_module(
        "sleepers",
        """
        import time
        from bencher_job import cached_job

        @cached_job(executor="multiprocessing", timeout=0.2, max_workers=1)
        def sleep(seconds):
            time.sleep(seconds)
        """,
    )
    late, waiting = module.sleep.submit(60), module.sleep.submit(61)
    assert waiting.cancel()
    with pytest.raises(JobTimeout):
        late.result()
    with pytest.raises(CancelledError):
        waiting.result()
    module.sleep.cache.wait()
    (failed,) = failures(module.sleep.cache)
    assert (failed.record.arguments["seconds"], failed.error.partition(":")[0]) == (60, "JobTimeout")


def test_the_latest_thousand_failed_jobs_are_kept() -> None:
    @cached_job
    def fail(x: int) -> None:
        raise ValueError(x)

    for x in range(1_005):
        with pytest.raises(ValueError, match=str(x)):
            fail(x)
    kept = {each.record.arguments["x"] for each in failures(fail.cache)}
    assert kept == set(range(5, 1_005))
