"""The wrapt wrapper of a cached function: how it is called, bound, copied and pickled."""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from ._options import (
    CHECKED_ALONE,
    CallArguments,
    Executors,
    PoolOptions,
    accept,
    cache_directory,
    checked,
    shows_options,
)

if TYPE_CHECKING:
    from ._explain import Explanation
    from ._function_cache import JobFunctionCache
    from ._future import JobFuture
    from ._keys import ArgsAndKwargs, Identity
    from ._keys.code import CodeInfo, Place
    from ._record import CallInfo
    from ._sweeps.sweep import Sweep, SweepOrder

    class FunctionWrapper:
        """What is used here of wrapt's class, which has no types."""

        __name__: str
        __qualname__: str
        _self_parent: Any
        _self_instance: Any
        _self_owner: Any

        def __init__(self, wrapped: object, wrapper: Callable[..., Any]) -> None: ...
        def __get__(self, instance: Any, owner: type | None = None) -> Any: ...

    BoundFunctionWrapper = FunctionWrapper
else:
    from wrapt import BoundFunctionWrapper, FunctionWrapper

_HELP = """\
Results are remembered. Of one call: submit, refresh, forget, is_cached, peek, remember, explain, key; of many: map,
sweep; of all: with_options, cache, cache_info, cache_clear. See help(bencher_job.CachedFunction)."""

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)  # noqa: PLC0105 - named as everybody names it
S = TypeVar("S")
V = TypeVar("V")
C = TypeVar("C", bound=type)
D = TypeVar("D")


class FunctionAnnotations(dict[str, Any]):
    """The plain function's `__annotations__`; an empty dict on the class itself.

    A class's own annotations would hide those that the proxy passes on.
    """

    def __get__(self, cached: Any, owner: type) -> Any:
        return self if cached is None else cached.__wrapped__.__annotations__

    def __set__(self, cached: Any, annotations: Mapping[str, Any]) -> None:
        cached.__wrapped__.__annotations__ = annotations


class FunctionDoc:
    """The plain function's `__doc__`. `help()` also gets a summary of the methods of cached functions."""

    def __init__(self, of_class: str) -> None:
        self._of_class = of_class

    def __get__(self, cached: Any, owner: type) -> str | None:
        if cached is None:
            return self._of_class
        doc: str | None = cached.__wrapped__.__doc__
        frame = sys._getframe(1)  # noqa: SLF001 - the only way to see that pydoc is the caller
        while frame.f_back is not None and frame.f_globals.get("__name__") == "inspect":
            frame = frame.f_back  # the pydoc of Python 3.15 calls through inspect
        if frame.f_globals.get("__name__") != "pydoc":
            return doc
        return f"{inspect.cleandoc(doc or '')}\n\n{_HELP}".lstrip()

    def __set__(self, cached: Any, doc: str | None) -> None:
        cached.__wrapped__.__doc__ = doc


