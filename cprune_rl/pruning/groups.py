"""Coupled groups: which channels must go together, how important each is, and which may go at all.

Found by torch-pruning's dependency graph, the heads of attention layers by `heads`; each passes the
guard. Called by the job.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.core.network import Group
from cprune_rl.core.workload import Extent
from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.pruning.attention_heads import AttentionHeads, find_attention_heads
from cprune_rl.pruning.dependency_graph import ChannelGraph
from cprune_rl.pruning.equivalence_check import find_unsafe_groups
from cprune_rl.pruning.importance import NEEDS_GRADIENTS, random_scores, score
from cprune_rl.pruning.slices import ChannelSlices, trainable_copy

__all__ = ["CoupledGroups", "GroupSettings", "find_groups", "find_slices"]

Gradients = Callable[[nn.Module], None]
DEFAULT_KEEP = 0.2


@dataclass(frozen=True)
class GroupSettings:
    """What may be pruned, and in which order.

    A layer is named by its module's name, `blocks.0.conv1`, by a part of the network, `blocks.0`,
    or by a pattern, `*.conv1`.

    Attributes:
        importance: a key of `importance.IMPORTANCES`.
        freeze: layers that are left whole, with all that is coupled to them.
        keep: share of the channels that is always kept, by layer; 0.2 for the others.
        seed: of the importance `random`.
    """

    importance: str = "l2"
    freeze: tuple[str, ...] = ()
    keep: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class CoupledGroups:
    """What can be pruned in a network.

    Attributes:
        groups: in the order of the dependency graph, heads of attention layers last.
        ranking: for each group its channels, most important first; a plan keeps a prefix.
        importance: for each group the score of each channel, in the channels' own order.
        axes: extents of every parameter's axes, by state_dict name.
        unprunable: layers left whole, with the reason.
        slices: where the network is cut when channels go.
    """

    groups: tuple[Group, ...]
    ranking: Mapping[str, tuple[int, ...]]
    importance: Mapping[str, NDArray[np.float64]]
    axes: Mapping[str, tuple[Extent, ...]]
    unprunable: tuple[tuple[str, str], ...]
    slices: ChannelSlices = field(repr=False)


def find_groups(
    model: nn.Module,
    example: torch.Tensor,
    settings: GroupSettings | None = None,
    gradients: Gradients | None = None,
) -> CoupledGroups:
    """Finds the groups of a network whose channels can be removed safely.

    Args:
        model: the dense network; left as it was.
        example: one batch of its input.
        settings: what may be pruned; None for everything, by L2 magnitude.
        gradients: fills in the gradients of a loss, for criteria that need them.

    Raises:
        ModelError: nothing in the network can be pruned, or it cannot be followed.
        ConfigError: a layer that is to be frozen or kept is not there, or a criterion lacks its
            gradients.
    """
    settings = settings or GroupSettings()
    model = trainable_copy(model)
    if settings.importance in NEEDS_GRADIENTS:
        if gradients is None:
            raise ConfigError(
                f"importance {settings.importance!r} needs gradients of a loss, and there are no images to compute one"
            )
        gradients(model)
    graph = ChannelGraph(model, example)
    outputs, found = graph.output_layers(example), {}
    attention = find_attention_heads(model)
    impossible = {}
    for name, channels, group in graph.all_groups(
        [*outputs, *(heads.module for heads in attention)]
    ):
        if isinstance(group, Exception):
            impossible[name] = (
                f"where its channels go cannot be followed ({type(group).__name__}: {group})"
            )
            continue
        if not channels:
            impossible[name] = (
                f"has fewer channels than the {graph.unit(name)} that only go together"
            )
            continue
        found[name] = _Found(
            channels,
            graph.writers(group),
            functools.partial(score, settings.importance, group, channels, graph.unit(name)),
            group,
        )
    for heads in attention:
        found[heads.name] = _Found(
            heads.count, (heads.name,), functools.partial(heads.scores, settings.importance)
        )
    writing = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
    }
    _check_patterns(settings, sorted(writing.union(*(f.layers for f in found.values()))))
    frozen = {
        name: f"frozen by {pattern!r}"
        for name, f in found.items()
        if (pattern := _first_match(settings.freeze, f.layers)) is not None
    }
    slices = _slices(
        graph, {name: f.group for name, f in found.items() if f.group is not None}, attention
    )
    refused = {
        **frozen,
        **find_unsafe_groups(
            model,
            slices,
            example,
            {name: f.channels for name, f in found.items() if name not in frozen},
        ),
    }
    free = {name: f for name, f in found.items() if name not in refused}
    whole = {
        name: _with_coupled(refused[name], name, f.layers)
        for name, f in found.items()
        if name in refused
    }
    unprunable = [
        *whole.items(),
        *impossible.items(),
        *((graph.names[m], "gives the network's output") for m in outputs),
    ]
    if not free:
        raise ModelError(
            "nothing in this network can be pruned: "
            + "; ".join(f"{n}: {r}" for n, r in unprunable)
        )
    groups = tuple(
        Group(
            name=name,
            channels=f.channels,
            minimum=_minimum(f.channels, f.layers, settings.keep),
            layers=f.layers,
        )
        for name, f in free.items()
    )
    scores = {
        name: random_scores(name, f.channels, settings.seed)
        if settings.importance == "random"
        else f.scores()
        for name, f in free.items()
    }
    ranking = {
        name: tuple(int(i) for i in np.argsort(-values, kind="stable"))
        for name, values in scores.items()
    }
    return CoupledGroups(
        groups=groups,
        ranking=ranking,
        importance=scores,
        axes=_parameter_axes(model, slices, groups),
        unprunable=tuple(unprunable),
        slices=slices,
    )


@dataclass(frozen=True)
class _Found:
    """A group before it is judged.

    Attributes:
        channels: that it has.
        layers: that write them.
        scores: gives the importance of each.
        group: torch-pruning's description; None for the heads of an attention layer.
    """

    channels: int
    layers: tuple[str, ...]
    scores: Callable[[], NDArray[np.float64]]
    group: Any = None


def find_slices(model: nn.Module, example: torch.Tensor, names: Iterable[str]) -> ChannelSlices:
    """Where a network is cut when channels of some groups go; nothing is judged.

    Args:
        model: the dense network; left as it was.
        example: one batch of its input.
        names: of the groups.

    Raises:
        PlanError: the network lacks a group.
        ModelError: torch-pruning cannot follow the network.
    """
    model, wanted = trainable_copy(model), list(names)
    graph, attention = (
        ChannelGraph(model, example),
        [heads for heads in find_attention_heads(model) if heads.name in wanted],
    )
    others = set(wanted) - {heads.name for heads in attention}
    return _slices(graph, {name: graph.whole(name) for name in wanted if name in others}, attention)


def _slices(
    graph: ChannelGraph, groups: Mapping[str, Any], attention: Sequence[AttentionHeads]
) -> ChannelSlices:
    return graph.slices(groups).joined(
        {heads.name: heads.count for heads in attention},
        [channel_slice for heads in attention for channel_slice in heads.slices],
    )


def _with_coupled(reason: str, name: str, layers: Sequence[str]) -> str:
    """A reason, with the layers that stay whole for it too."""
    others = [layer for layer in layers if layer != name]
    return (
        f"{reason} (and so {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}, coupled to it)"
        if others
        else reason
    )


def _matches(pattern: str, layer: str) -> bool:
    return (
        layer == pattern or layer.startswith(f"{pattern}.") or fnmatch.fnmatchcase(layer, pattern)
    )


def _first_match(patterns: Sequence[str], layers: Sequence[str]) -> str | None:
    return next((p for p in patterns if any(_matches(p, layer) for layer in layers)), None)


def _minimum(channels: int, layers: Sequence[str], keep: Mapping[str, float]) -> int:
    """The largest floor that any of the group's layers has."""
    ratio = max(
        (r for p, r in keep.items() if _first_match([p], layers) is not None), default=DEFAULT_KEEP
    )
    return min(channels, max(1, math.ceil(channels * ratio)))


