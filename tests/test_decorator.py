"""cached_job: on all that can be called, with the face of the function kept."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import os
import pickle
import pydoc
import subprocess
import sys
import textwrap
import threading
import typing
from dataclasses import dataclass
from pathlib import Path

import pydantic
import pytest

import bencher_job
from bencher_job import (
    CachedFunction,
    CacheWarning,
    JobFunctionCache,
    UnkeyableArgument,
    cached_job,
    register_hasher,
)
from bencher_job.testing import CallCounter
from tests.environment import unmeasured

CALLS: list[object] = []


@pytest.fixture(autouse=True)
def no_calls_yet() -> None:
    CALLS.clear()


@cached_job
def add(x: int, y: int = 2, *, scale: float = 1.0) -> float:
    """Add and scale."""
    CALLS.append((x, y))
    return (x + y) * scale


@cached_job
def fib(n: int) -> int:
    CALLS.append(n)
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@dataclass
class Model:
    size: int

    @cached_job
    def score(self, x: int) -> int:
        CALLS.append(x)
        return self.size * x

    @cached_job
    @classmethod
    def default(cls, x: int) -> tuple[str, int]:
        CALLS.append(x)
        return cls.__name__, x

    @cached_job(tag="static")
    @staticmethod
    def double(x: int) -> int:
        CALLS.append(x)
        return 2 * x


class Small(Model):
    pass


def test_it_keeps_the_face_of_the_function() -> None:
    assert isinstance(add, CachedFunction)
    assert isinstance(add.cache, JobFunctionCache)
    assert (add.__name__, add.__qualname__, add.__doc__, add.__module__) == (
        "add",
        "add",
        "Add and scale.",
        __name__,
    )
    assert str(inspect.signature(add)) == "(x: 'int', y: 'int' = 2, *, scale: 'float' = 1.0) -> 'float'"
    assert inspect.isfunction(add.__wrapped__)
    assert repr(add) == f"<CachedFunction {__name__}.add>"


@cached_job
async def fetch(x: int) -> str:
    """Fetch."""
    return str(x)


ALL_FORMS = {
    "function": (lambda: add, {"x": int, "y": int, "scale": float, "return": float}),
    "coroutine function": (lambda: fetch, {"x": int, "return": str}),
    "method of a class": (lambda: Model.score, {"x": int, "return": int}),
    "bound method": (lambda: Model(1).score, {"x": int, "return": int}),
    "class method": (lambda: Model.default, {"x": int, "return": tuple[str, int]}),
    "class method of an instance": (lambda: Model(1).default, {"x": int, "return": tuple[str, int]}),
    "static method": (lambda: Model.double, {"x": int, "return": int}),
    "lambda": (lambda: cached_job(lambda x: x), {}),
}


@pytest.mark.parametrize(("form", "hints"), ALL_FORMS.values(), ids=ALL_FORMS)
def test_its_annotations_are_the_plain_functions(
    form: typing.Callable[[], typing.Any], hints: dict[str, object]
) -> None:
    for _ in range(2):  # then again after a look at the classes, which leaves an empty dict in each
        cached = form()
        assert cached.__annotations__ == cached.__wrapped__.__annotations__
        assert inspect.get_annotations(cached) == inspect.get_annotations(cached.__wrapped__)
        assert typing.get_type_hints(cached) == hints
        assert functools.wraps(cached)(lambda: None).__annotations__ == cached.__wrapped__.__annotations__
        for owner in type(cached).__mro__[:-1]:
            inspect.getmembers(owner)
        assert type(cached).__annotations__ == {}


def test_its_annotations_can_be_set_as_those_of_a_function() -> None:
    def double(x: int) -> int:
        return 2 * x

    cached = cached_job(double)
    cached.__annotations__ = {"x": float}
    assert cached.__annotations__ == double.__annotations__ == {"x": float}
    cached.__doc__ = "Doubles."
    assert (cached.__doc__, double.__doc__) == ("Doubles.", "Doubles.")
    assert "results are remembered" in str(CachedFunction.__doc__)


def test_libraries_that_read_annotations_take_it() -> None:
    @cached_job
    def scaled(x: int, by: float = 2.0) -> float:
        return x * by

    checked = pydantic.validate_call(scaled)
    assert checked("3") == 6.0
    with pytest.raises(pydantic.ValidationError):
        checked("three")

    @functools.singledispatch
    def shown(x: object) -> str:
        return "object"

    @shown.register
    @cached_job
    def _(x: int) -> str:
        return "int"

    assert (shown(1), shown("1")) == ("int", "object")


METHODS = {
    "cache", "cache_clear", "cache_info", "explain", "forget", "is_cached", "key", "map", "peek", "refresh", "remember",
    "submit", "sweep", "with_options",
}  # fmt: skip


@pytest.mark.parametrize("form", [form for form, _ in ALL_FORMS.values()], ids=ALL_FORMS)
def test_a_prompt_offers_what_it_can_do(form: typing.Callable[[], typing.Any]) -> None:
    cached = form()
    public = {name for name in dir(cached) if not name.startswith("_")}
    assert public == METHODS
    assert set(dir(cached)) >= set(dir(cached.__wrapped__))
    assert all(hasattr(cached, name) for name in dir(cached))


@pytest.mark.parametrize("form", [form for form, _ in ALL_FORMS.values()], ids=ALL_FORMS)
def test_help_mentions_what_it_can_do_and_the_docstring_stays(form: typing.Callable[[], typing.Any]) -> None:
    cached = form()
    _, heading, *lines = filter(None, map(str.strip, pydoc.plain(pydoc.render_doc(cached)).splitlines()))
    assert heading.startswith((cached.__name__, f"async {cached.__name__}"))
    assert all(name in " ".join(lines[-2:]) for name in METHODS)
    assert lines[:-2] == (inspect.getdoc(cached.__wrapped__) or "").splitlines()
    assert cached.__doc__ == cached.__wrapped__.__doc__
    assert inspect.getdoc(cached) == inspect.getdoc(cached.__wrapped__)


def test_it_counts_and_clears_as_a_function_of_functools(cache_folder: Path) -> None:
    def double(x: int) -> int:
        return 2 * x

    cached, remembered = cached_job(double), functools.lru_cache(maxsize=None)(double)
    assert cached.cache_info() == remembered.cache_info()
    assert list(cache_folder.iterdir()) == []  # a question makes nothing
    add(1)
    for x in (1, 2, 1):
        assert cached(x) == remembered(x)
        assert cached.cache_info() == remembered.cache_info()
        assert cached.cache_info()._fields == remembered.cache_info()._fields
    assert cached.cache_clear() is remembered.cache_clear() is None
    assert cached.cache_info() == remembered.cache_info() == (0, 0, None, 0)
    assert add.cache_info().currsize == 1
    assert cached(1) == remembered(1)
    assert cached.cache_info() == remembered.cache_info()
    assert Model(1).score.cache_info().misses == Model.score.cache_info().misses


def test_the_package_says_its_version() -> None:
    import importlib.metadata

    assert bencher_job.__version__ == importlib.metadata.version("bencher-job")


def test_it_is_called_as_before_and_runs_once() -> None:
    assert [add(1), add(1, 2), add(y=2, x=1), add(1, scale=1.0)] == [3.0] * 4
    assert CALLS == [(1, 2)]


def test_options_are_keyword_only_and_known() -> None:
    with pytest.raises(TypeError):
        cached_job(add.__wrapped__, "serial")
    with pytest.raises(TypeError, match="exekutor"):
        cached_job(exekutor="serial")


@pytest.mark.parametrize(
    ("option", "given", "fact"),
    [
        ("ignore", 5, "must be a collection of str, not int"),
        ("ignore", [1], "must be a collection of str, not of int"),
        ("by_content", 5, "must be a collection of str, not int"),
        ("libraries", None, "must be True, False or names of distributions, not NoneType"),
        ("depends_on", print, "must be an iterable, not builtin_function_or_method"),
        ("initargs", 5, "must be an iterable, not int"),
        ("tag", None, "must be a str, not NoneType"),
        ("tag", b"nightly", "must be a str, not bytes"),
    ],
)
def test_an_option_that_is_none_is_told_by_its_name(option: str, given: object, fact: str) -> None:
    with pytest.raises(TypeError, match=f"^{option}.* {fact}"):
        cached_job(**{option: given})(add.__wrapped__)


def test_arguments_that_do_not_fit_are_told_in_the_functions_name() -> None:
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
        add()
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'z'"):
        add(1, z=3)


def test_decorating_and_importing_touch_no_disk_and_start_nothing(tmp_path: Path) -> None:
    script = """
        import os, sys, threading
        before = set(os.listdir("."))
        import bencher_job
        @bencher_job.cached_job(executor="multiprocessing", cache_dir="here", tag="t")
        def f(x): return x
        f.cache
        assert set(os.listdir(".")) == before, os.listdir(".")
        assert threading.active_count() == 1
        slow = {"numpy", "pandas", "scoop", "rich", "matplotlib", "psutil", "multiprocessing.context"}
        loaded = slow & set(sys.modules)
        assert not loaded, loaded
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, cwd=tmp_path, env=unmeasured())


