"""Pickle anything for another process, and check that both sides run the same code.

    class R -> token and definition ~~> worker: a class of its own, noted with the token
    class R <- token                <~~ worker: an instance of that class

What a worker got by value comes home as a reference. A definition that came home would be applied to the class
that it was made of, and undo what the program has done to it: its methods would be others, with the worker's
globals.
"""

from __future__ import annotations

import importlib
import io
import operator
import pickle
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import cloudpickle

from .._keys.agreement import agreement_on, refuse_other_code
from .._keys.fingerprint import Fingerprint, code_fingerprint
from .._keys.members import is_lazy, lazy_name
from .._keys.names import is_own_name, locate, main_name, note_arrival
from .._processes import renew_after_fork

__all__ = [
    "HomewardPickler",
    "Met",
    "OutwardPickler",
    "agreement_of",
    "by_value",
    "check_arguments",
    "check_function",
    "dumps",
    "find_by_name",
    "modules_by_value",
]


KEPT_AGREEMENTS: Final = 64
_Reference = tuple[str, str]


class _Agreements:
    """The agreements on the fingerprints that were sent last, as bytes."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, frozenset[str]], tuple[Fingerprint, bytes]] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, fingerprint: Fingerprint, function: object) -> bytes:
        by_value = modules_by_value()
        with self._lock:
            known = self._made.get((id(fingerprint), by_value))
            if known is None:
                is_named = _is_found_by_name(function)
                made = pickle.dumps(agreement_on(fingerprint, by_value, None if is_named else function))
                known = self._made[id(fingerprint), by_value] = fingerprint, made
                if len(self._made) > KEPT_AGREEMENTS:
                    self._made.popitem(last=False)
            return known[1]


def _is_found_by_name(function: Any) -> bool:
    """Whether pickle sends a function by its name; one that its module holds cached goes by value."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return name is not None and find_by_name(module, name) is function


agreement_of: Final = _Agreements()


def check_function(function: object, agreement: bytes) -> Mapping[str, str]:
    """Check that this process holds the code that a function's key was made of; give the versions of its libraries.

    Raises:
        CodeMismatch: naming what differs.
    """
    agreed = pickle.loads(agreement)
    refuse_other_code(function, agreed.differences())
    return agreed.libraries  # type: ignore[no-any-return]


class Met:
    """The user's own classes and functions that a pickler has met.

    It is pickled behind what they were met in, as the digests of those that are referred to by name, and the versions
    of the libraries that the code of all of them names, if these count.
    """

    def __init__(self, *, with_libraries: bool) -> None:
        self._with_libraries = with_libraries
        self._met: dict[Any, bool] = {}

    def note(self, obj: Any, *, by_value: bool) -> None:
        """Note what is met, if the user wrote it."""
        if is_own_name(obj.__module__):
            self._met[obj] = by_value

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({(obj.__module__, obj.__qualname__): self._agreed_of(obj) for obj in self._met},)

    def _agreed_of(self, obj: Any) -> _Agreed:
        made = code_fingerprint(obj)
        libraries = tuple(made.libraries.items()) if self._with_libraries else ()
        return b"" if self._met[obj] else made.code, libraries


_Agreed = tuple[bytes, tuple[tuple[str, str], ...]]
"""The digest of a class's or a function's code, empty where it goes by value, and the versions of its libraries."""

_agreed: Final[set[tuple[_Reference, _Agreed]]] = set()


def check_arguments(function: object, agreed: Mapping[_Reference, _Agreed]) -> dict[str, str]:
    """Check the classes and functions that a job's arguments refer to, each once: jobs may change what classes hold.

    Gives the versions of the libraries that their code names.

    Raises:
        CodeMismatch: naming what differs.
    """
    new = [item for item in agreed.items() if item not in _agreed]
    refuse_other_code(
        function,
        tuple(sorted(".".join(name) for name, (code, _) in new if code and _code_here(name) != code)),
    )
    _agreed.update(new)
    return {name: version for _, libraries in agreed.values() for name, version in libraries}


def _code_here(reference: _Reference) -> bytes | None:
    found = find_by_name(*reference)
    return code_fingerprint(found).code if isinstance(found, type | FunctionType) else None


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what has no name in an importable module; a cached function decides for itself."""

    def reducer_override(self, obj: Any) -> Any:
        """Let a cached function say how it travels: cloudpickle takes it for the one that it wraps."""
        if getattr(type(obj), "_bencher_job_cached", False):
            return obj.reduce_for_worker(by_value=obj.__module__ in modules_by_value())
        if isinstance(obj, io.TextIOWrapper):  # cloudpickle would make another kind of file of it
            raise pickle.PicklingError("an open file can't be sent to another process; send its path")
        if is_lazy(obj):
            name = lazy_name(obj)
            return (_as_it_is, (obj.resolve(),)) if "." in name else (importlib.import_module, (name,))
        if isinstance(obj, CodeType):
            return self._reduce_code(obj)
        try:
            reduced = super().reducer_override(obj)
        except Exception:  # from Python 3.14 on of an annotation, which may raise anything
            if type(obj) is not FunctionType or not hasattr(obj, "__annotate__"):
                raise
            reduced = super().reducer_override(_with_annotations_as_written(obj))
        if _is_definable(obj) and isinstance(reduced, tuple) and len(reduced) == 6:
            _keep_place(obj, reduced)
        return reduced

    def _reduce_code(self, code: CodeType) -> tuple[Any, ...]:
        """Let code keep its file's name, by which tracebacks and keys find its source; cloudpickle may drop it."""
        make, args = self.dispatch_table[CodeType](code)
        return make, (*args[:_FILE_NAME], code.co_filename, *args[_FILE_NAME + 1 :])


