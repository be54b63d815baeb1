"""Where a network is cut when channels of a group go: read off once, good for any plan.

Each layer that writes or reads a group's channels has them at some positions along an axis. All
that a plan takes from a layer is taken at once, by the dense network's positions. So nothing shifts
between groups, and the dependencies are followed only once, which takes longer than anything else
that pruning does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.errors import ModelError, PlanError
from cprune_rl.models.copies import copy_network

__all__ = ["ChannelSlice", "ChannelSlices", "trainable_copy"]

Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class ChannelSlice:
    """Says where one side of a layer has a group's channels.

    Attributes:
        layer: name of the module, or of a parameter that is in no layer.
        remove: takes positions of this side away, in place; of a parameter it gives the rest. One
            of torch-pruning's functions, or of ours.
        axis: that torch-pruning's function is told of, where it does not follow from the kind of
            layer; None for a function of ours.
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

    def positions_of(self, channels: Iterable[int]) -> list[int]:
        """Positions of some of the group's channels."""
        positions: list[int] = self.positions[np.isin(self.channels, list(channels))].tolist()
        return positions


@dataclass(frozen=True)
class ChannelSlices:
    """Holds all slices of a network.

    Attributes:
        widths: channels of each group.
        all: of these groups.
    """

    widths: Mapping[str, int]
    all: Sequence[ChannelSlice]

    def prune(self, model: nn.Module, kept: Kept) -> nn.Module:
        """Copies a network with only some channels of each group, in evaluation mode.

        Args:
            model: the dense network; left as it was.
            kept: for each group, by name, the channels that stay; a group that is missing stays
                whole.

        Raises:
            PlanError: a group that the network lacks, or a channel outside it.
            ModelError: nothing would be left of a layer.
        """
        pruned = trainable_copy(model)
        modules = dict(pruned.named_modules())
        parameters = dict(pruned.named_parameters())
        for part, positions in self._sides(self._removed(kept)):
            if part.axis is not None:
                # where torch-pruning's functions look it up
                part.remove.__self__.pruning_dim = part.axis  # type: ignore[attr-defined]
            if part.layer in modules:
                part.remove(modules[part.layer], positions)
            else:
                parent, _, name = part.layer.rpartition(".")
                setattr(modules[parent], name, part.remove(parameters[part.layer], positions))
        if empty := [name for name, value in pruned.named_parameters() if not value.numel()]:
            raise ModelError(f"nothing would be left of {', '.join(empty)}")
        return pruned

    def mask(self, model: nn.Module, kept: Kept) -> nn.Module:
        """Copies a network at full size, with zero weights where the other channels are read.

        It computes what `prune` of the same channels should compute.
        """
        removed = self._removed(kept)
        masked = trainable_copy(model)
        with torch.no_grad():
            for part in self.all:
                if part.reads and part.group in removed:
                    weight = masked.get_parameter(f"{part.layer}.weight")
                    weight[:, part.positions_of(removed[part.group])] = 0
        return masked

    def _removed(self, kept: Kept) -> dict[str, set[int]]:
        """The channels of each group that go."""
        removed = {}
        for name, channels in kept.items():
            if name not in self.widths:
                raise PlanError(f"the plan prunes layer {name!r}, which the network does not have")
            width = self.widths[name]
            if not channels or min(channels) < 0 or max(channels) >= width:
                raise PlanError(
                    f"group {name!r} has channels 0 to {width - 1}, "
                    f"the plan keeps {list(channels)[:4]}..."
                )
            removed[name] = set(range(width)) - set(channels)
        return removed

    def _sides(self, removed: Mapping[str, set[int]]) -> list[tuple[ChannelSlice, list[int]]]:
        """One slice of each side of a layer, with the positions that all groups take from it."""
        sides: dict[Any, tuple[ChannelSlice, set[int]]] = {}
        for part in self.all:
            if removed.get(part.group):
                _, positions = sides.setdefault((part.layer, part.remove), (part, set()))
                positions.update(part.positions_of(removed[part.group]))
        return [(part, sorted(positions)) for part, positions in sides.values()]


def trainable_copy(model: nn.Module) -> nn.Module:
    """Copies a network in evaluation mode, with all parameters trainable."""
    model = copy_network(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
