"""From a search's accepted plans to the one that is kept: a fast one that truly holds.

Bisection along the latency-accuracy Pareto front finds it with few full fine-tunes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import AcceptedPlan

__all__ = ["back_off", "fastest_holding", "max_checks", "pareto_front"]


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


def max_checks(n_plans: int) -> int:
    """Bound how often `back_off` may ask: the fastest plan, then a bisection.

    Args:
        n_plans: of the front, the dense plan included.
    """
    return 1 + max(n_plans - 2, 0).bit_length()


def back_off(front: Sequence[AcceptedPlan], holds: Callable[[int], bool]) -> int:
    """Find the fastest plan that holds.

    The fastest is tried first. Where it fails, bisection goes towards the dense plan, which always
    holds.

    Args:
        front: from the dense plan to the fastest, as `pareto_front` gives it.
        holds: whether the plan at a position does; asked at most `max_checks` times, never of the
            dense plan.

    Returns:
        The position of the plan to keep.
    """
    low = 0
    high = len(front)
    at = len(front) - 1
    while high - low > 1:
        if holds(at):
            low = at
        else:
            high = at
        at = (low + high) // 2
    return low


def fastest_holding(
    accepted: Sequence[AcceptedPlan], holds: Callable[[Plan], bool]
) -> tuple[AcceptedPlan, int]:
    """Find the plan that a run would keep of a search.

    Args:
        accepted: by the search, the dense plan first.
        holds: whether a plan truly holds; never asked of the dense plan.

    Returns:
        The plan, and how often `holds` was asked: in a run, each is a full fine-tune.
    """
    front = pareto_front(accepted)
    asked: list[int] = []

    def is_holding(at: int) -> bool:
        asked.append(at)
        return holds(front[at].plan)

    return front[back_off(front, is_holding)], len(asked)
