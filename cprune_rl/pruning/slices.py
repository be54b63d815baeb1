"""Where a network is cut when channels of a group go: read off once, good for any plan.

Each layer that writes or reads a group's channels has them at some positions along an axis. All
that a plan takes from a layer is taken at once, by the dense network's positions. So nothing shifts
between groups, and the dependencies are followed only once, which takes longer than anything else
that pruning does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
            weights for them can be zeroed instead; `norm`, `tensor`, `sizes` or `heads` for others.
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
        self._cut(pruned, kept)
        return pruned

    @contextmanager
    def pruned_for_now(self, model: nn.Module, kept: Kept) -> Iterator[None]:
        """Lets a network have only some channels for a while; then it is as it was.

        It saves the copy: that of a network with many modules takes longer than to run it.

        Args:
            model: the dense network.
            kept: see `prune`.

        Raises:
            PlanError: see `prune`.
            ModelError: see `prune`.
        """
        with _restored(model):
            self._cut(model, kept)
            yield

    @contextmanager
    def masked_for_now(self, model: nn.Module, kept: Kept) -> Iterator[None]:
        """Lets a network read zeros for the other channels for a while; then it is as it was.

        At full size, it computes what `prune` of the same channels should compute.

        Args:
            model: the dense network.
            kept: see `prune`.
        """
        removed = self._removed(kept)
        with _restored(model):
            for part in self.all:
                if part.reads and part.group in removed:
                    layer = model.get_submodule(part.layer)
                    positions = torch.tensor(
                        part.positions_of(removed[part.group]), dtype=torch.int64
                    )
                    weight = layer.get_parameter("weight").detach()
                    masked = weight.index_fill(part.input_axis, positions, 0)
                    layer.weight = nn.Parameter(masked)
            yield

    def _cut(self, model: nn.Module, kept: Kept) -> None:
        """Takes channels away, in place."""
        modules = dict(model.named_modules())
        for part, positions in self._sides(self._removed(kept)):
            part.remove(modules[part.layer], positions)
        if empty := [name for name, value in model.named_parameters() if not value.numel()]:
            raise ModelError(f"nothing would be left of {', '.join(empty)}")

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


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Gives modules back what they held: tensors may be replaced meanwhile, and not changed."""
    before = [
        (module, dict(vars(module)), dict(module._parameters), dict(module._buffers))
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes, parameters, buffers in before:
            vars(module).clear()
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)


def trainable_copy(model: nn.Module) -> nn.Module:
    """Copies a network in evaluation mode, with all parameters trainable."""
    model = copy_network(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
