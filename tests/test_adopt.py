"""adopt: the results of earlier code are accepted for the present code, and nothing is computed or lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bencher_job import BencherJobError, CacheWarning, cached_job
from tests.conftest import WriteModule

SLOW = """
    from bencher_job import cached_job
    CALLS = []
    @cached_job(tag="nightly")
    def total(n, *, start=0):
        CALLS.append(n)
        result = start
        for i in range(n):
            result += i
        return result
"""
FAST = SLOW.replace("range(n):\n            result += i", "(n * (n - 1) // 2,):\n            result += i")


def test_results_of_the_code_before_an_edit_are_hits_of_the_code_after_it(write_module: WriteModule) -> None:
    module = write_module("sums", SLOW)
    before = {n: module.total(n, start=1) for n in range(500)}
    module = write_module("sums", FAST)
    assert not module.total.is_cached(3, start=1)
    assert module.total.cache.adopt() == 500
    assert ({n: module.total(n, start=1) for n in range(500)}, module.CALLS) == (before, [])
    assert module.total.cache.adopt() == 0


def test_the_earlier_code_keeps_its_own_entries_and_the_records_say_what_was_computed(
    write_module: WriteModule,
) -> None:
    module = write_module("sums", SLOW)
    module.total(3)
    (before,) = module.total.cache.records()
    module = write_module("sums", FAST)
    module.total.cache.adopt()
    kept, adopted = sorted(
        module.total.cache.records(versions="all"),
        key=lambda record: record.fingerprint != before.fingerprint,
    )
    assert kept == before
    assert (adopted.tag, adopted.created, adopted.seconds, adopted.arguments) == (
        before.tag,
        before.created,
        before.seconds,
        before.arguments,
    )
    module = write_module("sums", SLOW)
    assert module.total.is_cached(3)


def test_an_entry_of_the_present_code_is_not_replaced(write_module: WriteModule) -> None:
    write_module("sums", SLOW).total(3)
    module = write_module("sums", SLOW.replace("return result", "return -result"))
    assert module.total(3) == -3
    assert module.total.cache.adopt() == 0
    assert module.total(3) == -3


def test_the_latest_earlier_code_is_meant_unless_another_is_named(write_module: WriteModule) -> None:
    editions = [SLOW.replace("return result", f"return result + {number}") for number in range(3)]
    for code in editions:
        write_module("sums", code).total(3)
    module = write_module("sums", FAST)
    by_value = {}
    for record in module.total.cache.records(versions="all"):
        hit = module.total.cache.cache.get(record.key)
        by_value[hit.load()] = record.fingerprint
    assert module.total.cache.adopt() == 1
    assert module.total(3) == 3 + 2
    module.total.forget(3)
    assert module.total.cache.adopt(by_value[3][:12]) == 1
    assert module.total(3) == 3


def test_a_fingerprint_that_no_entry_has_is_an_error_that_lists_those_there_are(
    write_module: WriteModule,
) -> None:
    write_module("sums", SLOW).total(3)
    module = write_module("sums", FAST)
    (record,) = module.total.cache.records(versions="all")
    with pytest.raises(
        BencherJobError, match=rf"'zz' matches no earlier version .*{record.fingerprint[:16]}"
    ):
        module.total.cache.adopt("zz")


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        (FAST.replace('tag="nightly"', "version=2"), "its version was none and is 2"),
        (FAST.replace("start=0", "start=0, step=1"), "was n, start and is n, start, step"),
    ],
)
def test_keys_that_can_not_be_translated_are_refused(
    write_module: WriteModule, edited: str, told: str
) -> None:
    write_module("sums", SLOW).total(3)
    with pytest.raises(BencherJobError, match=told):
        write_module("sums", edited).total.cache.adopt()


def test_results_of_arguments_that_bring_code_along_are_left_out_with_a_warning(
    write_module: WriteModule,
) -> None:
    code = """
        from bencher_job import cached_job
        SCALE = 1
        class Model:
            @cached_job
            def fit(self, x):
                return x * SCALE
    """
    write_module("fits", code).Model().fit(2)
    model = write_module("fits", code.replace("SCALE = 1", "SCALE = 1.0")).Model
    with pytest.warns(CacheWarning, match=r"1 result of fits\.Model\.fit not adopted"):
        assert model.fit.cache.adopt() == 0


@pytest.mark.parametrize("change", [{"code": "own"}, {"by_content": ("path",)}])
def test_another_way_to_make_keys_is_refused(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "data"
    path.write_text("1")

    def make(number: int, **options: object):
        @cached_job(**options)
        def rows(path: Path) -> int:
            return number * 0

        return rows

    make(1)(path)
    with pytest.raises(BencherJobError, match="the list of parameters in the key was"):
        make(2, **change).cache.adopt()


def test_repeats_of_a_sweep_are_adopted(write_module: WriteModule) -> None:
    module = write_module("sums", SLOW)
    module.total.sweep({"n": [1, 2]}, repeats=3).run()
    module = write_module("sums", FAST)
    assert module.total.cache.adopt() == 6
    assert module.total.sweep({"n": [1, 2]}, repeats=3).plan().hits == 6


def test_large_arguments_and_values_are_adopted() -> None:
    def make(bias: int):
        @cached_job
        def shifted(values: np.ndarray) -> np.ndarray:
            return values + bias * 0

        return shifted

    values = np.arange(1_000_000.0)
    first, second = make(1), make(2)
    first(values)
    assert second.cache.adopt() == 1
    np.testing.assert_array_equal(second(values), values)
    assert second.cache.info().computed == 0


def test_media_live_as_long_as_any_entry_that_was_made_of_theirs(write_module: WriteModule) -> None:
    code = """
        from pathlib import Path
        from bencher_job import cached_job, gen_path
        @cached_job
        def picture(x):
            path = gen_path("picture", suffix=".txt")
            Path(path).write_text("a")
            return path
    """
    path = Path(write_module("pictures", code).picture(1))
    earlier = write_module("pictures", code).picture.cache.keys.key((1,), {})
    module = write_module("pictures", code.replace('"a"', '"b"'))
    assert module.picture.cache.adopt() == 1
    assert module.picture(1) == str(path)
    module.picture.cache.cache.remove([earlier])
    assert path.read_text() == "a"
    module.picture.forget(1)
    assert not path.exists()
