"""HALP (Shen et al., NeurIPS 2022):

prune to a latency by a knapsack of importance and latency, layer by layer.

The latency of a layer is a function of the channels that it writes alone: what it reads is as wide
as it is in the current plan, so
that the knapsack is separable. The target is approached in steps, and the latencies are looked up
anew at each; channels do not come back.
Stronger than as published: the knapsack is solved by `width_program`, not group by group of
channels. Importance is the predicted loss,
which is what every other method here is shown.
"""

from __future__ import annotations

from cprune_rl.agents.baselines.latency_target import seek_target
from cprune_rl.agents.baselines.width_milp import Effort, Solution, WidthProgram
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["HALP"]

_EFFORT = Effort(time_limit_s=5.0, relative_gap=1e-4)


class HALP:
    """See the module (and `searcher.Searcher`).

    Args:
        n_steps: from the dense network to a target.
        most_looks: at plans.
    """

    name = "halp"

    def __init__(self, n_steps: int = 10, most_looks: int = 20) -> None:
        self._n_steps, self._most_looks = n_steps, most_looks

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Seeks the lowest latency target whose plan holds (see `searcher.Searcher`)."""
        looks = Looks(problem, budget, on_step)
        seek_target(looks, _Knapsack(looks, self._n_steps), self._most_looks)
        return looks.session.result(self.name)


class _Knapsack:
    """Plans by separable programs (see `latency_targets.Planner`)."""

    def __init__(self, looks: Looks, n_steps: int) -> None:
        self._looks = looks
        self._written = [
            tuple(sorted(units)) for units in looks.problem.network.channel_multipliers
        ]
        self._shares = [(step + 1) / n_steps for step in range(n_steps)]

    def fitting(self) -> Plan | None:
        """The slack is given away bit by bit."""
        plan: Plan | None = self._looks.problem.network.dense
        for share in self._shares:
            plan = (
                _plan_of(self._program(plan).least_latency(share * self._looks.slack, _EFFORT))
                if plan
                else None
            )
        return plan

    def within(self, latency_s: float) -> Plan | None:
        """The target is approached bit by bit."""
        plan: Plan | None = self._looks.problem.network.dense
        dense_s = self._looks.dense_s
        for share in self._shares:
            plan = (
                _plan_of(
                    self._program(plan).least_loss(
                        dense_s * (latency_s / dense_s) ** share, _EFFORT
                    )
                )
                if plan
                else None
            )
        return plan

    def _program(self, plan: Plan) -> WidthProgram:
        looks = self._looks
        widths = tuple(
            tuple(w for w in legal if w <= kept)
            for legal, kept in zip(looks.widths, plan.widths, strict=True)
        )
        return WidthProgram.of(looks.problem, widths, looks.problem.loss_model, plan, self._written)


def _plan_of(solution: Solution | None) -> Plan | None:
    return None if solution is None else solution.plan
