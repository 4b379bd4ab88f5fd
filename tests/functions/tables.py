"""The functions' own route and error tables, read from their ``main.py``."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any

from local.services import BALANCE, PROJECT, RECORD, ROOT

if TYPE_CHECKING:
    from types import ModuleType

    from saldo.serve.http.request import Edge


@functools.cache
def main_of(function: str) -> ModuleType:
    """The module of a function, loaded as the framework does it: by its path."""
    path = ROOT / "functions" / function / "main.py"
    spec = importlib.util.spec_from_file_location(f"main_of_{function}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def edges() -> list[Edge]:
    """The two functions that have routes."""
    return [main_of(function.name).EDGE for function in (RECORD, BALANCE)]


def projector_statuses() -> dict[type[Exception], Any]:
    """What the projector's errors become."""
    statuses: dict[type[Exception], Any] = main_of(PROJECT.name).STATUSES
    return statuses
