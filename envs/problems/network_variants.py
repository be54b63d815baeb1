"""Networks that nobody recorded, drawn around one that was: other widths, more or fewer blocks.

A policy that is to serve any network has to meet many. A variant keeps the kinds of tasks, so that
a recording's latencies can be interpolated to it. Its depth varies by residual blocks: each reads
and writes one group of others, and has one group of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cprune_rl.core.network import Group, Network
from cprune_rl.core.workload import Extent, Subgraph

__all__ = ["draw_variant"]

_GRAIN = 8  # channels: designers choose multiples of it
_NETWORK_SCALE = (0.6, 1.25)  # range of the factor of all widths together
_GROUP_SIGMA = 0.15  # log deviation of a group's factor from that
_COPIES = (0, 1, 1, 1, 2)  # of a residual block, to draw from


def draw_variant(network: Network, rng: np.random.Generator) -> Network:
    """Draw a network like a recorded one."""
    other_depth = _with_other_depth(network, rng)
    scale = rng.uniform(*_NETWORK_SCALE)
    groups = [
        _with_channels(group, group.channels * scale * math.exp(rng.normal(0.0, _GROUP_SIGMA)))
        for group in other_depth.groups
    ]
    return replace(other_depth, groups=tuple(groups))


def _with_channels(group: Group, wanted: float) -> Group:
    """Change a group's width to about so many channels, and its minimum in proportion."""
    grain = _GRAIN if group.channels % _GRAIN == 0 else 1
    channels = max(grain, round(wanted / grain) * grain)
    minimum = max(1, math.ceil(channels * group.minimum / group.channels))
    return replace(group, channels=channels, minimum=min(channels, minimum))


def _with_other_depth(network: Network, rng: np.random.Generator) -> Network:
    """Leave out, keep or repeat each residual block."""
    n_copies = {name: int(rng.choice(_COPIES)) for name in _residual_blocks(network)}
    if n_copies and not any(n_copies.values()) and len(n_copies) == len(network.groups):
        n_copies = {}  # nothing would be left
    groups: list[Group] = []
    for group in network.groups:
        groups += [_copied_group(group, copy) for copy in range(n_copies.get(group.name, 1))]
    subgraphs: list[Subgraph] = []
    for block, members in _runs(network, n_copies):
        for copy in range(n_copies.get(block, 1)):
            subgraphs += [_copied_subgraph(member, block, copy) for member in members]
    return replace(network, groups=tuple(groups), subgraphs=tuple(subgraphs))


def _residual_blocks(network: Network) -> list[str]:
    """Find the groups of blocks that read and write one other group.

    A network stays one where such a block is left out or repeated.
    """
    blocks = []
    for at, group in enumerate(network.groups):
        members = [s for s, touched in enumerate(network.touched_groups) if at in touched]
        if len(members) < 2 or members != list(range(members[0], members[-1] + 1)):
            continue
        touched_names: set[str] = set()
        for member in members:
            subgraph = network.subgraphs[member]
            touched_names |= _names(subgraph.channels_in) | _names(subgraph.channels_out)
        outside = touched_names - {group.name}
        read = _names(network.subgraphs[members[0]].channels_in)
        written = _names(network.subgraphs[members[-1]].channels_out)
        if len(outside) == 1 and read == written == outside:
            blocks.append(group.name)
    return blocks


def _runs(network: Network, blocks: Mapping[str, int]) -> list[tuple[str, list[Subgraph]]]:
    """Give the subgraphs in order, those of one block together; "" stands for no block."""
    runs: list[tuple[str, list[Subgraph]]] = []
    for at, subgraph in enumerate(network.subgraphs):
        names = {network.groups[g].name for g in network.touched_groups[at]}
        block = next((name for name in blocks if name in names), "")
        if block and runs and runs[-1][0] == block:
            runs[-1][1].append(subgraph)
        else:
            runs.append((block, [subgraph]))
    return runs


def _names(extent: Extent) -> set[str]:
    return {name for name, _ in extent.terms}


def _copied_group(group: Group, copy: int) -> Group:
    """Name the copy of a group; the first keeps its name."""
    if copy == 0:
        return group
    layers = tuple(f"{layer}#{copy}" for layer in group.layers)
    return replace(group, name=f"{group.name}#{copy}", layers=layers)


def _copied_subgraph(subgraph: Subgraph, block: str, copy: int) -> Subgraph:
    """Name the copy of a subgraph, and let it depend on the copy of its block's group."""
    if copy == 0:
        return subgraph
    suffix = f"#{copy}"

    def renamed(name: str) -> str:
        return name + suffix if name == block else name

    def copied(extent: Extent) -> Extent:
        terms = tuple((renamed(name), multiplier) for name, multiplier in extent.terms)
        return Extent(extent.constant, terms)

    sparse = subgraph.block_sparse
    return replace(
        subgraph,
        name=subgraph.name + suffix,
        layers=tuple(layer + suffix for layer in subgraph.layers),
        extents=tuple(copied(extent) for extent in subgraph.extents),
        channels_in=copied(subgraph.channels_in),
        channels_out=copied(subgraph.channels_out),
        writes=tuple(renamed(name) for name in subgraph.writes),
        block_sparse=sparse and replace(sparse, layer=sparse.layer + suffix),
    )
