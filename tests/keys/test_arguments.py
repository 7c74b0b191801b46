import functools
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bencher_job import cached_job


def accuracy(model, c=1.0, *, seed=0, verbose=False):
    return model, c, seed, verbose


def everything(a, /, b, c=3, *rest, d, e=5, **more):
    return a, b, c, rest, d, e, more


def forwarding(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def narrowing(function):
    @functools.wraps(function)
    def wrapper(model):
        return function(model, 2.0)

    return wrapper


def decorated_method(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    return wrapper


class Model:
    def fit(self, x, y=1):
        return self, x, y

    @decorated_method
    def score(self, x, y=1):
        return self, x, y

    @classmethod
    def load(cls, path, mode="r"):
        return cls, path, mode

    @staticmethod
    def name(x=1):
        return x

    def __call__(self, x, y=2):
        return self, x, y


def same(function, *calls):
    """Whether all calls have one key."""
    key = cached_job(function).key
    return len({key(*args, **kwargs) for args, kwargs in calls}) == 1


def test_every_spelling_of_a_call_has_one_key():
    assert same(
        accuracy,
        (("svm",), {"seed": 3}),
        ((), {"model": "svm", "seed": 3}),
        (("svm", 1.0), {"verbose": False, "seed": 3}),
        ((), {"seed": 3, "c": 1.0, "model": "svm"}),
    )
    assert not same(accuracy, (("svm",), {"seed": 3}), (("svm",), {"seed": 4}))


@st.composite
def calls(draw):
    args = draw(st.lists(st.integers(0, 2), max_size=5))
    kwargs = draw(st.dictionaries(st.sampled_from("abcdexyz"), st.integers(0, 2), max_size=6))
    return tuple(args), kwargs


def outcome(function, call):
    args, kwargs = call
    try:
        return function(*args, **kwargs)
    except TypeError:
        return TypeError


@settings(max_examples=100)
@given(calls(), calls())
def test_two_calls_have_one_key_exactly_when_the_function_gets_the_same(one, other):
    key = cached_job(everything).key
    got, keys = [[outcome(function, call) for call in (one, other)] for function in (everything, key)]
    assert [each is TypeError for each in keys] == [each is TypeError for each in got]
    assert (keys[0] == keys[1]) == (got[0] == got[1])


@settings(max_examples=30)
@given(calls())
def test_a_job_gets_what_the_call_would_give_the_function(call):
    cached = cached_job(everything)
    assert outcome(cached, call) == outcome(everything, call)
    assert outcome(cached.refresh, call) == outcome(everything, call)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (((1, 2, 3, 4), {"d": 4, "z": 9}), {"a": 1, "b": 2, "c": 3, "rest": "(4,)", "d": 4, "e": 5, "z": 9}),
        (((1, 2), {"d": 4, "a": 9}), {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "more.a": 9}),
    ],
)
def test_the_arguments_have_names_for_people(call, expected):
    cached = cached_job(everything)
    cached(*call[0], **call[1])
    (record,) = cached.cache.records()
    assert {name: value for name, value in record.arguments.items() if value != "()"} == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (((), {}), r"accuracy\(\) missing 1 required positional argument: 'model'"),
        ((("svm",), {"k": 1}), r"accuracy\(\) got an unexpected keyword argument 'k'"),
        ((("svm",), {"model": "rf"}), r"accuracy\(\) got multiple values for argument 'model'"),
        (((1, 2, 3), {}), r"accuracy\(\) takes from 1 to 2 positional arguments but 3 were given"),
    ],
)
def test_a_wrong_call_raises_the_functions_own_error(call, message):
    args, kwargs = call
    with pytest.raises(TypeError) as own:
        accuracy(*args, **kwargs)
    cached = cached_job(accuracy)
    for ask in (cached, cached.key, cached.is_cached, cached.explain):
        with pytest.raises(TypeError, match=message) as told:
            ask(*args, **kwargs)
        assert str(told.value) == str(own.value)


def test_ignored_parameters_stay_out_of_the_key_but_not_of_the_call():
    cached = cached_job(ignore=("verbose", "c"))(accuracy)
    assert cached.key("svm", 2.0, verbose=True) == cached.key("svm") != cached.key("svm", seed=1)
    assert cached("svm", 2.0, verbose=True) == ("svm", 2.0, 0, True)
    assert cached("svm") == ("svm", 2.0, 0, True)
    one = cached_job(ignore="verbose")(accuracy)
    assert one.key("svm", verbose=True) == one.key("svm") != one.key("svm", 2.0)


def test_an_ignored_name_must_be_a_parameter():
    with pytest.raises(
        ValueError, match=r"'verbos' is not a parameter of accuracy\(\).*model, c, seed, verbose"
    ):
        cached_job(ignore=("verbos",))(accuracy)
    with pytest.raises(ValueError, match="Its parameters are: none"):
        cached_job(ignore=("x",))(lambda: None)


