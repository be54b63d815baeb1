"""From a search's accepted plans to the one that is kept:

a fast one that truly holds, found by bisection with few full fine-tunes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cprune_rl.agents.core.searcher import AcceptedPlan

__all__ = ["back_off", "ladder", "most_asked"]


def ladder(accepted: Sequence[AcceptedPlan]) -> list[AcceptedPlan]:
    """Accepted plans from the dense one to the fastest, each of them the most accurate among those
    as fast.

    Args:
        accepted: the dense plan first.
    """
    rungs: list[AcceptedPlan] = [accepted[0]]
    for plan in sorted(accepted[1:], key=lambda a: (-a.latency_s, a.accuracy)):
        if plan.latency_s < rungs[0].latency_s:
            while len(rungs) > 1 and rungs[-1].accuracy <= plan.accuracy:
                rungs.pop()  # slower and no more accurate
            rungs.append(plan)
    return rungs


def most_asked(n_rungs: int) -> int:
    """How often `back_off` may ask: the fastest plan, then a bisection.

    Args:
        n_rungs: of the ladder, the dense plan included.
    """
    return 1 + max(n_rungs - 2, 0).bit_length()


def back_off(rungs: Sequence[AcceptedPlan], holds: Callable[[int], bool]) -> int:
    """The rung to keep: the fastest is tried first;

    where it fails, bisection towards the dense plan, which always holds.

    Args:
        rungs: see `ladder`.
        holds: whether a rung does; asked `most_asked` times at most, never of the dense plan.

    Returns:
        Its position.
    """
    low, high, at = 0, len(rungs), len(rungs) - 1
    while high - low > 1:
        if holds(at):
            low = at
        else:
            high = at
        at = (low + high) // 2
    return low
