"""Simulated annealing on a model of the problem: predicted latency within believed losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_belief import LossBelief
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.envs.planning.plan_spaces import PlanSpace
from cprune_rl.envs.problem import Problem

__all__ = ["ExpectedLossLimit", "LossLimit", "ModelAnnealing", "RiskLimit"]

_EXCESS_PENALTY = 200.0  # of log latency, for a whole accuracy too much: two for each point
_FIRST_HEAT = 0.08  # temperature at the start, in log latency, from where the search begins
_HEAT = 0.02  # the same from a plan that was verified
_LEAST_HEAT = 1e-5


class LossLimit(Protocol):
    """What a plan may lose, by some belief."""

    def excess(self, plan: Plan) -> float:
        """Give the loss beyond what is allowed, in accuracy; 0 or less where a plan fits."""


@dataclass(frozen=True)
class ExpectedLossLimit:
    """Allows a loss, by a loss model."""

    network: Network
    loss_model: LossModel
    allowed: float

    def excess(self, plan: Plan) -> float:
        """Compare the expected loss with what is allowed."""
        return self.loss_model.plan_loss(self.network, plan) - self.allowed


@dataclass(frozen=True)
class RiskLimit:
    """Allows a loss, some standard deviations of the belief kept in hand."""

    belief: LossBelief
    n_deviations: float
    allowed: float

    def excess(self, plan: Plan) -> float:
        """Compare the expected loss, and the deviations above it, with what is allowed."""
        loss, deviation = self.belief.expected(plan)
        return loss + self.n_deviations * deviation - self.allowed


@dataclass(frozen=True, eq=False, kw_only=True)
class _State:
    """A plan as the annealing moves it.

    Attributes:
        vector: of the plan space.
        plan: the same as a plan.
        costs: predicted seconds of each subgraph.
        latency_s: their sum.
        excess: loss beyond what is allowed, by the strictest limit; at most 0 where a plan fits.
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
        limits: Sequence[LossLimit],
        start: Plan,
        *,
        n_steps: int,
        faster_than_s: float,
        tried: set[Plan],
        rng: np.random.Generator,
    ) -> Plan | None:
        """Anneal from a plan.

        Args:
            limits: all of which a plan must fit.
            start: where to begin.
            faster_than_s: predicted latency that a plan must beat.
            n_steps: of the annealing.
            tried: plans that are no answer.
            rng: what is drawn from.

        Returns:
            The fastest plan that fits and was not tried; None where there is none.
        """
        heat = _FIRST_HEAT if start == self._problem.start_plan else _HEAT
        state = self._start(start, limits)
        best = None
        best_s = faster_than_s
        for step in range(n_steps):
            temperature = heat * (1 - step / n_steps) ** 2 + _LEAST_HEAT
            neighbour = self._neighbour(state, limits, rng, n_changes=2 if step % 3 == 0 else 1)
            rise = neighbour.energy - state.energy
            if rise < 0 or rng.random() < math.exp(-min(rise / temperature, 50.0)):
                state = neighbour
                if state.latency_s < best_s and state.plan not in tried and state.excess <= 0:
                    best = state.plan
                    best_s = state.latency_s
        return best

    def _start(self, plan: Plan, limits: Sequence[LossLimit]) -> _State:
        vector = self._space.encode(plan)
        plan = self._space.decode(vector)
        predicted = self._problem.latency.predict(self._problem.network.workloads(plan))
        costs = np.array([c.latency_s for c in predicted])
        return self._state(vector, plan, costs=costs, limits=limits)

    def _neighbour(
        self, state: _State, limits: Sequence[LossLimit], rng: np.random.Generator, n_changes: int
    ) -> _State:
        vector, changed = self._space.neighbour(state.vector, rng, n_changes)
        plan = self._space.decode(vector)
        workloads = self._problem.network.workloads_of(changed, plan)
        costs = state.costs.copy()
        costs[list(changed)] = [c.latency_s for c in self._problem.latency.predict(workloads)]
        return self._state(vector, plan, costs=costs, limits=limits)

    def _state(
        self,
        vector: NDArray[np.int64],
        plan: Plan,
        *,
        costs: NDArray[np.float64],
        limits: Sequence[LossLimit],
    ) -> _State:
        latency_s = float(costs.sum())
        excess = max(limit.excess(plan) for limit in limits)
        return _State(
            vector=vector,
            plan=plan,
            costs=costs,
            latency_s=latency_s,
            excess=excess,
            energy=math.log(latency_s) + _EXCESS_PENALTY * max(excess, 0.0),
        )
