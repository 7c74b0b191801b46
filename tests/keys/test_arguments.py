import functools
import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._keys.arguments import Binder


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


def test_every_spelling_of_a_call_binds_the_same_arguments():
    bind = Binder(accuracy).bind
    expected = ("svm", 1.0, 3, False)
    assert bind("svm", seed=3) == expected
    assert bind(model="svm", seed=3) == expected
    assert bind("svm", 1.0, verbose=False, seed=3) == expected
    assert bind(seed=3, c=1.0, model="svm") == expected


def test_every_kind_of_parameter_is_bound_in_order():
    binder = Binder(everything)
    assert binder.names == ("a", "b", "c", "rest", "d", "e", "more")
    assert binder.bind(1, 2, d=4) == (1, 2, 3, (), 4, 5, {})
    assert binder.bind(1, 2, 3, 4, d=4, a=7, z=8) == (1, 2, 3, (4,), 4, 5, {"a": 7, "z": 8})


@st.composite
def calls(draw):
    args = draw(st.lists(st.integers(), max_size=5))
    kwargs = draw(st.dictionaries(st.sampled_from("abcdexyz"), st.integers(), max_size=6))
    return args, kwargs


@given(calls())
def test_a_call_binds_exactly_when_the_function_accepts_it(call):
    args, kwargs = call
    binder = Binder(everything)
    try:
        expected = everything(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            binder.bind(*args, **kwargs)
        with pytest.raises(TypeError):
            binder.call(tuple(args), kwargs)
    else:
        assert binder.bind(*args, **kwargs) == expected


@given(calls())
def test_the_canonical_call_is_equivalent(call):
    args, kwargs = call
    binder = Binder(everything)
    try:
        expected = everything(*args, **kwargs)
    except TypeError:
        return
    positional, job_args = binder.call(tuple(args), kwargs)
    assert everything(*positional, **job_args) == expected
    assert binder.call(positional, job_args) == (positional, job_args)


@given(calls(), st.sets(st.sampled_from(["a", "b", "c", "rest", "d", "e"])))
def test_replacing_covers_all_values_of_a_parameter(call, names):
    args, kwargs = call
    binder = Binder(everything)
    try:
        before = binder.bind(*args, **kwargs)
    except TypeError:
        return

    def double(value):
        return tuple(map(double, value)) if isinstance(value, tuple) else 2 * value

    positional, named = binder.replaced(args, kwargs, names, double)
    expected = [
        double(value) if name in names else value for name, value in zip(binder.names, before, strict=True)
    ]
    assert binder.bind(*positional, **named) == tuple(expected)


def test_a_default_that_can_only_be_passed_by_position_is_replaced():
    def read(a=1, b="x", /, *, c=2): ...

    assert Binder(read).replaced((), {"c": 3}, ["b"], str.upper) == ((1, "X"), {"c": 3})


def test_the_canonical_call_uses_keywords_where_possible():
    binder = Binder(everything)
    assert binder.call((1, 2), {"d": 4, "z": 9}) == ((1,), {"b": 2, "c": 3, "d": 4, "e": 5, "z": 9})
    assert binder.call((1, 2, 3, 4), {"d": 4}) == ((1, 2, 3, 4), {"d": 4, "e": 5})
    assert Binder(accuracy).call(("svm",), {}) == (
        (),
        {"model": "svm", "c": 1.0, "seed": 0, "verbose": False},
    )


def test_the_arguments_have_names_for_people():
    binder = Binder(everything)
    assert binder.arguments((1, 2, 3, 4), {"d": 4, "z": 9}) == {
        "a": 1, "b": 2, "c": 3, "rest": (4,), "d": 4, "e": 5, "z": 9,
    }  # fmt: skip
    assert binder.arguments((1, 2), {"d": 4, "a": 9})["more"] == {"a": 9}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bind: bind(), r"accuracy\(\) missing 1 required positional argument: 'model'"),
        (lambda bind: bind("svm", k=1), r"accuracy\(\) got an unexpected keyword argument 'k'"),
        (lambda bind: bind("svm", model="rf"), r"accuracy\(\) got multiple values for argument 'model'"),
        (lambda bind: bind(1, 2, 3), r"accuracy\(\) takes from 1 to 2 positional arguments but 3 were given"),
    ],
)
def test_a_wrong_call_raises_the_functions_own_error(call, message):
    with pytest.raises(TypeError, match=message) as told:
        call(Binder(accuracy).bind)
    with pytest.raises(TypeError) as own:
        call(accuracy)
    assert str(told.value) == str(own.value)


def test_ignored_parameters_stay_out_of_the_key_but_not_of_the_call():
    binder = Binder(accuracy, ignore=("verbose", "c"))
    assert binder.names == ("model", "seed")
    assert binder.bind("svm", 2.0, verbose=True) == ("svm", 0)
    assert binder.call(("svm",), {"verbose": True})[1]["verbose"] is True
    assert Binder(accuracy, ignore="verbose").names == ("model", "c", "seed")


