"""Regularised evolution (Real et al., AAAI 2019) of plans:

tournaments, mutations, crossovers, the oldest dies.

Every plan is measured and its accuracy asked for: a population needs to know how good its slower
and its failing members are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import energy, moved, random_direction, towards
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.envs.problem import Problem

__all__ = ["Evolution"]


class Evolution:
    """See the module (and `searcher.Searcher`).

    Args:
        population: plans alive.
        tournament: of which the best has a child.
        n_looks: plans at most.
        seed: of all that is drawn.
    """

    name = "evolution"

    def __init__(
        self, population: int = 24, tournament: int = 6, n_looks: int = 200, seed: int = 0
    ) -> None:
        self._population, self._tournament, self._n_looks, self._seed = (
            population,
            tournament,
            n_looks,
            seed,
        )

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Draws a population and lets it evolve."""
        looks, rng = Looks(problem, budget, on_step), np.random.default_rng(self._seed)
        alive: deque[SearchStep] = deque(maxlen=self._population)
        for number in range(self._n_looks):
            if looks.session.is_spent:
                break
            if number < self._population:
                child, what = (
                    towards(
                        looks,
                        random_direction(looks, 0.4, rng),
                        looks.slack * rng.uniform(0.3, 1.2),
                    ),
                    "first generation",
                )
            else:
                child, what = self._child(looks, alive, rng), "child"
            alive.append(looks.take(child, f"{what} {number + 1}"))
        return looks.session.result(self.name)

    def _child(self, looks: Looks, alive: Sequence[SearchStep], rng: np.random.Generator) -> Plan:
        """Of the best of a tournament, crossed with another's in half of the cases, and mutated:

        one to three groups.
        """
        mother, father = (self._chosen(alive, looks.problem.floor, rng).plan for _ in range(2))
        widths = zip(mother.widths, father.widths, strict=True)
        child = (
            Plan(tuple(m if rng.random() < 0.5 else f for m, f in widths))
            if rng.random() < 0.5
            else mother
        )
        for group in rng.choice(
            len(child.widths), min(int(rng.integers(1, 4)), len(child.widths)), replace=False
        ):
            child = moved(looks.widths, child, int(group), int(rng.choice((-4, -2, -1, 1, 2, 4))))
        return child

    def _chosen(
        self, alive: Sequence[SearchStep], floor: float, rng: np.random.Generator
    ) -> SearchStep:
        members = [
            alive[int(i)]
            for i in rng.choice(len(alive), min(self._tournament, len(alive)), replace=False)
        ]
        return min(members, key=lambda step: energy(step, floor))