def test_submit_gives_a_future() -> None:
    future = add.submit(1)
    assert isinstance(future, concurrent.futures.Future)
    assert (future.result(), future.cached, add.submit(1).cached) == (3.0, False, True)


def test_map_gives_values_in_order_and_stops_with_the_shortest() -> None:
    assert list(add.map(range(5), [10, 20, 30])) == [10.0, 21.0, 32.0]


def test_map_takes_endless_iterables_and_runs_no_further_than_asked() -> None:
    import itertools

    values = add.map(itertools.count())
    assert [next(values) for _ in range(5)] == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert len(CALLS) <= 8


def test_refresh_forget_and_is_cached() -> None:
    assert not add.is_cached(1)
    add(1)
    assert add.is_cached(x=1)
    add.refresh(1)
    assert len(CALLS) == 2
    assert (add.forget(1), add.forget(1), add.is_cached(1)) == (True, False, False)


def test_ignored_parameters_are_not_in_the_key() -> None:
    @cached_job(ignore=("verbose",))
    def f(x: int, verbose: bool = False) -> bool:
        return verbose

    assert (f(1, verbose=True), f(1, verbose=False), f.key(1) == f.key(1, True)) == (True, True, True)
    with pytest.raises(ValueError, match="verbos"):
        cached_job(ignore=("verbos",))(f.__wrapped__)


