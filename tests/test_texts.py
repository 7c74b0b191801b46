"""Texts that UTF-8 has no bytes for: data and messages may have them, names may not, and no value is lost for them."""

from __future__ import annotations

import os
from pathlib import Path
from types import FunctionType

import pytest

from bencher_job import BencherJobError, CacheWarning, Executors, FutureCache, Job, cached_job

HALF = "\udcff"


def given(x: object) -> object:
    return x


def refuse(x: object) -> object:
    raise ValueError(x)


@pytest.mark.parametrize("executor", [Executors.SERIAL, Executors.THREADS, Executors.MULTIPROCESSING])
@pytest.mark.parametrize("value", [HALF, [HALF], {HALF: HALF}])
def test_an_argument_and_a_result_may_have_half_of_a_pair(executor: Executors, value: object) -> None:
    function = cached_job(executor=executor, code="none")(given)
    assert function(value) == value
    assert function.is_cached(value)
    assert [record.function for record in function.cache.records()] == [f"{__name__}.given"]
    function.cache.close()


@pytest.mark.parametrize("executor", [Executors.SERIAL, Executors.THREADS, Executors.MULTIPROCESSING])
def test_an_exception_may_tell_of_it(executor: Executors) -> None:
    function = cached_job(executor=executor, retries=1)(refuse)
    with pytest.raises(ValueError, match=HALF):
        function(HALF)
    function.cache.close()


def test_a_job_may_be_named_so(tmp_path: Path) -> None:
    with FutureCache(cache_dir=tmp_path) as cache:
        assert cache.submit(Job(HALF, given, {"x": 1})).result() == 1


@pytest.mark.given_folders
def test_a_folder_whose_name_is_no_utf8_holds_a_cache(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    for is_known in (False, True):
        function = cached_job(cache_dir=folder)(given)
        assert function.is_cached(3) is is_known
        assert function(3) == 3
        function.cache.close()
    assert (folder / "fcache" / "cache.db").exists()


def test_a_tag_is_refused_when_the_function_is_decorated() -> None:
    with pytest.raises(ValueError, match=r"tag='\\udcff' can't be written to a store"):
        cached_job(tag=HALF)(given)


@pytest.mark.parametrize("option", ["tag", "job_key"])
def test_a_job_is_refused_that_could_not_be_kept(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option}='\\udcff' can't be written to a store"):
        Job("id", given, {"x": 1}, **{option: HALF})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["nul\0", "k" * 16_384])
def test_a_key_that_an_entry_has_no_room_for_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="can't be the key of an entry"):
        Job("id", given, {"x": 1}, job_key=key)


def test_the_longest_key_is_kept() -> None:
    with FutureCache(overwrite=False) as cache:
        futures = [cache.submit(Job("id", given, {"x": 1}, job_key="\U0001f600" * 16_383)) for _ in range(2)]
        assert [(future.result(), future.cached) for future in futures] == [(1, False), (1, True)]


def test_a_cache_is_not_named_so() -> None:
    with pytest.raises(BencherJobError, match="is not the name of a folder"):
        cached_job(cache_name=HALF)(given)(1)


def test_a_question_about_it_is_answered_with_an_error_of_ours() -> None:
    with FutureCache() as cache:
        for ask in (cache.clear_tag, cache.cache.has):
            with pytest.raises(BencherJobError, match="surrogates not allowed"):
                ask(HALF)
        with pytest.warns(CacheWarning, match="can't be read"):
            assert not cache.prefetch([HALF])


def test_the_value_of_a_function_that_is_named_so_arrives() -> None:
    named = FunctionType(given.__code__, globals(), HALF)
    named.__qualname__ = HALF
    with pytest.warns(CacheWarning, match="can't be kept"):
        assert cached_job(named)(1) == 1