def _check_patterns(settings: GroupSettings, layers: Sequence[str]) -> None:
    for pattern in (*settings.freeze, *settings.keep):
        if _first_match([pattern], layers) is None:
            known = f"{', '.join(layers[:40])}{' and more' if len(layers) > 40 else ''}"
            raise ConfigError(
                f"no layer with channels of its own is called {pattern!r}. Known: {known}; *.conv1 and the like match several."
            )
    for pattern, ratio in settings.keep.items():
        if not 0 < ratio <= 1:
            raise ConfigError(
                f"keep {pattern}={ratio:g}: give the share of channels that stays, above 0 and at most 1"
            )


def _parameter_axes(
    model: nn.Module, slices: ChannelSlices, groups: Sequence[Group]
) -> dict[str, tuple[Extent, ...]]:
    """How each parameter's shape depends on the groups:

    what removing one channel of each takes away.
    """
    blank = copy.deepcopy(model).to("meta")  # shapes without values
    dense = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    slopes: dict[str, list[tuple[str, tuple[int, ...]]]] = {name: [] for name in dense}
    for group in (g for g in groups if g.channels > 1):
        narrower = slices.prune(blank, {group.name: range(1, group.channels)}).state_dict()
        for name, shape in dense.items():
            slopes[name].append(
                (group.name, tuple(a - b for a, b in zip(shape, narrower[name].shape, strict=True)))
            )
    channels = {g.name: g.channels for g in groups}
    axes = {}
    for name, shape in dense.items():
        extents = []
        for axis, length in enumerate(shape):
            terms = tuple((g, slope[axis]) for g, slope in slopes[name] if slope[axis])
            extents.append(Extent(length - sum(m * channels[g] for g, m in terms), terms))
        axes[name] = tuple(extents)
    for name in [
        n for n in axes if n.endswith(".weight")
    ]:  # folding a batch norm gives its convolution a bias
        axes.setdefault(name.removesuffix("weight") + "bias", axes[name][:1])
    return axes
