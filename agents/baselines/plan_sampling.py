"""Plans out of the legal widths, as methods draw and vary them that sample whole plans."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep

__all__ = ["energy", "nearest_plan", "plan_towards", "random_direction", "with_moved_group"]

_PENALTY = 200.0  # of log latency, for each whole accuracy below the floor
_FARTHEST = 6.0  # exponent of the kept ratios that `plan_towards` goes to at most
_BISECTIONS = 20


def nearest_plan(widths: Sequence[Sequence[int]], wanted: NDArray[np.float64]) -> Plan:
    """Find the plan of legal widths next to those wanted.

    Args:
        widths: legal ones of each group, ascending.
        wanted: of each group, `(n_groups,)`.
    """
    nearest = [
        min(legal, key=functools.partial(_distance, width))
        for legal, width in zip(widths, wanted, strict=True)
    ]
    return Plan(tuple(nearest))


def _distance(width: float, other: float) -> float:
    return abs(width - other)


def plan_towards(session: SearchSession, direction: NDArray[np.float64], loss: float) -> Plan:
    """Go as far in a direction as a predicted loss allows, by bisection.

    Args:
        session: whose problem and widths.
        direction: weight of each group, `(n_groups,)`: kept ratios fall exponentially with it.
        loss: in accuracy.
    """
    dense = np.array(session.problem.network.dense.widths, float)

    def plan_at(distance: float) -> Plan:
        return nearest_plan(session.widths, dense * np.exp(-distance * direction))

    low = 0.0
    high = _FARTHEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if session.problem.predicted_loss(plan_at(middle)) <= loss:
            low = middle
        else:
            high = middle
    return plan_at(low)


def random_direction(
    session: SearchSession, spread: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw log-normal weights of the groups, for `plan_towards`."""
    return np.exp(rng.normal(0.0, spread, len(session.widths)))


def with_moved_group(session: SearchSession, plan: Plan, group: int, *, n_widths: int) -> Plan:
    """Make one group so many legal widths wider, or narrower, as far as there are any."""
    legal = session.widths[group]
    at = legal.index(plan.widths[group]) + n_widths
    return plan.with_width(group, legal[min(max(at, 0), len(legal) - 1)])


def energy(step: SearchStep, floor: float) -> float:
    """Score a step: log latency, and a penalty for what is missing of the floor.

    It is infinite where the accuracy was not asked for.
    """
    if step.accuracy is None or not math.isfinite(step.latency_s):
        return math.inf
    return math.log(step.latency_s) + _PENALTY * max(floor - step.accuracy, 0.0)
