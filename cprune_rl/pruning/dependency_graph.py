"""Follows channels through a network, by torch-pruning's dependency graph.

Only its `DependencyGraph` and importance classes are used (Fang et al., CVPR 2023): its pruner
classes share mutable defaults between models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import index_mapping
from torch_pruning.pruner.function import ConvPruner

from cprune_rl.errors import ModelError, PlanError, first_line
from cprune_rl.pruning.slices import ChannelSlice

__all__ = ["PRUNABLE", "ChannelGraph"]

PRUNABLE = (nn.Conv2d, nn.Linear)
_OUT = (
    tp.prune_conv_out_channels,
    tp.prune_linear_out_channels,
    tp.prune_depthwise_conv_out_channels,
)
_IN = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


class _GroupedConvPruner(ConvPruner):  # type: ignore[misc]  # torch-pruning has no types
    """Takes whole groups of a grouped convolution away: what they read, and what they write."""

    def prune_out_channels(self, layer: nn.Conv2d, idxs: Sequence[int]) -> nn.Conv2d:
        size = layer.out_channels // layer.groups
        kept = sorted(set(range(layer.out_channels)) - set(idxs))
        groups = {channel // size for channel in kept}
        if len(groups) * size != len(kept):
            raise ModelError(
                f"a convolution of {layer.groups} groups can lose whole groups of {size} channels, "
                "no others"
            )
        layer.in_channels = len(kept)
        layer.out_channels = len(kept)
        layer.groups = len(groups)
        layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 0)
        if layer.bias is not None:
            layer.bias = self._prune_parameter_and_grad(layer.bias, kept, 0)
        return layer

    prune_in_channels = prune_out_channels


@contextmanager
def _views_ignored_on_error() -> Iterator[None]:
    """Follows a view as if it moved nothing, where torch-pruning divides by zero.

    A channel shuffle after a slice is such a view. The equivalence check refuses what that breaks.
    """
    follow = index_mapping.update_reshape_index_mapping

    def follow_or_ignore(graph: Any, node: Any) -> None:
        with suppress(ZeroDivisionError):
            follow(graph, node)

    with mock.patch.object(index_mapping, "update_reshape_index_mapping", follow_or_ignore):
        yield


class _Graph(tp.DependencyGraph):  # type: ignore[misc]  # torch-pruning has no types
    """Prunes whole groups of a grouped convolution, and does not stop at a channel shuffle.

    torch-pruning's own graph prunes channels of every group.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grouped = _GroupedConvPruner()
        # no layer has this key: `get_pruner_of_module` finds the pruner
        self.register_customized_layer(_GroupedConvPruner, self.grouped)

    def build_dependency(self, *args: Any, **options: Any) -> Any:
        with _views_ignored_on_error():
            return super().build_dependency(*args, **options)

    def get_pruning_group(self, *args: Any, **options: Any) -> Any:
        with _views_ignored_on_error():
            return super().get_pruning_group(*args, **options)

    def get_pruner_of_module(self, module: nn.Module) -> Any:
        return self.grouped if _is_grouped(module) else super().get_pruner_of_module(module)


def _is_grouped(module: object) -> bool:
    """Tells a grouped convolution, not depthwise, that writes as many channels as it reads.

    Of two groups one could not go without the layer becoming another kind.
    """
    return (
        isinstance(module, nn.Conv2d)
        and 2 < module.groups < module.out_channels
        and module.in_channels == module.out_channels
    )


