"""torch-pruning's dependency graph, as far as we use it: which channels go together.

Only its `DependencyGraph` and importance classes are used (Fang et al., CVPR 2023): its pruner
classes share mutable
defaults between models. Called by `groups`.
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

from cprune_rl.errors import ModelError, PlanError
from cprune_rl.pruning.slices import ChannelSlice, ChannelSlices

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
        n_channels, size = layer.out_channels, layer.out_channels // layer.groups
        kept = sorted(set(range(n_channels)) - set(idxs))
        groups = sorted({channel // size for channel in kept})
        if len(groups) * size != len(kept):
            raise ModelError(
                f"a convolution of {layer.groups} groups can lose whole groups of {size} channels, no others"
            )
        layer.in_channels = layer.out_channels = len(kept)
        layer.groups = len(groups)
        layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 0)
        if layer.bias is not None:
            layer.bias = self._prune_parameter_and_grad(layer.bias, kept, 0)
        return layer

    prune_in_channels = prune_out_channels


@contextmanager
def _views_left_alone() -> Iterator[None]:
    """A view that torch-pruning divides by nothing for, as of a channel shuffle after a slice, is
    followed as if it moved nothing: what that breaks, the guard refuses.
    """
    follow = index_mapping.update_reshape_index_mapping

    def forgiving(graph: Any, node: Any) -> None:
        with suppress(ZeroDivisionError):
            follow(graph, node)

    with mock.patch.object(index_mapping, "update_reshape_index_mapping", forgiving):
        yield


class _Graph(tp.DependencyGraph):  # type: ignore[misc]  # torch-pruning has no types
    """torch-pruning's, which thins every group of a grouped convolution out;

    here whole ones go. Nor does it stop at a channel shuffle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grouped = _GroupedConvPruner()
        self.register_customized_layer(
            _GroupedConvPruner, self.grouped
        )  # a key that no layer has: `get_pruner_of_module` finds it

    def build_dependency(self, *args: Any, **options: Any) -> Any:
        with _views_left_alone():
            return super().build_dependency(*args, **options)

    def get_pruning_group(self, *args: Any, **options: Any) -> Any:
        with _views_left_alone():
            return super().get_pruning_group(*args, **options)

    def get_pruner_of_module(self, module: nn.Module) -> Any:
        return self.grouped if _is_grouped(module) else super().get_pruner_of_module(module)


def _is_grouped(module: object) -> bool:
    """Whether it is a grouped convolution, not depthwise, that writes as many channels as it reads;
    of two groups one could not go without the layer becoming another kind.
    """
    return (
        isinstance(module, nn.Conv2d)
        and 2 < module.groups < module.out_channels
        and module.in_channels == module.out_channels
    )


