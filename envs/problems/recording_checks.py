"""What a value in a file of a recorded problem may be. Called by `envs.recording_file`."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.workload import Extent, Subgraph
from cprune_rl.errors import DataError

__all__ = ["check_network", "number", "numbers", "whole"]

_MAX_CHANNELS = 1 << 20
_MAX_NUMBER = 1e12


def number(value: object, what: str, low: float, high: float = _MAX_NUMBER) -> float:
    """A finite number in a range.

    Raises:
        DataError: it is anything else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise DataError(
            f"{what} is {str(value)[:40]!r}, it must be a number from {low:g} to {high:g}"
        )
    return float(value)


def numbers(values: object, what: str, n: int, low: float) -> list[float]:
    """A list of `n` such numbers."""
    if not isinstance(values, list) or len(values) != n:
        raise DataError(f"{what} must be a list of {n} numbers, one for each group or layer")
    return [number(v, what, low) for v in values]


def whole(value: object, what: str, low: int) -> int:
    """A whole number from `low`.

    Raises:
        DataError: it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10**15:
        raise DataError(f"{what} is {str(value)[:40]!r}, it must be a whole number from {low}")
    return value


def check_network(network: Network) -> None:
    """Refuses a description that no lowering writes.

    Raises:
        DataError: with what is wrong.
    """
    if not network.groups or not network.subgraphs:
        raise DataError("its network has no groups or no subgraphs")
    for group in network.groups:
        if (
            whole(group.channels, f"channels of {group.name!r}", 1) > _MAX_CHANNELS
            or whole(group.minimum, f"minimum of {group.name!r}", 1) > group.channels
        ):
            raise DataError(
                f"group {group.name!r} keeps {group.minimum} to {group.channels} channels, allowed are 1 to {_MAX_CHANNELS}"
            )
    if len(network.group_index) != len(network.groups):
        raise DataError("two groups of its network have one name")
    least = network.widths(Plan(tuple(g.minimum for g in network.groups)))
    for subgraph in network.subgraphs:
        _check_subgraph(subgraph, network)
        if min(e.at(least) for e in (subgraph.channels_in, subgraph.channels_out)) < 1:
            raise DataError(
                f"subgraph {subgraph.name!r} has no channel left where every group keeps its minimum"
            )


def _check_subgraph(subgraph: Subgraph, network: Network) -> None:
    if unknown := set(subgraph.writes) - set(network.group_index):
        raise DataError(
            f"subgraph {subgraph.name!r} writes group {min(unknown)!r}, which its network does not have"
        )
    operator = subgraph.template.operator
    for what, value in (
        ("kernel", operator.kernel),
        ("stride", operator.stride),
        ("height", operator.height),
        ("macs", subgraph.template.macs),
    ):
        whole(value, what, 0 if what == "macs" else 1)
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
    """A template is filled in by `str.format`, which could read attributes or write a terabyte of
    padding: only `{0}`, `{1}`... may stand in it.
    """
    for _, field, specification, conversion in string.Formatter().parse(text):
        if field is not None and (
            specification
            or conversion
            or not field.isascii()
            or not field.isdigit()
            or int(field) >= len(extents)
        ):
            raise DataError(
                f"a template has the field {{{field[:40]}}}, allowed are {{0}} to {{{len(extents) - 1}}}"
            )