class CachedCalls(Generic[P, R]):
    """The methods of a cached function, bound or not. A bound one puts its instance before the arguments."""

    __slots__ = ()
    _bencher_job_cached = True
    _self_cache: JobFunctionCache
    __wrapped__: Callable[P, R]
    """The plain function."""

    @property  # type: ignore[misc]  # wrapt's can also be set
    def __class__(self) -> type:
        """The class of the plain function, as wrapt says it, except to cloudpickle.

        cloudpickle pickles what is an instance of `FunctionType` as a plain function, before it asks for a reduction.
        """
        return type(self) if _cloudpickle_below() is not None else type(self.__wrapped__)

    def _with_bound(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args

    def _each_with_bound(self, calls: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        return calls

    @property
    def cache(self) -> JobFunctionCache:
        """The cache of this function."""
        return self._self_cache

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._self_cache.value(self._with_bound(args), kwargs)  # type: ignore[no-any-return]

    @overload
    def submit(
        self: CachedCalls[P, Coroutine[Any, Any, V]], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[V]: ...
    @overload
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    def submit(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call and return its future, without waiting where the executor runs jobs elsewhere.

        In an event loop this never blocks, whatever the executor; await the future. A plain function that would run in
        line runs in a thread, and a coroutine function as a task of the loop.
        """
        return self._self_cache.submit_call(self._with_bound(args), kwargs)

    @overload
    def map(  # type: ignore[overload-overlap]  # for a coroutine function of Any
        self: CachedCalls[..., Coroutine[Any, Any, V]],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        buffersize: int | None = None,
    ) -> AsyncIterator[V]: ...
    @overload
    def map(
        self, *iterables: Iterable[Any], ordered: bool = True, buffersize: int | None = None
    ) -> Iterator[R]: ...
    def map(self, *iterables: Any, ordered: bool = True, buffersize: int | None = None) -> Any:
        """Return an iterator over the values for the arguments in the iterables, as `Executor.map` does.

        For a coroutine function this is an asynchronous iterator, and the iterables may be asynchronous too.

        Stored values are looked up in bulk; missing ones run ahead of the reader, up to `buffersize`. A job's exception
        is raised at its place and ends the iterator. An exception of an iterable is raised after the values before it.
        When the iterator ends or is closed, jobs that have not started are cancelled.

        Args:
            iterables: the values of each parameter, in order; they may be endless. They are read ahead, so give each
                call objects of its own.
            ordered: yield values in the order of the calls; otherwise as they complete.
            buffersize: how many calls may be looked up or run ahead of the values that were taken; by default 1024.

        Raises:
            TypeError: when `buffersize` is not an int.
            ValueError: when it is below 1.
        """
        from ._sweeps.bulk import stream  # slow to import

        calls = self._each_with_bound(zip(*iterables, strict=False))
        return stream(self._self_cache, calls, ordered=ordered, buffersize=buffersize)

    def sweep(
        self,
        grid: Mapping[str, Iterable[Any]] | None = None,
        /,
        *,
        repeats: int = 1,
        order: SweepOrder = "points",
        **constants: Any,
    ) -> Sweep:
        """Make a sweep over all combinations of the grid's values. Nothing runs yet.

        Args:
            grid: the values of each swept parameter, or of a field of one that is a config: `{"cfg.lr": [0.1, 0.2]}`.
            repeats: how many times each combination runs.
            order: "points" runs the repeats of a combination one after the other, "repeats" all combinations once
                before the second repeat of any.
            constants: the other arguments.

        Raises:
            TypeError: when the grid or the constants don't fit the function.
            ValueError: when a parameter of the grid has no values, repeats is below 1, or a config has no such field.
        """
        from ._sweeps.sweep import Sweep  # slow to import

        return Sweep(self._self_cache, self._with_bound(()), grid, repeats, order, constants)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute a call again, replace the stored result, and return the value."""
        return self._self_cache.refresh(self._with_bound(args), kwargs)  # type: ignore[no-any-return]

    def forget(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the stored result of a call, on all machines that share it. Return whether there was one."""
        key, store = self.key(*args, **kwargs), self._self_cache.cache
        if key not in store:
            store.fetch(self._self_cache.name, [key])
        return bool(store.remove([key]))

    def is_cached(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether the result of a call is stored. Reads the index only, and computes nothing.

        False, with a warning, where the cache can't be read.
        """
        return self._self_cache.has(self.key(*args, **kwargs))

    @overload
    def peek(
        self: CachedCalls[P, Coroutine[Any, Any, V]], /, *args: Any, default: None = None, **kwargs: Any
    ) -> V | None: ...
    @overload
    def peek(
        self: CachedCalls[P, Coroutine[Any, Any, V]], /, *args: Any, default: D, **kwargs: Any
    ) -> V | D: ...
    @overload
    def peek(self, /, *args: Any, default: None = None, **kwargs: Any) -> R | None: ...
    @overload
    def peek(self, /, *args: Any, default: D, **kwargs: Any) -> R | D: ...
    def peek(self, /, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """Return the stored value of a call, which counts as a hit, or the default. Computes nothing.

        A parameter of the function that is named `default` is given by position.
        """
        return self._self_cache.peek(self._with_bound(args), kwargs, default)

    def remember(self, value: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value as the result of a call, in place of what was stored. Computes nothing.

        It is stored like any result: not if `keep` refuses it, and with a warning if that can't be done.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
            TypeError: when the arguments don't fit the function.
        """
        self._self_cache.remember(value, self._with_bound(args), kwargs)

    @shows_options(CallArguments)
    def with_options(self, /, **options: Unpack[CallArguments]) -> Self:
        """Return this function with other options of its calls. It has the same results and counts in the same `cache`.

        Options that change the key or the place of the results can't be given. `None` is an option's default, as in
        `ttl=None`. To make it takes longer than a hit, so keep it for many calls.

        Raises:
            TypeError: when there is no such option, or its value has the wrong type.
            ValueError: when a value can't be used.
        """
        accept(CachedCalls.with_options, options)
        return self._with_options(checked(options))  # type: ignore[no-any-return]

    def _with_options(self, options: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Explain whether a call is a hit, or why it would run: what differs from the nearest entry.

        Computes nothing and changes nothing.
        """
        return self._self_cache.explain(self._with_bound(args), kwargs)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the job key of a call.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
            TypeError: when the arguments don't fit the function.
        """
        return self._identity(args, kwargs)[0]

    def cache_info(self) -> CallInfo:
        """Return hits, misses, maxsize and currsize, as a function of `functools.lru_cache` does.

        Hits and misses count calls in this process; currsize is the number of entries of this function in the store.
        `cache.info()` has more figures.
        """
        return self._self_cache.call_info()

    def cache_clear(self) -> None:
        """Remove all results of this function and reset its counts, as `functools.lru_cache` does."""
        self._self_cache.clear_cache()
        self._self_cache.clear_call_counts()

    def _identity(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Identity:
        return self._self_cache.keys.identity(self._with_bound(args), kwargs)

    def _anchored(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ArgsAndKwargs:
        bound = len(self._with_bound(()))
        args, kwargs = self._self_cache.keys.anchored(self._with_bound(args), kwargs)
        return args[bound:], kwargs

    def __dir__(self) -> list[str]:
        own = (name for name in dir(CachedCalls) if not name.startswith("_"))
        return sorted({*dir(self.__wrapped__), *own})


class BoundCachedFunction(CachedCalls[P, R], BoundFunctionWrapper):
    """A cached function bound to an instance or a class."""

    __doc__ = FunctionDoc(__doc__)
    __annotations__ = FunctionAnnotations()

    @property
    def _self_cache(self) -> JobFunctionCache:  # type: ignore[override]
        return self._self_parent.cache  # type: ignore[no-any-return]

    def _with_bound(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        bound = getattr(self.__wrapped__, "__self__", _UNBOUND)
        return args if bound is _UNBOUND else (bound, *args)

    def _each_with_bound(self, calls: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        return map(self._with_bound, calls)

    def _with_options(self, options: Mapping[str, Any]) -> Any:
        function = self._self_parent._with_options(options)  # noqa: SLF001 - the function that is bound
        return function.__get__(self._self_instance, self._self_owner)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self._reduced() or _reduced(self._self_parent, _cloudpickle_below())

    def reduce_for_worker(self, modules_by_value: Collection[str]) -> tuple[Any, ...]:
        """Reduce the function for a worker, which gets it from the instance or class there."""
        return self._reduced() or self._self_parent.reduce_for_worker(modules_by_value)

    def __copy__(self) -> BoundCachedFunction[P, R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        bound = getattr(self.__wrapped__, "__self__", _UNBOUND)
        return self if bound is _UNBOUND else getattr(copy.deepcopy(bound, memo), self.__wrapped__.__name__)

    def _reduced(self) -> tuple[Any, ...] | None:
        bound = getattr(self.__wrapped__, "__self__", _UNBOUND)
        if bound is _UNBOUND:
            return None
        name = self.__wrapped__.__name__
        if getattr(getattr(bound, name, None), "cache", None) is self.cache:
            return getattr, (bound, name)
        function = self._self_parent  # with other options, or what a subclass overrides
        return type(function).__get__, (function, self._self_instance, self._self_owner)


_UNBOUND = object()


class CachedFunction(CachedCalls[P, R], FunctionWrapper):
    """A function whose results are remembered, as made by `cached_job`.

    Calls look like those of the plain function, which is `__wrapped__`. Name, docstring and signature are kept.
    It pickles by name, or by value if it can't be found by name.
    """

    __doc__ = FunctionDoc(__doc__)
    __annotations__ = FunctionAnnotations()
    __bound_function_wrapper__ = BoundCachedFunction
    _is_made_at_first_use = True
    if not TYPE_CHECKING:  # type checkers would take it for an attribute
        __slots__ = ("__call__",)  # a function of each object's own, which is found faster than a method

    def __init__(
        self, function: Callable[P, R], options: Mapping[str, Any], cache: JobFunctionCache | None = None
    ) -> None:
        super().__init__(function, _call_plain)
        self._self_options = dict(options)
        self._self_caches = [] if cache is None else [cache]
        setattr(self, "__call__", self._self_call_first)  # noqa: B010 - type checkers know the method
        if cache is not None or not (self._is_made_at_first_use and options.keys() <= CHECKED_ALONE):
            self._self_made()

    @property
    def _self_cache(self) -> JobFunctionCache:  # type: ignore[override]
        """The cache, which is made at first use: it imports most of this library."""
        caches = self._self_caches
        return caches[0] if caches else self._self_made()

    def _self_made(self) -> JobFunctionCache:
        if not self._self_caches:
            from ._function_cache import JobFunctionCache

            plain = self.__wrapped__
            plain = plain.__func__ if isinstance(plain, (staticmethod, classmethod)) else plain
            self._self_caches.append(
                JobFunctionCache(plain, **self._self_options)
            )  # the first of two threads wins
        cache = self._self_caches[0]
        setattr(self, "__call__", self._self_caller(cache))  # noqa: B010 - type checkers know the method
        return cache

    def _self_call_first(self, /, *args: Any, **kwargs: Any) -> Any:
        self._self_made()
        return self(*args, **kwargs)

    def _self_caller(self, cache: JobFunctionCache) -> Callable[..., Any]:
        return cache.answer

    def _with_options(self, options: Mapping[str, Any]) -> Any:
        given = {**self._self_options, **options}
        return type(self)(self.__wrapped__, given, self._self_cache.with_options(options))

    # Type checkers look through `classmethod` and `staticmethod`, so the first parameter tells the kind of function.
    # mypy doesn't compare it with the owner, so for functions bound to a class it knows the return type only.
    @overload
    def __get__(
        self: CachedFunction[Concatenate[C, Q], R], instance: None, owner: C
    ) -> BoundCachedFunction[..., R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> BoundCachedFunction[Q, R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[C, Q], R], instance: object, owner: C
    ) -> BoundCachedFunction[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind to an instance or a class, as a function does."""
        return super().__get__(instance, owner)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _reduced(self, _cloudpickle_below())

    def reduce_for_worker(self, modules_by_value: Collection[str]) -> tuple[Any, ...]:
        """Reduce the function for a worker: by name, unless the worker can't import its module.

        Modules pickled by value include all that are in a package of that name.
        """
        from ._keys.names import is_in

        if not is_in(self.__module__, {"__main__", *modules_by_value}) and _is_found_by_name(self):
            return _find_by_name, (self.__module__, self.__qualname__)
        return type(self), (self.__wrapped__, self._self_portable_options())

    def __copy__(self) -> CachedFunction[P, R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedFunction[P, R]:
        return self

    def __repr__(self) -> str:
        return f"<CachedFunction {self._self_cache.name}>"

    __str__ = __repr__

    def _self_portable_options(self) -> dict[str, Any]:
        """Return the options for another process: the same store, and the serial executor."""
        directory = os.fspath(cache_directory(self._self_cache.cache_dir))
        options = {name: value for name, value in self._self_options.items() if name not in _OF_EXECUTOR}
        return {**options, "cache_dir": directory, "executor": Executors.SERIAL}


class _AwaitedCalls(CachedCalls[..., Any]):
    """The methods that differ for coroutine functions, bound or not."""

    __slots__ = ()

    def refresh(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Compute a call again and replace the stored result. Await the value."""
        return self._self_cache.coroutine(self._with_bound(args), kwargs, fresh=True)

    def map(self, *iterables: Any, ordered: bool = True, buffersize: int | None = None) -> Any:
        """Return an asynchronous iterator over the values for the arguments in the iterables."""
        from ._sweeps.bulk import stream_in_loop  # slow to import

        return stream_in_loop(
            self._self_cache, iterables, self._with_bound, ordered=ordered, buffersize=buffersize
        )


class BoundCachedCoroutineFunction(_AwaitedCalls, BoundCachedFunction[..., Any]):
    """A cached coroutine function bound to an instance or a class."""

    __doc__ = FunctionDoc(__doc__)
    __annotations__ = FunctionAnnotations()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._self_cache.coroutine(self._with_bound(args), kwargs)


class CachedCoroutineFunction(_AwaitedCalls, CachedFunction[..., Any]):
    """A coroutine function whose results are remembered."""

    __doc__ = FunctionDoc(__doc__)
    __annotations__ = FunctionAnnotations()
    __bound_function_wrapper__ = BoundCachedCoroutineFunction  # type: ignore[assignment]  # P and R are any
    _is_made_at_first_use = False  # which would block an event loop

    def _self_caller(self, cache: JobFunctionCache) -> Callable[..., Any]:
        return lambda *args, **kwargs: cache.coroutine(args, kwargs)


# The mark that `inspect.iscoroutinefunction` looks for in objects that aren't functions, from Python 3.12 on. Its name
# is private and varies between versions, so it is copied from a marked function.
_mark = getattr(inspect, "markcoroutinefunction", None)
for _name, _value in () if _mark is None else vars(_mark(lambda: None)).items():
    setattr(_AwaitedCalls, _name, _value)


_OF_EXECUTOR = frozenset({"timeout", *(field.name for field in fields(PoolOptions))})
"""Options of the executor, which mean nothing in a process that runs the job in line."""


def _call_plain(
    wrapped: Callable[..., Any], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return wrapped(*args, **kwargs)


_CLOUDPICKLES = frozenset({"cloudpickle", "cloudpickle_fast"})
"""Last parts of the names of cloudpickle's modules, which joblib, Ray and PySpark vendor."""


def _cloudpickle_below() -> Mapping[str, Any] | None:
    """Return the globals of the cloudpickle that called the caller of this function, or None if other code did."""
    namespace = sys._getframe(2).f_globals  # noqa: SLF001 - the only way to see that cloudpickle is the caller
    name = namespace.get("__name__")
    return namespace if isinstance(name, str) and name.rpartition(".")[2] in _CLOUDPICKLES else None


def _reduced(function: CachedFunction[..., Any], cloudpickle: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Reduce a cached function for any pickler, with the globals of cloudpickle if it is the pickler."""
    if cloudpickle is not None:
        by_value = cloudpickle["list_registry_pickle_by_value"]()
        make, args = function.reduce_for_worker(by_value)
        return (make, args) if make is _find_by_name else (_arrived, (*args, *_keyed(function, by_value)))
    if _is_found_by_name(function):
        return _find_by_name, (function.__module__, function.__qualname__)
    import pickle

    from ._executors.pickling import dumps  # slow to import

    return pickle.loads, (dumps(function),)


def _keyed(function: CachedFunction[..., Any], by_value: Collection[str]) -> tuple[Any, ...]:
    """Return the class of the function, and what its keys in another process need besides its code."""
    from ._keys.code_check import code_check_for
    from ._keys.names import is_in, main_name

    plain = function.cache.function
    outermost = getattr(plain, "__qualname__", "").partition(".")[0]
    owner = getattr(plain, "__globals__", {}).get(outermost)
    modules = [name for name in sys.modules if is_in(name, by_value)]
    infos = code_check_for(function.cache.keys.function_version.fingerprint, modules, plain)
    return type(function), main_name(), infos.code_infos, owner if isinstance(owner, type) else None


def _arrived(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    cls: type[CachedFunction[..., Any]],
    main: str,
    infos: tuple[tuple[Place, CodeInfo], ...],
    owner: type | None,
) -> CachedFunction[..., Any]:
    """Make a cached function that cloudpickle has brought, so that its keys are those of the sender."""
    from ._keys.code import CLOUDPICKLED, accept_code_info
    from ._keys.names import adopt_main_name

    program = vars(sys.modules["__main__"])
    if not any(getattr(type(value), "_bencher_job_cached", False) for value in list(program.values())):
        adopt_main_name(main)  # this process works for the sender, and has no functions of its own
    accept_code_info(infos)
    accept_code_info(((CLOUDPICKLED, line, name), info) for (_, line, name), info in infos)
    made = cls(function, options)
    if owner is not None:  # a method reaches its class, whether it names it or not
        made.cache.function.__globals__.setdefault(owner.__name__, owner)
    return made


def _is_found_by_name(function: CachedFunction[..., Any]) -> bool:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None:
        return False
    try:
        return _find_by_name(module, name) is function
    except (AttributeError, ImportError):
        return False


def _find_by_name(module: str, qualified_name: str) -> Any:
    """Find an object by its module and qualified name; methods stay unbound, as their class defines them."""
    __import__(module)
    found: Any = sys.modules[module]
    for name in qualified_name.split("."):
        found = inspect.getattr_static(found, name)
    return found
