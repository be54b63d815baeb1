"""How the lengths in a network's calls depend on the groups' widths.

Nothing is known of an operator. The network is lowered at some plans, and its lengths are read
there. One channel less of each group in turn would tell everything, at a lowering for each group.
A few random plans tell it too where a length follows the groups as an axis of some parameter does:
nearly always. What they leave open is found group by group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.fused_calls import FusedCall, Operator
from cprune_rl.core.network import Group
from cprune_rl.core.workload import Extent
from cprune_rl.errors import ModelError

__all__ = ["CallExtents", "Extents", "find_extents", "operator_family"]

# Checked for linearity: the slopes were found at other widths.
_CHECKED_RATIO = 0.6
# Random plans beyond those that tell the groups apart: so many chances that a wrong guess is seen.
_N_SPARE_PLANS = 2

Extents = tuple[tuple[Extent, ...], ...]
"""Of each axis of some tensors."""

Terms = tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class CallExtents:
    """How the lengths in a call depend on the groups.

    Attributes:
        shapes: of its arguments, then of its result.
        bounds: where its slices begin and end.
    """

    shapes: Extents
    bounds: Extents

    def fit(self, call: FusedCall, widths: Mapping[str, int]) -> bool:
        """Whether a call has these lengths at some widths of the groups."""
        pairs = [(self.shapes, call.shapes), (self.bounds, call.bounds)]
        return all(
            lengths == tuple(tuple(extent.at(widths) for extent in axes) for axes in extents)
            for extents, lengths in pairs
        )


def find_extents(
    name: str, exported: ExportedNetwork, groups: Sequence[Group]
) -> tuple[CallExtents, ...]:
    """Find how the lengths in each call of a network depend on the groups.

    Args:
        name: of the model, for errors.
        exported: the network, exported once.
        groups: what can be pruned.

    Raises:
        ModelError: a length is not a linear function of the groups' widths, or other operators are
            fused at other widths.
    """
    dense = {g.name: g.channels for g in groups}
    prunable = [g for g in groups if g.channels > 1]
    reader = _Reader(name=name, exported=exported, dense=dense)
    slopes = None
    plans = _random_plans(prunable)
    if len(plans) < len(prunable):
        slopes = _guess_slopes(reader, plans, _known_terms(exported, prunable))
    if slopes is None:
        slopes = _slopes_by_group(reader, prunable)
    extents = tuple(reader.with_slopes(slopes))
    widths = {g.name: max(g.minimum, round(_CHECKED_RATIO * g.channels)) for g in groups}
    for call, lengths in zip(exported.lowered(widths).calls, extents, strict=True):
        if not lengths.fit(call, widths):
            raise ModelError(
                f"{name}: the shapes of {call.function} do not follow the groups' widths linearly"
            )
    return extents


def operator_family(call: FusedCall) -> str:
    """Write a call's operators as text without any shape: cost caches hold it."""

    def spelled(operator: Operator) -> str:
        return f"{operator.name}({','.join(operator.operands)}){{{operator.attributes}}}"

    return f"{';'.join(map(spelled, call.operators))}->{call.dtype}"