def test_another_version_is_another_job() -> None:
    keys = {cached_job(version=version)(add.__wrapped__).key(1) for version in (None, 1, 2, "1", 1.0)}
    assert len(keys) == 5


def test_tag_executor_and_place_are_not_in_the_key(tmp_path: Path) -> None:
    other = cached_job(
        tag="t", executor="multiprocessing", cache_dir=tmp_path, cache_name="other", size_limit=10**6
    )
    assert other(add.__wrapped__).key(1) == add.key(1)


def test_overwrite_computes_every_call() -> None:
    f = cached_job(overwrite=True)(add.__wrapped__)
    assert [f(1), f(1)] == [3.0, 3.0]
    assert len(CALLS) == 2


def test_recursion_uses_the_cache() -> None:
    assert fib(20) == 6765
    assert len(CALLS) == 21


def test_methods_key_their_instance_by_value() -> None:
    assert (Model(2).score(3), Model(2).score(3), Model(5).score(3), Model.score(Model(2), 3)) == (
        6,
        6,
        15,
        6,
    )
    assert CALLS == [3, 3]
    assert Model(2).score.submit(3).cached
    assert Model(2).score.is_cached(3)
    assert list(Model(2).score.map([3, 4])) == [6, 8]
    assert Model(2).score.cache is Model.score.cache


def test_class_methods_key_their_class_and_static_methods_nothing() -> None:
    assert (Model.default(1), Small.default(1), Model(3).default(1)) == (
        ("Model", 1),
        ("Small", 1),
        ("Model", 1),
    )
    assert (Model.double(4), Model(1).double(4)) == (8, 8)
    assert CALLS == [1, 1, 4]
    assert [record.tag for record in Model.double.cache.records()] == ["static"]


def test_lambdas_closures_partials_and_callables() -> None:
    def times(factor: int) -> CachedFunction[[int], int]:
        return cached_job(lambda x: x * factor)

    class Adds:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return self.n + x

    assert (times(2)(5), times(3)(5)) == (10, 15)
    assert (cached_job(functools.partial(pow, 2))(5), cached_job(functools.partial(pow, 3))(5)) == (32, 243)
    assert (cached_job(Adds(1))(5), cached_job(Adds(2))(5)) == (6, 7)
    assert cached_job(sorted)([3, 1, 2], reverse=True) == [3, 2, 1]


def test_positional_only_and_variadic_parameters() -> None:
    @cached_job
    def f(a: int, /, b: int, *rest: int, c: int = 0, **more: int) -> tuple[object, ...]:
        CALLS.append(a)
        return a, b, rest, c, more

    assert f(1, 2, 3, 4, c=5, d=6) == (1, 2, (3, 4), 5, {"d": 6})
    assert f(1, b=2, d=6, c=0, e=7) == f(1, 2, e=7, d=6) == (1, 2, (), 0, {"d": 6, "e": 7})
    assert len(CALLS) == 2


