"""`keys`: what stands for a parameter in the key."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bencher_job import Executors, UnkeyableArgument, cached_job
from bencher_job.testing import CallCounter


class Model:
    """It has no key of its own."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Model, (self.version,)


def version_of(model: Any) -> Any:
    return model.version


def next_version_of(model: Any) -> Any:
    return model.version + 1


def scoring(**options: Any) -> Any:
    @cached_job(**options)
    def score(model: Any, other: Any = 0) -> int:
        return 1

    return score


@pytest.mark.parametrize("executor", [Executors.SERIAL, Executors.THREADS, Executors.MULTIPROCESSING])
def test_what_a_function_returns_stands_for_the_parameter(counter: CallCounter, executor: Executors) -> None:
    @cached_job(executor=executor, max_workers=1, keys={"model": lambda model: model.version})
    def score(model: Any, x: int = 0) -> Any:
        counter.tick()
        return model.version, x

    assert [score(Model(1)), score(model=Model(1)), *score.map([Model(1), Model(2)])] == [(1, 0)] * 3 + [
        (2, 0)
    ]
    assert counter.count == 2
    assert score(Model(1), 3) == (1, 3)


def test_a_method_can_count_by_a_part_of_its_object(counter: CallCounter) -> None:
    class Study:
        def __init__(self, name: str) -> None:
            self.name, self.lock = name, threading.Lock()

        @cached_job(keys={"self": lambda study: study.name})
        def run(self, x: int) -> str:
            counter.tick()
            return self.name

    assert [Study("a").run(1), Study("a").run(1), Study("b").run(1)] == ["a", "a", "b"]
    assert counter.count == 2


def test_another_function_is_another_key() -> None:
    keys = {
        scoring(keys=given).key(Model(1), Model(1))
        for given in (
            {"model": version_of, "other": version_of},
            {"model": version_of, "other": next_version_of},
            {"model": next_version_of, "other": version_of},
            {"model": lambda model: model.version, "other": version_of},
        )
    }
    assert len(keys) == 4
    assert scoring(keys={"model": version_of}).key(Model(1)) != scoring().key(1)


def test_the_order_of_functions_is_not_in_the_key() -> None:
    both = [("model", version_of), ("other", next_version_of)]
    one, another = (scoring(keys=dict(order)).key(Model(1), Model(1)) for order in (both, both[::-1]))
    assert one == another


@pytest.mark.parametrize("function", [operator.attrgetter("version"), version_of])
def test_any_callable_will_do(function: Callable[[Any], object]) -> None:
    score = scoring(keys={"model": function})
    assert score.key(Model(1)) == score.key(Model(1)) != score.key(Model(2))


def test_it_is_asked_at_each_call(tmp_path: Path, counter: CallCounter) -> None:
    """It may look at what no argument shows."""
    (tmp_path / "file").write_text("1")

    @cached_job(keys={"path": lambda path: Path(path).read_text()})
    def read(path: str) -> str:
        counter.tick()
        return Path(path).read_text()

    assert [read(str(tmp_path / "file")) for _ in range(5)] == ["1"] * 5
    (tmp_path / "file").write_text("2")
    assert read(str(tmp_path / "file")) == "2"
    assert counter.count == 2


def test_explain_says_what_has_changed() -> None:
    scoring()(1)
    said = str(scoring(keys={"model": version_of}).explain(Model(1)))
    assert "parameters in the key: model, other -> model (by keys), other" in said
    scoring(keys={"model": version_of})(Model(1))
    assert "the code has changed" in str(scoring(keys={"model": next_version_of}).explain(Model(1)))


def test_an_error_names_the_argument_and_the_remedy() -> None:
    with pytest.raises(UnkeyableArgument, match=r"model .*keys: AttributeError.*take 'model' out of keys"):
        scoring(keys={"model": version_of})(3)
    with pytest.raises(UnkeyableArgument, match="model"):
        scoring(keys={"model": operator.attrgetter("lock")})(Model(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keys": {"nothing": version_of}}, "keys='nothing' is not a parameter that enters the key"),
        ({"keys": {"model": version_of}, "ignore": "model"}, "keys='model' is not a parameter that enters"),
        ({"keys": {"model": version_of}, "by_content": "model"}, "'model' is in by_content and in keys"),
        ({"keys": {"model": 3}}, "keys must be a mapping of parameter names to functions, not of str to int"),
        ({"keys": "model"}, "keys must be a mapping of parameter names to functions, not str"),
    ],
)
def test_what_can_not_be_is_refused(options: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        scoring(**options)
