"""Regularised evolution of plans (Real et al., AAAI 2019), where the oldest plan dies.

Every plan is measured and evaluated: a population needs to know how good its slower and its failing
members are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import (
    energy,
    plan_towards,
    random_direction,
    with_moved_group,
)
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep

__all__ = ["Evolution"]


@dataclass(frozen=True, kw_only=True)
class Evolution(SessionSearcher):
    """Evolves widths of groups by tournaments, crossovers and mutations.

    Attributes:
        population: plans alive.
        tournament: plans of which the best has a child.
        max_plans: that are tried.
        seed: of all that is drawn.
    """

    population: int = 24
    tournament: int = 6
    max_plans: int = 200
    seed: int = 0

    name = "evolution"

    def run(self, session: SearchSession) -> None:
        """Draw a population and let it evolve."""
        rng = np.random.default_rng(self.seed)
        alive: deque[SearchStep] = deque(maxlen=self.population)
        for number in range(self.max_plans):
            if session.is_spent:
                break
            if number < self.population:
                direction = random_direction(session, 0.4, rng)
                loss = session.problem.slack * rng.uniform(0.3, 1.2)
                plan = plan_towards(session, direction, loss)
                what = "first generation"
            else:
                plan = self._child(session, alive, rng)
                what = "child"
            alive.append(session.try_once(plan, f"{what} {number + 1}"))

    def _child(
        self, session: SearchSession, alive: Sequence[SearchStep], rng: np.random.Generator
    ) -> Plan:
        """Breed from the best of two tournaments, and mutate one to three groups.

        Half of the children are copies of the first, half are crossed with the second.
        """
        mother = self._winner(session, alive, rng).plan
        father = self._winner(session, alive, rng).plan
        child = mother
        if rng.random() < 0.5:
            widths = zip(mother.widths, father.widths, strict=True)
            child = Plan(tuple(m if rng.random() < 0.5 else f for m, f in widths))
        n_mutated = min(int(rng.integers(1, 4)), len(child.widths))
        for group in rng.choice(len(child.widths), n_mutated, replace=False):
            n_widths = int(rng.choice((-4, -2, -1, 1, 2, 4)))
            child = with_moved_group(session, child, int(group), n_widths=n_widths)
        return child

    def _winner(
        self, session: SearchSession, alive: Sequence[SearchStep], rng: np.random.Generator
    ) -> SearchStep:
        """Draw a tournament; its best member."""
        size = min(self.tournament, len(alive))
        members = [alive[int(at)] for at in rng.choice(len(alive), size, replace=False)]
        return min(members, key=lambda step: energy(step, session.problem.floor))