@dataclass(kw_only=True)
class _Reader:
    """Reads the lengths of all calls at a plan as one array, in a fixed order."""

    name: str
    exported: ExportedNetwork
    dense: Mapping[str, int]

    def __post_init__(self) -> None:
        self._calls = self.exported.lowered(self.dense).calls
        self._families = [operator_family(call) for call in self._calls]
        self._dense_lengths = self._lengths(self._calls)

    @property
    def n_lengths(self) -> int:
        """Axes of all tensors, and bounds of all slices."""
        return len(self._dense_lengths)

    def lost(self, widths: Mapping[str, int]) -> NDArray[np.int64]:
        """Return what each length loses where some groups are narrower.

        Raises:
            ModelError: other operators are fused there.
        """
        calls = self.exported.lowered({**self.dense, **widths}).calls
        if [operator_family(call) for call in calls] != self._families:
            raise ModelError(
                f"{self.name}: fusion changes with the channel counts, so its tasks cannot be "
                "followed"
            )
        lost: NDArray[np.int64] = self._dense_lengths - self._lengths(calls)
        return lost

    @staticmethod
    def _lengths(calls: Sequence[FusedCall]) -> NDArray[np.int64]:
        tensors = chain.from_iterable((*call.shapes, *call.bounds) for call in calls)
        return np.array([length for tensor in tensors for length in tensor], dtype=np.int64)

    def with_slopes(self, slopes: Sequence[Terms]) -> Iterator[CallExtents]:
        """Put slopes, one for each length, beside the lengths of the dense network."""
        following = iter(slopes)

        def extent(length: int) -> Extent:
            terms = next(following)
            constant = length - sum(slope * self.dense[group] for group, slope in terms)
            return Extent(constant, terms)

        def extents(tensors: Sequence[Sequence[int]]) -> Extents:
            return tuple(tuple(extent(length) for length in tensor) for tensor in tensors)

        for call in self._calls:
            yield CallExtents(shapes=extents(call.shapes), bounds=extents(call.bounds))


def _random_plans(groups: Sequence[Group]) -> list[dict[str, int]]:
    """Draw so many plans that no two groups are likely to lose alike in each."""
    rng = np.random.default_rng(0)
    n_plans = math.ceil(math.log2(len(groups) + 1)) + _N_SPARE_PLANS
    return [
        {g.name: int(rng.integers(min(g.minimum, g.channels - 1), g.channels)) for g in groups}
        for _ in range(n_plans)
    ]


def _known_terms(exported: ExportedNetwork, groups: Sequence[Group]) -> set[Terms]:
    """Return how the parameters' axes depend on the groups, each without its common factor.

    The first parts of an axis that consists of several are among them: slices end there.
    """
    order = {g.name: at for at, g in enumerate(groups)}
    known: set[Terms] = {((name, 1),) for name in order}
    for source in exported.template.sources:
        for extent in source.extents:
            terms = [term for term in extent.terms if term[0] in order]
            for n_parts in range(1, len(terms) + 1):
                parts = sorted(terms[:n_parts], key=lambda term: order[term[0]])
                common = math.gcd(*(slope for _, slope in parts))
                known.add(tuple((group, slope // common) for group, slope in parts))
    return known


def _guess_slopes(
    reader: _Reader, plans: Sequence[Mapping[str, int]], known: set[Terms]
) -> list[Terms] | None:
    """Find the slopes as multiples of known ones; None where a length fits none, or several."""
    try:
        losses = np.stack([reader.lost(plan) for plan in plans], axis=1)
    except ModelError:  # far from the dense widths; nearer by it may hold
        return None
    by_direction: dict[tuple[int, ...], tuple[Terms, int] | None] = {}
    for terms in known:
        loss = [sum(k * (reader.dense[g] - plan[g]) for g, k in terms) for plan in plans]
        if common := math.gcd(*loss):
            direction = tuple(value // common for value in loss)
            by_direction[direction] = None if direction in by_direction else (terms, common)
    slopes: list[Terms] = []
    for loss in losses.tolist():
        common = math.gcd(*loss)
        if not common:
            slopes.append(())
            continue
        found = by_direction.get(tuple(value // common for value in loss))
        if found is None or common % found[1]:
            return None
        terms, unit = found
        slopes.append(tuple((group, slope * (common // unit)) for group, slope in terms))
    return slopes


def _slopes_by_group(reader: _Reader, groups: Sequence[Group]) -> list[Terms]:
    """Find the slopes by one channel less of each group in turn."""
    losses = {g.name: reader.lost({g.name: g.channels - 1}) for g in groups}
    return [
        tuple((group, int(lost[at])) for group, lost in losses.items() if lost[at])
        for at in range(reader.n_lengths)
    ]
