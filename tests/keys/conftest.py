from __future__ import annotations

import importlib
import itertools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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
