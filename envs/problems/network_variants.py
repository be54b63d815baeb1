"""Networks that nobody recorded, out of one that was: other widths, more or fewer blocks.

A policy that is to serve any network has to meet many. What is varied here keeps the tasks' kinds,
so their latencies
can be interpolated from a recording's; depth changes by residual blocks, which read and write one
group and have one of
their own. Called by `generator`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cprune_rl.core.network import Extent, Group, Network, Subgraph

__all__ = ["Variant", "vary"]

_GRAIN = 8  # channels: what designers' widths are multiples of
_NETWORK_SCALE = (0.6, 1.25)  # of all widths together
_GROUP_SIGMA = 0.15  # log deviation of a group from that
_COPIES = (0, 1, 1, 1, 2)  # of a block; drawn from


@dataclass(frozen=True)
class Variant:
    """A network and where its groups come from.

    Attributes:
        network: the variant.
        origin: for each of its groups the position of the recorded network's group.
    """

    network: Network
    origin: tuple[int, ...]


def vary(network: Network, rng: np.random.Generator) -> Variant:
    """Draws a variant of a network.

    Args:
        network: a recorded one.
        rng: what is drawn from.
    """
    deeper, origin = _with_other_depth(network, rng)
    level = rng.uniform(*_NETWORK_SCALE)
    groups = []
    for group in deeper.groups:
        wanted = group.channels * level * math.exp(rng.normal(0.0, _GROUP_SIGMA))
        grain = _GRAIN if group.channels % _GRAIN == 0 else 1
        channels = max(grain, round(wanted / grain) * grain)
        groups.append(
            replace(
                group,
                channels=channels,
                minimum=min(channels, max(1, math.ceil(channels * group.minimum / group.channels))),
            )
        )
    return Variant(replace(deeper, groups=tuple(groups)), origin)


def _with_other_depth(
    network: Network, rng: np.random.Generator
) -> tuple[Network, tuple[int, ...]]:
    """The same with each residual block left out, kept or repeated."""
    copies = {name: int(rng.choice(_COPIES)) for name in _residual_blocks(network)}
    if copies and not any(copies.values()) and len(copies) == len(network.groups):
        copies = {}
    groups: list[Group] = []
    origin: list[int] = []
    for at, group in enumerate(network.groups):
        for copy in range(copies.get(group.name, 1)):
            groups.append(
                group
                if copy == 0
                else replace(
                    group,
                    name=f"{group.name}#{copy}",
                    layers=tuple(f"{layer}#{copy}" for layer in group.layers),
                )
            )
            origin.append(at)
    subgraphs: list[Subgraph] = []
    for block, members in _runs(network, copies):
        for copy in range(copies.get(block, 1) if block else 1):
            subgraphs += (
                members
                if copy == 0
                else [_renamed(s, {block: f"{block}#{copy}"}, f"#{copy}") for s in members]
            )
    return Network(network.name, tuple(groups), tuple(subgraphs), network.unprunable), tuple(origin)


def _residual_blocks(network: Network) -> list[str]:
    """Groups of blocks that read and write one other group:

    leaving such a block out, or repeating it, makes a network too.
    """
    found = []
    for at, group in enumerate(network.groups):
        members = [s for s, touched in enumerate(network.touched_groups) if at in touched]
        outside = {
            name
            for m in members
            for e in (network.subgraphs[m].channels_in, network.subgraphs[m].channels_out)
            for name, _ in e.terms
        } - {group.name}
        together = members == list(range(members[0], members[-1] + 1)) if members else False
        if together and len(outside) == 1 and len(members) > 1:
            (other,) = outside
            first, last = network.subgraphs[members[0]], network.subgraphs[members[-1]]
            if _names(first.channels_in) == _names(last.channels_out) == {other}:
                found.append(group.name)
    return found


def _runs(network: Network, blocks: Mapping[str, int]) -> list[tuple[str, list[Subgraph]]]:
    """The subgraphs in order, those of one block together; "" for those of none."""
    runs: list[tuple[str, list[Subgraph]]] = []
    for subgraph in network.subgraphs:
        names = {
            name
            for e in (*subgraph.extents, subgraph.channels_in, subgraph.channels_out)
            for name, _ in e.terms
        }
        block = next((name for name in blocks if name in names), "")
        if runs and block and runs[-1][0] == block:
            runs[-1][1].append(subgraph)
        else:
            runs.append((block, [subgraph]))
    return runs


def _names(extent: Extent) -> set[str]:
    return {name for name, _ in extent.terms}


def _renamed(subgraph: Subgraph, names: Mapping[str, str], suffix: str) -> Subgraph:
    def moved(extent: Extent) -> Extent:
        return Extent(
            extent.constant,
            tuple((names.get(name, name), multiplier) for name, multiplier in extent.terms),
        )

    def all_of(extents: Sequence[Extent]) -> tuple[Extent, ...]:
        return tuple(moved(e) for e in extents)

    return replace(
        subgraph,
        name=subgraph.name + suffix,
        layers=tuple(layer + suffix for layer in subgraph.layers),
        extents=all_of(subgraph.extents),
        channels_in=moved(subgraph.channels_in),
        channels_out=moved(subgraph.channels_out),
        writes=tuple(names.get(name, name) for name in subgraph.writes),
        block_sparse=None
        if subgraph.block_sparse is None
        else replace(subgraph.block_sparse, layer=subgraph.block_sparse.layer + suffix),
    )
