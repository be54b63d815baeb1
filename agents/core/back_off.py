"""From a search's plans to the one that is kept: a fast one that the final gate lets pass.

A search that asks the gate itself has the answer. For any other one, bisection along the
latency-accuracy Pareto front of its accepted plans finds it with few full fine-tunes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import AcceptedPlan, SearchResult

__all__ = [
    "back_off",
    "fastest_passing",
    "fastest_verified",
    "kept_plan",
    "max_checks",
    "pareto_front",
]

Passes = Callable[[Plan, int], bool]
"""Whether the final gate lets a plan's network pass, and how often at most it is asked."""


def pareto_front(accepted: Sequence[AcceptedPlan]) -> list[AcceptedPlan]:
    """Keep the accepted plans that no other one beats in both latency and accuracy.

    Args:
        accepted: the dense plan first.

    Returns:
        From the dense plan to the fastest. The dense plan stays whatever its accuracy.
    """
    front: list[AcceptedPlan] = [accepted[0]]
    for plan in sorted(accepted[1:], key=lambda a: (-a.latency_s, a.accuracy)):
        if plan.latency_s < front[0].latency_s:
            while len(front) > 1 and front[-1].accuracy <= plan.accuracy:
                front.pop()  # slower and no more accurate
            front.append(plan)
    return front


def max_checks(n_plans: int, most: int | None = None) -> int:
    """Bound how often `back_off` may ask: the fastest plan, then a bisection.

    Args:
        n_plans: of the front, the dense plan included.
        most: looks that are paid for; None is no limit.
    """
    checks = 1 + max(n_plans - 2, 0).bit_length()
    return checks if most is None else min(checks, most)


def back_off(
    front: Sequence[AcceptedPlan], holds: Callable[[int], bool], most: int | None = None
) -> int:
    """Find the fastest plan that holds.

    The fastest is tried first. Where it fails, bisection goes towards the dense plan, which always
    holds.

    Args:
        front: from the dense plan to the fastest, as `pareto_front` gives it.
        holds: whether the plan at a position does; asked at most `max_checks` times, never of the
            dense plan.
        most: looks that are paid for; None is no limit.

    Returns:
        The position of the plan to keep.
    """
    low = 0
    high = len(front)
    at = len(front) - 1
    for _ in range(max_checks(len(front), most)):
        if high - low <= 1:
            break
        if holds(at):
            low = at
        else:
            high = at
        at = (low + high) // 2
    return low


def fastest_verified(result: SearchResult) -> AcceptedPlan:
    """Give the fastest plan that passed the final gate within a search; else the dense one."""
    passed = [
        AcceptedPlan(step.plan, step.latency_s, step.accuracy)
        for step in result.looks
        if step.accepted and step.accuracy is not None
    ]
    return min([result.accepted[0], *passed], key=lambda a: a.latency_s)


def fastest_passing(
    accepted: Sequence[AcceptedPlan], passes: Passes, most: int | None = None
) -> tuple[AcceptedPlan, int]:
    """Find the fastest of a search's accepted plans that passes the final gate after the search.

    Args:
        accepted: the dense plan first.
        passes: asks the gate; never about the dense plan.
        most: looks that are paid for; None is no limit.

    Returns:
        The plan, and how often `passes` was asked: in a run, each is a full fine-tune.
    """
    front = pareto_front(accepted)
    n_checks = max_checks(len(front), most)
    asked: list[int] = []

    def holds(at: int) -> bool:
        asked.append(at)
        return passes(front[at].plan, n_checks)

    return front[back_off(front, holds, most)], len(asked)


def kept_plan(
    result: SearchResult, passes: Passes, most: int | None = None
) -> tuple[AcceptedPlan, int]:
    """Find the plan that a run would keep of a search, be it verified within the search or after.

    The arguments, and what is returned, are those of `fastest_passing`.
    """
    if result.looks:
        return fastest_verified(result), 0
    return fastest_passing(result.accepted, passes, most)
