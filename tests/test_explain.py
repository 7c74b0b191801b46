"""explain: why a call is a hit or a miss, without computing or changing anything."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bencher_job import Cause, Executors, Explanation, FutureCache, Job, JobFunctionCache, cached_job
from tests.conftest import WriteModule
from tests.environment import unmeasured
from tests.restored import store_again

STUDY = """
    from bencher_job import cached_job
    SCALE = 2
    CALLS = []
    def helper(x):
        return x * SCALE
    @cached_job(tag="nightly", ignore=("verbose",), version=VERSION)
    def score(x, model="svm", *, verbose=False):
        CALLS.append(x)
        return helper(x)
""".replace("VERSION", "None")


def test_a_hit_tells_when_how_long_and_where(write_module: WriteModule) -> None:
    score = write_module("study", STUDY).score
    score(1)
    explanation = score.explain(1)
    (record,) = score.cache.records()
    assert (explanation.cause, explanation.is_hit, explanation.record) == (Cause.HIT, True, record)
    assert explanation.key == score.key(1)
    assert str(explanation).splitlines()[0].endswith("a hit, it is remembered")
    for known in (f"{record.created:%Y-%m-%d}", f"process {record.pid}", record.host, "tag nightly"):
        assert known in str(explanation)


def test_the_first_call_of_a_function(write_module: WriteModule) -> None:
    module = write_module("study", STUDY)
    explanation = module.score.explain(1, model="rf")
    assert (explanation.cause, explanation.record, module.CALLS) == (Cause.FIRST_CALL, None, [])
    assert explanation.arguments == {"x": 1, "model": "rf", "verbose": False}


def test_the_nearest_entry_and_which_arguments_differ(write_module: WriteModule) -> None:
    score = write_module("study", STUDY).score
    for x in range(5):
        score(x, model="rf")
        score(x, model="knn", verbose=True)
    explanation = score.explain(3, model="svm")
    assert explanation.cause is Cause.ARGUMENTS
    (change,) = explanation.arguments_changed
    assert (change.name, change.before, change.now) in {("model", "rf", "svm"), ("model", "knn", "svm")}
    assert "-> 'svm'" in str(explanation)


def test_a_plain_call_is_nearer_than_a_repeat_of_it(write_module: WriteModule) -> None:
    score = write_module("study", STUDY).score
    score.sweep({"x": [1]}, repeats=3, model="rf").run()
    (change,) = score.explain(1, model="svm").arguments_changed
    assert str(change) == "model: 'rf' -> 'svm'"


def test_an_argument_of_another_type_differs() -> None:
    @cached_job
    def same(x: object) -> object:
        return x

    same(1)
    (change,) = same.explain(1.0).arguments_changed
    assert str(change) == "x: 1 -> 1.0"


def test_an_argument_that_only_looks_the_same_is_named() -> None:
    @cached_job
    def total(values: object, start: int = 0) -> float:
        return float(np.sum(values)) + start

    total(np.zeros(1000))
    explanation = total.explain(np.ones(1000))
    assert [change.name for change in explanation.arguments_changed] == ["values"]
    assert "it looks the same, <ndarray 1000 float64>" in str(explanation)


class Counting:
    def __init__(self, rate: int) -> None:
        self.rate, self.calls, self.options = rate, 0, {"depth": 1}

    def total(self) -> int:
        self.calls += 1
        return self.rate


class Lazy(Counting):
    __slots__ = ("memo",)

    def total(self) -> int:
        self.memo = [self.rate]
        return self.rate


@dataclasses.dataclass
class Fitted:
    rate: int
    calls: int = 0

    def total(self) -> int:
        self.calls += 1
        return self.rate


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Counting, "model.calls: 0 -> 1"),
        (Lazy, "model.memo: (not given) -> '[3]'"),
        (Fitted, "model.calls: 0 -> 1"),
    ],
)
def test_the_attribute_is_named_that_makes_an_object_another_at_each_call(made: Any, told: str) -> None:
    @cached_job
    def total(plain: int, model: Any) -> int:
        total: int = model.total()
        return total

    model = made(3)
    total(1, model)
    assert [str(change) for change in total.explain(1, model).arguments_changed] == [told]


class Described(Counting):
    def __repr__(self) -> str:
        return "<Described>"


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Counting, ["model.rate: 3 -> 4", "model.options.depth: 1 -> 2"]),
        (Described, ["model: it looks the same, <Described>; model.options and model.rate differ"]),
    ],
)
def test_each_attribute_that_differs_is_named(made: Any, told: list[str]) -> None:
    @cached_job
    def total(model: Counting) -> int:
        return model.rate

    model = made(3)
    total(model)
    model.options["depth"] = 2
    model.rate = 4
    assert [str(change) for change in total.explain(model).arguments_changed] == told


MODELS = """
    import sys
    from bencher_job import cached_job

    class Model:
        def __init__(self, rate, made_by, others=0):
            self.rate, self.made_by = rate, made_by
            vars(self).update({f"other_{number}": number for number in range(others)})

        def __repr__(self):
            return "<Model>"

    class Slotted:
        __slots__ = ("made_by",)

        def __init__(self, made_by):
            self.made_by = made_by

        __repr__ = Model.__repr__

    MADE = {
        "object": lambda name: Model(3, name),
        "slots": lambda name: Slotted(name),
        "nested": lambda name: Model(3, {"name": [name]}),
        "plain": lambda name: name,
        "many": lambda name: Model(3, name, others=100),
        "long": lambda name: Model(3, {name: "x" * 100_000}),
    }

    def rated(model, x=1):
        return x

    name, *kinds = sys.argv[1:]
    for kind in kinds:
        total = cached_job(cache_dir=kind)(rated)
        if name == "first":
            total(MADE[kind](name))
            total.sweep({"x": [2, 3]}, repeats=2, model=MADE[kind](name)).run(progress=False)
        else:
            for x in (1, 2):
                print(*(change.attributes for change in total.explain(MADE[kind](name), x).arguments_changed))
