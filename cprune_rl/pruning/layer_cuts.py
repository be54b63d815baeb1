"""Takes channels away from a layer, in place: its tensors and the sizes that it remembers."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["cut_inputs", "cut_norm", "cut_outputs", "cut_sizes", "cut_tensor", "input_axis"]


def input_axis(layer: nn.Module) -> int:
    """The axis of a layer's weight that reads channels."""
    return 0 if getattr(layer, "transposed", False) else 1


def cut_outputs(layer: Any, removed: Sequence[int]) -> None:
    """Takes away output channels of a convolution or a linear layer.

    A grouped convolution loses whole groups, with what they read.
    """
    if isinstance(layer, nn.Linear):
        _narrow(layer, "weight", axis=0, removed=removed)
        layer.out_features = layer.weight.shape[0]
    elif layer.groups > 1:
        written = layer.out_channels // layer.groups
        read = layer.in_channels // layer.groups
        _narrow(layer, "weight", axis=0, removed=removed)
        layer.out_channels -= len(removed)
        layer.groups = layer.out_channels // written
        layer.in_channels = layer.groups * read
    else:
        _narrow(layer, "weight", axis=1 if layer.transposed else 0, removed=removed)
        layer.out_channels -= len(removed)
    if layer.bias is not None:
        _narrow(layer, "bias", axis=0, removed=removed)


def cut_inputs(layer: Any, removed: Sequence[int]) -> None:
    """Takes away what a convolution or a linear layer reads."""
    _narrow(layer, "weight", axis=input_axis(layer), removed=removed)
    if isinstance(layer, nn.Linear):
        layer.in_features -= len(removed)
    else:
        layer.in_channels -= len(removed)


def cut_norm(layer: Any, removed: Sequence[int]) -> None:
    """Takes channels away from a norm that treats each by itself."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(layer, name, None) is not None:
            _narrow(layer, name, axis=0, removed=removed)
    if isinstance(layer, nn.GroupNorm):
        layer.num_channels -= len(removed)
        layer.num_groups = layer.num_channels
    else:
        layer.num_features -= len(removed)


@functools.cache
def cut_tensor(name: str, axis: int) -> Callable[[Any, Sequence[int]], None]:
    """Gives the function that takes positions away from one parameter or buffer of a module.

    Args:
        name: of the parameter or buffer in the module.
        axis: of it.
    """

    def cut(module: Any, removed: Sequence[int]) -> None:
        _narrow(module, name, axis=axis, removed=removed)
        if isinstance(module, nn.PReLU):
            module.num_parameters -= len(removed)

    return cut


@functools.cache
def cut_sizes(name: str) -> Callable[[Any, Sequence[int]], None]:
    """Gives the function that takes positions away from the sizes by which a module parts an axis.

    Args:
        name: of the attribute, a list or tuple of sizes.
    """

    def cut(module: Any, removed: Sequence[int]) -> None:
        sizes = getattr(module, name)
        ends = list(itertools.accumulate(sizes))
        lost = Counter(bisect.bisect_right(ends, position) for position in removed)
        setattr(module, name, type(sizes)(n - lost[at] for at, n in enumerate(sizes)))

    return cut


def _narrow(module: nn.Module, name: str, *, axis: int, removed: Sequence[int]) -> None:
    tensor = getattr(module, name)
    gone = set(removed)
    kept = [at for at in range(tensor.shape[axis]) if at not in gone]
    index = torch.tensor(kept, dtype=torch.int64, device=tensor.device)
    if isinstance(tensor, nn.Parameter):
        narrowed = nn.Parameter(tensor.detach().index_select(axis, index), tensor.requires_grad)
        if tensor.grad is not None:
            narrowed.grad = tensor.grad.index_select(axis, index)
        setattr(module, name, narrowed)
    else:
        setattr(module, name, tensor.detach().index_select(axis, index))
