"""Simulated annealing over plans by true looks alone: no model of losses, none of latencies.

What the agent's surrogate does in a model, this does on the problem. An accuracy is asked for where
the latency alone does not
decide that a neighbour is turned down.
"""

from __future__ import annotations

import math

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import energy, moved, towards
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["Annealing"]


class Annealing:
    """See the module (and `searcher.Searcher`).

    Args:
        n_looks: plans at most.
        heat: temperature at the start, in log latency.
        seed: of all that is drawn.
    """

    name = "annealing"

    def __init__(self, n_looks: int = 200, heat: float = 0.05, seed: int = 0) -> None:
        self._n_looks, self._heat, self._seed = n_looks, heat, seed

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Starts from a uniform plan that is predicted to hold, and cools."""
        looks, rng = Looks(problem, budget, on_step), np.random.default_rng(self._seed)
        now = looks.take(towards(looks, np.ones(len(looks.widths)), looks.slack / 2), "start")
        for number in range(self._n_looks):
            if looks.session.is_spent:
                break
            temperature = self._heat * (1 - number / self._n_looks) + 1e-4
            bar = energy(now, problem.floor) - temperature * math.log(
                max(rng.random(), 1e-12)
            )  # Metropolis, drawn beforehand
            next_ = looks.take(
                self._neighbour(now.plan, looks, rng),
                f"look {number + 1}",
                below_s=math.exp(min(bar, 50.0)),
            )
            if energy(next_, problem.floor) < bar:
                now = next_
        return looks.session.result(self.name)

    def _neighbour(self, plan: Plan, looks: Looks, rng: np.random.Generator) -> Plan:
        """One group narrower, or one narrower and one wider."""
        for group, sign in zip(
            rng.permutation(len(plan.widths))[: 1 + int(rng.random() < 0.5)], (-1, 1), strict=False
        ):
            direction = sign if rng.random() < 0.7 else -sign
            plan = moved(looks.widths, plan, int(group), direction * int(rng.choice((1, 1, 2, 4))))
        return plan