def _with_annotations_as_written(function: FunctionType) -> FunctionType:
    """Copy a function whose annotations can't be evaluated, as those below `if TYPE_CHECKING:`, with their text."""
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
"""Where the file's name stands among the arguments of `CodeType`."""


def _keep_place(obj: Any, reduced: tuple[Any, ...]) -> None:
    """Let a class keep its qualified name, and a method know its class: a key is made of both."""
    if isinstance(obj, FunctionType):
        owner = obj.__code__.co_qualname.partition(".")[0]
        if isinstance(cls := obj.__globals__.get(owner), type):
            reduced[2][1]["__globals__"].setdefault(owner, cls)
    elif isinstance(definition := reduced[1][3], dict):  # an enumeration's has its name
        definition.setdefault("__qualname__", obj.__qualname__)


def dumps(
    value: object,
    protocol: int = pickle.HIGHEST_PROTOCOL,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    pickler: Callable[..., Pickler] = Pickler,
) -> bytes:
    """Pickle anything that can be, by value where it has no importable name.

    Raises:
        Exception: whatever the pickling raises.
    """
    with io.BytesIO() as file:
        pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


def modules_by_value() -> frozenset[str]:
    """Name the modules whose things are pickled by value at this moment."""
    return frozenset(cloudpickle.list_registry_pickle_by_value())


class _Registry:
    """cloudpickle's list of the modules that go by value, for one thread at a time."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self.lock = threading.RLock()


_registry: Final = _Registry()


@contextmanager
def by_value(*modules: ModuleType | None) -> Iterator[None]:
    """Pickle what modules define by value meanwhile, as if they could not be imported."""
    named = [
        module
        for module in modules
        if module is not None and module.__name__ != "__main__"  # whose things go by value anyway
    ]
    if not named:
        yield
        return
    with _registry.lock:
        for module in named:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in named:
                cloudpickle.unregister_pickle_by_value(module)


_known: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
"""What was sent from here or has arrived here, by token."""

_tokens: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
"""The tokens of what has arrived here."""


class OutwardPickler(Pickler):
    """Pickles a call for a worker, which notes the classes and functions that it gets by value.

    All of them are noted here.
    """

    def __init__(self, *args: Any, met: Met | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._met = met

    def reducer_override(self, obj: Any) -> Any:
        """Add a token to the definition of a class, and of a function that has a name."""
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and self._met is not None and _is_definable(obj):
            self._met.note(obj, by_value=False)
        if not (_is_definable(obj) and isinstance(reduced, tuple) and len(reduced) == 6):
            return reduced
        if self._met is not None:
            self._met.note(obj, by_value=True)
        make, args, *rest = reduced
        if isinstance(obj, type):
            token = args[-2]  # the class's own in cloudpickle, the same as long as the class lives
        elif find_by_name(obj.__module__, obj.__qualname__) is obj:
            token = f"{obj.__module__}:{obj.__qualname__}"
        else:  # a closure has a state, which travels
            return reduced
        _known[token] = obj
        return (_arrive, (token, make, args), *rest)


class HomewardPickler(Pickler):
    """Pickles what a job ended with; whatever came from the sender goes back as a reference to the sender's own.

    Attributes:
        is_for_same_program: whether what `__main__` defines is there, too, where the pickle goes.
    """

    is_for_same_program = False

    def reducer_override(self, obj: Any) -> Any:
        """Refer to what came from elsewhere, and define what was made here."""
        if not _is_definable(obj):
            return super().reducer_override(obj)
        token = _tokens.get(obj)
        if token is None and self.is_for_same_program and find_by_name("__main__", obj.__qualname__) is obj:
            return locate, (main_name(), obj.__qualname__)
        if token is None:
            return super().reducer_override(obj)
        return _come_home, (token, obj.__module__, obj.__qualname__)


def _is_definable(obj: Any) -> bool:
    real = type(obj)  # a wrapper claims to be of its function's
    return issubclass(real, type | FunctionType)


def _arrive(token: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = make(*args)
    _tokens[made] = token
    _known.setdefault(token, made)
    if isinstance(made, type):
        note_arrival(made)
    return made


def _come_home(token: str, module: str, qualname: str) -> Any:
    known = _known.get(token)
    if known is None:  # a notebook has defined it anew meanwhile
        known = find_by_name(module, qualname)
    if known is None:
        raise LookupError(f"{module}.{qualname}, which was sent with the job, is no longer here")
    return known


def find_by_name(module: str | None, qualname: str) -> Any:
    """Find what a loaded module holds under a dotted name, or nothing."""
    try:
        return operator.attrgetter(qualname)(sys.modules.get(module or ""))
    except AttributeError:
        return None
