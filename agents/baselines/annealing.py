"""Simulated annealing over measured plans: no model of losses, none of latencies.

It does on the problem what the agent's surrogate does in a model. A plan is evaluated where its
latency alone does not decide that it is turned down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import energy, plan_towards, with_moved_group
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan

__all__ = ["Annealing"]


@dataclass(frozen=True)
class Annealing(SessionSearcher):
    """Anneals widths of groups.

    Attributes:
        max_plans: that are tried.
        heat: temperature at the start, in log latency.
        seed: of all that is drawn.
    """

    max_plans: int = 200
    heat: float = 0.05
    seed: int = 0

    name = "annealing"

    def run(self, session: SearchSession) -> None:
        """Start from a uniform plan that is predicted to hold, and cool."""
        rng = np.random.default_rng(self.seed)
        floor = session.problem.floor
        uniform = np.ones(len(session.widths))
        start = plan_towards(session, uniform, session.problem.slack / 2)
        step = session.try_once(start, "start")
        for number in range(self.max_plans):
            if session.is_spent:
                break
            temperature = self.heat * (1 - number / self.max_plans) + 1e-4
            # Metropolis' threshold, drawn beforehand, so that a plan too slow is not evaluated.
            bar = energy(step, floor) - temperature * math.log(max(rng.random(), 1e-12))
            candidate = session.try_once(
                _neighbour(session, step.plan, rng),
                f"step {number + 1}",
                only_if_faster_than=math.exp(min(bar, 50.0)),
            )
            if energy(candidate, floor) < bar:
                step = candidate


def _neighbour(session: SearchSession, plan: Plan, rng: np.random.Generator) -> Plan:
    """One group narrower, or one narrower and one wider; three in ten go the other way."""
    groups = rng.permutation(len(plan.widths))
    n_groups = 1 + int(rng.random() < 0.5)
    for group, sign in zip(groups[:n_groups], (-1, 1), strict=False):
        direction = sign if rng.random() < 0.7 else -sign
        n_widths = direction * int(rng.choice((1, 1, 2, 4)))
        plan = with_moved_group(session, plan, int(group), n_widths=n_widths)
    return plan
