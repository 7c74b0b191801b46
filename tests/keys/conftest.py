from __future__ import annotations

import importlib
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.distributions import Site

Load = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a module to a new folder and import it from there."""
    folders = itertools.count()

    def load_module(source: str, name: str = "bench", **others: str) -> ModuleType:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        for other, text in {name: source, **others}.items():
            (folder / f"{other}.py").write_text(textwrap.dedent(text))
            monkeypatch.delitem(sys.modules, other, raising=False)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        module = importlib.import_module(name)
        for other in (name, *others):
            monkeypatch.setitem(sys.modules, other, sys.modules.get(other) or importlib.import_module(other))
        return module

    return load_module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder on `sys.path`; its modules are unloaded after the test."""
    site = Site(tmp_path / "environment")
    monkeypatch.syspath_prepend(site.folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield site
    for name in [name for name, module in sys.modules.items() if lies_in(module, site.folder)]:
        del sys.modules[name]


def lies_in(module: ModuleType, folder: Path) -> bool:
    known = vars(module)  # a `__getattr__` of the module may raise anything
    places = [known.get("__file__") or "", *known.get("__path__", ())]
    return any(str(place).startswith(str(folder)) for place in places)
