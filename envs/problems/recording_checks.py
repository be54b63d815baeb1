"""Checks of the values in a file of a recorded problem, which may come from a stranger."""

from __future__ import annotations

import string
from collections.abc import Sequence

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.untrusted import whole
from cprune_rl.core.workload import Extent, Subgraph
from cprune_rl.errors import DataError

__all__ = ["check_network"]

_MAX_CHANNELS = 1 << 20


def check_network(network: Network) -> None:
    """Refuse a description that no exported network has.

    Raises:
        DataError: with what is wrong.
    """
    if not network.groups or not network.subgraphs:
        raise DataError("its network has no groups or no subgraphs")
    for group in network.groups:
        whole(group.channels, f"channels of {group.name!r}", 1, _MAX_CHANNELS)
        whole(group.minimum, f"minimum of {group.name!r}", 1, group.channels)
    if len(network.group_index) != len(network.groups):
        raise DataError("two groups of its network have one name")
    narrowest = network.widths(Plan(tuple(group.minimum for group in network.groups)))
    for subgraph in network.subgraphs:
        _check_subgraph(subgraph, network)
        if min(subgraph.channels_in.at(narrowest), subgraph.channels_out.at(narrowest)) < 1:
            raise DataError(
                f"subgraph {subgraph.name!r} has no channel left "
                "where every group keeps its minimum"
            )


def _check_subgraph(subgraph: Subgraph, network: Network) -> None:
    if unknown := set(subgraph.writes) - set(network.group_index):
        raise DataError(
            f"subgraph {subgraph.name!r} writes group {min(unknown)!r}, "
            "which its network does not have"
        )
    operator = subgraph.template.operator
    whole(operator.kernel, "kernel", 1)
    whole(operator.stride, "stride", 1)
    whole(operator.height, "height", 1)
    whole(subgraph.template.macs, "macs", 0)
    for extent in (*subgraph.extents, subgraph.channels_in, subgraph.channels_out):
        _check_extent(extent, network)
    _check_template(subgraph.template.text, subgraph.extents)
    if subgraph.block_sparse is not None:
        whole(subgraph.block_sparse.entries, "entries of a kernel", 1)
        for template in (subgraph.block_sparse.template, subgraph.block_sparse.of_kernels):
            if template is not None:
                whole(template.macs, "macs", 0)
                _check_template(template.text, subgraph.extents)


def _check_extent(extent: Extent, network: Network) -> None:
    whole(extent.constant, "an axis' constant", 0)
    for name, multiplier in extent.terms:
        if name not in network.group_index:
            raise DataError(f"an axis depends on group {name!r}, which its network does not have")
        whole(multiplier, "an axis' multiplier", 1)


def _check_template(text: str, extents: Sequence[Extent]) -> None:
    """Refuse all fields but `{0}`, `{1}`...: `str.format` fills a template in.

    It could read attributes, or write a terabyte of padding.
    """
    for _, field, specification, conversion in string.Formatter().parse(text):
        if field is None:
            continue
        is_index = field.isascii() and field.isdigit() and int(field) < len(extents)
        if specification or conversion or not is_index:
            raise DataError(
                f"a template has the field {{{field[:40]}}}, "
                f"allowed are {{0}} to {{{len(extents) - 1}}}"
            )
