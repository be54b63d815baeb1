"""Simulated annealing on a model of the problem: predicted latency within believed losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.planner.plan_spaces import PlanSpace
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.envs.problem import Problem

__all__ = ["LossBelief", "ModelAnnealing"]

_EXCESS_PENALTY = 200.0  # of log latency, for a whole accuracy too much: two for each point
_FIRST_HEAT = 0.08  # temperature at the start, in log latency, from where the search begins
_HEAT = 0.02  # the same from a plan that was verified
_LEAST_HEAT = 1e-5


@dataclass(frozen=True)
class LossBelief:
    """A belief about losses, and how much it allows to be lost."""

    loss_model: LossModel
    allowed: float


@dataclass(frozen=True, eq=False, kw_only=True)
class _State:
    """A plan as the annealing moves it.

    Attributes:
        vector: of the plan space.
        plan: the same as a plan.
        costs: predicted seconds of each subgraph.
        latency_s: their sum.
        excess: loss beyond what is allowed, by the strictest belief; at most 0 where a plan fits.
        energy: what is annealed: log latency, and a penalty for the excess.
    """

    vector: NDArray[np.int64]
    plan: Plan
    costs: NDArray[np.float64]
    latency_s: float
    excess: float
    energy: float


class ModelAnnealing:
    """Looks for the plan of least predicted latency whose believed loss fits.

    Args:
        problem: whose predicted latencies are read.
        space: the plans.
    """

    def __init__(self, problem: Problem, space: PlanSpace) -> None:
        self._problem = problem
        self._space = space

    def run(
        self,
        beliefs: Sequence[LossBelief],
        start: Plan,
        *,
        n_steps: int,
        faster_than_s: float,
        tried: set[Plan],
        rng: np.random.Generator,
    ) -> Plan | None:
        """Anneal from a plan.

        Args:
            beliefs: all of which a plan must fit.
            start: where to begin.
            faster_than_s: predicted latency that a plan must beat.
            n_steps: of the annealing.
            tried: plans that are no answer.
            rng: what is drawn from.

        Returns:
            The fastest plan that fits and was not tried; None where there is none.
        """
        heat = _FIRST_HEAT if start == self._problem.start_plan else _HEAT
        state = self._start(start, beliefs)
        best = None
        best_s = faster_than_s
        for step in range(n_steps):
            temperature = heat * (1 - step / n_steps) ** 2 + _LEAST_HEAT
            neighbour = self._neighbour(state, beliefs, rng, n_changes=2 if step % 3 == 0 else 1)
            rise = neighbour.energy - state.energy
            if rise < 0 or rng.random() < math.exp(-min(rise / temperature, 50.0)):
                state = neighbour
                if state.latency_s < best_s and state.plan not in tried and state.excess <= 0:
                    best = state.plan
                    best_s = state.latency_s
        return best

    def _start(self, plan: Plan, beliefs: Sequence[LossBelief]) -> _State:
        vector = self._space.encode(plan)
        plan = self._space.decode(vector)
        predicted = self._problem.latency.predict(self._problem.network.workloads(plan))
        costs = np.array([c.latency_s for c in predicted])
        return self._state(vector, plan, costs=costs, beliefs=beliefs)

    def _neighbour(
        self, state: _State, beliefs: Sequence[LossBelief], rng: np.random.Generator, n_changes: int
    ) -> _State:
        vector, changed = self._space.neighbour(state.vector, rng, n_changes)
        plan = self._space.decode(vector)
        workloads = self._problem.network.workloads_of(changed, plan)
        costs = state.costs.copy()
        costs[list(changed)] = [c.latency_s for c in self._problem.latency.predict(workloads)]
        return self._state(vector, plan, costs=costs, beliefs=beliefs)

    def _state(
        self,
        vector: NDArray[np.int64],
        plan: Plan,
        *,
        costs: NDArray[np.float64],
        beliefs: Sequence[LossBelief],
    ) -> _State:
        latency_s = float(costs.sum())
        excess = max(
            float(belief.loss_model.unit_losses(self._problem.network, plan).sum()) - belief.allowed
            for belief in beliefs
        )
        return _State(
            vector=vector,
            plan=plan,
            costs=costs,
            latency_s=latency_s,
            excess=excess,
            energy=math.log(latency_s) + _EXCESS_PENALTY * max(excess, 0.0),
        )
