"""Random plans that are predicted to use about the slack:

the baseline that a clever search has to beat.

A random direction is gone in as far as the predicted losses allow, so that no look is wasted
on plans that lose ten times
too much or hardly anything.
"""

from __future__ import annotations

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import random_direction, towards
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["RandomSearch"]


class RandomSearch:
    """See the module (and `searcher.Searcher`).

    Args:
        n_looks: plans at most.
        seed: of the draws.
    """

    name = "random"

    def __init__(self, n_looks: int = 200, seed: int = 0) -> None:
        self._n_looks, self._seed = n_looks, seed

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Draws and looks."""
        looks, rng = Looks(problem, budget, on_step), np.random.default_rng(self._seed)
        for number in range(self._n_looks):
            if looks.session.is_spent:
                break
            plan = towards(
                looks, random_direction(looks, 0.6, rng), looks.slack * rng.uniform(0.3, 1.3)
            )
            looks.take(plan, f"draw {number + 1}", below_s=looks.best_s)
        return looks.session.result(self.name)
