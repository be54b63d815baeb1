"""From a method that prunes to a given latency to one that holds a given accuracy:

bisection of the target, a true look at each.

HALP and MDP are told a latency and find the plan of least predicted loss; here the floor is given,
and the latency is sought. The first
target is what the method's own model believes to hold, so that a few looks bracket the answer. Last
come targets that leave some of the slack:
an oracle errs, and a method that has staked all on plans at the floor has nothing where the final
gate refuses them. Called by `halp` and `mdp`.
"""

from __future__ import annotations

import math
from typing import Protocol

from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep

__all__ = ["Planner", "seek_target"]

_STRIDE = 1.06  # between the first two targets; squared until one holds and one does not
_CLOSE = 1.002  # ratio of targets that are not worth a look between them
_OVER = 1.01  # of a target: what measures slower was predicted wrongly
_TRIES = 3
_LOOSER = (1.1, 1.25, 1.5)  # times the target that held


class Planner(Protocol):
    """What prunes to a target by its model of the problem, as that is when it is asked."""

    def fitting(self) -> Plan | None:
        """The fastest plan whose predicted loss fits into the slack; None where there is none."""

    def within(self, latency_s: float) -> Plan | None:
        """The plan of least predicted loss within a latency; None where there is none."""


def seek_target(looks: Looks, planner: Planner, most_looks: int) -> None:
    """Looks at plans for one target after another until the fastest that holds is found, or the
    budget is spent.

    Args:
        looks: measures, judges and writes down.
        planner: makes the plans.
        most_looks: at plans.

    Raises:
        DeviceError: the device is gone.
    """
    held_s, missed_s, stride = looks.dense_s, 0.0, _STRIDE
    fitting = planner.fitting() if math.isfinite(held_s) else None
    target_s = (
        held_s / stride if fitting is None else min(looks.predicted_s(fitting), held_s / stride)
    )
    while (
        len(looks.session.history) < most_looks
        and not looks.session.is_spent
        and held_s > missed_s * _CLOSE
    ):
        step = _reach(looks, planner, target_s)
        if step is not None and step.accepted and step.latency_s < held_s:
            held_s = step.latency_s
        else:
            missed_s = target_s
        if missed_s == 0.0:
            target_s = held_s / stride
        elif held_s == looks.dense_s:
            target_s = min(missed_s * stride, math.sqrt(missed_s * held_s))
        else:
            target_s = math.sqrt(missed_s * held_s)
        stride *= stride
    for factor in _LOOSER:
        if (
            held_s < looks.dense_s
            and factor * held_s < looks.dense_s
            and not looks.session.is_spent
        ):
            _reach(looks, planner, factor * held_s, looks.dense_s)


def _reach(
    looks: Looks, planner: Planner, target_s: float, most_s: float | None = None
) -> SearchStep | None:
    """A look at the plan for a target;

    where it is slower than predicted, at the next one, for predictions are mended by then.

    Its accuracy is asked for where it is faster than the best plan or, if given, than `most_s`.
    """
    step = None
    for left in reversed(range(_TRIES)):
        plan = None if looks.session.is_spent else planner.within(target_s)
        if plan is None:
            break
        below_s = min(
            looks.best_s if most_s is None else most_s, _OVER * target_s if left else math.inf
        )
        step = looks.take(
            plan,
            f"{target_s / looks.dense_s:.1%} of the dense latency",
            f"predicted loss {looks.predicted_loss(plan):.2%}",
            below_s,
        )
        if step.accuracy is not None:
            break
    return step
