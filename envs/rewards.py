"""Rewards: what a step of the environment pays. `gated` is the one results are quoted for.

The others exist for research; in a study on a simulator each of them learned worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cprune_rl.errors import UnknownNameError

__all__ = ["REWARDS", "Outcome", "get_reward"]


@dataclass(frozen=True)
class Outcome:
    """What a step led to.

    Attributes:
        accepted: the gate held and the plan was kept.
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
    """Log latency ratio of an accepted step, else 0: the return is exactly `log(dense / final)`."""
    return math.log(outcome.latency_before_s / outcome.latency_after_s) if outcome.accepted else 0.0


def gated_with_cost(outcome: Outcome) -> float:
    """As `gated`, less 0.01 for a rejection:

    fewer accuracy evaluations, but the return no longer telescopes.
    """
    return gated(outcome) if outcome.accepted else -0.01


REWARDS: dict[str, Reward] = {"gated": gated, "gated-with-cost": gated_with_cost}


def get_reward(name: str) -> Reward:
    """Looks a reward up.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in REWARDS:
        raise UnknownNameError("reward", name, REWARDS)
    return REWARDS[name]
