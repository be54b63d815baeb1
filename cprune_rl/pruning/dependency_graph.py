"""Follows channels through a network, and finds those that go together.

The operators of one run are followed (`channel_rules`). Positions of layers whose labels are joined
go together: they are one channel of a group. Channels that the same sides of layers have, at the
same parts of what is split or concatenated, are one group. So each branch of a concatenation is a
group of its own, with its own range of positions further on.

torch-pruning's dependency graph knows whole layers: a group that spans two branches would lose the
channels of either, by their importance, and the widths of the branches would not follow from the
plan.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.errors import ModelError, PlanError, first_line
from cprune_rl.models.side_heads import layers_in_evaluation
from cprune_rl.pruning.channel_labels import CONSTANT
from cprune_rl.pruning.channel_rules import follow
from cprune_rl.pruning.channel_state import LAYERS, ChannelState, Side, Site
from cprune_rl.pruning.channel_trace import Trace, Value, trace
from cprune_rl.pruning.layer_cuts import (
    cut_inputs,
    cut_norm,
    cut_outputs,
    cut_sizes,
    cut_tensor,
    input_axis,
)
from cprune_rl.pruning.slices import ChannelSlice

__all__ = ["OUTPUT", "ChannelGraph", "ChannelGroup"]

OUTPUT = "gives the network's output"

_IN_TRAINING = "runs in training alone"
_NEVER = "never runs"
_PART = re.compile(r"(.+)\[([\d:,]+)\]")
_CUTS = {"out": cut_outputs, "in": cut_inputs, "norm": cut_norm}
_NO_CHOICES: Mapping[Site, int] = {}


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that the same sides of layers have.

    Attributes:
        name: the layer that writes them, with their positions where they are a part of it.
        channels: how many there are.
        layers: that write them.
        slices: where the network is cut when they go.
        reason: why they stay; empty where nothing speaks against it.
        sites: that part them, in a forward.
        has_grouped: whether a convolution in groups writes them.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    slices: tuple[ChannelSlice, ...] = field(repr=False)
    reason: str = ""
    sites: frozenset[Site] = frozenset()
    has_grouped: bool = False


@dataclass
class _Channel:
    """What has one root label: positions by side, and the parts of sites that hold it."""

    places: dict[Side, list[int]] = field(default_factory=dict)
    marks: set[tuple[Site, int]] = field(default_factory=set)

    def signature(self) -> Any:
        """What channels of one group have in common."""
        counts = Counter({side: len(positions) for side, positions in self.places.items()})
        return frozenset(counts.items()), frozenset(self.marks)


class ChannelGraph:
    """Knows which channels of a network go together.

    Args:
        model: the network; its weights stay.
        example: one batch of its input.
        choices: how sites that part channels are understood; the first way where one is missing.

    Attributes:
        groups: all of them, also those that stay, in the order of their layers from the output to
            the input.
        refused: layers without a group, with the reason.

    Raises:
        ModelError: the network cannot be run.
    """

    def __init__(
        self, model: nn.Module, example: torch.Tensor, choices: Mapping[Site, int] = _NO_CHOICES
    ) -> None:
        self._modules = dict(model.named_modules())
        self._state = ChannelState(model, choices)
        run = _run(model.eval(), example)
        self._follow(run, run.outputs, run.outputs)
        self._order = _layer_order(run, self._state.layers_run)
        self.refused = dict(self._state.refused)
        self._follow_training(model, example, run)
        self._channels = self._collect()
        self.groups = self._grouped()

    def group(self, name: str) -> ChannelGroup:
        """A group by name; or all channels of a layer, as older plans name them.

        Raises:
            PlanError: the network has no such layer.
        """
        for group in self.groups:
            if group.name == name:
                return group
        layer, positions = _parsed(name)
        labels = self._state.sides.get(Side("out", layer))
        if labels is None or (positions and max(positions) >= len(labels)):
            raise PlanError(f"the plan prunes layer {name!r}, which the network does not have")
        roots = self._state.labels.roots(labels)
        if positions:
            roots = roots[positions]
        return self._group(name, list(dict.fromkeys(roots.tolist())))

    def _follow(self, run: Trace, heads: Sequence[Value], needed: Sequence[Value]) -> None:
        """Follows a run as far as some tensors need it; heads among them keep their channels."""
        self._state.follow_calls(run, needed, follow)
        for value in heads:
            self._state.fix_value(value, OUTPUT)

    def _follow_training(self, model: nn.Module, example: torch.Tensor, run: Trace) -> None:
        """Follows what runs in training alone, such as a head of its own: it is cut, too."""
        read = {value.source for call in run.calls for value in call.inputs}
        unread = {name for name, _ in model.named_parameters()} - read
        if not unread:
            return
        batch = example.repeat(2, *(1 for _ in example.shape[1:]))
        try:
            with layers_in_evaluation(model):
                in_training = _run(model, batch)
        except ModelError:  # the check of a forward says why it cannot be trained
            return
        shapes = {value.shape[1:] for value in run.outputs}
        # Others have no loss, and may be maps.
        heads = [value for value in in_training.outputs if value.shape[1:] in shapes]
        # What reads a weight must fit it, also where the answer does not depend on it.
        readers = [c for c in in_training.calls if any(v.source in unread for v in c.inputs)]
        written = [value for call in readers for value in call.outputs]
        self._follow(in_training, heads, [*heads, *written])
        for layer, module in self._modules.items():
            has_run = layer in run.modules or f"{layer}.weight" in read
            if has_run or not isinstance(module, LAYERS):
                continue
            labels = self._state.sides.get(Side("out", layer))
            if labels is not None:
                self._state.labels.fix(labels, _IN_TRAINING)
            self.refused.setdefault(layer, _NEVER if labels is None else _IN_TRAINING)

    def _collect(self) -> dict[int, _Channel]:
        """All channels, by their root labels."""
        channels: dict[int, _Channel] = {}
        for side, labels in self._state.sides.items():
            for position, root in enumerate(self._state.labels.roots(labels).tolist()):
                channel = channels.setdefault(root, _Channel())
                channel.places.setdefault(side, []).append(position)
        for labels, site, part in self._state.marks:
            for root in np.unique(self._state.labels.roots(labels)).tolist():
                if root in channels:
                    channels[root].marks.add((site, part))
        channels.pop(CONSTANT, None)
        return channels

    def _grouped(self) -> list[ChannelGroup]:
        """The groups, in the order of the first layers that write them."""
        reasons = self._state.labels.reasons()
        members: dict[Any, list[int]] = {}
        for layer in self._order:
            roots = self._state.labels.roots(self._state.sides[Side("out", layer)])
            for root in dict.fromkeys(roots.tolist()):
                key = self._channels[root].signature(), reasons.get(root, "")
                same = members.setdefault(key, [])
                if root not in same:
                    same.append(root)
        return [self._group("", roots, reason) for (_, reason), roots in members.items()]

    def _group(self, name: str, roots: Sequence[int], reason: str = "") -> ChannelGroup:
        """Describes a group.

        Args:
            name: of it; empty for the one that its layers give it.
            roots: of its channels, in the order of the first layer that writes them.
            reason: why it stays.
        """
        sides: dict[Side, None] = {}
        for root in roots:
            sides.update(dict.fromkeys(self._channels[root].places))
        positions = {side: self._positions(side, roots) for side in sides}
        writers = [layer for layer in self._order if Side("out", layer) in sides]
        name = name or self._name(writers, positions)
        first = _parsed(name)[0]
        root_side = Side("out", first)
        order = dict.fromkeys(positions[root_side][1].tolist())
        rank = np.argsort(np.array(list(order), np.int64))
        ordered_sides = sorted(sides, key=lambda side: side != root_side)
        # older plans and recordings list the others from the output on
        others = [layer for layer in reversed(writers) if layer != first]
        marks = set().union(*(self._channels[root].marks for root in roots))
        return ChannelGroup(
            name=name,
            channels=len(roots),
            layers=(first, *others),
            slices=tuple(
                self._slice(name, side, positions[side][0], rank[positions[side][1]])
                for side in ordered_sides
            ),
            reason=reason,
            sites=frozenset(site for site, _ in marks),
            has_grouped=any(getattr(self._modules[w], "groups", 1) > 1 for w in writers),
        )

    def _positions(
        self, side: Side, roots: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions of a side that channels have, ascending, with the channel at each."""
        pairs = []
        for channel, root in enumerate(roots):
            pairs += [(at, channel) for at in self._channels[root].places.get(side, ())]
        table = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _name(self, writers: Sequence[str], positions: Mapping[Side, Any]) -> str:
        """The first layer of which the group is the whole, or a part of the first layer."""
        for layer in writers:
            side = Side("out", layer)
            if len(positions[side][0]) == len(self._state.sides[side]):
                return layer
        layer = writers[0]
        return f"{layer}[{_spelled(positions[Side('out', layer)][0].tolist())}]"

    def _slice(
        self, group: str, side: Side, positions: NDArray[np.int64], channels: NDArray[np.int64]
    ) -> ChannelSlice:
        return ChannelSlice(
            layer=side.module,
            remove=_cut_of(side),
            kind=side.kind,
            input_axis=input_axis(self._modules[side.module]),
            group=group,
            positions=positions,
            channels=channels,
        )


