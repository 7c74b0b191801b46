"""Configs: arguments whose fields are shown, filtered and swept by name, as `cfg.optimizer.lr`.

A config is a dict with names as keys, a dataclass, a named tuple, a namespace, an object of attrs, pydantic or
OmegaConf, or an object whose class defines no repr. The libraries are recognised, never imported.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

MOST_FIELDS: Final = 100
"""Maximum number of fields of one argument that are shown."""

DEEPEST: Final = 6
"""Maximum number of names in a path."""

_IS_NAME: Final = re.compile(r"[\w-]+").fullmatch
IS_PATH: Final = re.compile(r"[^\W\d]\w*(\.[\w-]+)*").fullmatch
"""Whether a text is the name of an argument or the path of a field, such as `cfg.lr`."""

_LEAVES: Final = frozenset({bool, int, float, complex, str, bytes, type(None), list, tuple, set, frozenset})
_NAMESPACES: Final = frozenset({"types.SimpleNamespace", "argparse.Namespace"})
_REFERENCE: Final = re.compile(r"\$\{[^:{}]*\}").fullmatch
"""A value of OmegaConf that refers to another one. Resolving anything else may run code."""


def fields_of(value: Any) -> Mapping[str, object]:
    """Return the fields of a config by name, those with `repr=False` too; nothing for any other value.

    >>> fields_of({"lr": 0.1, "layers": [8, 8]}), fields_of([1, 2])
    ({'lr': 0.1, 'layers': [8, 8]}, {})
    """
    cls = type(value)
    if cls in _LEAVES or isinstance(value, type):
        return {}
    try:
        if isinstance(value, dict):
            found = value
        elif cls.__module__ == "omegaconf.dictconfig":
            found = _resolved(value)
        elif declared := _declared(cls):
            names = [*declared, *(getattr(value, "__pydantic_extra__", None) or ())]
            found = {name: getattr(value, name) for name in names if hasattr(value, name)}
        elif _has_no_repr(cls) or f"{cls.__module__}.{cls.__qualname__}" in _NAMESPACES:
            found = _public(value)
        else:
            return {}
    except Exception:  # noqa: BLE001 - a field that can't be read is shown as the object's repr shows it
        return {}
    return found if all(type(name) is str and _IS_NAME(name) for name in found) else {}


def _declared(cls: type) -> Mapping[str, Any]:
    """Return what a class declares its fields by: objects with a `repr` attribute, or nothing for a named tuple."""
    if dataclasses.is_dataclass(cls):
        return {field.name: field for field in dataclasses.fields(cls)}
    if pydantic := getattr(cls, "__pydantic_fields__", None):
        return dict(pydantic)
    if attributes := getattr(cls, "__attrs_attrs__", None):
        return {attribute.name: attribute for attribute in attributes}
    return dict.fromkeys(getattr(cls, "_fields", ()) if issubclass(cls, tuple) else ())


def _has_no_repr(cls: type) -> bool:
    plain: Any = object
    return cls.__repr__ is plain.__repr__ and cls.__getstate__ is plain.__getstate__


def _public(value: Any) -> dict[str, object]:
    """Return an object's public attributes, except those that it computes from others."""
    state = value.__getstate__()
    parts = state if isinstance(state, tuple) else (state,)
    return {
        name: content
        for part in parts
        for name, content in (part or {}).items()
        if not name.startswith("_") and not isinstance(getattr(type(value), name, None), cached_property)
    }


def _resolved(value: Any) -> dict[str, object]:
    omegaconf: Any = sys.modules["omegaconf"]
    raw = omegaconf.OmegaConf.to_container(value)
    is_read = {name: isinstance(text, dict | list) or _is_reference(text) for name, text in raw.items()}
    return {name: value[name] if is_read[name] else text for name, text in raw.items()}


def _is_reference(text: object) -> bool:
    return isinstance(text, str) and _REFERENCE(text) is not None


