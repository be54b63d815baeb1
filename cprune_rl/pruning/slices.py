"""Where a network is cut when channels of a group go: read off once, good for any plan.

Each layer that writes or reads a group's channels has them at some positions along an axis. All
that a plan takes from a layer is taken at once, by the dense network's positions. So nothing shifts
between groups, and the dependencies are followed only once, which takes longer than anything else
that pruning does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.core.workload import WrittenChannels
from cprune_rl.errors import ModelError, PlanError
from cprune_rl.models.copies import copy_network

__all__ = ["ChannelSlice", "ChannelSlices", "trainable_copy"]

Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class ChannelSlice:
    """Says where one side of a layer has a group's channels.

    Attributes:
        layer: name of the module.
        remove: takes positions of this side away, in place.
        kind: `out` where the layer writes the channels, `in` where it reads them, so that its
            weights for them can be zeroed instead; `norm`, `tensor` or `heads` for others.
        input_axis: axis of the layer's weight that reads channels.
        group: name of the group.
        positions: `(n,)` along the axis.
        channels: `(n,)` the group's channel at each.
    """

    layer: str
    remove: Callable[[Any, list[int]], Any]
    kind: str
    input_axis: int = 1
    group: str
    positions: NDArray[np.int64]
    channels: NDArray[np.int64]

    @property
    def reads(self) -> bool:
        """Whether the layer reads the channels."""
        return self.kind == "in"

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
        for part, positions in self._sides(self._removed(kept)):
            part.remove(modules[part.layer], positions)
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
                    positions = part.positions_of(removed[part.group])
                    weight.index_fill_(
                        part.input_axis, torch.tensor(positions, dtype=torch.int64), 0
                    )
        return masked

    def written(self, model: nn.Module, groups: Collection[str]) -> WrittenChannels:
        """The channels of some groups that each layer writes."""
        owners: dict[str, list[tuple[str, int] | None]] = {}
        for part in self.all:
            if part.kind == "out" and part.group in groups:
                layer: Any = model.get_submodule(part.layer)
                length = getattr(layer, "out_features", None) or layer.out_channels
                outputs = owners.setdefault(part.layer, [None] * length)
                pairs = zip(part.positions.tolist(), part.channels.tolist(), strict=True)
                for position, channel in pairs:
                    outputs[position] = (part.group, channel)
        return {layer: tuple(outputs) for layer, outputs in owners.items()}

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
