"""Coupled groups: which channels go together, how important each is, and which may go at all.

`dependency_graph` finds them, and leaves what gives the output whole; `attention_heads` finds the
heads of attention layers. `channel_rules` leaves unknown operators whole, `equivalence_check` what
cannot go without a trace. What the user keeps or freezes, and how narrow a group may get, is here.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.core.network import Group
from cprune_rl.core.workload import Extent, WrittenChannels
from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.models.copies import copy_network
from cprune_rl.pruning.attention_heads import AttentionHeads, find_attention_heads
from cprune_rl.pruning.channel_state import Site
from cprune_rl.pruning.dependency_graph import OUTPUT, ChannelGraph, ChannelGroup
from cprune_rl.pruning.equivalence_check import find_unsafe_groups
from cprune_rl.pruning.importance import NEEDS_GRADIENTS, random_scores, score
from cprune_rl.pruning.slices import ChannelSlices, trainable_copy

__all__ = ["CoupledGroups", "GroupSettings", "find_groups", "find_slices"]

Gradients = Callable[[nn.Module], None]
DEFAULT_KEEP = 0.2
_N_LAYERS_LISTED = 40  # by an error
_N_COUPLED_LISTED = 5  # by a reason
_LAST_CHOICE = 3  # of the ways to understand a place that parts channels


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """Says what may be pruned, and in which order.

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


@dataclass(frozen=True, kw_only=True)
class CoupledGroups:
    """Says what can be pruned in a network.

    Attributes:
        groups: in the order of the dependency graph, heads of attention layers last.
        ranking: for each group its channels, most important first; a plan keeps a prefix.
        importance: for each group the score of each channel, in the channels' own order.
        axes: extents of every parameter's axes, by state_dict name.
        unprunable: layers left whole, with the reason.
        written: the groups' channels that each layer writes.
        slices: where the network is cut when channels go.
    """

    groups: tuple[Group, ...]
    ranking: Mapping[str, tuple[int, ...]]
    importance: Mapping[str, NDArray[np.float64]]
    axes: Mapping[str, tuple[Extent, ...]]
    unprunable: tuple[tuple[str, str], ...]
    written: WrittenChannels
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
                f"importance {settings.importance!r} needs gradients of a loss, "
                "and there are no images to compute one"
            )
        gradients(model)
    settled = _settle(model, example)
    candidates = settled.candidates
    _check_patterns(settings, model, candidates)
    reasons = dict(settled.reasons)
    for candidate in candidates:
        pattern = _first_match(settings.freeze, candidate.layers)
        if pattern is not None:
            reasons[candidate.name] = f"frozen by {pattern!r}"
    refused = {c.name: c.with_coupled(reasons[c.name]) for c in candidates if c.name in reasons}
    unprunable = refused | settled.graph.refused
    free = [c for c in candidates if c.name not in reasons]
    if not free:
        listed = "; ".join(f"{name}: {reason}" for name, reason in unprunable.items())
        raise ModelError(f"nothing in this network can be pruned: {listed}")
    groups = tuple(c.as_group(settings.keep) for c in free)
    scores = {c.name: c.scores(settings, model) for c in free}
    ranking = {name: np.argsort(-values, kind="stable") for name, values in scores.items()}
    return CoupledGroups(
        groups=groups,
        ranking={name: tuple(order.tolist()) for name, order in ranking.items()},
        importance=scores,
        axes=_parameter_axes(model, settled.slices, groups),
        unprunable=tuple(unprunable.items()),
        written=settled.slices.written(model, ranking.keys()),
        slices=settled.slices,
    )


def find_slices(model: nn.Module, example: torch.Tensor, names: Iterable[str]) -> ChannelSlices:
    """Finds where a network is cut when channels of some groups go; checks nothing.

    Args:
        model: the dense network; left as it was.
        example: one batch of its input.
        names: of the groups.

    Raises:
        PlanError: the network lacks a group.
        ModelError: the network cannot be run.
    """
    model = trainable_copy(model)
    graph = _settle(model, example).graph
    attention = {heads.name: heads for heads in find_attention_heads(model)}
    names = list(names)
    groups = [graph.group(name) for name in names if name not in attention]
    return _slices(groups, [attention[name] for name in names if name in attention])


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Describes a group before it is checked.

    Attributes:
        name: of the group.
        channels: that it has.
        layers: that write them.
        group: what the graph says of it; None for the heads of an attention layer.
        heads: of an attention layer; None for channels.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    group: ChannelGroup | None = None
    heads: AttentionHeads | None = None

    @property
    def minimum(self) -> int:
        """Channels that stay at least: a grouped convolution of one group is another operator."""
        has_grouped = self.group is not None and self.group.has_grouped
        return min(self.channels, 2 if has_grouped else 1)

    @property
    def why_whole(self) -> str:
        """Why the channels stay, by what is known of operators; empty where they may go."""
        if self.group is None or self.group.reason or self.channels > 1:
            return "" if self.group is None else self.group.reason
        return "all of its channels only go together"

    def scores(self, settings: GroupSettings, model: nn.Module) -> NDArray[np.float64]:
        """The importance of each channel."""
        if settings.importance == "random":
            return random_scores(self.name, self.channels, settings.seed)
        if self.heads is not None:
            return self.heads.scores(settings.importance)
        assert self.group is not None
        return score(settings.importance, model, self.group.slices, channels=self.channels)

    def as_group(self, keep: Mapping[str, float]) -> Group:
        """The group with its minimum, the largest that any of its layers has."""
        ratios = [r for pattern, r in keep.items() if _first_match([pattern], self.layers)]
        share = math.ceil(self.channels * max(ratios, default=DEFAULT_KEEP))
        return Group(
            name=self.name,
            channels=self.channels,
            minimum=min(self.channels, max(self.minimum, share)),
            layers=self.layers,
        )

    def with_coupled(self, reason: str) -> str:
        """A reason, with the other layers that stay whole for it."""
        own = self.name.partition("[")[0]  # of a part of a layer
        others = [layer for layer in self.layers if layer != own]
        if not others or reason == OUTPUT:
            return reason
        more = " and more" if len(others) > _N_COUPLED_LISTED else ""
        return f"{reason} (and so {', '.join(others[:_N_COUPLED_LISTED])}{more}, coupled to it)"


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """The groups of a network, once it is clear how its forward parts channels.

    Attributes:
        graph: of its channels.
        candidates: all groups.
        slices: of those that may go by what is known of operators.
        reasons: why others stay, by name.
    """

    graph: ChannelGraph
    candidates: Sequence[_Candidate]
    slices: ChannelSlices
    reasons: Mapping[str, str]


