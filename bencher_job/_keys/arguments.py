"""Bind calls to a signature, so that different spellings of a call have the same arguments.

A signature is compiled to small functions with its parameters: Python itself binds the arguments, fills in the
defaults and reports what is missing. The bodies mention parameters only, and the defaults are set as objects, so
our names can't collide with the user's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from inspect import Parameter, Signature
from types import FunctionType, MethodType
from typing import Any, Final

ArgsAndKwargs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and keyword arguments."""

NO_DEFAULT: Final = object()
_EMPTY: Final = Parameter.empty
_STARS: Final[dict[Any, str]] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_AS_WRITTEN: Final[dict[str, Any]] = {}
"""Python 3.14 evaluates annotations when they are read, which fails for names imported under `if TYPE_CHECKING:`."""
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _AS_WRITTEN["annotation_format"] = Format.STRING
_ANYTHING: Final = Signature(
    [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
)
"""The signature of a callable that doesn't declare one."""


class Binder:
    """Binds the calls of one function; compiled once from its signature.

    Defaults are the function's own objects, so a default that was changed in place is bound in its current state.

    Attributes:
        names: the parameters that enter the key, in order.
        labels: these names with their stars in the signature: `*args`.
        defaults: their defaults; `NO_DEFAULT` for a parameter without one.
        bind: called like the function, returns the values of these parameters; raises the function's `TypeError`.
        spell: called like the function, returns the call in its canonical spelling, and its arguments by name for
            people. The spelling has arguments by keyword, with all defaults; by position it has only positional-only
            parameters and, if the call has `*args`, all before them. It is None where the call has to stay as it was
            made: of a decorator that forwards `*args, **kwargs`, which may inspect them, and of a function that is not
            written in Python, whose text signature may state other defaults than it has. By name, `*args` are one
            tuple, and `**kwargs` stand under their own names, or together if one of them is a parameter's.

    >>> def accuracy(model, c=1.0, *, seed=0, verbose=False): ...
    >>> binder = Binder(accuracy, ignore=["verbose"])
    >>> binder.names, binder.bind("svm", seed=3, verbose=True)
    (('model', 'c', 'seed'), ('svm', 1.0, 3))
    """

    __slots__ = ("_parameters", "bind", "defaults", "labels", "names", "spell")

    def __init__(self, function: Callable[..., Any], ignore: Collection[str] = ()) -> None:
        signature, forwarded = _accepted(function)
        ignored = frozenset([ignore] if isinstance(ignore, str) else ignore)
        self._parameters = parameters = list(signature.parameters.values())
        _check_ignored(function, ignored, parameters)
        kept = [parameter for parameter in parameters if parameter.name not in ignored]

        def compiled(body: str) -> Callable[..., Any]:
            return _compile(function, parameters, body)

        self.names: tuple[str, ...] = tuple(parameter.name for parameter in kept)
        self.labels: tuple[str, ...] = tuple(_STARS.get(each.kind, "") + each.name for each in kept)
        self.defaults: tuple[object, ...] = tuple(
            NO_DEFAULT if parameter.default is _EMPTY else parameter.default for parameter in kept
        )
        self.bind: Callable[..., tuple[object, ...]] = compiled(_bind_body(kept, ignored - set(self.names)))
        as_made = forwarded or not _is_python(function)
        call = "None" if as_made else _call_source(parameters)
        self.spell = compiled(f"return ({call}), ({_arguments_source(parameters)})")

    def replaced(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        names: Collection[str],
        replace: Callable[[Any], Any],
    ) -> ArgsAndKwargs:
        """Replace the values of some parameters in a call, whose spelling stays.

        A default is passed only if its replacement differs. Whether the call fits the function is not checked.

        >>> def read(path="data", mode="r"): ...
        >>> Binder(read).replaced((), {"mode": "w"}, ["path", "mode"], str.upper)
        ((), {'mode': 'W', 'path': 'DATA'})
        """
        positional, named = list(args), dict(kwargs)
        for place, parameter in enumerate(self._parameters):
            if parameter.name not in names:
                continue
            takes_place = parameter.kind in {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
            if parameter.kind is Parameter.VAR_POSITIONAL:
                positional[place:] = map(replace, positional[place:])
            elif takes_place and place < len(positional):
                positional[place] = replace(positional[place])
            elif parameter.name in named and parameter.kind is not Parameter.POSITIONAL_ONLY:
                named[parameter.name] = replace(named[parameter.name])
            elif (default := parameter.default) is not _EMPTY and (made := replace(default)) != default:
                if parameter.kind is Parameter.POSITIONAL_ONLY:
                    before = self._parameters[len(positional) : place]
                    positional += [*(each.default for each in before), made]
                else:
                    named[parameter.name] = made
        return tuple(positional), named


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature that calls are bound to, with unevaluated annotations."""
    return _accepted(function)[0]


def _accepted(function: Callable[..., Any]) -> tuple[Signature, bool]:
    """Return the signature of a function, and whether its decorator forwards every call to the wrapped function.

    `functools.wraps` states that a decorator wraps a function, not that both take the same arguments. The wrapped
    signature is used if the wrapper takes `*args, **kwargs`, possibly after the first of the wrapped parameters.
    """
    if isinstance(function, MethodType):
        signature, forwarded = _accepted(function.__func__)
        return _without_first(signature), forwarded
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is None or isinstance(function, type) or "__signature__" in getattr(function, "__dict__", {}):
        return _signature(function), False
    own = _signature(function)
    inner, _ = _accepted(wrapped)
    if _forwards(list(own.parameters.values()), list(inner.parameters.values())):
        return inner, True
    return own, False


def receiver_of(function: Callable[..., Any]) -> str | None:
    """Return the name of a bound method's `self` parameter; None for any other function."""
    if not isinstance(function, MethodType):
        return None
    signature, _ = _accepted(function.__func__)
    first = next(iter(signature.parameters.values()), None)
    return None if first is None or first.kind is Parameter.VAR_POSITIONAL else first.name


def _is_python(function: Callable[..., Any]) -> bool:
    """Whether Python itself binds the arguments of calls."""
    if isinstance(function, MethodType):
        return _is_python(function.__func__)
    if isinstance(function, partial):
        return _is_python(function.func)
    return isinstance(function, FunctionType) or isinstance(type(function).__call__, FunctionType)


def _signature(function: Callable[..., Any]) -> Signature:
    try:
        return inspect.signature(
            function, follow_wrapped=not isinstance(function, FunctionType), **_AS_WRITTEN
        )
    except (ValueError, TypeError):
        if not callable(function):
            raise
        return _ANYTHING


def _forwards(outer: list[Parameter], inner: list[Parameter]) -> bool:
    first = outer[:-2]
    return (
        [parameter.kind for parameter in outer[-2:]] == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD]
        and all(parameter.default is _EMPTY for parameter in first)
        and [parameter.name for parameter in first] == [parameter.name for parameter in inner[: len(first)]]
    )


def _without_first(signature: Signature) -> Signature:
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not Parameter.VAR_POSITIONAL:
        del parameters[0]
    return signature.replace(parameters=parameters)


def _check_ignored(
    function: Callable[..., Any], ignored: frozenset[str], parameters: list[Parameter]
) -> None:
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters]
    if unknown := sorted(ignored.difference(names)):
        raise ValueError(
            f"ignore={unknown[0]!r} is not a parameter of {_name(function)}(). "
            f"Its parameters are: {', '.join(names) or 'none'}."
        )


