"""Where a network is cut when channels of a group go:

read off its dependencies once, good for any plan.

Each layer that writes or reads a group's channels has them at some positions along an axis. All
that a plan takes away
of a layer is taken at once, by the dense network's positions, so nothing shifts between groups, and
no plan needs the
dependencies to be followed anew, which takes longer than anything else that is done to prune a
network. Made by
`graph`; called by `groups`, `guard`, `masks` and `surgery`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.errors import ModelError, PlanError

__all__ = ["ChannelSlice", "ChannelSlices", "trainable_copy"]

Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class ChannelSlice:
    """One side of a layer that has a group's channels.

    Attributes:
        layer: name of the module, or of a parameter that is in no layer.
        remove: takes positions of this side away, in place; of a parameter it gives the rest. One
            of torch-pruning's functions, or of ours.
        axis: that torch-pruning's function is told of, for where it does not follow from the kind
            of layer; None for a function of ours.
        reads: whether the layer reads the channels, so that its weights for them can be zeroed
            instead.
        group: name of the group.
        positions: `(n,)` along the axis.
        channels: `(n,)` the group's channel at each.
    """

    layer: str
    remove: Callable[[Any, list[int]], Any]
    axis: int | None
    reads: bool
    group: str
    positions: NDArray[np.int64]
    channels: NDArray[np.int64]

    def of(self, gone: Iterable[int]) -> NDArray[np.int64]:
        """Positions of some of the group's channels."""
        return self.positions[np.isin(self.channels, list(gone))]


class ChannelSlices:
    """All cuts of a network.

    Args:
        widths: channels of each group.
        slices: of these groups.
    """

    def __init__(self, widths: Mapping[str, int], slices: Sequence[ChannelSlice]) -> None:
        self._widths, self.all = dict(widths), tuple(slices)

    def joined(self, widths: Mapping[str, int], slices: Iterable[ChannelSlice]) -> ChannelSlices:
        """These, and those of further groups."""
        return ChannelSlices({**self._widths, **widths}, (*self.all, *slices))

    def prune(self, model: nn.Module, kept: Kept) -> nn.Module:
        """A copy of the network, in evaluation mode, with only some channels of each group.

        Args:
            model: the dense network; left as it was.
            kept: for each group, by name, the channels that stay; a group that is missing stays
                whole.

        Raises:
            PlanError: a group that the network lacks, or a channel outside it.
            ModelError: nothing would be left of a layer.
        """
        pruned = trainable_copy(model)
        self._remove(pruned, {name: self._gone(name, indices) for name, indices in kept.items()})
        return pruned

    def mask(self, model: nn.Module, kept: Kept) -> nn.Module:
        """A copy of full size in which nothing reads the other channels:

        what `kept` should compute.
        """
        gone = {name: self._gone(name, indices) for name, indices in kept.items()}
        silent = trainable_copy(model)
        modules = dict(silent.named_modules())
        with torch.no_grad():
            for channel_slice in (c for c in self.all if c.reads and c.group in gone):
                modules[channel_slice.layer].weight[
                    :, channel_slice.of(gone[channel_slice.group]).tolist()
                ] = 0
        return silent

    def _gone(self, name: str, kept: Sequence[int]) -> set[int]:
        if name not in self._widths:
            raise PlanError(f"the plan prunes layer {name!r}, which the network does not have")
        width = self._widths[name]
        if not kept or min(kept) < 0 or max(kept) >= width:
            raise PlanError(
                f"group {name!r} has channels 0 to {width - 1}, the plan keeps {list(kept)[:4]}..."
            )
        return set(range(width)) - set(kept)

    def _remove(self, model: nn.Module, gone: Mapping[str, set[int]]) -> None:
        sides: dict[tuple[str, Callable[[Any, list[int]], Any]], tuple[ChannelSlice, set[int]]] = {}
        for channel_slice in self.all:
            if gone.get(channel_slice.group):
                _, positions = sides.setdefault(
                    (channel_slice.layer, channel_slice.remove), (channel_slice, set())
                )
                positions.update(channel_slice.of(gone[channel_slice.group]).tolist())
        modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
        for (layer, remove), (channel_slice, positions) in sides.items():
            if channel_slice.axis is not None:
                remove.__self__.pruning_dim = channel_slice.axis  # type: ignore[attr-defined]  # where torch-pruning's functions look it up
            if layer in modules:
                remove(modules[layer], sorted(positions))
            else:
                parent, _, name = layer.rpartition(".")
                setattr(modules[parent], name, remove(parameters[layer], sorted(positions)))
        if empty := [name for name, value in model.named_parameters() if not value.numel()]:
            raise ModelError(f"nothing would be left of {', '.join(empty)}")


def trainable_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters are all trainable."""
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
