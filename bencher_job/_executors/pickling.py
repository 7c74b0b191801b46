"""Pickle anything for another process, and check that both sides run the same code.

    class R -> token and definition ~~> worker: its own class, registered by the token
    class R <- token                <~~ worker: an instance of that class

A result refers to a class that the worker got by value by its token. If the definition came back instead, cloudpickle
would apply it to the original class and replace its methods by copies with the worker's globals.

Pickle drops the chain of an exception, and rebuilds an exception by calling its class with `args`. That fails or
changes the exception if the class has its own constructor. So the chain is restored, and such exceptions are rebuilt
without calling it.
"""

from __future__ import annotations

import importlib
import io
import operator
import os
import pickle
import sys
import threading
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, TypeVar

import cloudpickle

from .._errors import BencherJobError
from .._keys.code_check import code_check_for, refuse_other_code
from .._keys.fingerprint import Fingerprint, code_fingerprint
from .._keys.members import is_lazy, lazy_name
from .._keys.names import is_own_module, is_own_name, locate, main_name, note_arrival
from .._processes import renew_after_fork
from .engine import error_text
from .surroundings import reduce_variable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_Reference = tuple[str, str]


class Recent(OrderedDict[K, V]):
    """A cache of what was used last. Threads may share it: each step is atomic, and a miss computes again."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def use(self, key: K) -> V | None:
        """Return a value, which is then the last that was used, or None."""
        value = self.pop(key, None)
        if value is not None:
            self[key] = value
        return value

    def keep(self, key: K, value: V) -> None:
        """Add a value, and forget the one that was not used for longest if there are too many."""
        self.pop(key, None)
        self[key] = value
        with suppress(KeyError):
            if len(self) > self._most:
                self.popitem(last=False)


_code_checks: Final[Recent[tuple[int, frozenset[str]], tuple[Fingerprint, bytes]]] = Recent(64)
"""Pickled code checks, by fingerprint and the modules that go by value."""


def code_check_of(fingerprint: Fingerprint, function: object) -> bytes:
    """Return the pickled code check of a fingerprint, for a worker of the function."""
    place = id(fingerprint), modules_by_value()
    known = _code_checks.use(place)
    if known is None:
        root = None if _is_found_by_name(function) else function
        known = fingerprint, pickle.dumps(code_check_for(fingerprint, place[1], root))
        _code_checks.keep(place, known)
    return known[1]


def _is_found_by_name(function: Any) -> bool:
    """Whether pickle sends a function by name. A function whose module holds the decorated one goes by value."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return name is not None and find_by_name(module, name) is function


def check_function(function: object, code_check: bytes) -> Mapping[str, str]:
    """Check that the code in this process is the code in the job's key. Return the versions of its libraries.

    Raises:
        CodeMismatch: if it differs. The error names what differs.
    """
    agreed = pickle.loads(code_check)
    refuse_other_code(function, agreed.differences())
    return agreed.libraries  # type: ignore[no-any-return]


class SeenDefinitions:
    """The user's own classes and functions that a pickler has pickled.

    It is pickled after them, as the digests of those that were pickled by name, and the versions of the libraries that
    their code names, if the key contains versions.
    """

    def __init__(self, *, with_libraries: bool) -> None:
        self._with_libraries = with_libraries
        self._seen: dict[Any, bool] = {}

    def note(self, obj: Any, *, by_value: bool) -> None:
        """Record a class or function, if it is the user's own."""
        if is_own_name(obj.__module__):
            self._seen[obj] = by_value

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({(obj.__module__, obj.__qualname__): self._code_of(obj) for obj in self._seen},)

    def _code_of(self, obj: Any) -> _DefinitionCode:
        made = code_fingerprint(obj)
        libraries = tuple(made.libraries.items()) if self._with_libraries else ()
        return b"" if self._seen[obj] else made.code, libraries


_DefinitionCode = tuple[bytes, tuple[tuple[str, str], ...]]
"""The digest of a definition's code, empty if it goes by value, and the versions of its libraries."""

_checked: Final[set[tuple[_Reference, _DefinitionCode]]] = set()


