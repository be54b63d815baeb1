"""Finds which subgraphs of a network are the same in another layout.

A change of layout may be fused otherwise, or need transposes in the middle of what was one
subgraph. There the other layout is not offered, and everywhere else it is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from cprune_rl.compiler.export.fused_calls import FusedCall, Operator

__all__ = ["match_calls", "renumbered_maps"]

_MAP_LAYOUTS = ("NCHW", "NHWC")
_LAYOUT_OPERATORS = ("permute_dims", "reshape")  # what a change of layout adds or takes away


def match_calls(plain: Sequence[FusedCall], others: Sequence[FusedCall]) -> tuple[int | None, ...]:
    """Find the call of another lowering that can take the place of each call of the plain one.

    It computes the same operators on the same weights, and reads and writes the same maps, in
    whichever layout.

    Args:
        plain: the calls of the network in NCHW.
        others: the calls of the same network in another layout.

    Returns:
        For each plain call the position of its counterpart; None where it has none.
    """
    maps = renumbered_maps(plain, others)
    makers = {position: other for other, position in maps.items()}
    positions: list[int | None] = []
    for at, call in enumerate(plain):
        other = makers.get(at)
        is_same = other is not None and _is_counterpart(call, others[other], plain, maps)
        positions.append(other if is_same else None)
    return tuple(positions)


def renumbered_maps(plain: Sequence[FusedCall], others: Sequence[FusedCall]) -> dict[int, int]:
    """Find the calls of two lowerings that make the same map.

    Returns:
        The position of the plain call, by the position of the other one.
    """
    plain_maps = _maps(plain)
    other_maps = _maps(others)
    plain_count = Counter(plain_maps)
    other_count = Counter(other_maps)
    by_map: dict[str, list[int]] = {}
    for at, made in enumerate(plain_maps):
        by_map.setdefault(made, []).append(at)
    renumbered = {}
    for at, made in enumerate(other_maps):
        # Maps that differ in attributes alone, such as slices of one, are told apart by order.
        if plain_count[made] == other_count[made]:
            renumbered[at] = by_map[made].pop(0)
    return renumbered


def _is_counterpart(
    call: FusedCall, other: FusedCall, plain: Sequence[FusedCall], maps: Mapping[int, int]
) -> bool:
    if set(call.parameters) != set(other.parameters) or _computing(call) != _computing(other):
        return False
    if bool(call.layouts[-1]) != bool(other.layouts[-1]):
        return False
    read = [maps.get(read) for read in other.reads if isinstance(read, int)]
    if read != [read for read in call.reads if isinstance(read, int)]:
        return False
    return all(
        bool(layout) == bool(plain[maps[read]].layouts[-1])
        for read, layout in zip(other.reads, other.layouts, strict=False)
        if isinstance(read, int)
    )


def _computing(call: FusedCall) -> list[str]:
    """Return the operators of a call that a change of layout leaves."""
    return [o.name for o in call.operators if o.name not in _LAYOUT_OPERATORS]


def _maps(calls: Sequence[FusedCall]) -> list[str]:
    """Name what each call makes by how it is computed from the image and the weights."""
    made: list[str] = []
    for call in calls:
        values: dict[str, str] = {"const": "const"}
        for at, read in enumerate(call.reads):
            values[f"a{at}"] = made[read] if isinstance(read, int) else call.weights.get(at, "")
        for at, operator in enumerate(call.operators):
            values[f"v{at}"] = _computed(operator, [values[name] for name in operator.operands])
        last = values[f"v{len(call.operators) - 1}"]
        made.append(_digest(last, _in_nchw(call.shapes[-1], call.layouts[-1])))
    return made


def _computed(operator: Operator, operands: Sequence[str]) -> str:
    if _changes_layout_alone(operator):
        return operands[0]
    return _digest(operator.name, operator.constants, tuple(operands))


def _changes_layout_alone(operator: Operator) -> bool:
    if operator.name == "permute_dims":
        return operator.layouts[0] in _MAP_LAYOUTS and operator.out_layout in _MAP_LAYOUTS
    # The shape of the result is compared by itself.
    return operator.name == "reshape"


def _in_nchw(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    if layout not in _MAP_LAYOUTS:
        return shape
    return tuple(shape[layout.index(axis)] for axis in "NCHW")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
