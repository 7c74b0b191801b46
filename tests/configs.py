"""Configs of each kind, with the same fields: what tests of views, filters and grids let functions take."""

from __future__ import annotations

import argparse
import importlib.util
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import pydantic
import pytest


@dataclass(frozen=True)
class Optimizer:
    lr: float = 0.1
    name: str = "sgd"


@dataclass(frozen=True)
class Config:
    layers: int = 2
    optimizer: Optimizer = field(default_factory=Optimizer)
    token: str = field(default="secret", repr=False)


@attrs.frozen
class Attrs:
    layers: int = 2
    optimizer: Optimizer = attrs.field(factory=Optimizer)
    token: str = attrs.field(default="secret", repr=False)


class Model(pydantic.BaseModel, frozen=True):
    layers: int = pydantic.Field(2, validation_alias="depth")
    optimizer: Optimizer = Optimizer()
    token: str = pydantic.Field("secret", repr=False)


class Tuple(NamedTuple):
    layers: int = 2
    optimizer: Optimizer = Optimizer()


class Plain:
    """Has no repr."""

    def __init__(self) -> None:
        self.layers, self.optimizer = 2, Optimizer()
        self._token = "secret"


def omega() -> Any:
    from omegaconf import OmegaConf

    made = OmegaConf.create({"layers": 2, "rate": 0.1, "optimizer": {"lr": "${rate}", "name": "sgd"}})
    OmegaConf.set_readonly(made, True)
    OmegaConf.set_struct(made, True)
    return made


CONFIGS: dict[str, Callable[[], Any]] = {
    "dataclass": Config,
    "attrs": Attrs,
    "pydantic": Model,
    "named tuple": Tuple,
    "no repr": Plain,
    "namespace": lambda: argparse.Namespace(layers=2, optimizer=Optimizer()),
    "simple namespace": lambda: types.SimpleNamespace(layers=2, optimizer=Optimizer()),
    "dict": lambda: {"layers": 2, "optimizer": {"lr": 0.1, "name": "sgd"}},
    "omegaconf": omega,
}

each_config = pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            make,
            id=kind,
            marks=pytest.mark.skipif(
                kind == "omegaconf" and importlib.util.find_spec("omegaconf") is None,
                reason="omegaconf is not installed",
            ),
        )
        for kind, make in CONFIGS.items()
    ],
)