"""


def test_attributes_that_differ_between_processes_are_named(tmp_path: Path) -> None:
    expected = {
        "object": ("made_by",),
        "slots": ("made_by",),
        "nested": ("made_by",),
        "long": ("made_by",),
        "many": (),  # of so many none are kept
        "plain": (),
    }
    (tmp_path / "study.py").write_text(textwrap.dedent(MODELS))

    def run(name: str) -> list[str]:
        command = [sys.executable, "-W", "error", "study.py", name, *expected]
        return subprocess.run(
            command, cwd=tmp_path, env=unmeasured(), check=True, stdout=subprocess.PIPE, text=True
        ).stdout.splitlines()

    run("first")
    assert run("second") == [str(names) for names in expected.values() for _ in range(2)]
    for kind, names in expected.items():
        database = sqlite3.connect(next((tmp_path / kind).rglob("cache.db")))
        kept = [attributes for (attributes,) in database.execute("SELECT attributes FROM Cache")]
        database.close()
        assert len(kept) == 5, kind
        assert all((attributes is not None) == bool(names) for attributes in kept), kind


def test_damaged_digests_of_attributes_name_none() -> None:
    @cached_job
    def total(model: Counting) -> int:
        return model.rate

    total(Counting(3))
    total.cache.keys.attributes.clear()
    database = sqlite3.connect(next(Path(total.cache.cache.directory or "").rglob("cache.db")))
    for damaged in (
        b"{",
        b"[1]",
        b'{"model.rate": 1}',
        "\ud800".encode("utf-8", "surrogatepass"),
        7,
        b"[" * 9999,
    ):
        with database:
            database.execute("UPDATE Cache SET attributes = ?", (damaged,))
        assert not any(change.attributes for change in total.explain(Counting(4)).arguments_changed)
    database.close()


class CountingStudy:
    def __init__(self) -> None:
        self.rate, self.calls = 3, 0

    @cached_job
    def run(self, x: int) -> int:
        self.calls += 1
        return x * self.rate


def test_the_attribute_of_self_is_named_that_a_method_writes_to() -> None:
    study = CountingStudy()
    study.run(2)
    assert "self.calls: 0 -> 1" in str(study.run.explain(2))


def test_zeros_of_two_signs_differ_and_two_nans_do_not() -> None:
    @cached_job
    def f(x: float, y: int) -> float:
        return x

    f(0.0, 1)
    assert [str(change) for change in f.explain(-0.0, 1).arguments_changed] == ["x: 0.0 -> -0.0"]
    f(float("nan"), 1)
    assert [change.name for change in f.explain(float("nan"), 2).arguments_changed] == ["y"]


def test_where_an_object_lies_is_no_difference(write_module: WriteModule) -> None:
    code = """
        from bencher_job import cached_job
        class Config:
            rate = 1
        @cached_job
        def run(config, k):
            return k
    """
    module = write_module("configs", code)
    module.run(module.Config(), 1)
    assert [change.name for change in module.run.explain(module.Config(), 2).arguments_changed] == ["k"]
    module = write_module("configs", code.replace("rate = 1", "rate = 2"))
    assert "or the code of its class" in str(module.run.explain(module.Config(), 1))


class Study:
    """Its method writes to its object."""

    __slots__ = ("__dict__", "last")

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor
        self.calls = 0
        self.lock = threading.Lock()

    def run(self, x: int, *more: int, **named: object) -> int:
        self.calls += 1
        self.last = x
        return self.scaled(x)

    def scaled(self, x: int) -> int:
        return self.factor * x

    def __getstate__(self) -> dict[str, object]:
        return {"factor": self.factor, "calls": self.calls}


def test_the_attributes_of_self_that_a_bound_method_changes_are_named() -> None:
    study = Study()
    cache = JobFunctionCache(study.run)
    assert [cache.call(x=1).cached for _ in range(2)] == [False, False]
    explanation = cache.explain((), {"x": 1})
    assert [change.name for change in explanation.code_changed] == ["self.calls"]
    assert "-1\n+2" in explanation.code_changed[0].diff
    assert "self.calls: changed" in str(explanation)


def test_a_bound_method_whose_object_is_ignored_hits_though_it_writes_to_it() -> None:
    study = Study()
    cache = JobFunctionCache(study.run, ignore=("self",))
    futures = [cache.call(x=1) for _ in range(3)]
    assert [(future.result(), future.cached) for future in futures] == [(2, False), (2, True), (2, True)]
    assert study.calls == 1
    assert cache.explain((), {"x": 1}).is_hit
    assert JobFunctionCache(Study(5).run, ignore=("self",)).call(x=1).cached
    cached = cached_job(Study().run, ignore=("self", "more"))
    assert cached(1) == 2
    assert cached.is_cached(1, 2, 3)
    assert not cached.is_cached(1, named=1)
    with pytest.raises(ValueError, match="ignore='this' is not a parameter"):
        JobFunctionCache(Study().scaled, ignore=("self", "this"))
    with pytest.raises(ValueError, match="ignore='self' is not a parameter"):
        JobFunctionCache(len, ignore=("self",))


def test_the_code_of_an_ignored_object_s_class_counts(write_module: WriteModule) -> None:
    def cache_of(scaled: str) -> JobFunctionCache:
        source = f"""
            class Study:
                def run(this, x):
                    this.last = x
                    return this.scaled(x)
                def scaled(this, x):
                    return {scaled}
        """
        return JobFunctionCache(write_module("study", source).Study().run, ignore=("this",))

    cache = cache_of("2 * x")
    assert (cache.call(x=1).cached, cache.call(x=1).cached) == (False, True)
    cache = cache_of("3 * x")
    assert cache.call(x=1).result() == 3
    (change, *_) = cache_of("4 * x").explain((), {"x": 1}).code_changed
    assert "Study" in change.name
    assert cache_of("2 * x").call(x=1).cached


def test_a_question_makes_no_folder(cache_folder: Path) -> None:
    @cached_job
    def f(x: int) -> int:
        return x

    assert f.explain(1).cause is Cause.FIRST_CALL
    assert not (cache_folder / "fcache").exists()


def test_a_helper_that_was_edited_is_named_with_a_diff(write_module: WriteModule) -> None:
    write_module("study", STUDY).score(1)
    score = write_module("study", STUDY.replace("x * SCALE", "x * SCALE + 1")).score
    explanation = score.explain(1)
    (change,) = explanation.code_changed
    assert (explanation.cause, change.name, change.kind) == (Cause.CODE, "study.helper", "changed")
    assert change.diff.splitlines()[-2:] == ["-    return x * SCALE", "+    return x * SCALE + 1"]
    assert change.diff in str(explanation)


def test_a_global_that_has_another_value_is_named_with_both(write_module: WriteModule) -> None:
    write_module("study", STUDY).score(1)
    explanation = write_module("study", STUDY.replace("SCALE = 2", "SCALE = 3")).score.explain(1)
    (change,) = explanation.code_changed
    assert (change.name, change.diff.splitlines()[-2:]) == ("study.SCALE", ["-2", "+3"])


def test_code_and_arguments_that_differ_are_both_told(write_module: WriteModule) -> None:
    write_module("study", STUDY).score(1)
    edited = STUDY.replace("return helper(x)", "return other(x)") + "    def other(x): return x\n"
    explanation = write_module("study", edited).score.explain(2)
    assert [(change.name, change.kind) for change in explanation.code_changed] == [
        ("study.SCALE", "gone"),
        ("study.helper", "gone"),
        ("study.other", "new"),
        ("study.score", "changed"),
    ]
    assert [str(change) for change in explanation.arguments_changed] == ["x: 1 -> 2"]


def test_the_same_arguments_under_other_code_are_nearer_than_others_under_the_same(
    write_module: WriteModule,
) -> None:
    write_module("study", STUDY).score(1)
    score = write_module("study", STUDY.replace("SCALE = 2", "SCALE = 3")).score
    score(2)
    assert (score.explain(1).cause, score.explain(7).cause) == (Cause.CODE, Cause.ARGUMENTS)


def test_another_version(write_module: WriteModule) -> None:
    write_module("study", STUDY).score(1)
    explanation = write_module("study", STUDY.replace("version=None", "version=2")).score.explain(1)
    assert (explanation.cause, explanation.version_changed) == (Cause.VERSION, ("", "2"))
    assert "version: none -> 2" in str(explanation)


def test_other_parameters_in_the_key(write_module: WriteModule) -> None:
    write_module("study", STUDY).score(1)
    explanation = write_module("study", STUDY.replace('ignore=("verbose",)', "ignore=()")).score.explain(1)
    assert explanation.cause is Cause.PARAMETERS
    assert explanation.parameters_changed == (("x", "model"), ("x", "model", "verbose"))


def test_entries_whose_keys_were_made_in_another_way(write_module: WriteModule, cache_folder: Path) -> None:
    score = write_module("study", STUDY).score
    score(1)
    score.cache.close()
    store_again(cache_folder / "fcache", key="before", key_version=0, prefix=b"\0")
    assert score.explain(1).cause is Cause.LIBRARY


@pytest.mark.parametrize("how", ["forgotten", "cleared by tag", "cleared", "evicted"])
def test_an_entry_that_was_removed_tells_why_and_when(write_module: WriteModule, how: str) -> None:
    score = write_module("study", STUDY).score
    score(1)
    match how:
        case "forgotten":
            score.forget(1)
        case "cleared by tag":
            score.cache.clear_tag("nightly")
        case "cleared":
            score.cache.clear_cache()
        case "evicted":
            store = score.cache.cache.behind
            store.size_limit, limit = 1, store.size_limit
            store._evict()
            store.size_limit = limit
    explanation = score.explain(1)
    assert explanation.cause.name == how.partition(" ")[0].upper()
    assert explanation.at is not None
    assert "removed on" in str(explanation)
    score(1)
    assert score.explain(1).is_hit


def test_a_damaged_entry_is_told_and_left_as_it_is(write_module: WriteModule, cache_folder: Path) -> None:
    score = write_module("study", STUDY).score
    score(1)
    score.cache.close()
    with sqlite3.connect(cache_folder / "fcache" / "cache.db") as database:
        database.execute("UPDATE Cache SET value = substr(value, 1, 20)")
    database.close()
    for _ in range(2):
        explanation = score.explain(1)
        assert (explanation.cause, "ends" in explanation.reason) == (Cause.DAMAGED, True)
    assert not (cache_folder / "fcache" / "damaged").exists()


def test_a_damaged_entry_that_was_set_aside_is_told(write_module: WriteModule, cache_folder: Path) -> None:
    score = write_module("study", STUDY).score
    score(1)
    score.cache.close()
    with sqlite3.connect(cache_folder / "fcache" / "cache.db") as database:
        database.execute("UPDATE Cache SET value = substr(value, 1, 20)")
    database.close()
    with pytest.warns(UserWarning, match="damaged"):
        score.cache.prefetch([score.key(1)])
    assert (score.explain(1).cause, score.explain(1).at is None) == (Cause.DAMAGED, False)


def test_a_job_that_is_running_now() -> None:
    begun, go_on = threading.Event(), threading.Event()

    @cached_job(code="none")
    def slow(x: int) -> int:
        begun.set()
        go_on.wait()
        return x

    thread = threading.Thread(target=slow, args=(1,))
    thread.start()
    assert begun.wait(60)
    assert slow.explain(1).cause is Cause.IN_FLIGHT
    go_on.set()
    thread.join()
    assert slow.explain(1).is_hit


def test_where_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHER_JOB", "off")

    @cached_job
    def off(x: int) -> int:
        return x

    @cached_job(overwrite=True)
    def always(x: int) -> int:
        return x

    off(1), always(1)
    assert (off.explain(1).cause, always.explain(1).cause) == (Cause.OFF, Cause.OVERWRITE)


def test_what_is_not_tracked_is_told(write_module: WriteModule) -> None:
    code = """
        import threading
        from bencher_job import cached_job
        LOCK = threading.Lock()
        @cached_job
        def guarded(x):
            with LOCK:
                return x
    """
    assert "not tracked: guarding.LOCK" in str(write_module("guarding", code).guarded.explain(1))


def test_another_release_of_a_distribution_is_told_and_is_no_cause(
    write_module: WriteModule, cache_folder: Path
) -> None:
    code = """
        import numpy as np
        from bencher_job import cached_job
        @cached_job
        def total(x):
            return float(np.sum(x))
    """
    total = write_module("totals", code).total
    total(1)
    total.cache.close()
    store_again(cache_folder / "fcache", distributions={"numpy": "0.1"})
    explanation = total.explain(2)
    assert explanation.cause is Cause.ARGUMENTS
    assert explanation.distributions_changed == (("numpy", "0.1", np.__version__),)


def test_methods_and_jobs_whose_key_was_given(write_module: WriteModule) -> None:
    code = """
        from dataclasses import dataclass
        from bencher_job import cached_job
        @dataclass
        class Model:
            depth: int
            @cached_job
            def fit(self, x):
                return x * self.depth
    """
    Model = write_module("models", code).Model
    Model(1).fit(2)
    with FutureCache() as cache:
        cache.submit(Job("given", max, {"default": 1}, "a key of mine", positional=([],))).result()
    assert Model(1).fit.explain(2).is_hit
    assert [change.name for change in Model(2).fit.explain(2).arguments_changed] == ["self.depth"]


def test_an_explanation_is_a_value_that_rich_and_notebooks_show(write_module: WriteModule) -> None:
    write_module("study", STUDY).score("<x>")
    score = write_module("study", STUDY.replace("x * SCALE", "x * SCALE + 1")).score
    explanation = score.explain("<x>")
    assert pickle.loads(pickle.dumps(explanation)) == explanation
    assert isinstance(explanation, Explanation)
    shown = explanation._repr_html_()
    assert "&lt;x&gt;" in shown
    assert "<x>" not in shown
    assert ">+    return x * SCALE + 1</span>" in shown
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(explanation)
    assert "+    return x * SCALE + 1" in console.export_text()


def test_the_nearest_entry_is_found_among_many() -> None:
    @cached_job(executor=Executors.SERIAL, code="none")
    def f(a: int, b: int, c: int) -> int:
        return a + b + c

    for a in range(6):
        for b in range(6):
            f(a, b, 0)
    assert [str(change) for change in f.explain(3, 4, 1).arguments_changed] == ["c: 0 -> 1"]
