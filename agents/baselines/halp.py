"""HALP (Shen et al., NeurIPS 2022): prune to a latency by a knapsack, layer by layer.

The knapsack weighs importance against latency. The latency of a layer is a function of the channels
that it writes alone: what it reads is as wide as it is in the current plan, so the knapsack is
separable. The target is approached in steps, and the latencies are read anew at each; channels do
not come back.

Stronger than as published: the knapsack is solved by `width_milp`, not group by group of channels.
Importance is the predicted loss, which is what every other method here reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cprune_rl.agents.baselines.latency_target import seek_target
from cprune_rl.agents.baselines.width_milp import Solution, SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan

__all__ = ["HALP"]

_LIMITS = SolverLimits(time_limit_s=5.0, relative_gap=1e-4)


@dataclass(frozen=True)
class HALP(SessionSearcher):
    """Seeks the lowest latency target whose plan holds.

    Attributes:
        n_steps: from the dense network to a target.
        max_plans: that are tried before targets that leave some of the slack.
    """

    n_steps: int = 10
    max_plans: int = 20

    name = "halp"

    def run(self, session: SearchSession) -> None:
        """Bisect the target."""
        seek_target(session, _Knapsack(session, self.n_steps), self.max_plans)


@dataclass(frozen=True)
class _Knapsack:
    """Plans by separable programs, in steps."""

    session: SearchSession
    n_steps: int

    def fastest_fitting(self) -> Solution | None:
        """Give the slack away bit by bit."""
        slack = self.session.problem.slack
        return self._approach(lambda program, share: program.least_latency(share * slack, _LIMITS))

    def least_loss_within(self, latency_s: float) -> Solution | None:
        """Approach the target bit by bit."""
        dense_s = self.session.dense_s

        def solve(program: WidthProgram, share: float) -> Solution | None:
            return program.least_loss(dense_s * (latency_s / dense_s) ** share, _LIMITS)

        return self._approach(solve)

    def _approach(self, solve: Callable[[WidthProgram, float], Solution | None]) -> Solution | None:
        plan = self.session.problem.network.dense
        for step in range(self.n_steps):
            solution = solve(self._program(plan), (step + 1) / self.n_steps)
            if solution is None:
                return None
            plan = solution.plan
        return solution

    def _program(self, plan: Plan) -> WidthProgram:
        problem = self.session.problem
        widths = [
            legal[: legal.index(kept) + 1]
            for legal, kept in zip(self.session.widths, plan.widths, strict=True)
        ]
        written = [tuple(sorted(groups)) for groups in problem.network.channel_multipliers]
        return WidthProgram.from_problem(
            problem, tuple(widths), problem.loss_model, plan=plan, varied=written
        )
