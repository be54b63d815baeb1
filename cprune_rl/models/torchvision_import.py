"""Imports torchvision, also where its wheel was built for CUDA and torch was not.

Its import fails then for lack of two detection operators, which no classifier uses. They are
declared here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from cprune_rl.core.user_function import load_factory
from cprune_rl.errors import ConfigError

__all__ = ["import_torchvision", "load_user_function"]

_LACKING = "operator torchvision::nms does not exist"
_declared: list[Any] = []
"""Keeps the libraries that declare operators: an operator lives as long as its library."""


def import_torchvision() -> Any:
    """Imports torchvision.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torchvision
    except ImportError as error:
        raise ConfigError(
            f"this network needs torchvision: pip install 'cprune-rl[torchvision]' ({error})"
        ) from error
    except RuntimeError:
        _declare_operators()
        import torchvision
    return torchvision


def load_user_function(kind: str, name: str) -> Callable[..., Any]:
    """Loads a user's own function, which may import torchvision, as may its file.

    Args:
        kind: what it is for, in errors: "model" or "data".
        name: `file.py:function` or `package.module:function`.

    Raises:
        ConfigError: there is no such file, module or function, or importing it fails.
    """
    try:
        function = load_factory(kind, name)
    except ConfigError as error:
        if _declared or _LACKING not in str(error):
            raise
        _declare_operators()
        function = load_factory(kind, name)
    return _with_operators(function)


def _with_operators(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a function import torchvision when it is called."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except RuntimeError as error:
            if _declared or _LACKING not in str(error):
                raise
        _declare_operators()
        return function(*arguments, **named)

    return call


def _declare_operators() -> None:
    for operator in ("nms", "qnms"):
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
