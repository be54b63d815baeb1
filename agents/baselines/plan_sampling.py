"""Plans out of a space of legal widths, as searches draw and vary them that sample whole plans.

Called by `uniform`, `random_search`, `evolution` and `annealing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep

__all__ = ["energy", "moved", "nearest", "random_direction", "towards"]

_PENALTY = 200.0  # of log latency, for each whole accuracy below the floor


def nearest(widths: Sequence[Sequence[int]], wanted: NDArray[np.float64]) -> Plan:
    """The plan of legal widths next to those wanted.

    Args:
        widths: legal ones of each group, ascending.
        wanted: of each group, `(n_groups,)`.
    """
    return Plan(
        tuple(
            min(legal, key=lambda w: abs(w - aim))
            for legal, aim in zip(widths, wanted, strict=True)
        )
    )


def towards(looks: Looks, direction: NDArray[np.float64], loss: float) -> Plan:
    """The plan that goes as far in a direction as a predicted loss allows, by bisection.

    Args:
        looks: whose widths.
        direction: weight of each group, `(n_groups,)`: kept ratios fall exponentially with it.
        loss: in accuracy.
    """
    dense = np.array(looks.problem.network.dense.widths, float)
    low, high = 0.0, 6.0
    for _ in range(20):
        middle = (low + high) / 2
        fits = (
            looks.predicted_loss(nearest(looks.widths, dense * np.exp(-middle * direction))) <= loss
        )
        low, high = (middle, high) if fits else (low, middle)
    return nearest(looks.widths, dense * np.exp(-low * direction))


def random_direction(looks: Looks, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Log-normal weights of the groups, for `towards`."""
    return np.exp(rng.normal(0.0, spread, len(looks.widths)))


def moved(widths: Sequence[Sequence[int]], plan: Plan, group: int, by: int) -> Plan:
    """The plan with one group so many legal widths wider, or narrower, as far as there are any."""
    legal = widths[group]
    return plan.with_width(
        group, legal[min(max(legal.index(plan.widths[group]) + by, 0), len(legal) - 1)]
    )


def energy(step: SearchStep, floor: float) -> float:
    """Log latency, and a penalty for what is missing of the floor;

    infinite where the accuracy was not asked.
    """
    if step.accuracy is None or not math.isfinite(step.latency_s):
        return math.inf
    return math.log(step.latency_s) + _PENALTY * max(floor - step.accuracy, 0.0)