def check_arguments(function: object, agreed: Mapping[_Reference, _DefinitionCode]) -> dict[str, str]:
    """Check the classes and functions that a job's arguments refer to. Return the versions of their libraries.

    Each is checked once, because jobs may change what a class holds.

    Raises:
        CodeMismatch: if one differs. The error names what differs.
    """
    new = [item for item in agreed.items() if item not in _checked]
    refuse_other_code(
        function,
        tuple(sorted(".".join(name) for name, (code, _) in new if code and _code_here(name) != code)),
    )
    _checked.update(new)
    return {name: version for _, libraries in agreed.values() for name, version in libraries}


def _code_here(reference: _Reference) -> bytes | None:
    found = find_by_name(*reference)
    return code_fingerprint(found).code if isinstance(found, type | FunctionType) else None


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickle by value what has no name in an importable module. A cached function defines its own pickling."""

    def reducer_override(self, obj: Any) -> Any:
        """Use a cached function's own reduction, since cloudpickle mistakes it for the function that it wraps."""
        if getattr(type(obj), "_bencher_job_cached", False):
            return obj.reduce_for_worker(modules_by_value())
        if isinstance(obj, io.TextIOWrapper):  # cloudpickle would turn it into an io.StringIO
            raise pickle.PicklingError("an open file can't be sent to another process; send its path")
        if is_lazy(obj):
            name = lazy_name(obj)
            return (_as_it_is, (obj.resolve(),)) if "." in name else (importlib.import_module, (name,))
        if isinstance(obj, CodeType):
            return self._reduce_code(obj)
        if isinstance(obj, ContextVar):
            return reduce_variable(obj)
        try:
            reduced = super().reducer_override(obj)
        except Exception:  # from Python 3.14 on, an annotation may raise anything
            if type(obj) is not FunctionType or not hasattr(obj, "__annotate__"):
                raise
            reduced = super().reducer_override(_with_annotations_as_written(obj))
        if _is_definable(obj) and isinstance(reduced, tuple) and len(reduced) == 6:
            _keep_place(obj, reduced)
        return reduced

    def _reduce_code(self, code: CodeType) -> tuple[Any, ...]:
        """Keep the file name of code, which cloudpickle may drop: tracebacks and keys need it to find the source."""
        make, args = self.dispatch_table[CodeType](code)
        return make, (*args[:_FILE_NAME], code.co_filename, *args[_FILE_NAME + 1 :])


def _with_annotations_as_written(function: FunctionType) -> FunctionType:
    """Copy a function and replace annotations that cannot be evaluated by their source text."""
    from annotationlib import Format, get_annotations  # type: ignore[import-not-found]

    twin = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    for name in ("__doc__", "__kwdefaults__", "__module__", "__qualname__", "__type_params__"):
        setattr(twin, name, getattr(function, name))
    vars(twin).update(vars(function))
    twin.__annotations__ = get_annotations(function, format=Format.STRING)
    return twin


def _as_it_is(value: object) -> object:
    return value


_FILE_NAME: Final = 10
"""Index of the file name in the arguments of `CodeType`."""


def _keep_place(obj: Any, reduced: tuple[Any, ...]) -> None:
    """Keep a class's qualified name, and the class in a method's globals: both are part of keys."""
    if isinstance(obj, FunctionType):
        owner = obj.__code__.co_qualname.partition(".")[0]
        if isinstance(cls := obj.__globals__.get(owner), type):
            reduced[2][1]["__globals__"].setdefault(owner, cls)
    elif isinstance(definition := reduced[1][3], dict):  # the reduction of an enum has the name
        definition.setdefault("__qualname__", obj.__qualname__)


def dumps(
    value: object,
    protocol: int = pickle.HIGHEST_PROTOCOL,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    pickler: Callable[..., Pickler] = Pickler,
) -> bytes:
    """Pickle a value, by value where it has no importable name.

    Raises:
        Exception: whatever pickling raises.
    """
    with io.BytesIO() as file:
        pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


def modules_by_value() -> frozenset[str]:
    """Return the names of the modules that are pickled by value."""
    return frozenset(cloudpickle.list_registry_pickle_by_value())


