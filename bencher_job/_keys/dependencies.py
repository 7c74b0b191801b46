"""Knows what else a function is said to depend on: code, distributions by name, files by content."""

from __future__ import annotations

import itertools
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING

from .files import content_digest
from .libraries import distributions_of, normalized, version_of
from .parts import Edge, Part

if TYPE_CHECKING:
    from .reach import Survey

__all__ = ["dependency"]


def dependency(survey: Survey, wanted: object) -> Edge:
    """Reach one entry of `depends_on`.

    Raises:
        ValueError: when a distribution isn't installed or a path can't be read.
    """
    if isinstance(wanted, str):
        return _distribution(survey, wanted)
    if isinstance(wanted, PurePath):
        return _files(survey, Path(wanted))
    if isinstance(wanted, ModuleType) and (found := distributions_of(wanted.__name__)):
        survey.distributions.update(found)
        return "distribution", *itertools.chain.from_iterable(found)
    return survey.walk(wanted, "depends_on")


def _distribution(survey: Survey, name: str) -> Edge:
    name = name.removeprefix("dist:")
    version = version_of(name)
    if version is None:
        raise ValueError(
            f"depends_on has {name!r}, and no distribution of that name is installed. Install it, or pass "
            f"the module or the function itself, or pathlib.Path({name!r}) for a file."
        )
    survey.distributions[normalized(name)] = version
    return "distribution", name, version


def _files(survey: Survey, path: Path) -> Edge:
    path = path.absolute()
    content = _content(path)
    survey.parts.append(Part(path.name, path, content))
    survey.watch.condition(lambda: content_digest(path) == content)
    return "files", content


def _content(path: Path) -> bytes:
    try:
        return content_digest(path)
    except FileNotFoundError:
        raise ValueError(
            f"depends_on has {str(path)!r}, which doesn't exist. Create it, or leave it out."
        ) from None
    except OSError as error:
        raise ValueError(f"depends_on has {str(path)!r}, which can't be read: {error}.") from error
