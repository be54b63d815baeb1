"""Bisection of the latency target of a method that prunes to a given latency.

HALP and MDP are told a latency and find the plan of least predicted loss; here the floor is given,
the latency is sought, and each plan is measured. The first target is what the method's own model
believes to hold, so a few plans bracket the answer. Last come targets that leave some of the slack:
an oracle errs, and a method that staked all on plans at the floor has nothing where the final gate
refuses them.
"""

from __future__ import annotations

import math
from typing import Protocol

from cprune_rl.agents.baselines.width_milp import Solution
from cprune_rl.agents.core.session import SearchSession
from cprune_rl.core.search_result import SearchStep

__all__ = ["Planner", "seek_target"]

_STRIDE = 1.06  # between the first two targets; squared until one holds and one does not
_CLOSE = 1.002  # ratio of targets that are not worth a plan between them
_OVER = 1.01  # of a target: what measures slower was predicted wrongly
_ATTEMPTS = 3
_LOOSER = (1.1, 1.25, 1.5)  # times the target that held


class Planner(Protocol):
    """Prunes to a target by its model of the problem, as that is when it is asked."""

    def fastest_fitting(self) -> Solution | None:
        """Find the fastest plan whose predicted loss fits the slack; None where there is none."""

    def least_loss_within(self, latency_s: float) -> Solution | None:
        """Find the plan of least predicted loss within a latency; None where there is none."""


def seek_target(session: SearchSession, planner: Planner, max_plans: int) -> None:
    """Try plans for one target after another until the fastest that holds is found.

    Args:
        session: measures, evaluates and writes down.
        planner: makes the plans.
        max_plans: that are tried before the looser targets.

    Raises:
        DeviceError: the device is gone.
    """
    held_s = _bisect(session, planner, max_plans)
    for factor in _LOOSER:
        is_pruned = held_s < session.dense_s and factor * held_s < session.dense_s
        if is_pruned and not session.is_spent:
            _reach(session, planner, factor * held_s, faster_than_s=session.dense_s)


def _bisect(session: SearchSession, planner: Planner, max_plans: int) -> float:
    """Bisect the target; give the latency of the fastest plan that held, in seconds."""
    held_s = session.dense_s
    missed_s = 0.0
    stride = _STRIDE
    target_s = held_s / stride
    fitting = planner.fastest_fitting() if math.isfinite(held_s) else None
    if fitting is not None:
        target_s = min(session.problem.predicted_s(fitting.plan), target_s)
    while len(session.history) < max_plans and held_s > missed_s * _CLOSE and not session.is_spent:
        step = _reach(session, planner, target_s)
        if step is not None and step.accepted and step.latency_s < held_s:
            held_s = step.latency_s
        else:
            missed_s = target_s
        middle_s = math.sqrt(missed_s * held_s)
        if missed_s == 0.0:
            target_s = held_s / stride
        elif held_s == session.dense_s:
            target_s = min(missed_s * stride, middle_s)
        else:
            target_s = middle_s
        stride *= stride
    return held_s


def _reach(
    session: SearchSession, planner: Planner, target_s: float, faster_than_s: float | None = None
) -> SearchStep | None:
    """Try the plan for a target; where it is slower than predicted, try again.

    Predictions are corrected by what was measured. A plan is evaluated where it is faster than the
    best one or, if given, than `faster_than_s`.
    """
    step = None
    for n_left in reversed(range(_ATTEMPTS)):
        solution = None if session.is_spent else planner.least_loss_within(target_s)
        if solution is None:
            break
        limit_s = session.best.latency_s if faster_than_s is None else faster_than_s
        if n_left:
            limit_s = min(limit_s, _OVER * target_s)
        step = session.try_once(
            solution.plan,
            f"{target_s / session.dense_s:.1%} of the dense latency",
            why=f"predicted loss {session.problem.predicted_loss(solution.plan):.2%}",
            only_if_faster_than=limit_s,
        )
        if step.accuracy is not None:
            break
    return step