class _Registry:
    """A lock for cloudpickle's list of modules that are pickled by value."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self.lock = threading.RLock()


_registry: Final = _Registry()


@contextmanager
def by_value(*modules: ModuleType | None) -> Iterator[None]:
    """Pickle the definitions of modules by value within the context, as if they could not be imported."""
    if not any(modules):
        yield
        return
    with _registry.lock:
        known = modules_by_value() | {"__main__"}  # which is pickled by value anyway
        named = [module for module in modules if module is not None and module.__name__ not in known]
        for module in named:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in named:
                cloudpickle.unregister_pickle_by_value(module)


class LoadedModules:
    """The loaded modules of one kind, searched again when the number of modules has changed."""

    def __init__(self, is_wanted: Callable[[ModuleType], bool]) -> None:
        self._is_wanted = is_wanted
        self._number = -1
        self._found: tuple[ModuleType, ...] = ()

    def __call__(self) -> tuple[ModuleType, ...]:
        if len(sys.modules) != self._number:
            modules = list(sys.modules.items())
            self._found = tuple(
                module
                for name, module in modules
                if isinstance(module, ModuleType)
                and name == module.__name__ != "__main__"
                and self._is_wanted(module)
            )
            self._number = len(modules)
        return self._found


def _is_made(module: ModuleType) -> bool:
    """Whether a module is the user's and no import finds it: it was made at run time, or by importlib's recipe."""
    package, _, _ = module.__name__.rpartition(".")
    top = sys.modules.get(module.__name__.partition(".")[0])
    if not is_own_module(module) or not (isinstance(top, ModuleType) and is_own_module(top)):
        return False
    path = getattr(sys.modules.get(package), "__path__", ()) if package else None
    file = getattr(module, "__file__", None)
    if module.__spec__ is None and file is None:
        return True
    for finder in sys.meta_path:
        with suppress(Exception):  # of a finder of somebody else's
            spec = finder.find_spec(module.__name__, path)
            if spec is not None:
                return file is not None and not (spec.origin and os.path.samefile(file, spec.origin))
    return True


_made_modules: Final = LoadedModules(_is_made)
_no_modules: Final = nullcontext()


def made_by_value() -> AbstractContextManager[None]:
    """Pickle the definitions of modules that a worker can't import by value within the context."""
    modules = _made_modules()
    return by_value(*modules) if modules else _no_modules


_known: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
"""Definitions that this process has sent or received, by token."""

_tokens: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
"""The tokens of definitions that this process has received."""


