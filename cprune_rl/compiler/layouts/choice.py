"""Chooses a variant for each subgraph of a network.

Where two neighbours differ in layout a map is transposed between them, so the choice is one for the
whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from cprune_rl.compiler.layouts.variants import (
    IMAGE,
    IMAGE_LAYOUT,
    LayoutVariants,
    Transpose,
    VariantChoice,
)

__all__ = ["choose_variants"]

_NEVER = 1e3  # price of a variant that does not run, in those of the costliest task


def choose_variants(
    variants: LayoutVariants,
    costs: Sequence[Mapping[int, float]],
    transpose_s: Callable[[Transpose], float],
) -> VariantChoice:
    """Choose the variants with the least sum of tasks and transposes.

    Args:
        variants: the network in every variant.
        costs: for each subgraph the seconds of each variant that may be taken.
        transpose_s: seconds of a transpose.
    """
    fastest = variants.choice([min(c, key=c.__getitem__) for c in costs])
    if not fastest.transposes:
        return fastest
    solved = _solve(variants, costs, transpose_s)
    return fastest if solved is None else variants.choice(solved)


def _solve(
    variants: LayoutVariants,
    costs: Sequence[Mapping[int, float]],
    transpose_s: Callable[[Transpose], float],
) -> tuple[int, ...] | None:
    """Choose a variant for each subgraph by a mixed-integer program.

    It has a variable for each subgraph and variant, then one for each possible transpose.

    Returns:
        None where the solver finds no choice.
    """
    pairs = [(subgraph, variant) for subgraph, c in enumerate(costs) for variant in c]
    columns = {pair: column for column, pair in enumerate(pairs)}
    read = dict.fromkeys(transpose for pair in pairs for transpose in variants.maps_read(*pair))
    writers = {transpose: _other_writers(variants, costs, transpose) for transpose in read}
    possible = [transpose for transpose in read if writers[transpose] is not None]
    positions = {transpose: column for column, transpose in enumerate(possible, start=len(pairs))}
    prices = [costs[subgraph][variant] for subgraph, variant in pairs]
    prices += [transpose_s(transpose) for transpose in possible]

    def constraint(plus: list[int], minus: list[int], low: float, high: float) -> LinearConstraint:
        weights = np.zeros(len(prices))
        weights[plus] = 1.0
        weights[minus] = -1.0
        return LinearConstraint(weights, low, high)

    constraints = []
    for subgraph, c in enumerate(costs):
        taken = [columns[subgraph, variant] for variant in c]
        constraints.append(constraint(taken, [], low=1.0, high=1.0))
    for pair, reader in columns.items():
        for transpose in variants.maps_read(*pair):
            if transpose not in positions:
                continue
            # Needed where the reader is taken and the map's source writes another layout.
            others = [columns[writer] for writer in writers[transpose] or ()]
            low = 0.0 if transpose.source == IMAGE else -1.0
            needed = constraint([positions[transpose]], [reader, *others], low=low, high=np.inf)
            constraints.append(needed)
    solved = milp(
        _objective(prices),
        constraints=constraints,
        integrality=np.ones(len(prices)),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        return None
    chosen = []
    for subgraph, c in enumerate(costs):
        solution = {variant: solved.x[columns[subgraph, variant]] for variant in c}
        chosen.append(max(solution, key=solution.__getitem__))
    return tuple(chosen)


def _other_writers(
    variants: LayoutVariants, costs: Sequence[Mapping[int, float]], transpose: Transpose
) -> list[tuple[int, int]] | None:
    """Return the subgraph and variant of each that writes the map in another layout.

    Returns:
        None where the map is always in the wanted layout, and no transpose is needed.
    """
    source = transpose.source
    if source == IMAGE:
        return None if transpose.layout == IMAGE_LAYOUT else []
    others = [
        (source, variant)
        for variant in costs[source]
        if variants.layout_written(source, variant) != transpose.layout
    ]
    return others or None


def _objective(prices: Sequence[float]) -> NDArray[np.float64]:
    """Scale prices by the highest; a variant that does not run is dearer than any."""
    seconds = np.array(prices)
    is_finite = np.isfinite(seconds)
    return np.where(is_finite, seconds / seconds[is_finite].max(), _NEVER)