class ChannelGraph:
    """Knows the dependencies of one network, in its present shape.

    Channels of a group are counted in the units that can go. These are single channels, or, where
    a grouped convolution writes them, those of one of its groups.

    Args:
        model: with trainable parameters: a frozen one has no dependency.
        example: one batch of its input.

    Raises:
        ModelError: torch-pruning cannot follow the network.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor) -> None:
        self.model = model
        self.names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        self._modules = {name: module for module, name in self.names.items()}
        self._has_grouped = any(map(_is_grouped, self.names))
        self._units: dict[str, int] = {}
        try:
            # it follows the network by autograd
            with torch.enable_grad(), warnings.catch_warnings():
                # it warns of parameters that belong to no layer: the equivalence check decides
                warnings.simplefilter("ignore")
                self._graph = _Graph().build_dependency(
                    model, example_inputs=(example,), verbose=False
                )
        # torch-pruning raises whatever an unsupported structure provokes
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"the network's channels cannot be followed: {reason}") from error

    def all_groups(self, ignored: Sequence[nn.Module]) -> Iterator[tuple[str, Any]]:
        """Gives the name of each coupled group's root layer, and torch-pruning's description.

        Where torch-pruning cannot follow a layer's channels, as into a channel shuffle, the error
        stands in the description's place.

        Args:
            ignored: layers whose outputs stay, with all that is coupled to them.
        """
        visited = set(ignored)
        for module in list(self._graph.module2node):
            if module in visited or not isinstance(module, PRUNABLE):
                continue
            name = self.names[module]
            try:
                group = self._coupled(name, range(self._graph.get_out_channels(module)))
            # torch-pruning raises whatever an unsupported structure provokes
            except Exception as error:
                yield name, error
                continue
            written = [i for i in group if self._graph.is_out_channel_pruning_fn(i.dep.handler)]
            layers = {item.dep.target.module for item in written}
            visited |= layers
            if layers.isdisjoint(ignored):
                yield name, group

    def width(self, name: str) -> int:
        """Channels that a group has.

        Raises:
            PlanError: the network has no such layer.
        """
        layer = self._modules.get(name)
        if not isinstance(layer, PRUNABLE) or layer not in self._graph.module2node:
            raise PlanError(f"the plan prunes layer {name!r}, which the network does not have")
        return int(self._graph.get_out_channels(layer)) // self.unit(name)

    def unit(self, name: str) -> int:
        """Output channels of a layer that go together.

        They are those of one group, where a grouped convolution is coupled to the layer.
        """
        if not self._has_grouped:
            return 1
        if name not in self._units:
            layers = (item.dep.target.module for item in self._coupled(name, [0]))
            sizes = [m.out_channels // m.groups for m in layers if _is_grouped(m)]
            self._units[name] = math.lcm(*sizes)
        return self._units[name]

    def whole(self, name: str) -> Any:
        """torch-pruning's description of all channels of a layer, with what goes where they go."""
        return self._coupled(name, range(self.width(name) * self.unit(name)))

    def slices(self, groups: Mapping[str, Any]) -> list[ChannelSlice]:
        """Where the network is cut when channels of some groups go.

        Args:
            groups: by name, torch-pruning's description of all their channels.
        """
        return [
            part
            for name, group in groups.items()
            for item in group
            if (part := self._slice(name, item)) is not None
        ]

    def _slice(self, group: str, item: Any) -> ChannelSlice | None:
        """Turns one item of torch-pruning's description into a slice, where it is of a layer."""
        node = item.dep.target
        layer = self.names.get(node.module) or self._graph._param_to_name.get(node.module)
        if layer is None:
            return None
        channels = np.array(item.root_idxs, np.int64) // self.unit(group)
        # what is left over where units do not fill the layer stays
        is_in_group = channels < self.width(group)
        return ChannelSlice(
            layer=layer,
            remove=item.dep.handler,
            axis=node.pruning_dim,
            reads=item.dep.handler in _IN,
            group=group,
            positions=np.array(item.idxs, np.int64)[is_in_group],
            channels=channels[is_in_group],
        )

    def writers(self, group: Any) -> tuple[str, ...]:
        """Layers that produce a group's channels."""
        handlers = (*_OUT, self._graph.grouped.prune_out_channels)
        writing = [item.dep.target.module for item in group if item.dep.handler in handlers]
        return tuple(dict.fromkeys(self.names[m] for m in writing if m in self.names))

    def output_layers(self, example: torch.Tensor) -> list[nn.Module]:
        """Layers whose output channels are the network's own, which pruning would change."""
        with torch.no_grad():
            width = self.model(example).shape[1]
        return [m for m in self.names if isinstance(m, PRUNABLE) and self._is_last(m, width)]

    def _is_last(self, layer: nn.Conv2d | nn.Linear, width: int) -> bool:
        """Whether a layer gives so many channels that no other layer reads."""
        own = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if own != width:
            return False
        try:
            coupled = [item.dep.target.module for item in self._coupled(self.names[layer], [0])]
        # torch-pruning raises whatever an unsupported structure provokes; `all_groups` tells of it
        except Exception:
            return False
        return not any(m is not layer and isinstance(m, PRUNABLE) for m in coupled)

    def _coupled(self, name: str, channels: Sequence[int]) -> Any:
        layer = self._modules[name]
        pruner = self._graph.get_pruner_of_module(layer)
        return self._graph.get_pruning_group(layer, pruner.prune_out_channels, list(channels))
