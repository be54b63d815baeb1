"""A network as JSON values, in recordings. The names on disk are those of 0.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cprune_rl.core.network import Group, Network
from cprune_rl.core.workload import BlockSparse, Extent, OperatorKind, Subgraph, Template

__all__ = ["network_from_json", "network_to_json"]


def network_to_json(network: Network) -> dict[str, Any]:
    """Values from which `network_from_json` makes an equal network.

    Each template is written once; subgraphs name it by its position.
    """
    templates = _templates(network)
    return {
        "name": network.name,
        "groups": [{**vars(group), "layers": list(group.layers)} for group in network.groups],
        "templates": [{**vars(t), "operator": vars(t.operator)} for t in templates],
        "subgraphs": [_subgraph_to_json(s, templates) for s in network.subgraphs],
        "unprunable": [list(pair) for pair in network.unprunable],
    }


def network_from_json(value: Mapping[str, Any]) -> Network:
    """The inverse of `network_to_json`."""
    templates = [
        Template(**{**t, "operator": OperatorKind(**t["operator"])}) for t in value["templates"]
    ]
    return Network(
        name=value["name"],
        groups=tuple(Group(**{**g, "layers": tuple(g["layers"])}) for g in value["groups"]),
        subgraphs=tuple(_subgraph_from_json(s, templates) for s in value["subgraphs"]),
        unprunable=tuple((layer, reason) for layer, reason in value["unprunable"]),
    )


def _templates(network: Network) -> list[Template]:
    """Different templates: first the dense ones, then those of schemes, then those of kernels."""
    dense = [s.template for s in network.subgraphs]
    pruned = [s.block_sparse for s in network.subgraphs if s.block_sparse]
    of_schemes = [b.template for b in pruned]
    of_kernels = [b.of_kernels for b in pruned if b.of_kernels]
    return list(dict.fromkeys([*dense, *of_schemes, *of_kernels]))


def _subgraph_to_json(subgraph: Subgraph, templates: Sequence[Template]) -> dict[str, Any]:
    value: dict[str, Any] = {
        "name": subgraph.name,
        "layers": list(subgraph.layers),
        "template": templates.index(subgraph.template),
        "extents": [_extent_to_json(e) for e in subgraph.extents],
        "channels_in": _extent_to_json(subgraph.channels_in),
        "channels_out": _extent_to_json(subgraph.channels_out),
        "writes": list(subgraph.writes),
    }
    pruned = subgraph.block_sparse
    if pruned is not None:
        value["blocked"] = {
            "layer": pruned.layer,
            "template": templates.index(pruned.template),
            "entries": pruned.entries,
        }
        if pruned.of_kernels is not None:
            value["blocked"]["of_kernels"] = templates.index(pruned.of_kernels)
    return value


def _subgraph_from_json(value: Mapping[str, Any], templates: Sequence[Template]) -> Subgraph:
    pruned = value.get("blocked")
    return Subgraph(
        name=value["name"],
        layers=tuple(value["layers"]),
        template=templates[value["template"]],
        extents=tuple(_extent_from_json(e) for e in value["extents"]),
        channels_in=_extent_from_json(value["channels_in"]),
        channels_out=_extent_from_json(value["channels_out"]),
        writes=tuple(value["writes"]),
        block_sparse=_block_sparse_from_json(pruned, templates) if pruned else None,
    )


def _block_sparse_from_json(value: Mapping[str, Any], templates: Sequence[Template]) -> BlockSparse:
    of_kernels = value.get("of_kernels")
    return BlockSparse(
        layer=value["layer"],
        template=templates[value["template"]],
        entries=value["entries"],
        of_kernels=None if of_kernels is None else templates[of_kernels],
    )


def _extent_to_json(extent: Extent) -> list[Any]:
    return [extent.constant, [list(term) for term in extent.terms]]


def _extent_from_json(value: Sequence[Any]) -> Extent:
    constant, terms = value
    return Extent(constant, tuple((name, multiplier) for name, multiplier in terms))
