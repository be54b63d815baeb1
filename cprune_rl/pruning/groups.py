"""Coupled groups: which channels must go together, how important each is, and the guard.

Found by torch-pruning's dependency graph (Fang et al., CVPR 2023). Only its `DependencyGraph` and
importance classes are used: its pruner classes share mutable defaults between models. Called by the job.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn

from cprune_rl.errors import ModelError
from cprune_rl.table import Extent, Group

__all__ = ["CoupledGroups", "find_groups", "remove_channels"]

_PRUNABLE = (nn.Conv2d, nn.Linear)
_GUARD_TOLERANCE = 1e-4


@dataclass(frozen=True)
class CoupledGroups:
    """What can be pruned in a network.

    Attributes:
        groups: in the order of the dependency graph.
        ranking: for each group its channels, most important first; a plan keeps a prefix.
        importance: for each group the score of each channel, in the channels' own order.
        axes: extents of every parameter's axes, by state_dict name.
        unprunable: layers left whole, with the reason.
    """

    groups: tuple[Group, ...]
    ranking: Mapping[str, tuple[int, ...]]
    importance: Mapping[str, NDArray[np.float64]]
    axes: Mapping[str, tuple[Extent, ...]]
    unprunable: tuple[tuple[str, str], ...]


def find_groups(model: nn.Module, example: torch.Tensor, minimum_ratio: float = 0.2) -> CoupledGroups:
    """Finds the groups of a network whose channels can be removed safely.

    Each group passes the guard: one channel is removed from a copy, which must compute what the network
    with that channel masked computes. A group that fails is named in `unprunable`.

    Args:
        model: the dense network; left as it was.
        example: one batch of its input.
        minimum_ratio: share of each group that is always kept.

    Raises:
        ModelError: nothing in the network can be pruned.
    """
    model = _trainable_copy(model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
    names = {module: name for name, module in model.named_modules()}
    outputs = _output_layers(model, example)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    groups: list[Group] = []
    ranking: dict[str, tuple[int, ...]] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    unprunable: list[tuple[str, str]] = []
    for found in list(graph.get_all_groups(ignored_layers=outputs, root_module_types=list(_PRUNABLE))):
        root = found[0].dep.target.module
        name, channels = names[root], graph.get_out_channels(root)
        reason = _refusal(model, example, name)
        if reason is not None:
            unprunable.append((name, reason))
            continue
        score = importance(found).detach().double().numpy()
        groups.append(Group(name, channels, max(1, math.ceil(channels * minimum_ratio)), _writers(found, names)))
        ranking[name] = tuple(int(i) for i in np.argsort(-score, kind="stable"))
        scores[name] = score
    unprunable += [(names[m], "gives the network's output") for m in outputs]
    if not groups:
        raise ModelError("nothing in this network can be pruned: " + "; ".join(f"{n}: {r}" for n, r in unprunable))
    return CoupledGroups(tuple(groups), ranking, scores, _parameter_axes(model, example, groups), tuple(unprunable))


def remove_channels(model: nn.Module, example: torch.Tensor, removed: Mapping[str, list[int]]) -> None:
    """Removes channels from each group, physically and in place.

    Args:
        model: network with trainable parameters (frozen ones have no dependency).
        example: one batch of its input.
        removed: for each group, by the name of its root layer, the indices that go.

    Raises:
        ModelError: torch-pruning refuses a removal.
    """
    modules = dict(model.named_modules())
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
    for name, indices in removed.items():
        if not indices:
            continue
        group = graph.get_pruning_group(modules[name], _out_pruner(modules[name]), sorted(set(indices)))
        if not graph.check_pruning_group(group):
            raise ModelError(f"group {name!r}: removing {len(indices)} channels would leave a layer empty")
        group.prune()


def _out_pruner(module: nn.Module) -> object:
    return tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels


def _trainable_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _output_layers(model: nn.Module, example: torch.Tensor) -> list[nn.Module]:
    """Layers whose output channels are the network's own: pruning them would change what it answers."""
    shape = model(example).shape
    return [m for m in model.modules() if isinstance(m, _PRUNABLE) and _is_last(model, m, example, shape)]


def _is_last(model: nn.Module, layer: nn.Module, example: torch.Tensor, shape: torch.Size) -> bool:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
    group = graph.get_pruning_group(layer, _out_pruner(layer), [0])
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    reads = [item for item in group if item.dep.target.module is not layer and isinstance(item.dep.target.module, _PRUNABLE)]
    return not reads and bool(width == shape[1])


def _writers(group: tp.Group, names: Mapping[nn.Module, str]) -> tuple[str, ...]:
    """Layers that produce the group's channels."""
    out = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_depthwise_conv_out_channels)
    return tuple(dict.fromkeys(names[item.dep.target.module] for item in group if item.dep.handler in out and item.dep.target.module in names))


def _refusal(model: nn.Module, example: torch.Tensor, name: str) -> str | None:
    """The guard: why removing one channel of this group is not the same as masking it, or None."""
    pruned = copy.deepcopy(model)
    try:
        remove_channels(pruned, example, {name: [0]})
        masked = _masked_copy(model, example, name)
        with torch.no_grad():
            difference = (pruned.eval()(example) - masked(example)).abs().max()
    except Exception as error:  # torch-pruning raises whatever an unsupported structure provokes
        return f"removing a channel fails: {type(error).__name__}: {error}"
    return None if float(difference) <= _GUARD_TOLERANCE else f"removing a channel is not masking it (outputs differ by {float(difference):.2g})"


def _masked_copy(model: nn.Module, example: torch.Tensor, name: str) -> nn.Module:
    """The network with channel 0 of a group cut off at its readers."""
    masked = copy.deepcopy(model)
    modules = dict(masked.named_modules())
    graph = tp.DependencyGraph().build_dependency(masked, example_inputs=example, verbose=False)
    group = graph.get_pruning_group(modules[name], _out_pruner(modules[name]), [0])
    readers = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)
    with torch.no_grad():
        for dependency, indices in group:
            if dependency.handler in readers:
                dependency.target.module.weight[:, list(indices)] = 0
    return masked


def _parameter_axes(model: nn.Module, example: torch.Tensor, groups: list[Group]) -> dict[str, tuple[Extent, ...]]:
    """How each parameter's shape depends on the groups: what removing one channel of each takes away."""
    dense = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    slopes: dict[str, list[tuple[str, tuple[int, ...]]]] = {name: [] for name in dense}
    for group in (g for g in groups if g.channels > 1):
        pruned = copy.deepcopy(model)
        remove_channels(pruned, example, {group.name: [0]})
        for name, value in pruned.state_dict().items():
            slopes[name].append((group.name, tuple(a - b for a, b in zip(dense[name], value.shape, strict=True))))
    channels = {g.name: g.channels for g in groups}
    axes = {}
    for name, shape in dense.items():
        extents = []
        for axis, length in enumerate(shape):
            terms = tuple((g, slope[axis]) for g, slope in slopes[name] if slope[axis])
            extents.append(Extent(length - sum(m * channels[g] for g, m in terms), terms))
        axes[name] = tuple(extents)
    for name in [n for n in axes if n.endswith(".weight")]:  # folding a batch norm gives its convolution a bias
        axes.setdefault(name.removesuffix("weight") + "bias", axes[name][:1])
    return axes