class CallPickler(Pickler):
    """Pickle a call for a worker, with a token for each class and function that goes by value.

    `seen` records the user's own definitions, by value and by name.
    """

    def __init__(self, *args: Any, seen: SeenDefinitions | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen = seen

    def reducer_override(self, obj: Any) -> Any:
        """Add a token to the definition of a class or a named function."""
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and self._seen is not None and _is_definable(obj):
            self._seen.note(obj, by_value=False)
        if not (_is_definable(obj) and isinstance(reduced, tuple) and len(reduced) == 6):
            return reduced
        if self._seen is not None:
            self._seen.note(obj, by_value=True)
        make, args, *rest = reduced
        if isinstance(obj, type):
            token = args[-2]  # cloudpickle's token, constant for the life of the class
        elif find_by_name(obj.__module__, obj.__qualname__) is obj:
            token = f"{obj.__module__}:{obj.__qualname__}"
        else:  # a closure has a state, so it goes by value
            return reduced
        _known[token] = obj
        return (_unpickle_definition, (token, make, args), *rest)


class ResultPickler(Pickler):
    """Pickle a job's result. A definition that came from the sender goes back as a reference.

    Attributes:
        is_for_same_program: whether the receiver has the same `__main__`.
    """

    is_for_same_program = False

    def reducer_override(self, obj: Any) -> Any:
        """Refer to received definitions by token, and pickle local ones by value."""
        if not _is_definable(obj):
            return super().reducer_override(obj)
        token = _tokens.get(obj)
        if token is None and self.is_for_same_program and find_by_name("__main__", obj.__qualname__) is obj:
            return locate, (main_name(), obj.__qualname__)
        if token is None:
            return super().reducer_override(obj)
        return _find_definition, (token, obj.__module__, obj.__qualname__)


def _is_definable(obj: Any) -> bool:
    real = type(obj)  # not `__class__`, which a wrapper takes from its function
    return issubclass(real, type | FunctionType)


def _unpickle_definition(token: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = make(*args)
    _tokens[made] = token
    _known.setdefault(token, made)
    if isinstance(made, type):
        note_arrival(made)
    return made


def _find_definition(token: str, module: str, qualname: str) -> Any:
    known = _known.get(token)
    if known is None:  # a notebook has defined it again
        known = find_by_name(module, qualname)
    if known is None:
        raise LookupError(f"{module}.{qualname}, which was sent with the job, is no longer here")
    return known


def find_by_name(module: str | None, qualname: str) -> Any:
    """Return what a loaded module holds under a dotted name, or None."""
    try:
        return operator.attrgetter(qualname)(sys.modules.get(module or ""))
    except AttributeError:
        return None


class RemoteTraceback(Exception):
    """The worker's traceback, as the last cause in an exception's chain."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def dump_error(error: BaseException, *, for_same_program: bool = False) -> bytes:
    """Pickle an exception with its chain and traceback. An exception that cannot be pickled is described instead.

    With `for_same_program`, classes of `__main__` go by name, since another run of the program has them.
    """
    text = "".join(traceback.format_exception(error))
    try:
        return dumps((error, text), pickler=_SameProgramPickler if for_same_program else _ErrorPickler)
    except BaseException as problem:  # noqa: BLE001 - a long chain can exceed pickle's recursion limit
        return dumps((_description_of(error, problem), text), pickler=ResultPickler)


def load_error(stream: Any) -> BaseException:
    """Unpickle an exception, with the worker's traceback at the end of its chain of causes.

    Raises:
        Exception: whatever unpickling raises in this process.
    """
    error: BaseException
    error, text = pickle.loads(stream)
    last, seen = error, {id(error)}
    while last.__cause__ is not None and id(last.__cause__) not in seen:
        last = last.__cause__
        seen.add(id(last))
    hides_context = last.__suppress_context__
    last.__cause__ = RemoteTraceback(text)
    last.__suppress_context__ = hides_context
    return error


class _ErrorPickler(ResultPickler):
    """Pickle exceptions with their chain."""

    alone: Any = None
    """The exception that is pickled without its chain, to see whether it can be."""

    def reducer_override(self, obj: Any) -> Any:
        if not issubclass(type(obj), BaseException):
            return super().reducer_override(obj)
        if obj is self.alone:
            return _reduce(obj)
        try:
            pickle.loads(dumps(obj, pickler=type("_Alone", (type(self),), {"alone": obj})))
            reduced = _reduce(obj)
        except BaseException as problem:  # noqa: BLE001 - a class's pickling can raise anything
            reduced = _reduce(_description_of(obj, problem))
        if isinstance(reduced, str):
            return reduced
        make, args, state, items, pairs, setter = list(reduced) + [None] * (6 - len(reduced))
        chain = (state, setter, obj.__cause__, obj.__context__, obj.__suppress_context__)
        return make, args, chain, items, pairs, _set_state


class _SameProgramPickler(_ErrorPickler):
    is_for_same_program = True


def _reduce(error: BaseException) -> Any:
    reduced = error.__reduce_ex__(5)
    own_type = type(error)
    constructors = own_type.__init__, own_type.__new__
    has_own_constructor = any(isinstance(constructor, FunctionType) for constructor in constructors)
    if isinstance(reduced, tuple) and reduced[0] is own_type and has_own_constructor:
        return (_rebuild, (own_type, reduced[1]), *reduced[2:])
    return reduced


def _rebuild(error_type: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    builtin: Any = next(base for base in error_type.__mro__ if base.__module__ == "builtins")
    error: BaseException = builtin.__new__(error_type, *args)
    builtin.__init__(error, *args)
    return error


def _set_state(error: BaseException, chain: tuple[Any, ...]) -> None:
    state, setter, cause, context, hides_context = chain
    if setter is not None:
        setter(error, state)
    elif state is not None:
        error.__setstate__(state)
    error.__cause__ = cause
    error.__context__ = context
    error.__suppress_context__ = hides_context


def _description_of(error: BaseException, problem: BaseException) -> BencherJobError:
    text = "".join(traceback.format_exception_only(error)).strip()
    return BencherJobError(
        f"{text} (The exception itself stayed in the worker: it can't be pickled, "
        f"{error_text(problem)}. Give its class plain attributes, or a __reduce__.)"
    )