def test_a_keyword_that_has_no_parameter_of_its_own_can_be_ignored():
    key = cached_job(ignore=("z",))(everything).key
    assert key(1, 2, d=4, z=9, y=8) == key(1, 2, d=4, y=8) != key(1, 2, d=4)
    assert key(1, 2, d=4, z=9) == key(1, 2, d=4)
    key = cached_job(ignore=("more",))(everything).key
    assert key(1, 2, d=4, y=8) == key(1, 2, d=4)


def test_a_default_is_bound_by_identity():
    collected = []

    def collect(into=collected, *, also=collected):
        return into, also

    cached = cached_job(collect)
    before = cached.key()
    collected.append(1)
    assert cached.key() == cached.key([1], also=[1]) != before
    assert all(value is collected for value in cached())


def test_a_parameter_may_have_the_name_of_an_internal_variable():
    def odd(bind, return_, _default, args, kwargs, self, Binder, namespace=1, *, function=2, __builtins__=3):
        return bind, return_, _default, args, kwargs, self, Binder, namespace, function, __builtins__

    cached = cached_job(odd)
    assert cached(1, 2, 3, 4, 5, 6, 7) == (1, 2, 3, 4, 5, 6, 7, 1, 2, 3)
    assert cached.key(1, 2, 3, 4, 5, 6, 7) == cached.key(1, 2, 3, args=4, kwargs=5, self=6, Binder=7)
    (record,) = cached.cache.records()
    assert (record.arguments["bind"], record.arguments["namespace"]) == (1, 1)


def test_annotations_are_not_evaluated():
    def annotated(x: "no_such_name", y: "1 / 0" = 2) -> "neither":  # noqa: F821
        return x, y

    assert cached_job(annotated)(1) == (1, 2)


def test_methods_are_bound_with_or_without_their_owner():
    model = Model()
    assert same(Model.fit, ((model, 3), {}), ((model,), {"x": 3, "y": 1}), ((), {"self": model, "x": 3}))
    assert same(model.fit, ((3,), {}), ((3, 1), {}), ((), {"x": 3}))
    assert same(Model.load, (("a",), {}), ((), {"path": "a", "mode": "r"}))
    assert same(Model.name, ((), {}), ((1,), {}))
    assert same(model, ((3,), {}), ((), {"x": 3, "y": 2}))
    assert same(model.score, ((3,), {}), ((), {"x": 3, "y": 1}))
    assert same(Model.score, ((model, 3), {}), ((model,), {"x": 3, "y": 1}))


def test_partials_bind_the_remaining_parameters():
    assert same(functools.partial(accuracy, "svm"), ((2.0,), {}), ((), {"c": 2.0, "seed": 0}))
    assert same(functools.partial(accuracy, c=2.0), (("svm",), {}), (("svm",), {"c": 2.0, "seed": 0}))
    assert cached_job(functools.partial(accuracy, "svm"))(seed=3) == ("svm", 1.0, 3, False)


def test_a_decorator_that_forwards_has_the_wrapped_signature():
    forwarded = forwarding(forwarding(accuracy))
    assert same(forwarded, ((), {"c": 2.0, "model": "svm"}), (("svm", 2.0), {}), (("svm", 2.0), {"seed": 0}))
    assert cached_job(forwarded)(model="svm", seed=1) == ("svm", 1.0, 1, False)
    with pytest.raises(TypeError, match="missing"):
        cached_job(forwarded).key()


@pytest.mark.parametrize(
    ("function", "expected"),
    [(np.add, 3), (functools.partial(np.add, 1), 2), (max, 2), (functools.lru_cache(max), 2)],
)
def test_a_function_in_c_gets_the_call_as_it_was_made(function, expected):
    """`np.add` has a signature, but rejects some of its defaults when they are passed."""
    args = (1,) if isinstance(function, functools.partial) else (1, 2)
    assert cached_job(function)(*args) == expected


def test_a_decorator_that_takes_other_arguments_has_its_own_signature():
    with pytest.raises(TypeError, match="c"):
        cached_job(narrowing(accuracy)).key("svm", c=1.0)
    assert cached_job(narrowing(accuracy))("svm") == ("svm", 2.0, 0, False)
    assert same(functools.lru_cache(accuracy), (("svm",), {}), (("svm", 1.0), {"seed": 0}))


def test_a_signature_that_a_function_declares_counts():
    def declared(*args, **kwargs):
        return args, kwargs

    declared.__signature__ = inspect.signature(accuracy)
    for function in (declared, forwarding(declared)):
        assert same(function, ((), {"model": "svm"}), (("svm", 1.0), {"seed": 0}))


def test_a_function_without_a_signature_takes_anything():
    assert not same(max, ((1, 2), {}), ((2, 1), {}), ((1, 2), {"key": abs}))
    assert cached_job(max)(1, -2, key=abs) == -2
    key = cached_job(ignore=("key",))(max).key
    assert key(1, 2, key=abs) == key(1, 2) != key(1, 3)