class ChannelGraph:
    """The dependencies of one network, in its present shape.

    Channels of a group are counted in the units that can go: single channels, or, where a grouped
    convolution
    writes them, those of one of its groups.

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
            with (
                torch.enable_grad(),
                warnings.catch_warnings(),
            ):  # it follows the network by autograd
                warnings.simplefilter(
                    "ignore"
                )  # it warns of parameters that belong to no layer: the guard judges what follows
                self._graph = _Graph().build_dependency(
                    model, example_inputs=(example,), verbose=False
                )
        except (
            Exception
        ) as error:  # torch-pruning raises whatever an unsupported structure provokes
            raise ModelError(
                f"the network's channels cannot be followed: {type(error).__name__}: {error}"
            ) from error

    def all_groups(self, ignored: Sequence[nn.Module]) -> Iterator[tuple[str, int, Any]]:
        """Each coupled group: the name of its root layer, how many channels can go, torch-pruning's
        description.

        Where torch-pruning cannot follow a layer's channels, as into a channel shuffle, the
        description is the error.

        Args:
            ignored: layers whose outputs stay, with all that is coupled to them.
        """
        seen: set[nn.Module] = set()
        for module in list(self._graph.module2node):
            if module in ignored or module in seen or not isinstance(module, PRUNABLE):
                continue
            name = self.names[module]
            try:
                found = self._coupled(name, range(self._graph.get_out_channels(module)))
            except (
                Exception
            ) as error:  # torch-pruning raises whatever an unsupported structure provokes
                yield name, 0, error
                continue
            layers = {
                item.dep.target.module
                for item in found
                if self._graph.is_out_channel_pruning_fn(item.dep.handler)
            }
            seen |= layers
            if not layers & set(ignored):
                yield name, self.width(name), found

    def width(self, name: str) -> int:
        """Channels that a group has.

        Raises:
            PlanError: the network has no such layer.
        """
        if (
            not isinstance(self._modules.get(name), PRUNABLE)
            or self._modules[name] not in self._graph.module2node
        ):
            raise PlanError(f"the plan prunes layer {name!r}, which the network does not have")
        return int(self._graph.get_out_channels(self._modules[name])) // self.unit(name)

    def _coupled(self, name: str, indices: Sequence[int]) -> Any:
        layer = self._modules[name]
        return self._graph.get_pruning_group(
            layer, self._graph.get_pruner_of_module(layer).prune_out_channels, list(indices)
        )

    def unit(self, name: str) -> int:
        """Output channels of a layer that go together:

        those of one group, where a grouped convolution is coupled to it.
        """
        if not self._has_grouped:
            return 1
        if name not in self._units:
            touched = (item.dep.target.module for item in self._coupled(name, [0]))
            self._units[name] = math.lcm(
                *(m.out_channels // m.groups for m in touched if _is_grouped(m))
            )
        return self._units[name]

    def slices(self, groups: Mapping[str, Any]) -> ChannelSlices:
        """Where the network is cut when channels of some groups go.

        Args:
            groups: by name, torch-pruning's description of all their channels.
        """
        widths = {name: self.width(name) for name in groups}
        found = []
        for name, group in groups.items():
            for item in group:
                node, handler = item.dep.target, item.dep.handler
                layer = self.names.get(node.module) or self._graph._param_to_name.get(node.module)
                positions, channels = (
                    np.array(item.idxs, np.int64),
                    np.array(item.root_idxs, np.int64) // self.unit(name),
                )
                if layer is not None:
                    ours = (
                        channels < widths[name]
                    )  # what is left over where units do not fill the layer stays
                    found.append(
                        ChannelSlice(
                            layer=layer,
                            remove=handler,
                            axis=node.pruning_dim,
                            reads=handler in _IN,
                            group=name,
                            positions=positions[ours],
                            channels=channels[ours],
                        )
                    )
        return ChannelSlices(widths, found)

    def whole(self, name: str) -> Any:
        """torch-pruning's description of all channels of a layer, with what goes where they go."""
        return self._coupled(name, range(self.width(name) * self.unit(name)))

    def writers(self, group: Any) -> tuple[str, ...]:
        """Layers that produce a group's channels."""
        handlers = (*_OUT, self._graph.grouped.prune_out_channels)
        return tuple(
            dict.fromkeys(
                self.names[i.dep.target.module]
                for i in group
                if i.dep.handler in handlers and i.dep.target.module in self.names
            )
        )

    def output_layers(self, example: torch.Tensor) -> list[nn.Module]:
        """Layers whose output channels are the network's own:

        pruning them would change what it answers.
        """
        with torch.no_grad():
            width = self.model(example).shape[1]
        return [m for m in self.names if isinstance(m, PRUNABLE) and self._is_last(m, width)]

    def _is_last(self, layer: nn.Module, width: int) -> bool:
        own = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if own != width:
            return False
        try:
            coupled = self._coupled(self.names[layer], [0])
        except Exception:  # torch-pruning raises whatever an unsupported structure provokes; `all_groups` tells of it
            return False
        reads = [
            i
            for i in coupled
            if i.dep.target.module is not layer and isinstance(i.dep.target.module, PRUNABLE)
        ]
        return not reads