def flat(arguments: Mapping[str, object]) -> dict[str, object]:
    """Replace each config by its class and its fields, in depth; leave out fields with `repr=False`.

    >>> from types import SimpleNamespace
    >>> flat({"seed": 1, "cfg": SimpleNamespace(opt={"lr": 0.1}), "extra": {}})
    {'seed': 1, 'cfg': 'SimpleNamespace', 'cfg.opt.lr': 0.1, 'extra': {}}
    """
    found: dict[str, object] = {}
    for name, value in arguments.items():
        if type(value) in _LEAVES:
            found[name] = value
        else:
            _flatten(found, name, value, len(found) + MOST_FIELDS)
    for name in arguments:
        if "." in name:  # the swept field of a config
            found[name] = arguments[name]
    return found


def _flatten(found: dict[str, object], path: str, value: Any, most: int) -> None:
    fields = fields_of(value) if path.count(".") < DEEPEST else {}
    if not fields:
        found[path] = value
        return
    cls = type(value)
    if not isinstance(value, dict) and cls.__module__ != "omegaconf.dictconfig":
        found[path] = cls.__name__
    declared = _declared(cls)
    for name, content in fields.items():
        if len(found) < most and getattr(declared.get(name), "repr", True):
            _flatten(found, f"{path}.{name}", content, most)


def replaced(value: Any, path: Sequence[str], new: object, whole: str) -> Any:
    """Return a copy of a config with another value of a field; `whole` names the config in errors.

    Raises:
        ValueError: when it has no such field, or its class refuses the value.

    >>> replaced({"opt": {"lr": 0.1, "name": "sgd"}}, ["opt", "lr"], 0.2, "cfg")
    {'opt': {'lr': 0.2, 'name': 'sgd'}}
    """
    name, *rest = path
    fields = fields_of(value)
    if name not in fields:
        has = f"Its fields are {', '.join(fields)}" if fields else f"A {type(value).__name__} has no fields"
        raise ValueError(f"{whole} has no field {name}. {has}.")
    if rest:
        new = replaced(fields[name], rest, new, f"{whole}.{name}")
    return _with_field(value, name, new)


def _with_field(value: Any, name: str, new: object) -> Any:
    cls = type(value)
    if dataclasses.is_dataclass(cls):
        return dataclasses.replace(value, **{name: new})
    if hasattr(cls, "__attrs_attrs__"):
        return sys.modules["attr"].evolve(value, **{name.lstrip("_"): new})
    if hasattr(cls, "__pydantic_fields__"):
        return _validated(value, name, new)
    if isinstance(value, tuple):
        return value._replace(**{name: new})  # type: ignore[attr-defined]
    if cls.__module__ == "omegaconf.dictconfig":
        copied = copy.deepcopy(value)
        with sys.modules["omegaconf"].read_write(copied):
            copied[name] = new
        return copied
    copied = copy.copy(value)
    if isinstance(copied, dict):
        copied[name] = new
    else:
        setattr(copied, name, new)
    return copied


def _validated(model: Any, name: str, new: object) -> Any:
    """Return a pydantic model with another value of a field, which it converts and checks like any other."""
    cls = type(model)
    given = {
        **(model.__pydantic_extra__ or {}),
        **{each: getattr(model, each) for each in cls.__pydantic_fields__},
    }
    given[name] = new
    for each, field in cls.__pydantic_fields__.items():
        if isinstance(alias := field.validation_alias, str):
            given[alias] = given.pop(each)
    return cls.model_validate(given)


def of_configs(names: Iterable[str]) -> list[str]:
    """Return the names of configs and of their fields among the names of shown arguments.

    >>> of_configs(["cfg", "cfg.lr", "seed"])
    ['cfg', 'cfg.lr']
    """
    names = [*names]
    configs = {name.partition(".")[0] for name in names if "." in name}
    return [name for name in names if name.partition(".")[0] in configs]
