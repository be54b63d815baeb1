"""Random plans that are predicted to use about the slack: the baseline that a clever search beats.

A random direction is gone in as far as the predicted losses allow, so that nothing is spent on
plans that lose ten times too much or hardly anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import plan_towards, random_direction
from cprune_rl.agents.core.session import SearchSession, SessionSearcher

__all__ = ["RandomSearch"]


@dataclass(frozen=True)
class RandomSearch(SessionSearcher):
    """Tries random plans.

    Attributes:
        max_plans: that are tried.
        seed: of the draws.
    """

    max_plans: int = 200
    seed: int = 0

    name = "random"

    def run(self, session: SearchSession) -> None:
        """Draw a plan and try it, again and again."""
        rng = np.random.default_rng(self.seed)
        for number in range(self.max_plans):
            if session.is_spent:
                break
            direction = random_direction(session, 0.6, rng)
            loss = session.problem.slack * rng.uniform(0.3, 1.3)
            session.try_once(
                plan_towards(session, direction, loss),
                f"draw {number + 1}",
                only_if_faster_than=session.best.latency_s,
            )
