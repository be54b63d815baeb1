"""HALP (Shen et al., NeurIPS 2022): prune to a latency by a knapsack of importance and latency, layer
by layer.

The latency of a layer is a function of the channels that it writes alone: what it reads is as wide
as it is in the current plan, so the knapsack is separable. The target is approached in steps, and
the latencies are read anew at each; channels do not come back.

Stronger than as published: the knapsack is solved by `width_milp`, not group by group of channels.
Importance is the predicted loss, which is what every other method here reads.
"""

from __future__ import annotations

from cprune_rl.agents.baselines.latency_target import seek_target
from cprune_rl.agents.baselines.width_milp import SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan

__all__ = ["HALP"]

_LIMITS = SolverLimits(time_limit_s=5.0, relative_gap=1e-4)


class HALP(SessionSearcher):
    """Seeks the lowest latency target whose plan holds.

    Args:
        n_steps: from the dense network to a target.
        max_plans: that are tried before targets that leave some of the slack.
    """

    name = "halp"

    def __init__(self, n_steps: int = 10, max_plans: int = 20) -> None:
        self._n_steps = n_steps
        self._max_plans = max_plans

    def run(self, session: SearchSession) -> None:
        """Bisect the target."""
        seek_target(session, _Knapsack(session, self._n_steps), self._max_plans)


class _Knapsack:
    """Plans by separable programs."""

    def __init__(self, session: SearchSession, n_steps: int) -> None:
        self._session = session
        self._network = session.problem.network
        self._written = [tuple(sorted(units)) for units in self._network.channel_multipliers]
        self._shares = [(step + 1) / n_steps for step in range(n_steps)]

    def fastest_fitting(self) -> Plan | None:
        """Give the slack away bit by bit."""
        slack = self._session.problem.slack
        plan = self._network.dense
        for share in self._shares:
            solution = self._program(plan).least_latency(share * slack, _LIMITS)
            if solution is None:
                return None
            plan = solution.plan
        return plan

    def least_loss_within(self, latency_s: float) -> Plan | None:
        """Approach the target bit by bit."""
        dense_s = self._session.dense_s
        plan = self._network.dense
        for share in self._shares:
            target_s = dense_s * (latency_s / dense_s) ** share
            solution = self._program(plan).least_loss(target_s, _LIMITS)
            if solution is None:
                return None
            plan = solution.plan
        return plan

    def _program(self, plan: Plan) -> WidthProgram:
        widths = []
        for legal, kept in zip(self._session.widths, plan.widths, strict=True):
            widths.append(tuple(w for w in legal if w <= kept))
        problem = self._session.problem
        return WidthProgram.from_problem(
            problem, tuple(widths), problem.loss_model, plan=plan, varied=self._written
        )
