"""Rewards of a step. Results are quoted for `gated`; the others are for research.

In a study on a simulator each of the others learned worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cprune_rl.errors import UnknownNameError

__all__ = ["REWARDS", "Outcome", "Reward", "get_reward"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step led to.

    Attributes:
        accepted: the plan that was tried holds the floor, and was kept.
        latency_before_s: estimate before the step.
        latency_after_s: estimate of the plan that was tried.
        accuracy: of the plan that was tried, in [0, 1].
        floor: accuracy that must hold.
    """

    accepted: bool
    latency_before_s: float
    latency_after_s: float
    accuracy: float
    floor: float


Reward = Callable[[Outcome], float]


def gated(outcome: Outcome) -> float:
    """Pay the log latency ratio of an accepted step, else 0.

    The return is exactly `log(latency at the start / final latency)`.
    """
    if not outcome.accepted:
        return 0.0
    return math.log(outcome.latency_before_s / outcome.latency_after_s)


def gated_with_cost(outcome: Outcome) -> float:
    """Pay as `gated` does, but take 0.01 for a rejection.

    Episodes need fewer accuracy evaluations, but the return is no log speed-up any more.
    """
    return gated(outcome) if outcome.accepted else -0.01


REWARDS: dict[str, Reward] = {"gated": gated, "gated-with-cost": gated_with_cost}


def get_reward(name: str) -> Reward:
    """Look a reward up.

    Raises:
        UnknownNameError: no reward has that name.
    """
    if name not in REWARDS:
        raise UnknownNameError("reward", name, REWARDS)
    return REWARDS[name]
