"""A problem as a model has it:

what is predicted stands for what would be measured, what is expected for what an oracle would say.

Walking through it costs nothing: no look at the device, no evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan, Workload
from cprune_rl.core.protocols import LatencySource, Spending, TaskCost
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle

__all__ = ["model_problem"]


class _ModelLatency:
    """Cheap looks in the place of true ones (see `protocols.LatencySource`)."""

    def __init__(self, problem: Problem) -> None:
        self._latency: LatencySource = problem.latency
        self._network = problem.network
        self.spending = Spending()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Each subgraph's cost, as far as it is known."""
        return self._latency.predict(self._network.workloads(plan))

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """The same."""
        return self._latency.predict(workloads)


def model_problem(problem: Problem, loss_model: LossModel) -> Problem:
    """The problem with nothing left to pay for.

    Args:
        problem: whose cheap looks are believed.
        loss_model: what each group is believed to lose.
    """
    oracle = LossModelOracle(problem.network, loss_model, problem.dense_accuracy)
    return replace(problem, latency=_ModelLatency(problem), oracle=oracle, loss_model=loss_model)