def _name(function: Callable[..., Any]) -> str:
    name: str | None = getattr(function, "__qualname__", None)
    return name or getattr(function, "__name__", None) or type(function).__qualname__


def _compile(function: Callable[..., Any], parameters: list[Parameter], body: str) -> Callable[..., Any]:
    """Compile a function with these parameters, whose errors show the name of the user's function."""
    stripped = [
        parameter.replace(annotation=_EMPTY, default=_EMPTY if parameter.default is _EMPTY else None)
        for parameter in parameters
    ]
    namespace: dict[str, FunctionType] = {}
    source = f"def bind{Signature(stripped)}:\n    {body}"
    exec(compile(source, f"<arguments of {_name(function)}>", "exec"), {}, namespace)  # noqa: S102
    bind = namespace["bind"]
    defaults = {p.name: p.default for p in parameters if p.default is not _EMPTY}
    by_keyword = {
        p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY and p.name in defaults
    }
    bind.__defaults__ = tuple(default for name, default in defaults.items() if name not in by_keyword)
    bind.__kwdefaults__ = by_keyword
    bind.__name__ = bind.__qualname__ = _name(function)
    return bind


def _bind_body(kept: list[Parameter], dropped: frozenset[str]) -> str:
    extra = "".join(
        f"{parameter.name}.pop({name!r}, None); "
        for parameter in kept
        if parameter.kind is Parameter.VAR_KEYWORD
        for name in sorted(dropped)
    )
    return f"{extra}return ({''.join(f'{parameter.name}, ' for parameter in kept)})"


def _arguments_source(parameters: list[Parameter]) -> str:
    named = {parameter.name: parameter.name for parameter in parameters}
    extra = next((p.name for p in parameters if p.kind is Parameter.VAR_KEYWORD), None)
    together = _dict_source(named)
    if extra is None:
        return together
    del named[extra]
    apart = f"{{**{_dict_source(named)}, **{extra}}}"
    return f"{apart} if {_dict_source(named)}.keys().isdisjoint({extra}) else {together}"


def _call_source(parameters: list[Parameter]) -> str:
    def source(by_position: set[Any], spread: str = "") -> str:
        positional = "".join(f"{p.name}, " for p in parameters if p.kind in by_position)
        variadic = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
        named = {p.name: p.name for p in parameters if p.kind not in by_position | variadic}
        extra = "".join(f"**{p.name}" for p in parameters if p.kind is Parameter.VAR_KEYWORD)
        return f"(({positional}{spread}), {{**{_dict_source(named)}, {extra}}})"

    plain = source({Parameter.POSITIONAL_ONLY})
    variadic = next((p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL), None)
    if variadic is None:
        return plain
    spread = source({Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}, f"*{variadic}, ")
    return f"{spread} if {variadic} else {plain}"


def _dict_source(named: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name!r}: {source}" for name, source in named.items()) + "}"
