"""Copies of networks, also of those that keep what they computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cprune_rl.errors import ModelError, first_line

__all__ = ["copy_network"]


def copy_network(model: nn.Module) -> nn.Module:
    """Copies a network with all that it holds.

    A forward may keep a map on its module, for a plot or a distillation. Such a map is the result
    of a computation, and Python's deepcopy refuses it. The copy has it without its history.

    Raises:
        ModelError: a module holds something else that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            memo |= {id(kept): kept.detach() for kept in _computed_tensors(value)}
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the network cannot be copied: {first_line(error)}. "
            "Keep nothing on its modules that cannot, such as an open file or a generator."
        ) from error


def _computed_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Finds tensors with a history in an attribute, also within lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _computed_tensors(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _computed_tensors(inner)