def _cut_of(side: Side) -> Callable[[Any, Sequence[int]], None]:
    """Gives the function that takes positions away from a side."""
    if side.kind == "sizes":
        return cut_sizes(side.tensor)
    return _CUTS.get(side.kind) or cut_tensor(side.tensor, side.axis)


def _run(model: nn.Module, example: torch.Tensor) -> Trace:
    """Runs a network.

    Raises:
        ModelError: it fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trace(model, example)
    except Exception as error:  # whatever the user's forward provokes
        raise ModelError(
            f"the network cannot be run on an input of {tuple(example.shape)}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _layer_order(run: Trace, layers: Mapping[int, str]) -> list[str]:
    """The layers from the output to the input, by a search in depth.

    It is the order in which torch-pruning's graph meets them, which older plans have.
    """
    writers: dict[Value, int] = {}
    sources: list[list[int]] = []
    for at, call in enumerate(run.calls):
        sources.append([writers[value] for value in call.inputs if value in writers])
        writers.update(dict.fromkeys(call.outputs, at))
    order: dict[str, None] = {}
    visited: set[int] = set()
    for value in run.outputs:
        stack = [writers[value]] if value in writers else []
        while stack:
            at = stack.pop()
            if at in visited:
                continue
            visited.add(at)
            for met in (at, *sources[at]):
                if met in layers:
                    order.setdefault(layers[met])
            stack.extend(sources[at])
    return list(order)


def _spelled(positions: Sequence[int]) -> str:
    """Positions as slices: `0:16`, `0:16:2`, or `0:4,8:12`."""
    steps = set(np.diff(positions).tolist())
    if len(positions) > 2 and len(steps) == 1 and steps != {1}:
        return f"{positions[0]}:{positions[-1] + 1}:{steps.pop()}"
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][1] == position:
            runs[-1][1] += 1
        else:
            runs.append([position, position + 1])
    return ",".join(f"{start}:{end}" for start, end in runs)


def _parsed(name: str) -> tuple[str, list[int]]:
    """The layer of a group's name, and the positions; none where it is the whole layer."""
    match = _PART.fullmatch(name)
    if match is None:
        return name, []
    positions: list[int] = []
    for part in match[2].split(","):
        positions += range(*(int(number) for number in part.split(":")))
    return match[1], positions