def _settle(model: nn.Module, example: torch.Tensor) -> _Settled:
    """Finds the groups, and checks those that may go.

    Where a group that is refused is parted somewhere in a forward, that place is understood in
    another way, and all is tried again. So the same groups are found whatever is asked of them.
    """
    attention = find_attention_heads(model)
    choices: dict[Site, int] = {}
    while True:
        graph = ChannelGraph(model, example, choices)
        candidates = _candidates(graph, attention)
        reasons = {c.name: c.why_whole for c in candidates if c.why_whole}
        free = [c for c in candidates if c.name not in reasons]
        slices = _slices([c.group for c in free if c.group is not None], attention)
        channels = {c.name: c.channels for c in free}
        unsafe = find_unsafe_groups(model, slices, example, groups=channels)
        sites = [c.group.sites for c in free if c.group is not None and c.name in unsafe]
        again = {site for some in sites for site in some if choices.get(site, 0) < _LAST_CHOICE}
        if not again:
            return _Settled(
                graph=graph, candidates=candidates, slices=slices, reasons=reasons | unsafe
            )
        for site in again:
            choices[site] = choices.get(site, 0) + 1


def _candidates(graph: ChannelGraph, attention: Sequence[AttentionHeads]) -> list[_Candidate]:
    """All groups of a network, the heads of attention layers last."""
    heads_layers = {heads.name for heads in attention}
    candidates = [
        _Candidate(name=g.name, channels=g.channels, layers=g.layers, group=g)
        for g in graph.groups
        if g.name not in heads_layers
    ]
    for heads in attention:
        candidates.append(
            _Candidate(name=heads.name, channels=heads.count, layers=(heads.name,), heads=heads)
        )
    return candidates


def _slices(groups: Sequence[ChannelGroup], attention: Sequence[AttentionHeads]) -> ChannelSlices:
    """Joins the slices of coupled channels with those of attention heads."""
    widths = {group.name: group.channels for group in groups}
    slices = [part for group in groups for part in group.slices]
    for heads in attention:
        widths[heads.name] = heads.count
        slices += heads.slices
    return ChannelSlices(widths, slices)


def _first_match(patterns: Iterable[str], layers: Iterable[str]) -> str | None:
    """The first pattern that names any of the layers."""
    for pattern in patterns:
        for layer in layers:
            if layer == pattern or layer.startswith(f"{pattern}."):
                return pattern
            if fnmatch.fnmatchcase(layer, pattern):
                return pattern
    return None


def _check_patterns(
    settings: GroupSettings, model: nn.Module, candidates: Sequence[_Candidate]
) -> None:
    """Refuses names of layers without channels of their own, and shares that are none."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    layers = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    layers.update(*(candidate.layers for candidate in candidates))
    for pattern in (*settings.freeze, *settings.keep):
        if _first_match([pattern], layers) is None:
            listed = ", ".join(sorted(layers)[:_N_LAYERS_LISTED])
            more = " and more" if len(layers) > _N_LAYERS_LISTED else ""
            raise ConfigError(
                f"no layer with channels of its own is called {pattern!r}. "
                f"Known: {listed}{more}; *.conv1 and the like match several."
            )
    for pattern, ratio in settings.keep.items():
        if not 0 < ratio <= 1:
            raise ConfigError(
                f"keep {pattern}={ratio:g}: give the share of channels that stays, "
                "above 0 and at most 1"
            )


def _parameter_axes(
    model: nn.Module, slices: ChannelSlices, groups: Sequence[Group]
) -> dict[str, tuple[Extent, ...]]:
    """Finds how each parameter's shape depends on the groups.

    For each group, it looks at what removing one channel takes away.
    """
    blank = copy_network(model).to("meta")  # shapes without values
    narrower = {}
    for group in groups:
        if group.channels > 1:
            with slices.pruned_for_now(blank, {group.name: range(1, group.channels)}):
                narrower[group] = blank.state_dict()
    axes = {}
    for name, value in model.state_dict().items():
        extents = []
        for axis, length in enumerate(value.shape):
            slopes = {group: length - state[name].shape[axis] for group, state in narrower.items()}
            terms = tuple((group.name, slope) for group, slope in slopes.items() if slope)
            constant = length - sum(slope * group.channels for group, slope in slopes.items())
            extents.append(Extent(constant, terms))
        axes[name] = tuple(extents)
    # folding a batch norm gives its convolution a bias
    for name in [name for name in axes if name.endswith(".weight")]:
        axes.setdefault(name.removesuffix("weight") + "bias", axes[name][:1])
    return axes
