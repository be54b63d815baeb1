"""torch-pruning's dependency graph, as far as we use it: which channels go together, and taking them away.

Only its `DependencyGraph` and importance classes are used (Fang et al., CVPR 2023): its pruner classes share mutable
defaults between models. Called by `groups`, `guard` and `surgery`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from cprune_rl.errors import ModelError

__all__ = ["PRUNABLE", "ChannelGraph", "remove_channels", "trainable_copy"]

PRUNABLE = (nn.Conv2d, nn.Linear)
_OUT = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_depthwise_conv_out_channels)
_IN = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


class ChannelGraph:
    """The dependencies of one network, in its present shape.

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
        try:
            with torch.enable_grad(), warnings.catch_warnings():  # it follows the network by autograd
                warnings.simplefilter("ignore")  # it warns of parameters that belong to no layer: the guard judges what follows
                self._graph = tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
        except Exception as error:  # torch-pruning raises whatever an unsupported structure provokes
            raise ModelError(f"the network's channels cannot be followed: {type(error).__name__}: {error}") from error

    def all_groups(self, ignored: Sequence[nn.Module]) -> Iterator[tuple[str, int, Any]]:
        """Each coupled group: the name of its root layer, its channels, torch-pruning's description."""
        for found in list(self._graph.get_all_groups(ignored_layers=list(ignored), root_module_types=list(PRUNABLE))):
            root = found[0].dep.target.module
            yield self.names[root], int(self._graph.get_out_channels(root)), found

    def group(self, name: str, channels: Sequence[int]) -> Any:
        """What goes where some channels of a layer go."""
        layer = self._modules[name]
        pruner = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        return self._graph.get_pruning_group(layer, pruner, sorted(set(channels)))

    def remove(self, name: str, channels: Sequence[int]) -> None:
        """Removes channels of a group, in place; the graph follows.

        Raises:
            ModelError: torch-pruning refuses.
        """
        group = self.group(name, channels)
        if not self._graph.check_pruning_group(group):
            raise ModelError(f"group {name!r}: removing {len(channels)} channels would leave a layer empty")
        group.prune()

    def mask(self, name: str, channels: Sequence[int]) -> None:
        """Cuts channels of a group off where they are read, in place: what removing them should compute."""
        with torch.no_grad():
            for dependency, indices in self.group(name, channels):
                if dependency.handler in _IN:
                    dependency.target.module.weight[:, list(indices)] = 0

    def readers(self, name: str, channels: Sequence[int]) -> Iterator[tuple[str, list[int], list[int]]]:
        """Layers that read a group: name, positions along their input, and the group's channel at each."""
        for item in self.group(name, channels):
            if item.dep.handler in _IN:
                yield self.names[item.dep.target.module], [int(i) for i in item.idxs], [int(i) for i in item.root_idxs]

    def writers(self, group: Any) -> tuple[str, ...]:
        """Layers that produce a group's channels."""
        return tuple(dict.fromkeys(self.names[i.dep.target.module] for i in group if i.dep.handler in _OUT and i.dep.target.module in self.names))

    def output_layers(self, example: torch.Tensor) -> list[nn.Module]:
        """Layers whose output channels are the network's own: pruning them would change what it answers."""
        with torch.no_grad():
            width = self.model(example).shape[1]
        return [m for m in self.names if isinstance(m, PRUNABLE) and self._is_last(m, width)]

    def _is_last(self, layer: nn.Module, width: int) -> bool:
        own = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if own != width:
            return False
        reads = [i for i in self.group(self.names[layer], [0]) if i.dep.target.module is not layer and isinstance(i.dep.target.module, PRUNABLE)]
        return not reads


def remove_channels(model: nn.Module, example: torch.Tensor, removed: Mapping[str, Sequence[int]]) -> None:
    """Removes channels from each group, physically and in place.

    Args:
        model: network with trainable parameters.
        example: one batch of its input.
        removed: for each group, by the name of its root layer, the indices that go.

    Raises:
        ModelError: torch-pruning refuses a removal.
    """
    graph = ChannelGraph(model, example)
    for name, indices in removed.items():
        if indices:
            graph.remove(name, indices)


def trainable_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters are all trainable."""
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