def test_an_ignored_name_must_be_a_parameter():
    with pytest.raises(
        ValueError, match=r"'verbos' is not a parameter of accuracy\(\).*model, c, seed, verbose"
    ):
        Binder(accuracy, ignore=("verbos",))
    with pytest.raises(ValueError, match="Its parameters are: none"):
        Binder(lambda: None, ignore=("x",))


def test_a_keyword_that_has_no_parameter_of_its_own_can_be_ignored():
    binder = Binder(everything, ignore=("z",))
    assert binder.bind(1, 2, d=4, z=9, y=8)[-1] == {"y": 8}
    assert binder.bind(1, 2, d=4)[-1] == {}
    assert "more" not in Binder(everything, ignore=("more",)).names


def test_a_default_is_bound_by_identity():
    collected = []

    def collect(into=collected, *, also=collected):
        return into, also

    binder = Binder(collect)
    collected.append(1)
    assert all(value is collected for value in binder.bind())


def test_a_parameter_may_have_the_name_of_an_internal_variable():
    def odd(bind, return_, _default, args, kwargs, self, Binder, namespace=1, *, function=2, __builtins__=3):
        return bind

    binder = Binder(odd)
    assert binder.bind(1, 2, 3, 4, 5, 6, 7) == (1, 2, 3, 4, 5, 6, 7, 1, 2, 3)
    assert binder.call((1, 2, 3, 4, 5, 6, 7), {})[1]["bind"] == 1
    assert binder.arguments((1, 2, 3, 4, 5, 6, 7), {})["namespace"] == 1


def test_annotations_are_not_evaluated():
    def annotated(x: "no_such_name", y: "1 / 0" = 2) -> "neither":  # noqa: F821
        return x, y

    assert Binder(annotated).bind(1) == (1, 2)


def test_methods_are_bound_with_or_without_their_owner():
    model = Model()
    assert Binder(Model.fit).bind(model, 3) == (model, 3, 1)
    assert Binder(model.fit).bind(3) == (3, 1)
    assert Binder(Model.load).bind("a") == ("a", "r")
    assert Binder(Model.name).bind() == (1,)
    assert Binder(model).bind(3) == (3, 2)
    assert Binder(model.score).names == ("x", "y")
    assert Binder(Model.score).names == ("self", "x", "y")


def test_partials_bind_the_remaining_parameters():
    assert Binder(functools.partial(accuracy, "svm")).bind(2.0) == (2.0, 0, False)
    assert Binder(functools.partial(accuracy, c=2.0)).bind("svm") == ("svm", 2.0, 0, False)


def test_a_decorator_that_forwards_has_the_wrapped_signature():
    binder = Binder(forwarding(forwarding(accuracy)))
    assert binder.bind(c=2.0, model="svm") == binder.bind("svm", 2.0) == ("svm", 2.0, 0, False)


@pytest.mark.parametrize(
    "function", [np.add, functools.partial(np.add, 1), np.array, max, functools.lru_cache(max)]
)
def test_a_function_in_c_gets_the_call_as_it_was_made(function):
    """`np.add` has a signature, but rejects some of its defaults when they are passed."""
    assert Binder(function).call((1, 2), {}) == ((1, 2), {})


def test_a_partial_of_a_python_function_gets_the_canonical_call():
    assert Binder(functools.partial(accuracy, "svm")).call((), {"seed": 3}) == Binder(
        functools.partial(accuracy, "svm")
    ).call((), {"seed": 3, "c": 1.0})


def test_a_decorator_that_forwards_gets_the_call_as_it_was_made():
    binder = Binder(forwarding(accuracy))
    assert binder.call(("svm",), {"seed": 1}) == (("svm",), {"seed": 1})
    with pytest.raises(TypeError, match="missing"):
        binder.call((), {})


def test_a_decorator_that_takes_other_arguments_has_its_own_signature():
    assert Binder(narrowing(accuracy)).names == ("model",)
    assert Binder(functools.lru_cache(accuracy)).names == ("model", "c", "seed", "verbose")


def test_a_signature_that_a_function_declares_counts():
    def declared(*args, **kwargs):
        return args, kwargs

    declared.__signature__ = inspect.signature(accuracy)
    assert Binder(declared).bind(model="svm") == ("svm", 1.0, 0, False)
    assert Binder(forwarding(declared)).bind(model="svm") == ("svm", 1.0, 0, False)


def test_a_function_without_a_signature_takes_anything():
    binder = Binder(max)
    assert binder.bind(1, 2, key=abs) == ((1, 2), {"key": abs})
    assert binder.call((1, 2), {"key": abs}) == ((1, 2), {"key": abs})
    assert Binder(max, ignore=("key",)).bind(1, 2, key=abs) == ((1, 2), {})
