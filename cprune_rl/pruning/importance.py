"""Scores how important each channel of a group is, by the criteria of the literature."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn

from cprune_rl.pruning.slices import ChannelSlice

__all__ = ["IMPORTANCES", "NEEDS_GRADIENTS", "random_scores", "score"]

IMPORTANCES = {
    "l1": "magnitude of the weights, L1 (Li et al., ICLR 2017)",
    "l2": "magnitude of the weights, L2",
    "fpgm": "distance to the geometric median (He et al., CVPR 2019)",
    "taylor": "first-order change of the loss (Molchanov et al., CVPR 2019)",
    "random": "drawn at random: what a criterion must beat",
}
NEEDS_GRADIENTS = ("taylor",)

_CRITERIA = {
    "l1": functools.partial(tp.importance.GroupMagnitudeImportance, p=1),
    "l2": functools.partial(tp.importance.GroupMagnitudeImportance, p=2),
    "fpgm": tp.importance.FPGMImportance,
    "taylor": tp.importance.GroupTaylorImportance,
}


def score(
    importance: str, model: nn.Module, slices: Sequence[ChannelSlice], *, channels: int
) -> NDArray[np.float64]:
    """Scores the channels of a group, `(channels,)`; higher is more important.

    What several positions of one layer have of a channel is summed up. torch-pruning's criteria
    know its own kinds of layers: a grouped convolution's weights do not count, its neighbours' do.

    Args:
        importance: a key of `IMPORTANCES` but `random`.
        model: the network; its layers have gradients where `importance` is in `NEEDS_GRADIENTS`.
        slices: where the network is cut when channels of the group go.
        channels: that the group has.
    """
    modules = dict(model.named_modules())
    items = [_Item(modules[part.layer], part) for part in slices]
    items = [item for item in items if item.handler is not None]
    if importance in NEEDS_GRADIENTS:
        # a head that answers in training alone has none
        items = [item for item in items if item.layer.weight.grad is not None]
    if not items:
        return np.zeros(channels)
    criterion = _CRITERIA[importance]()
    # torch-pruning takes the first layer's length for the group's
    criterion._reduce = functools.partial(_mean_by_channel, channels)
    values: NDArray[np.float64] = criterion(items).detach().double().numpy()
    return values


class _Item:
    """One side of a layer, as torch-pruning's criteria read it, under two sets of names."""

    def __init__(self, layer: Any, part: ChannelSlice) -> None:
        self.layer = self.module = layer
        self.handler = self.pruning_fn = _pruning_function(layer, part.kind)
        self.target = self
        self.root_idxs = part.channels.tolist()
        self._positions = part.positions.tolist()

    def __iter__(self) -> Iterator[Any]:
        return iter((self, self._positions))


def _pruning_function(layer: nn.Module, kind: str) -> Any:
    """torch-pruning's function for one side of a layer: it tells a criterion what to read."""
    is_linear = isinstance(layer, nn.Linear)
    if kind == "out" and getattr(layer, "groups", 1) == 1:
        return tp.prune_linear_out_channels if is_linear else tp.prune_conv_out_channels
    if kind == "in":
        return tp.prune_linear_in_channels if is_linear else tp.prune_conv_in_channels
    is_batch_norm = kind == "norm" and isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return tp.prune_batchnorm_out_channels if is_batch_norm else None


def _mean_by_channel(
    channels: int, scores: Sequence[torch.Tensor], places: Sequence[Sequence[int]]
) -> torch.Tensor:
    """The mean over layers, `(channels,)`, as torch-pruning's own reduction computes it."""
    total = torch.zeros(channels)
    for values, where in zip(scores, places, strict=True):
        total.scatter_add_(0, torch.tensor(where), values.float())
    return total / len(scores)


def random_scores(group: str, channels: int, seed: int) -> NDArray[np.float64]:
    """Draws scores, `(channels,)`; a group's do not depend on what other groups there are."""
    return np.random.default_rng([seed, zlib.crc32(group.encode())]).random(channels)