@pytest.mark.parametrize(
    ("thing", "message"),
    [(Model, "Decorate its methods"), (5, "can't be called"), (add, "already cached")],
)
def test_what_can_not_be_decorated_is_told_why(thing: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        cached_job(thing)


def test_what_can_not_be_keyed_is_refused_by_name_and_nothing_runs() -> None:

    with pytest.raises(UnkeyableArgument, match=r"^y\['model'\]\.lock has the type _thread\.lock") as refused:
        add(1, {"model": Locked()})
    assert refused.value.path == "y['model'].lock"
    assert CALLS == []


class Locked:
    def __init__(self) -> None:
        import threading

        self.lock = threading.Lock()


def test_a_class_can_say_what_makes_two_of_it_the_same() -> None:
    class Connection(Locked):
        def __init__(self, host: str) -> None:
            super().__init__()
            self.host = host

        def __job_key__(self) -> str:
            return self.host

    assert add.key(Connection("a")) == add.key(Connection("a")) != add.key(Connection("b"))


def test_a_hasher_serves_a_foreign_class() -> None:
    class Foreign(Locked):
        name = "x"

    register_hasher(Foreign, lambda foreign: foreign.name)
    assert add.key(Foreign()) == add.key(Foreign())


def test_it_pickles_by_name() -> None:
    assert pickle.loads(pickle.dumps(add)) is add
    assert pickle.loads(pickle.dumps(Model.score)) is Model.__dict__["score"]
    bound = pickle.loads(pickle.dumps(Model(2).score))
    assert bound(3) == 6


def test_without_a_name_it_pickles_by_value_with_the_same_key(counter: CallCounter) -> None:
    factor = 3

    @cached_job
    def times(x: int) -> int:
        counter.tick()
        return x * factor

    copied = pickle.loads(pickle.dumps(times))
    assert copied is not times
    assert (times(2), copied(2), copied.key(2)) == (6, 6, times.key(2))
    assert counter.count == 1


@pytest.mark.parametrize("executor", ["serial", "multiprocessing"])
def test_a_cached_function_called_in_a_job_runs_in_line_and_is_remembered(
    executor: str, counter: CallCounter
) -> None:
    @cached_job(executor=executor)
    def inner(x: int) -> int:
        counter.tick()
        return x + 1

    @cached_job(executor=executor)
    def outer(x: int) -> int:
        return inner(x) + inner(x)

    assert outer(1) == 4
    assert counter.count == 1
    assert inner(1) == 2
    assert counter.count == 1
    inner.cache.close()
    outer.cache.close()


def test_an_edited_function_runs_again_and_a_reverted_one_hits() -> None:
    def define(body: str) -> CachedFunction[[int], int]:
        namespace: dict[str, object] = {"CALLS": CALLS, "__name__": "notebook"}
        exec(f"def f(x):\n    CALLS_LENGTH = 0\n    return {body}\n", namespace)
        return cached_job(namespace["f"])

    assert [define(body)(3) for body in ("x + 1", "x * 2", "x + 1")] == [4, 6, 4]
    (first, second) = define("x + 1").cache.records(versions="all")
    assert first.function == second.function == "notebook.f"


BODIES = ["return x", "return None", "return lambda: x", "x = 'text'; return x, 'text', 1"]


@pytest.mark.parametrize("body", BODIES)
def test_a_docstring_is_no_part_of_the_key_even_without_source(body: str) -> None:
    def define(docstring: str) -> CachedFunction[[int], int]:
        namespace: dict[str, object] = {"__name__": "notebook"}
        exec(f"def f(x):\n    {docstring}\n    {body}\n", namespace)
        return cached_job(namespace["f"])

    assert define("").key(1) == define("'Tell.'").key(1) == define("'Tell more.'").key(1)
    assert define("").key(1) != define("print('Tell.')").key(1)


def test_an_argument_whose_class_was_edited_is_another_argument() -> None:
    """A function may call the methods of what it is given."""

    def model(body: str) -> object:
        namespace: dict[str, object] = {"__name__": "notebook"}
        exec(f"class Model:\n    def fit(self):\n        return {body}\n", namespace)
        return namespace["Model"]()

    @cached_job
    def fitted(model: object) -> int:
        return model.fit()

    @cached_job(code="none")
    def without_code(model: object) -> int:
        return model.fit()

    assert [fitted(model(body)) for body in ("1", "2", "1")] == [1, 2, 1]
    assert [without_code(model(body)) for body in ("1", "2")] == [1, 1]


def test_a_mutable_value_is_never_shared_between_callers() -> None:
    @cached_job
    def numbers() -> list[int]:
        return [1, 2, 3]

    numbers().append(4)
    numbers().append(5)
    assert numbers() == [1, 2, 3]


def test_a_parameter_may_be_named_self() -> None:
    @cached_job
    def f(self: int) -> int:
        return self + 1

    assert (
        f(self=1),
        f(1),
        f.submit(self=1).result(),
        f.is_cached(self=1),
        f.cache.call(self=1).result(),
    ) == (
        2,
        2,
        2,
        True,
        2,
    )


def test_a_bound_method_copies_with_its_instance() -> None:
    import copy

    bound = Model(2).score
    assert copy.copy(bound) is bound
    assert copy.deepcopy(bound)(3) == 6
    assert copy.deepcopy({"method": bound, "function": add})["function"] is add


def test_depends_on_makes_another_job_of_another_file_or_plugin(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("1")

    def plugin() -> int:
        return 1

    @cached_job(depends_on=[data, plugin, "pytest"])
    def total(x: int) -> int:
        return x + int(data.read_text())

    assert total(1) == 2
    data.write_text("5")
    assert total(1) == 6
    plugin.__code__ = (lambda: 2).__code__
    assert not total.is_cached(1)


@pytest.mark.parametrize("wanted", ["no-such-distribution", Path("no such file")])
def test_depends_on_something_that_is_not_there_is_an_error_that_names_it(wanted: object) -> None:
    @cached_job(depends_on=[wanted])
    def f() -> int:
        return 1

    with pytest.raises(ValueError, match=str(wanted)):
        f()


def test_by_content_counts_the_files_and_not_their_names(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for path, text in ((one, "a"), (same, "a"), (other, "b")):
        path.write_text(text)

    @cached_job(by_content="path")
    def length(path: Path | str | list[Path] | None, factor: int = 1) -> int:
        CALLS.append(path)
        return factor

    assert length.key(one) == length.key(str(same)) == length.key(path=same) != length.key(other)
    assert length.key([one, other]) != length.key([other, one])
    assert length.key(None) != length.key(one)
    length(one)
    assert length.is_cached(same)
    one.write_text("c")
    assert not length.is_cached(one)
    (record,) = length.cache.records()
    assert "one" in record.arguments["path"]


def test_by_content_refuses_what_is_no_file(tmp_path: Path) -> None:
    @cached_job(by_content=("path",))
    def length(path: object) -> int:
        return 1

    with pytest.raises(UnkeyableArgument, match=r"by_content.*missing"):
        length(tmp_path / "missing")
    with pytest.raises(UnkeyableArgument, match="path, None, or a list"):
        length(3)
    with pytest.raises(ValueError, match="by_content='paht' is not a parameter"):
        cached_job(by_content=("paht",))(length.__wrapped__)
    with pytest.raises(ValueError, match="by_content='path'"):
        cached_job(by_content=("path",), ignore=("path",))(length.__wrapped__)


@pytest.mark.parametrize("executor", ["serial", "multiprocessing"])
def test_a_file_that_changes_while_the_job_runs_is_not_taken_for_the_old_one(
    tmp_path: Path, executor: str
) -> None:
    path = tmp_path / "data"
    path.write_text("old")

    @cached_job(by_content="path", executor=executor)
    def read(path: Path) -> str:
        path.write_text("new")
        return path.read_text()

    def read_and_close() -> str:
        value = read(path)
        read.cache.close()  # the writer warns when the value has arrived
        return value

    with pytest.warns(CacheWarning, match="by content, which has changed since the call"):
        assert read_and_close() == "new"
    path.write_text("old")
    assert not read.is_cached(path)
    read.cache.close()


def test_what_is_asked_of_a_damaged_database_is_not_remembered_and_told_of() -> None:
    @cached_job
    def double(x: int) -> int:
        return 2 * x

    for x in range(300):
        double(x)
    double.cache.close()
    double(1)  # opens it again, and reads a part
    os.truncate(double.cache.directory / "cache.db", 8192)
    with pytest.warns(CacheWarning, match="can't be read, so nothing is found"):
        assert not double.is_cached(299)


def test_threads_that_use_a_function_first_share_one_cache():
    for _ in range(20):
        cached, start = cached_job(lambda x: x), threading.Barrier(8)

        def use(_, cached=cached, start=start):
            start.wait()
            return cached.cache

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert len({id(cache) for cache in pool.map(use, range(8))}) == 1
